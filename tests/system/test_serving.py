"""Sessions find their workers while everything dies: each message is handled by the holder of the lease, in order, none
is skipped."""

import asyncio
import signal
import time
from collections.abc import Iterator

import pytest
from redis.asyncio import Redis as Client
from tests.system.history import History
from tests.system.rig import Rig, started, until
from tests.system.serving import Serving, serving
from tests.systems import Systems

from heliograph.local.providers import throwaway_kafka, throwaway_redis

pytestmark = pytest.mark.xdist_group("system-serving")

SESSIONS, WORKERS = 1_000, 20
KILLS = 15

LEASE_S = 8.0
"""Of edges: a machine that runs twenty workers, and other tests, is not to be taken for one that is dead."""

PAUSE_S = LEASE_S + 2


@pytest.fixture(scope="module")
def patient(systems: Systems, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A rig of these tests' own, with longer leases."""
    systems.end()
    directory = tmp_path_factory.mktemp("serving")
    with (
        throwaway_kafka(directory / "kafka") as kafka,
        throwaway_redis(directory / "redis", appendonly=True) as redis,
        throwaway_redis(directory / "metadata", appendonly=True) as metadata,
    ):
        lease_s = f"{LEASE_S:g}"
        with started(
            Rig(directory, kafka, redis, metadata, lease_s=lease_s, edge_lease_s=lease_s, dispatch_lease_s="4")
        ) as rig:
            yield rig


@pytest.fixture
async def rig(patient: Rig) -> Rig:
    """The rig, whole before the test."""
    await patient.heal()
    return patient


async def kill_workers(run: Serving, count: int, every_s: float = 1.0) -> None:
    for _ in range(count):
        await asyncio.sleep(every_s)
        run.kill_one()
        run.start_worker()


async def test_a_thousand_sessions_over_twenty_workers_that_die_every_second(rig: Rig) -> None:
    async with serving(rig, sessions=SESSIONS, workers=WORKERS) as run:
        killing = asyncio.create_task(kill_workers(run, KILLS))
        begin = time.monotonic()
        while not killing.done() or time.monotonic() - begin < KILLS:
            await run.publish()
        await killing


async def test_an_edge_killed_with_its_workers(rig: Rig) -> None:
    """They go to the other edge; what they had is given out again when the dead edge's lease has run out."""
    async with serving(rig, sessions=100, workers=6) as run:
        await run.publish(3)
        edge = rig.stack.edges[0]
        await rig.kill(edge)
        await run.publish(5)
        await run.all_handled()
        await rig.launch(edge)
        await rig.ready(edge)
        await run.publish(2)


async def test_each_router_killed_in_turn(rig: Rig) -> None:
    """One of them gives out the sessions: the other goes on when its lease has run out."""
    async with serving(rig, sessions=100, workers=4, idle_s=0.2) as run:
        for router in rig.stack.routers:
            await run.publish(2)
            await rig.kill(router)
            await run.publish(3)
            await run.all_handled()
            await rig.launch(router)
            await rig.ready(router)


async def test_without_kafka_sessions_find_their_workers_all_the_same(rig: Rig) -> None:
    async with serving(rig, sessions=60, workers=4, idle_s=0.2) as run:
        await run.publish(1)
        await run.all_handled()
        await rig.kill(rig.kafka)
        await run.publish(3)
        await run.all_handled()
        await rig.launch(rig.kafka)
        await rig.ready(rig.kafka)


async def test_the_live_store_lost_with_its_data(rig: Rig) -> None:
    """Cursors are gone with it: what is in the log comes again, and nothing that was durable is skipped."""
    async with serving(rig, sessions=40, workers=4, idle_s=0.2) as run:
        await run.publish(2)
        await run.all_handled()
        await rig.lose_live_store(History(patience_s=0.0))
        await rig.launch(rig.redis)
        await rig.ready(rig.redis)
        await run.publish(2)
        await run.all_handled()


async def test_a_pause_of_the_metadata_store_costs_nobody_a_session(rig: Rig) -> None:
    """Leases of edges run out while it is away: nobody is taken for lost, the workers keep what they have."""
    async with serving(rig, sessions=40, workers=4, idle_s=60.0) as run:
        await run.publish(2)
        await run.all_handled()
        async with Client.from_url(rig.metadata.url) as client:
            await client.client_pause(round(PAUSE_S * 1000), all=True)
        begin = time.monotonic()
        await run.publish(2)
        await asyncio.sleep(max(0.0, PAUSE_S - (time.monotonic() - begin)))
        await run.publish(2)
        await run.all_handled()
        await asyncio.sleep(LEASE_S)  # for whoever would take workers for lost
        assert not [event for name in run.workers for event in run.told(name, "lost")]


async def test_a_worker_whose_edge_was_stopped_past_its_lease_is_told(rig: Rig) -> None:
    """Others have its sessions by then; what it acknowledges is refused, and it is told `revoked`."""
    async with serving(rig, sessions=40, workers=0, capacity=40, idle_s=60.0) as run:
        edge = rig.stack.edges[1]
        stays = run.start_worker(1, silent_heartbeats=1_000.0)
        await run.publish(2)
        await run.all_handled()
        other = run.start_worker(0)
        edge.signal(signal.SIGSTOP)
        run.out_of_touch.add(stays)
        try:
            publishing = asyncio.create_task(run.publish(1))  # what the stopped one has not seen is given to the other
            await until(
                "another worker has the sessions",
                lambda: len({one.session for one in run.told(other, "assigned")}) == 40,
                60.0,
            )
        finally:
            edge.signal(signal.SIGCONT)
        await until(
            "each of its sessions was revoked",
            lambda: len(run.told(stays, "lost")) == 40,
        )
        await publishing
        reasons = {one.reason for one in run.told(stays, "lost")}
        assert reasons <= {"lost", "reassigned"}
        await run.publish(2)
        await rig.ready(edge)


async def test_many_routers_make_one_assignment(rig: Rig) -> None:
    """Two routers, and the sessions' leases are given one at a time: judged by the rule of one worker a lease."""
    async with serving(rig, sessions=200, workers=8, idle_s=0.05) as run:
        await run.publish(4)
    by_lease = {(event.session, event.lease): event.worker for event in run.events()}
    assert len(by_lease) >= 200
