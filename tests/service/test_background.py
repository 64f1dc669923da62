"""Background tasks begin again, and say that they failed."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from heliograph.core.backoff import BackoffPolicy
from heliograph.service.background import BackgroundTasks
from heliograph.service.metrics import Metrics

Eventually = Callable[[Callable[[], bool]], Awaitable[None]]
QUICK = BackoffPolicy(base_s=0.001, cap_s=0.002)


async def test_a_task_that_fails_is_logged_counted_and_begins_again(
    metrics: Metrics, log_lines: Callable[[], list[dict[str, Any]]]
) -> None:
    rounds = 0

    async def body() -> None:
        nonlocal rounds
        rounds += 1
        if rounds < 3:
            raise ValueError("not yet")

    tasks = BackgroundTasks(metrics, policy=QUICK)
    await asyncio.wait_for(tasks.spawn("poll", body), 5)
    assert rounds == 3
    assert metrics.value("task_crashes_total", {"task": "poll"}) == 2
    crashes = [line for line in log_lines() if line["event"] == "task_crashed"]
    assert [line["task"] for line in crashes] == ["poll", "poll"]
    assert "ValueError: not yet" in crashes[0]["exception"]


async def test_closing_ends_all(metrics: Metrics, eventually: Eventually) -> None:
    ended = []

    async def body() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    tasks = BackgroundTasks(metrics, policy=QUICK)
    spawned = [tasks.spawn("one", body), tasks.spawn("two", body)]
    await asyncio.sleep(0)
    await tasks.close()
    assert ended == [True, True]
    assert all(task.cancelled() for task in spawned)
    assert metrics.value("task_crashes_total", {"task": "one"}) == 0


async def test_closing_ends_one_that_waits_to_begin_again(metrics: Metrics, eventually: Eventually) -> None:
    async def body() -> None:
        raise ValueError

    tasks = BackgroundTasks(metrics, policy=BackoffPolicy(base_s=600, cap_s=600))
    task = tasks.spawn("one", body)
    await eventually(lambda: metrics.value("task_crashes_total", {"task": "one"}) == 1)
    await asyncio.wait_for(tasks.close(), 5)
    assert task.cancelled()


async def test_closing_ends_one_that_swallows_a_cancellation(metrics: Metrics, eventually: Eventually) -> None:
    swallowed = 0

    async def body() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed > 1:
                    raise

    tasks = BackgroundTasks(metrics, policy=QUICK)
    task = tasks.spawn("one", body)
    await asyncio.sleep(0)
    await asyncio.wait_for(tasks.close(), 5)
    assert task.cancelled()
