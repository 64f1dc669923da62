"""Probes say what a service waits for."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from heliograph.service.health import Liveness, Readiness, State, health_router
from heliograph.service.metrics import Metrics
from heliograph.service.redaction import REDACTED


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def readiness(clock: Clock) -> Readiness:
    return Readiness(clock=clock)


@pytest.fixture
def liveness() -> Liveness:
    return Liveness()


@pytest.fixture
async def client(readiness: Readiness, liveness: Liveness, metrics: Metrics) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    app.include_router(health_router(readiness, liveness, metrics))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as made:
        yield made


def test_a_service_is_not_ready_before_its_conditions_are_known(readiness: Readiness) -> None:
    assert not readiness.ready
    readiness.started()
    assert readiness.ready


def test_it_is_ready_when_nothing_is_waited_for(readiness: Readiness) -> None:
    redis, kafka = readiness.condition("redis"), readiness.condition("kafka")
    readiness.started()
    assert readiness.waiting_for() == ["redis", "kafka"]
    redis.ok()
    assert readiness.waiting_for() == ["kafka"]
    kafka.degraded("away")
    assert readiness.ready, "what can be done without does not take the service out"
    assert readiness.degraded() == ["kafka"]
    redis.waiting("gone")
    assert not readiness.ready


def test_one_name_is_one_condition(readiness: Readiness) -> None:
    assert readiness.condition("redis") is readiness.condition("redis")


def test_a_draining_service_is_never_ready_again(readiness: Readiness) -> None:
    condition = readiness.condition("redis")
    readiness.started()
    condition.ok()
    readiness.drain()
    assert not readiness.ready
    condition.ok()
    assert not readiness.ready


def test_since_is_when_it_became_so_and_the_last_error_stays(readiness: Readiness, clock: Clock) -> None:
    condition = readiness.condition("redis")
    clock.now += 1
    condition.waiting(ConnectionRefusedError("refused"))
    assert condition.since == clock.now - 1, "it was waiting already"
    clock.now += 1
    condition.ok()
    clock.now += 1
    condition.ok()
    assert condition.as_json() == {
        "name": "redis",
        "state": "ok",
        "since": "2027-01-15T08:00:02.000Z",
        "last_error": "ConnectionRefusedError: refused",
        "last_error_at": "2027-01-15T08:00:01.000Z",
    }


def test_an_error_is_one_bounded_line_without_secrets(readiness: Readiness) -> None:
    condition = readiness.condition("redis")
    condition.waiting("no redis://:hunter2@host\nat all " + "x" * 1_000)
    assert condition.last_error is not None
    assert condition.last_error.text.startswith(f"no redis://:{REDACTED}@host at all")
    assert len(condition.last_error.text) < 400


def test_a_change_is_logged_once(readiness: Readiness, log_lines: Callable[[], list[dict[str, Any]]]) -> None:
    condition = readiness.condition("redis")
    for _ in range(3):
        condition.ok()
    for _ in range(3):
        condition.degraded("away")
    assert [(line["event"], line["state"], line["level"]) for line in log_lines()] == [
        ("condition_changed", "ok", "info"),
        ("condition_changed", "degraded", "warning"),
    ]


async def test_one_can_wait_until_it_is_ready(readiness: Readiness) -> None:
    condition = readiness.condition("redis")
    waiting = asyncio.create_task(readiness.wait_ready())
    await asyncio.sleep(0)
    readiness.started()
    await asyncio.sleep(0)
    assert not waiting.done()
    condition.ok()
    await asyncio.wait_for(waiting, 5)


async def test_readyz_is_503_with_what_it_waits_for_then_200(client: httpx.AsyncClient, readiness: Readiness) -> None:
    condition = readiness.condition("redis")
    readiness.started()
    condition.waiting("refused")
    answer = await client.get("/readyz")
    assert answer.status_code == 503
    body = answer.json()
    assert (body["ready"], body["waiting_for"], body["draining"]) == (False, ["redis"], False)
    assert body["conditions"][0]["last_error"] == "refused"
    condition.ok()
    answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()["ready"]) == (200, True)
    readiness.drain()
    answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()["draining"]) == (503, True)


async def test_livez_is_200_until_something_failed_for_good(client: httpx.AsyncClient, liveness: Liveness) -> None:
    answer = await client.get("/livez")
    assert (answer.status_code, answer.json()) == (200, {"alive": True})
    told: list[bool] = []
    liveness.on_fail = lambda: told.append(True)
    liveness.fail(RuntimeError("the consumer is gone"))
    liveness.fail(RuntimeError("later"))
    answer = await client.get("/livez")
    assert answer.status_code == 503
    assert answer.json()["error"] == "RuntimeError: the consumer is gone"
    assert told == [True]


async def test_a_service_that_is_not_ready_is_alive(client: httpx.AsyncClient, readiness: Readiness) -> None:
    readiness.condition("redis").waiting("refused")
    assert (await client.get("/livez")).status_code == 200


async def test_metrics_has_the_conditions(client: httpx.AsyncClient, readiness: Readiness, metrics: Metrics) -> None:
    readiness.condition("redis").ok()
    readiness.condition("kafka")
    readiness.started()
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    assert 'heliograph_test_condition_ok{condition="redis"} 1.0' in answer.text
    assert 'heliograph_test_condition_ok{condition="kafka"} 0.0' in answer.text
    assert metrics.value("ready") == 0
    assert readiness.condition("kafka").state is State.WAITING
