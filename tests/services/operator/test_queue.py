"""The work queue: each object once, never twice at a time, failures again later, a bounded number of times."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from heliograph.core.backoff import BackoffPolicy
from heliograph.operator.kube import KubeError
from heliograph.operator.metrics import QueueMetrics
from heliograph.operator.queue import WorkQueue
from heliograph.operator.reconciler import Key, Requeue
from heliograph.service.background import BackgroundTasks
from heliograph.service.metrics import Metrics

KEY = Key("Tenant", "a", "one")


class Rig:
    """A queue at work, and what was looked at."""

    def __init__(self, work: Callable[[Key], Awaitable[Requeue | None]], *, workers: int = 2, retries: int = 5) -> None:
        self.metrics = Metrics("operator", process=False)
        self.queue = WorkQueue(
            work,
            QueueMetrics(self.metrics),
            workers=workers,
            timeout_s=5.0,
            retry=BackoffPolicy(0.01, 0.02),
            retries=retries,
            uniform=lambda: 0.5,
        )

    async def __aenter__(self) -> "Rig":
        self._tasks = BackgroundTasks(self.metrics)
        self._tasks.spawn("queue", self.queue.run)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._tasks.close()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.005)


async def test_what_is_added_often_before_its_turn_is_looked_at_once() -> None:
    seen: list[Key] = []

    async def work(key: Key) -> None:
        seen.append(key)

    rig = Rig(work)
    for _ in range(5):
        rig.queue.add(KEY)
    assert rig.queue.depth() == {"Tenant": 1.0}
    async with rig:
        await until(lambda: rig.queue.idle)
    assert seen == [KEY]
    assert rig.metrics.value("reconciles_total", {"kind": "Tenant", "result": "ok"}) == 1


async def test_what_is_added_while_it_is_worked_on_is_looked_at_again_and_never_twice_at_a_time() -> None:
    running = 0
    looks = 0
    gate = asyncio.Event()

    async def work(key: Key) -> None:
        nonlocal running, looks
        running += 1
        looks += 1
        assert running == 1
        await gate.wait()
        running -= 1

    async with Rig(work) as rig:
        rig.queue.add(KEY)
        await until(lambda: running == 1)
        rig.queue.add(KEY)
        rig.queue.add(KEY)
        gate.set()
        await until(lambda: rig.queue.idle)
        assert looks == 2


async def test_what_fails_is_tried_again_and_counted_by_reason() -> None:
    errors: list[Exception] = [KubeError("kube_unavailable", "away"), ValueError("a bug"), TimeoutError()]

    async def work(key: Key) -> None:
        if errors:
            raise errors.pop(0)

    async with Rig(work) as rig:
        rig.queue.add(KEY)
        await until(lambda: rig.metrics.value("reconciles_total", {"kind": "Tenant", "result": "ok"}) == 1)
        for reason in ("kube_unavailable", "internal", "timeout"):
            assert rig.metrics.value("reconcile_errors_total", {"kind": "Tenant", "reason": reason}) == 1


async def test_what_fails_for_ever_waits_for_the_resync_in_the_end() -> None:
    looks = 0

    async def work(key: Key) -> None:
        nonlocal looks
        looks += 1
        raise KubeError("kube_unavailable", "away")

    async with Rig(work, retries=3) as rig:
        rig.queue.add(KEY)
        await until(lambda: rig.metrics.value("reconcile_gave_up_total", {"kind": "Tenant"}) == 1)
        assert looks == 4
        rig.queue.add(KEY)
        await until(lambda: rig.metrics.value("reconcile_gave_up_total", {"kind": "Tenant"}) == 2)
        assert looks == 8


async def test_a_look_that_does_not_end_is_ended() -> None:
    async def work(key: Key) -> None:
        await asyncio.Event().wait()

    rig = Rig(work, retries=0)
    rig.queue._timeout_s = 0.05
    async with rig:
        rig.queue.add(KEY)
        await until(lambda: rig.metrics.value("reconcile_errors_total", {"kind": "Tenant", "reason": "timeout"}) == 1)


async def test_a_look_may_ask_for_another_one_later() -> None:
    looks = 0

    async def work(key: Key) -> Requeue | None:
        nonlocal looks
        looks += 1
        return Requeue(0.01) if looks < 3 else None

    async with Rig(work) as rig:
        rig.queue.add(KEY)
        await until(lambda: looks == 3)
        await until(lambda: not rig.queue._entries)  # what has nothing due is not remembered


async def test_of_two_times_the_sooner_one_counts() -> None:
    looks = 0

    async def work(key: Key) -> None:
        nonlocal looks
        looks += 1

    async with Rig(work) as rig:
        rig.queue.add(KEY, 3_600.0)
        rig.queue.add(KEY, 0.01)
        rig.queue.add(KEY, 1_800.0)
        await until(lambda: looks == 1)


async def test_many_objects_share_the_workers() -> None:
    running = most = 0

    async def work(key: Key) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    async with Rig(work, workers=3) as rig:
        for number in range(50):
            rig.queue.add(Key("Tenant", "a", f"t{number}"))
        await until(lambda: rig.queue.idle)
    assert most == 3
    assert rig.metrics.value("reconciles_total", {"kind": "Tenant", "result": "ok"}) == 50


@pytest.mark.parametrize("asked_s", [None, 0.05])
async def test_a_server_that_names_a_time_is_not_asked_before(asked_s: float | None) -> None:
    times: list[float] = []
    clock = asyncio.get_running_loop().time

    async def work(key: Key) -> None:
        times.append(clock())
        if len(times) == 1:
            raise KubeError("kube_unavailable", "busy", 429, asked_s)

    async with Rig(work) as rig:
        rig.queue.add(KEY)
        await until(lambda: len(times) == 2)
    assert times[1] - times[0] >= (asked_s or 0.0)
