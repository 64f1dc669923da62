"""The whole system with its live store on a Redis Cluster, and its metadata behind Sentinel: nodes die, slots move."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis as redis_client
from tests.system.history import EpochTold, Outcome
from tests.system.load import Run, load
from tests.system.rig import Rig, started, until
from tests.systems import Systems

from heliograph.local import RedisServer
from heliograph.local.providers import throwaway_kafka, throwaway_redis_cluster, throwaway_redis_sentinel
from heliograph.local.redis_cluster import RedisCluster
from heliograph.local.redis_sentinel import RedisSentinel
from heliograph.stores.keys import virtual_shard
from heliograph.stores.redis.topology import slot_of_virtual_shard

pytestmark = pytest.mark.xdist_group("system-redis-cluster")


@contextmanager
def running_rig(directory: Path) -> Iterator[Rig]:
    """Three primaries with a replica each, an append-only file on all; metadata with a primary and its replica."""
    with (
        throwaway_kafka(directory / "kafka") as kafka,
        throwaway_redis_cluster(directory / "redis", replicas=1, appendonly=True) as cluster,
        throwaway_redis_sentinel(directory / "metadata", appendonly=True) as metadata,
        started(Rig(directory, kafka, cluster, metadata, readers=1)) as rig,
    ):
        yield rig


@pytest.fixture
async def rig(systems: Systems, tmp_path_factory: pytest.TempPathFactory) -> Rig:
    """The rig, whole before the test, whatever the one before did to it."""
    rig: Rig = systems.take("redis-cluster", lambda: running_rig(tmp_path_factory.mktemp("redis-cluster")))
    await rig.heal()
    return rig


def cluster_of(rig: Rig) -> RedisCluster:
    assert isinstance(rig.redis, RedisCluster)
    return rig.redis


def slots_of(run: Run) -> list[int]:
    """Of the sessions that are published to."""
    return sorted({slot_of_virtual_shard(virtual_shard(session, 256)) for session in run.sessions})


def run_of(node: RedisServer) -> str:
    """The part of epochs that says which process gave them."""
    with redis_client.Redis.from_url(node.url) as client:
        return str(client.info("server")["run_id"])[:8]


async def test_slots_that_move_under_load_cost_nothing(rig: Rig) -> None:
    """Every slot that is in use goes to another primary, and back, while all publish."""
    cluster = cluster_of(rig)
    async with load(rig) as run:
        await run.more()
        for _ in range(2):
            await run.busy()
            for slot in slots_of(run):
                source = cluster.owner_of_slot(slot)
                target = next(node for node in cluster.primaries if node is not source)
                run.history.note(f"slot {slot} moves from {source.port} to {target.port}")
                await asyncio.to_thread(cluster.move_slot, slot, target)
            run.history.note("all have moved")
            await run.more()
            await run.seen_more()
    assert run.outcomes(Outcome.DEFERRED) == 0, "the live path was never away"


async def test_a_killed_primary_is_replaced_by_its_replica_and_nothing_durable_is_lost(rig: Rig) -> None:
    """kill -9 of a busy session's primary. What was accepted and not yet replicated may be gone, and it is said."""
    cluster = cluster_of(rig)
    async with load(rig) as run:
        await run.more()
        await run.busy()
        tag = f"{{v{virtual_shard(run.sessions[0], 256)}}}"
        victim = cluster.owner(tag)
        run.history.lost_runs.add(run_of(victim))
        run.history.note(f"kill -9 {victim.port}")
        await rig.kill(victim)
        await until("a replica took its place", lambda: cluster.has_owner(tag))
        run.history.note("promoted")
        await run.more()
        await run.seen_more()
        await rig.launch(victim)
        await rig.ready(cluster)
        run.history.note("it is back, as a replica")
        await run.more()
        await run.seen_more()
    told = [sight for view in run.history.views.values() for sight in view.sights if isinstance(sight, EpochTold)]
    assert told, "a promoted primary begins a new epoch"


async def test_a_metadata_primary_that_is_killed_is_replaced_by_its_replica(rig: Rig) -> None:
    assert isinstance(rig.metadata, RedisSentinel)
    servers = rig.metadata
    async with load(rig) as run:
        await run.more()
        await run.busy()
        victim = servers.primary
        run.history.note(f"kill -9 {victim.port}")
        await rig.kill(victim)
        await until("a replica took its place", lambda: servers.primary is not victim)
        run.history.note("promoted")
        await run.more()
        await rig.launch(victim)
        await rig.ready(servers)
        await run.more()
        await run.seen_more()
