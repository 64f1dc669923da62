"""What a fleet does about real clients: they come in a storm, move to a new edge, can not be counted, come back."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.kubernetes.fleet import Fleet, nothing_lost
from tests.kubernetes.traffic import SETTINGS

from heliograph.client import Client
from heliograph.local.tenant import DevelopmentTenant

OPERATOR_PORT = 8084
PAIRS = 20
"""Forty clients: so many above the average on the first of two edges that no chance explains it."""
AWAY_S = 25
"""A store that does not answer: five seconds until a look gives up, twice, and the looks between."""
STORM_PER_S = 3.0


class Crowd:
    """Clients that are connected, and nothing else."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._token = token
        self.clients: list[Client] = []

    async def join(self, count: int = 1) -> None:
        some = [Client(self._url, token=self._token, settings=SETTINGS, proxy=None) for _ in range(count)]
        self.clients += some
        await asyncio.gather(*(client.connect() for client in some))

    async def leave(self) -> None:
        await asyncio.gather(*(client.close() for client in self.clients))


@pytest.fixture
async def crowd(fleet: Fleet, tenant: DevelopmentTenant) -> AsyncIterator[Crowd]:
    """Nobody yet; gone with the test."""
    made = Crowd(fleet.installation.url("edge"), tenant.token())
    yield made
    await made.leave()


async def test_a_storm_is_met_before_it_is_over_whatever_the_window_says(fleet: Fleet, crowd: Crowd) -> None:
    """Clients come quickly, and are fewer yet than one edge is meant to have: growth is what adds the second one."""
    target = 60
    behavior = {"scaleUp": {"stabilizationWindowSeconds": 600}}
    await asyncio.to_thread(fleet.change, targetConnections=target, aheadSeconds=60, behavior=behavior)
    known = len(await asyncio.to_thread(fleet.events))
    watching = asyncio.create_task(asyncio.to_thread(fleet.until, "a second edge", lambda: fleet.replicas > 1, 60.0))
    while not watching.done() and len(crowd.clients) < target:
        await crowd.join()
        await asyncio.sleep(1 / STORM_PER_S)
    met = len(crowd.clients)
    await watching
    reason = (await asyncio.to_thread(lambda: fleet.status))["lastScaleReason"]
    assert "connections and growing" in reason, reason
    assert met < target
    await asyncio.to_thread(fleet.change, aheadSeconds=0, targetConnections=1_000)
    await asyncio.to_thread(fleet.until_settled, 1)  # there is no storm any more, and one is enough
    happened = await asyncio.to_thread(fleet.events)
    assert {reason for reason, _ in happened[known:]} <= {"ScaledUp", "ScaledDown", "Draining"}


async def test_a_new_edge_gets_its_share_of_clients_at_a_pace_and_nothing_is_lost(
    fleet: Fleet, tenant: DevelopmentTenant
) -> None:
    async with nothing_lost(fleet, tenant, pairs=PAIRS) as traffic:
        (full,) = await asyncio.to_thread(fleet.names)
        await asyncio.to_thread(fleet.change, mode="Manual", replicas=2)
        await asyncio.to_thread(fleet.until_settled, 2)
        (new,) = await asyncio.to_thread(fleet.names) - {full}
        assert (await asyncio.to_thread(fleet.clients))[new] == 0, "balancers leave clients where they are"
        begun_s = time.monotonic()
        await asyncio.to_thread(fleet.change, rebalance={"percentPerMinute": 100})
        await asyncio.to_thread(
            fleet.until, "clients on the new edge", lambda: fleet.metric(new, "heliograph_edge_connections") >= 4, 90.0
        )
        moved = await asyncio.to_thread(fleet.metric, full, "heliograph_edge_moved_total", 'reason="rebalancing"')
        surplus = PAIRS  # two clients a pair, of which half belong on the other edge
        assert moved <= surplus, "no more than the surplus"
        assert moved <= surplus * (time.monotonic() - begun_s) / 60 + 2, "over a minute, not at once"
    assert traffic.reconnects >= 4
    told = [message for reason, message in await asyncio.to_thread(fleet.events) if reason == "Rebalancing"]
    assert told
    assert all(message.startswith(full) for message in told)


async def test_while_the_metadata_store_is_away_a_fleet_grows_to_its_fallback_and_shrinks_when_it_is_back(
    fleet: Fleet, tenant: DevelopmentTenant
) -> None:
    store = f"statefulset/{fleet.installation.object_name('redis-metadata')}"
    async with nothing_lost(fleet, tenant, pairs=4):
        await asyncio.to_thread(fleet.change, fallback={"replicas": 2, "afterSeconds": 0})
        pause = ("exec", store, "--", "redis-cli", "CLIENT", "PAUSE", str(AWAY_S * 1000), "ALL")
        await asyncio.to_thread(fleet.namespace.kubectl, *pause)
        await asyncio.to_thread(fleet.until, "the fallback", lambda: fleet.replicas == 2, 60.0)
        await asyncio.to_thread(
            fleet.until, "it is said", lambda: fleet.condition("LoadKnown") == ("False", "StoreUnavailable"), 30.0
        )
        assert "fallback" in (await asyncio.to_thread(lambda: fleet.status))["lastScaleReason"]
        await asyncio.to_thread(fleet.until, "it is back", lambda: fleet.condition("LoadKnown")[0] == "True", 120.0)
        await asyncio.to_thread(fleet.until_settled, 1)


