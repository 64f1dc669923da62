"""Real edges come and go under live connections, and nobody loses a message."""

import asyncio
import secrets
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.fleet import QUICK, Fleet
from tests.kubernetes.images import Images
from tests.kubernetes.installation import Installation, Namespace
from tests.kubernetes.traffic import Traffic, shown

from heliograph.local.services import ServiceProcess
from heliograph.local.tenant import DevelopmentTenant

TENANT = "acme"
LIMITS = {"connection_messages_per_s": 2_000.0, "connection_burst_messages": 4_000}
PAIRS = 12


@pytest.fixture(scope="module")
def installed(
    cluster: Cluster, crds: None, images: Images, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """An installation of its own: these tests change how many edges there are. The operator runs in it, with the rights
    that the chart gives it in its own namespace.
    """
    del crds
    namespace = Namespace(cluster, "fleets")
    namespace.create()
    values = ["--set", f"operator.namespaces={{{namespace.name}}}", "--set", "edge.fleet.max=3"]
    made = Installation(namespace, images, tmp_path_factory.mktemp("fleets"), values=values)
    try:
        made.install()
        yield made
    finally:
        namespace.delete()


@pytest.fixture(scope="module")
def tenant(installed: Installation) -> DevelopmentTenant:
    return installed.apply_tenant(TENANT, limits=LIMITS)


@pytest.fixture
def fleet(installed: Installation) -> Fleet:
    """In mode Auto with one edge, which is enough for all."""
    found = Fleet(installed)
    found.change(**QUICK, mode="Auto", replicas=None)
    found.until_settled(1)
    return found


@asynccontextmanager
async def nothing_lost(fleet: Fleet, tenant: DevelopmentTenant) -> AsyncIterator[Traffic]:
    """Whatever happens inside, no agent notices; and the log has what was delivered."""
    installed = fleet.installation
    traffic = Traffic(installed.url("edge"), TENANT, tenant.token(), pairs=PAIRS, per_s=2.0)
    await traffic.start()
    await _grows(traffic)
    yield traffic
    await _grows(traffic)
    await traffic.stop()
    assert not traffic.faults(), shown(traffic.faults())
    differences = await traffic.history_faults(installed.url("replay"), sessions=6)
    assert not differences, shown(differences)


async def _grows(traffic: Traffic) -> None:
    """Publishing goes on."""
    before = traffic.published
    async with asyncio.timeout(90):
        while traffic.published <= before + len(traffic.pairs) and not traffic.errors:
            await asyncio.sleep(0.05)


async def test_a_fleet_grows_and_shrinks_under_live_connections_and_nothing_is_lost(
    fleet: Fleet, tenant: DevelopmentTenant
) -> None:
    async with nothing_lost(fleet, tenant):
        await asyncio.to_thread(fleet.change, targetConnections=2 * PAIRS // 3)
        await asyncio.to_thread(fleet.until_settled, 3)
        before, events = fleet.names(), len(fleet.events())
        assert fleet.condition("Ready") == ("True", "EnoughEdges")
        assert fleet.status["connections"] >= 2 * PAIRS
        async with nothing_lost(fleet, tenant) as late:  # these are on all three
            await asyncio.to_thread(fleet.change, targetConnections=1_000)
            await asyncio.to_thread(fleet.until_settled, 1)
        happened = fleet.events()[events:]
    assert late.reconnects, "some of them were moved"
    (left,) = fleet.names()
    assert left in before
    told = [message.partition(" ")[0] for reason, message in happened if reason == "Draining"]
    assert set(told) == before - {left}, "exactly those that were drained went"
    assert {reason for reason, _ in happened} <= {"Draining", "ScaledDown"}
    assert fleet.marked() == set()


async def test_the_others_take_over_how_many_and_edges_drain_as_ever(fleet: Fleet, tenant: DevelopmentTenant) -> None:
    """`kubectl scale` works; an autoscaler on the Deployment itself is a conflict, and stops our writes."""
    async with nothing_lost(fleet, tenant):
        await asyncio.to_thread(fleet.change, mode="External", replicas=1)
        await asyncio.to_thread(fleet.scale, 2)
        await asyncio.to_thread(fleet.until_settled, 2)
        with fleet.autoscaler():
            await asyncio.to_thread(fleet.until, "a conflict", lambda: fleet.condition("Ready")[1] == "Conflict")
            await asyncio.to_thread(fleet.scale, 1)
            generation = fleet.namespace.get("edgefleet", fleet.name)["metadata"]["generation"]
            await asyncio.to_thread(
                fleet.until, "it was seen", lambda: fleet.status["observedGeneration"] == generation
            )
            assert (fleet.replicas, fleet.status["draining"]) == (2, 0)
        await asyncio.to_thread(fleet.until_settled, 1)


async def test_nobody_is_taken_out_during_a_rollout(fleet: Fleet, tenant: DevelopmentTenant) -> None:
    async with nothing_lost(fleet, tenant):
        await asyncio.to_thread(fleet.change, mode="Manual", replicas=2)
        await asyncio.to_thread(fleet.until_settled, 2)
        before, events = fleet.names(), len(fleet.events())
        await asyncio.to_thread(fleet.namespace.kubectl, "rollout", "restart", f"deployment/{fleet.name}")
        await asyncio.to_thread(fleet.change, replicas=1)
        await asyncio.to_thread(
            fleet.until, "the rollout is seen", lambda: fleet.condition("Scaling")[1] == "RolloutInProgress"
        )
        await asyncio.to_thread(fleet.until_settled, 1)
    told = [message.partition(" ")[0] for reason, message in fleet.events()[events:] if reason == "Draining"]
    assert told, "it was taken out afterwards"
    assert not before & set(told), "none of those that the rollout replaced"


async def test_an_operator_that_is_killed_at_each_step_goes_on_where_it_was(
    fleet: Fleet, tenant: DevelopmentTenant, tmp_path: Path
) -> None:
    """By SIGKILL, once each step is done; another one begins, as a process of this machine, which is quicker."""
    installed = fleet.installation
    operator = installed.object_name("operator")
    await asyncio.to_thread(fleet.change, mode="Manual", replicas=2)
    await asyncio.to_thread(fleet.until_settled, 2)
    async with nothing_lost(fleet, tenant):
        before, events = fleet.names(), len(fleet.events())
        await asyncio.to_thread(fleet.namespace.kubectl, "scale", f"deployment/{operator}", "--replicas=0")
        await asyncio.to_thread(
            fleet.until, "the operator is gone", lambda: not fleet.namespace.pods("operator"), timeout_s=60
        )
        try:
            await asyncio.to_thread(fleet.change, replicas=1)
            for what, done in _steps(fleet):
                await asyncio.to_thread(_run_until, fleet, tmp_path, what, done)
        finally:
            await asyncio.to_thread(fleet.namespace.kubectl, "scale", f"deployment/{operator}", "--replicas=1")
        await asyncio.to_thread(fleet.until_settled, 1)
        happened = fleet.events()[events:]
    (left,) = fleet.names()
    told = {message.partition(" ")[0] for reason, message in happened if reason == "Draining"}
    assert told == before - {left}
    assert "AnotherPodWent" not in {reason for reason, _ in happened}


def _steps(fleet: Fleet) -> list[tuple[str, Callable[[], bool]]]:
    known = len(fleet.events())
    return [
        ("an edge was told to drain", lambda: "Draining" in {reason for reason, _ in fleet.events()[known:]}),
        ("it is not ready", lambda: bool(fleet.unready())),
        ("its pod is marked, or gone", lambda: bool(fleet.marked()) or len(fleet.pods()) == 1),
        ("one replica less", lambda: fleet.replicas == 1),
        ("its pod is gone", lambda: len(fleet.pods()) == 1),
    ]


def _run_until(fleet: Fleet, directory: Path, what: str, done: Callable[[], bool]) -> None:
    """An operator from here until then."""
    installed = fleet.installation
    operator = ServiceProcess(
        "operator",
        directory,
        {
            "watch_namespaces": fleet.namespace.name,
            "redis_url": _redis(installed, "live"),
            "metadata_redis_url": _redis(installed, "metadata"),
            "kafka_bootstrap_servers": "127.0.0.1:1",
            "topic_prefix": "heliograph",
        },
        name=f"operator-{secrets.token_hex(2)}",
        environment={"KUBECONFIG": installed.cluster.kubeconfig},
    )
    operator.launch()
    try:
        fleet.until(what, done)
        operator.signal(signal.SIGKILL)
    finally:
        operator.kill()


def _redis(installed: Installation, store: str) -> str:
    service = installed.namespace.get("service", installed.object_name(f"redis-{store}"))
    return f"redis://{service['spec']['clusterIP']}:6379/0"
