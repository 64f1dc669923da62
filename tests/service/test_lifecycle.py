"""A service's life: started in any order, ready when it is, drained, stopped; and what its exit code says."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from heliograph.core.backoff import BackoffPolicy
from heliograph.service import lifecycle
from heliograph.service.command_line import ExitCode
from heliograph.service.health import Liveness, Readiness
from heliograph.service.http import create_app
from heliograph.service.lifecycle import CannotRunError, Component, Service, serve
from heliograph.service.metrics import Metrics
from heliograph.service.settings import ServiceSettings

Eventually = Callable[[Callable[[], bool]], Awaitable[None]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "START_RETRY", BackoffPolicy(base_s=0.001, cap_s=0.005, healthy_s=0))
    for name in list(os.environ):
        if name.startswith("HELIOGRAPH_"):
            monkeypatch.delenv(name)


class Running:
    """A service on this loop: what it did, its address, its end."""

    def __init__(self, metrics: Metrics, **options: Any) -> None:
        settings = ServiceSettings(host="127.0.0.1", port=0, **options.pop("settings", {}))
        self.did: list[str] = []
        self.stop = asyncio.Event()
        self.url = ""
        readiness, liveness = Readiness(), Liveness()
        app = create_app(title="t", version="0", metrics=metrics, readiness=readiness, liveness=liveness)
        self.service = Service(
            name="test",
            version="0",
            app=app,
            settings=settings,
            metrics=metrics,
            readiness=readiness,
            liveness=liveness,
            **options,
        )
        self.end: asyncio.Task[ExitCode] | None = None

    def note(self, what: str) -> Callable[[], Awaitable[None]]:
        async def act() -> None:
            self.did.append(what)

        return act

    def begin(self) -> "Running":
        def listening(host: str, port: int) -> None:
            self.url = f"http://{host}:{port}"

        self.end = asyncio.create_task(serve(self.service, stop=self.stop, on_listening=listening))
        return self

    async def finish(self) -> ExitCode:
        self.stop.set()
        assert self.end is not None
        return await asyncio.wait_for(self.end, 15)


async def get(url: str) -> tuple[int, Any]:
    async with httpx.AsyncClient() as client:
        answer = await client.get(url)
        return answer.status_code, answer.json()


async def test_it_listens_at_once_is_ready_once_started_and_ends_clean(
    metrics: Metrics, eventually: Eventually
) -> None:
    gate = asyncio.Event()
    running = Running(metrics)

    async def start() -> None:
        await gate.wait()

    running.service.components = [Component("redis", start, running.note("stop redis"))]
    running.begin()
    await eventually(lambda: bool(running.url))
    status, body = await get(f"{running.url}/readyz")
    assert (status, body["waiting_for"]) == (503, ["redis"])
    assert (await get(f"{running.url}/livez"))[0] == 200
    gate.set()
    await eventually(lambda: running.service.readiness.ready)
    assert (await get(f"{running.url}/readyz"))[0] == 200
    assert await running.finish() is ExitCode.OK
    assert running.did == ["stop redis"]
    with pytest.raises(httpx.ConnectError):
        await get(f"{running.url}/livez")


async def test_a_component_is_retried_until_it_starts_and_readiness_says_why(
    metrics: Metrics, eventually: Eventually
) -> None:
    there = False

    async def start() -> None:
        if not there:
            raise ConnectionRefusedError("nobody at redis://:hunter2@host")

    running = Running(metrics, components=[Component("redis", start)]).begin()
    await eventually(lambda: metrics.value("start_retries_total", {"component": "redis"}) >= 3)
    condition = running.service.readiness.as_json()["conditions"][0]
    assert condition["state"] == "waiting"
    assert "ConnectionRefusedError" in condition["last_error"]
    assert "hunter2" not in condition["last_error"]
    there = True
    await eventually(lambda: running.service.readiness.ready)
    assert await running.finish() is ExitCode.OK


async def test_components_start_at_the_same_time_and_each_says_what_it_waits_for(
    metrics: Metrics, eventually: Eventually
) -> None:
    async def away() -> None:
        raise ConnectionRefusedError

    running = Running(metrics, components=[Component("redis", away), Component("kafka", away)]).begin()
    for name in ("redis", "kafka"):
        await eventually(lambda name=name: metrics.value("start_retries_total", {"component": name}) >= 2)  # type: ignore[misc]
    assert running.service.readiness.waiting_for() == ["redis", "kafka"]
    assert await running.finish() is ExitCode.OK, "stopping while starting is no failure"


async def test_a_component_starts_after_what_it_needs_and_stops_before_it(
    metrics: Metrics, eventually: Eventually
) -> None:
    running = Running(metrics)
    attempts = 0

    async def first() -> None:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise ConnectionRefusedError
        running.did.append("start a")

    running.service.components = [
        Component("a", first, running.note("stop a")),
        Component("b", running.note("start b"), running.note("stop b"), after=("a",)),
        Component("c", running.note("start c"), running.note("stop c"), after=("b",)),
    ]
    running.begin()
    await eventually(lambda: running.service.readiness.ready)
    assert await running.finish() is ExitCode.OK
    assert running.did == ["start a", "start b", "start c", "stop c", "stop b", "stop a"]


async def test_a_component_that_is_not_required_does_not_keep_it_from_being_ready(
    metrics: Metrics, eventually: Eventually
) -> None:
    async def away() -> None:
        raise ConnectionRefusedError

    running = Running(metrics, components=[Component("kafka", away, required=False)]).begin()
    await eventually(lambda: running.service.readiness.degraded() == ["kafka"])
    assert running.service.readiness.ready
    assert await running.finish() is ExitCode.OK


async def test_a_component_may_say_itself_how_it_is(metrics: Metrics, eventually: Eventually) -> None:
    running = Running(metrics)

    async def start() -> None:
        running.service.readiness.condition("cache").degraded("cold")

    running.service.components = [
        Component("cache", start, after=()),
        Component("x", running.note("x"), after=("cache",)),
    ]
    running.begin()
    await eventually(lambda: running.did == ["x"])
    assert running.service.readiness.degraded() == ["cache"]
    assert await running.finish() is ExitCode.OK


async def test_an_attempt_that_hangs_becomes_an_error(
    metrics: Metrics, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "START_ATTEMPT_S", 0.01)
    running = Running(metrics, components=[Component("redis", asyncio.Event().wait)]).begin()  # type: ignore[arg-type]
    await eventually(lambda: metrics.value("start_retries_total", {"component": "redis"}) >= 1)
    assert "no answer in 0.01 s" in running.service.readiness.as_json()["conditions"][0]["last_error"]
    assert await running.finish() is ExitCode.OK


async def test_what_can_never_run_ends_the_service_as_failed(metrics: Metrics) -> None:
    async def start() -> None:
        raise CannotRunError("the store has 128 virtual shards, the setting says 256")

    running = Running(metrics)
    running.service.components = [
        Component("other", running.note("start other"), running.note("stop other")),
        Component("redis", start),
    ]
    running.begin()
    assert running.end is not None
    assert await asyncio.wait_for(running.end, 10) is ExitCode.FAILED
    assert running.did == ["start other", "stop other"]
    failure = running.service.liveness.failure
    assert failure is not None
    assert "128 virtual shards" in failure.text


async def test_a_service_that_fails_for_good_while_it_runs_ends_as_failed(
    metrics: Metrics, eventually: Eventually
) -> None:
    running = Running(metrics).begin()
    await eventually(lambda: running.service.readiness.ready)
    running.service.liveness.fail("the consumer is gone")
    assert running.end is not None
    assert await asyncio.wait_for(running.end, 10) is ExitCode.FAILED


async def test_the_drain_runs_while_it_still_serves_and_is_not_ready(metrics: Metrics, eventually: Eventually) -> None:
    running = Running(metrics)
    seen: list[tuple[int, Any]] = []

    async def drain() -> None:
        seen.append(await get(f"{running.url}/readyz"))
        seen.append(await get(f"{running.url}/livez"))
        running.did.append("drained")

    running.service.components = [Component("redis", running.note("start"), running.note("stop"))]
    running.service.drain = drain
    running.begin()
    await eventually(lambda: running.service.readiness.ready)
    assert await running.finish() is ExitCode.OK
    (ready, body), (alive, _) = seen
    assert (ready, body["draining"], alive) == (503, True, 200)
    assert running.did == ["start", "drained", "stop"]


async def test_a_drain_that_takes_too_long_is_cut_short(metrics: Metrics, eventually: Eventually) -> None:
    running = Running(metrics, settings={"drain_timeout_s": 0.05})
    cancelled = False

    async def drain() -> None:
        nonlocal cancelled
        try:
            await asyncio.Event().wait()
        finally:
            cancelled = True

    running.service.drain = drain
    running.begin()
    await eventually(lambda: running.service.readiness.ready)
    assert await running.finish() is ExitCode.FORCED
    assert cancelled


async def test_a_drain_that_fails_is_told_and_the_rest_is_stopped(metrics: Metrics, eventually: Eventually) -> None:
    running = Running(metrics)

    async def drain() -> None:
        raise ValueError

    running.service.components = [Component("redis", running.note("start"), running.note("stop"))]
    running.service.drain = drain
    running.begin()
    await eventually(lambda: running.service.readiness.ready)
    assert await running.finish() is ExitCode.FORCED
    assert running.did == ["start", "stop"]


async def test_a_component_that_does_not_stop_does_not_keep_the_others(
    metrics: Metrics, eventually: Eventually
) -> None:
    running = Running(metrics, settings={"stop_timeout_s": 0.05})

    async def hangs() -> None:
        await asyncio.Event().wait()

    async def fails() -> None:
        raise ValueError

    running.service.components = [
        Component("a", running.note("start a"), running.note("stop a")),
        Component("b", running.note("start b"), hangs, after=("a",)),
        Component("c", running.note("start c"), fails, after=("b",)),
    ]
    running.begin()
    await eventually(lambda: running.service.readiness.ready)
    assert await running.finish() is ExitCode.FORCED
    assert running.did[-1] == "stop a"


async def test_a_taken_port_is_one_line_and_its_own_exit_code(
    metrics: Metrics, log_lines: Callable[[], list[dict[str, Any]]]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        running = Running(metrics)
        running.service.settings = ServiceSettings(host="127.0.0.1", port=port)
        running.begin()
        assert running.end is not None
        assert await asyncio.wait_for(running.end, 10) is ExitCode.LISTEN
    (line,) = [line for line in log_lines() if line["event"] == "cannot_listen"]
    assert line["port"] == port


def test_components_are_listed_before_who_needs_them(metrics: Metrics) -> None:
    async def nothing() -> None: ...

    with pytest.raises(ValueError, match="listed later or not at all"):
        Running(metrics, components=[Component("b", nothing, after=("a",)), Component("a", nothing)])
    with pytest.raises(ValueError, match="two components of one name"):
        Running(Metrics("other", process=False), components=[Component("a", nothing), Component("a", nothing)])
