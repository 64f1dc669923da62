"""What an on-call person sees: a real Prometheus scrapes the whole system, evaluates every alert and is asked what the
dashboards ask; then the live Redis goes, and it is told.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.monitoring.alerts import all_alerts, expression
from tests.monitoring.dashboards import FILES, expressions, load
from tests.monitoring.operator import running_operator
from tests.monitoring.scraping import scraping
from tests.system.load import load as running_load
from tests.system.rig import Rig

from heliograph.local.ports import free_port
from heliograph.local.prometheus import PrometheusServer

pytestmark = pytest.mark.xdist_group("system-stores")

DEADLINE_S = 60.0
RATE_INTERVAL = "20s"
"""Of rates: some scrapes of this Prometheus."""

EMPTY_WHEN_ALL_IS_WELL = {
    "Alerts A",
    "Refusals A",
    "Opened and closed B",
    "No room for newcomers A",
    "Handshakes refused A",
    "Handshakes refused B",
    "History for who was away A",
    "History for who was away B",
    "Written late, or never C",
    "Waiting for their place B",
    "Dead letters A",
    "Live frames repaired A",
    "Failed reads A",
    "Failed reads B",
    "Failed reads C",
    "Reconcile errors A",
}
"""Queries whose series begin with the first thing that goes wrong, or are shares of nothing."""

LATE = {
    "HeliographConfirmSlow",
    "HeliographEdgeLoopLate",
    "HeliographLogSlow",
    "HeliographLogWriteFailures",
    "HeliographPressureCritical",
    "HeliographPressureHigh",
    "HeliographPublishSlow",
    "HeliographPublishesOverloaded",
    "HeliographPublishesPending",
    "HeliographPublishesRefused",
    "HeliographRehydrationSlow",
    "HeliographTelemetryDropped",
}
"""Alerts that say how late something is, or what follows from it: here the machine may be the reason."""


@asynccontextmanager
async def watched(rig: Rig, directory: Path) -> AsyncIterator[PrometheusServer]:
    """A Prometheus on the rig and on an operator, which has scraped all of them."""
    targets = {one.name: (one.service, one.port) for one in rig.stack.services}
    port = free_port()
    targets["operator-1"] = ("operator", port)
    async with running_operator(port):
        with scraping(directory, targets) as prometheus:
            await until(prometheus, "sum(up) or vector(0)", lambda found: value(found) == len(targets))
            yield prometheus


def value(found: list[dict[str, Any]]) -> float:
    return float(found[0]["value"][1])


async def until(
    prometheus: PrometheusServer, query: str, holds: Callable[[list[dict[str, Any]]], bool]
) -> list[dict[str, Any]]:
    """What a query gives, once it is so."""
    deadline = asyncio.get_running_loop().time() + DEADLINE_S
    while True:
        found = await asyncio.to_thread(prometheus.query, query)
        if holds(found):
            return found
        assert asyncio.get_running_loop().time() < deadline, f"{query}: {found}"
        await asyncio.sleep(0.2)


async def rules(prometheus: PrometheusServer) -> list[dict[str, Any]]:
    """As Prometheus has them, each evaluated at least once."""
    deadline = asyncio.get_running_loop().time() + DEADLINE_S
    while True:
        answer = await asyncio.to_thread(prometheus.get, "/rules")
        found = [rule for group in answer["groups"] for rule in group["rules"]]
        if len(found) == len(all_alerts()) and all(rule["health"] != "unknown" for rule in found):
            return found
        assert asyncio.get_running_loop().time() < deadline, f"{len(found)} rules of {len(all_alerts())}"
        await asyncio.sleep(0.2)


async def test_every_query_of_a_dashboard_has_data_and_every_alert_is_quiet_while_all_is_well(
    rig: Rig, tmp_path: Path
) -> None:
    async with watched(rig, tmp_path / "prometheus") as prometheus:
        async with running_load(rig) as run:
            run.telemetry("meter", run.sessions[:2])
            run.publishers[-1].start()
            await run.more()
            await read_history(rig, run.sessions[0])
            published = 'sum(rate(heliograph_edge_published_total{class="telemetry"}[20s])) > 0'
            await until(prometheus, published, bool)
            for path in FILES:
                for where, text in expressions(load(path), RATE_INTERVAL).items():
                    wanted = has_data if where not in EMPTY_WHEN_ALL_IS_WELL else lambda _found: True
                    await until(prometheus, text, wanted)
        assert {where for path in FILES for where in expressions(load(path))} > EMPTY_WHEN_ALL_IS_WELL
        evaluated = await rules(prometheus)
        assert {rule["name"]: rule["lastError"] for rule in evaluated if rule["health"] != "ok"} == {}
        assert {rule["name"] for rule in evaluated} > LATE
        for alert in all_alerts():
            if alert["alert"] not in LATE:
                await until(prometheus, expression(alert), lambda found: not found)


async def test_counters_whose_first_event_is_an_alert_are_there_before_it(rig: Rig, tmp_path: Path) -> None:
    """`increase` sees nothing of a series that begins with its first event."""
    async with watched(rig, tmp_path / "prometheus") as prometheus:
        for alert in all_alerts():
            text = expression(alert)
            if "increase(" not in text or " offset " in text:  # one with an offset looks at what was not there
                continue
            for part in text.split("increase(")[1:]:
                selector = part.partition("[")[0]
                assert await asyncio.to_thread(prometheus.query, selector), f"{alert['alert']}: {selector}"


async def away(prometheus: PrometheusServer) -> str:
    """What the alert about the live store says now."""
    shown = {rule["name"]: rule["alerts"] for rule in await rules(prometheus)}
    found: str = shown["HeliographLiveStoreAway"][0]["annotations"]["summary"]
    return found


async def test_a_live_redis_that_is_away_is_told(rig: Rig, tmp_path: Path) -> None:
    async with watched(rig, tmp_path / "prometheus") as prometheus:
        await rig.kill(rig.redis)
        told = await until(
            prometheus,
            'ALERTS{alertname=~"HeliographLiveStoreAway|HeliographPressureCritical"}',
            lambda found: (
                {one["metric"]["alertname"] for one in found}
                == {"HeliographLiveStoreAway", "HeliographPressureCritical"}
            ),
        )
        assert all(one["metric"]["severity"] == "critical" for one in told)
        async with asyncio.timeout(DEADLINE_S):  # the alert is there once one edge is known to be without it
            while (summary := await away(prometheus)) != "2 edges can't reach the live Redis.":
                assert summary == "1 edges can't reach the live Redis."
                await asyncio.sleep(0.2)
        await rig.heal()
        await until(prometheus, 'ALERTS{alertname="HeliographLiveStoreAway"}', lambda found: not found)


def has_data(found: list[dict[str, Any]]) -> bool:
    return any(not math.isnan(float(one["value"][1])) for one in found)


async def read_history(rig: Rig, session: str) -> None:
    tenant, agent_type, session_id = session.split(":")
    async with httpx.AsyncClient(trust_env=False, timeout=DEADLINE_S) as http:
        url = f"{rig.replays[0]}/v1/history/{tenant}/{agent_type}/{session_id}"
        answer = await http.get(url, headers={"authorization": f"Bearer {rig.token(tenant)}"})
    assert answer.status_code == 200, answer.text