async def test_a_drained_edge_stays_and_serves_again_when_it_is_wanted(
    fleet: Fleet, tenant: DevelopmentTenant, crowd: Crowd
) -> None:
    """The same pods before and after: none was made, none went."""
    await asyncio.to_thread(fleet.change, mode="Manual", replicas=2, drain={"seconds": 60})
    try:
        await asyncio.to_thread(fleet.until_settled, 2)
        before = {pod["metadata"]["uid"] for pod in await asyncio.to_thread(fleet.pods)}
        async with nothing_lost(fleet, tenant):
            await asyncio.to_thread(fleet.change, replicas=1)
            drained = await _that_drains(fleet)
            await asyncio.to_thread(fleet.until, "it takes no clients", lambda: drained in fleet.unready(), 60.0)
            await asyncio.to_thread(fleet.change, replicas=2)
            await asyncio.to_thread(fleet.until_settled, 2)
            assert await asyncio.to_thread(fleet.metric, drained, "heliograph_edge_drained_by_order") == 0
            obeyed = "heliograph_edge_orders_obeyed_total"
            assert await asyncio.to_thread(fleet.metric, drained, obeyed, "withdraw") == 1
            await _until_it_has_clients(fleet, crowd, drained)
        assert {pod["metadata"]["uid"] for pod in await asyncio.to_thread(fleet.pods)} == before
        assert await asyncio.to_thread(fleet.marked) == set()
    finally:
        await asyncio.to_thread(fleet.change, drain={"seconds": 10})


async def _that_drains(fleet: Fleet) -> str:
    """The edge that was told to, once it does."""

    def draining() -> list[str]:
        return [name for name in fleet.names() if fleet.metric(name, "heliograph_edge_drained_by_order") == 1]

    await asyncio.to_thread(fleet.until, "an edge drains", lambda: bool(draining()), 60.0)
    return (await asyncio.to_thread(draining))[0]


async def _until_it_has_clients(fleet: Fleet, crowd: Crowd, edge: str) -> None:
    """Balancers choose at random: some of many come to it."""
    async with asyncio.timeout(90):
        while not await asyncio.to_thread(fleet.metric, edge, "heliograph_edge_connections"):
            await crowd.join(4)


# ---- two operators --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def two_operators(fleet: Fleet) -> AsyncIterator[list[str]]:
    """Names of both pods, once both look after things."""
    deployment = f"deployment/{fleet.installation.object_name('operator')}"
    await asyncio.to_thread(fleet.namespace.kubectl, "scale", deployment, "--replicas=2")
    try:
        await asyncio.to_thread(fleet.installation.wait_ready)
        yield [pod["metadata"]["name"] for pod in fleet.namespace.pods("operator")]
    finally:
        await asyncio.to_thread(fleet.namespace.kubectl, "scale", deployment, "--replicas=1")
        await asyncio.to_thread(fleet.installation.wait_ready)


def looks(fleet: Fleet, operators: list[str], kind: str) -> list[float]:
    """Of each operator at such things, so far."""
    name = "heliograph_operator_reconciles_total"
    return [fleet.metric(pod, name, f'kind="{kind}"', OPERATOR_PORT) for pod in operators]


def writes(fleet: Fleet, operators: list[str]) -> float:
    """Of both, to the API server."""
    name = "heliograph_operator_kube_requests_total"
    return sum(
        fleet.metric(pod, name, f'verb="{verb}"', OPERATOR_PORT)
        for pod in operators
        for verb in ("create", "patch", "delete")
    )


async def test_two_operators_at_once_drain_one_edge_once_and_write_no_more_than_one(
    fleet: Fleet, tenant: DevelopmentTenant
) -> None:
    namespace = fleet.namespace
    topic = {"partitions": 1}
    spec = {"tenant": "twice", "auth": {"jwks": tenant.jwks()}, "topics": {"log": topic, "deferred": topic}}
    body = {"apiVersion": "heliograph.dev/v1alpha1", "kind": "Tenant", "metadata": {"name": "twice"}}
    async with two_operators(fleet) as operators, nothing_lost(fleet, tenant):
        generation = namespace.get("deployment", fleet.name)["metadata"]["generation"]
        known, written = len(fleet.events()), writes(fleet, operators)
        await asyncio.to_thread(namespace.apply, {**body, "spec": spec})
        await asyncio.to_thread(fleet.change, mode="Manual", replicas=2)
        await asyncio.to_thread(fleet.until_settled, 2)
        before = fleet.names()
        await asyncio.to_thread(fleet.change, replicas=1)
        await asyncio.to_thread(fleet.until_settled, 1)
        ready = ("wait", "--for=condition=Ready", "tenant/twice", "--timeout=60s")
        await asyncio.to_thread(namespace.kubectl, *ready)

        (left,) = fleet.names()
        happened = [(reason, message.partition(" ")[0]) for reason, message in fleet.events()[known:]]
        assert [name for reason, name in happened if reason == "Draining"] == sorted(before - {left}), "one, once"
        assert {reason for reason, _ in happened} <= {"ScaledUp", "Draining", "ScaledDown"}
        assert namespace.get("deployment", fleet.name)["metadata"]["generation"] == generation + 2, "up once, down once"
        assert writes(fleet, operators) - written <= 60, "they don't undo each other's work"

        seen = [fleet.resource_version(), namespace.get("tenant", "twice")["metadata"]["resourceVersion"]]
        looked = looks(fleet, operators, "EdgeFleet")
        await asyncio.to_thread(
            fleet.until,
            "both looked twice more",
            lambda: all(now >= had + 2 for now, had in zip(looks(fleet, operators, "EdgeFleet"), looked, strict=True)),
        )
        now = [fleet.resource_version(), namespace.get("tenant", "twice")["metadata"]["resourceVersion"]]
        assert now == seen, json.dumps(fleet.status)
        await asyncio.to_thread(namespace.kubectl, "delete", "tenant", "twice", "--timeout=60s")
