"""Real edges come and go under live connections, and nobody loses a message."""

import asyncio
import secrets
import signal
from collections.abc import Callable
from pathlib import Path

from tests.kubernetes.fleet import PAIRS, Fleet, nothing_lost
from tests.kubernetes.installation import Installation

from heliograph.local.services import ServiceProcess
from heliograph.local.tenant import DevelopmentTenant


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
    """An autoscaler on the EdgeFleet works, and `kubectl scale`; one on the Deployment itself is a conflict, and stops
    our writes.
    """
    async with nothing_lost(fleet, tenant):
        await asyncio.to_thread(fleet.change, mode="External", replicas=1)
        with fleet.autoscaler("EdgeFleet", 2):
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


def test_a_paused_fleet_is_left_alone_until_it_no_longer_is(fleet: Fleet) -> None:
    fleet.namespace.kubectl("annotate", "edgefleet", fleet.name, "heliograph.dev/paused=true")
    try:
        fleet.until("it is said", lambda: fleet.condition("Paused") == ("True", "Paused"))
        fleet.change(mode="Manual", replicas=2)
        generation = fleet.namespace.get("edgefleet", fleet.name)["metadata"]["generation"]
        fleet.until("it was seen", lambda: fleet.status["observedGeneration"] == generation)
        assert (fleet.replicas, fleet.status["desired"]) == (1, 2)
    finally:
        fleet.namespace.kubectl("annotate", "edgefleet", fleet.name, "heliograph.dev/paused-")
    fleet.until_settled(2)


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
