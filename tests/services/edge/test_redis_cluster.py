"""Two edges on a real Redis Cluster: one that publishes, one that listens, while slots move and a primary dies."""

import asyncio
import random
import secrets
from collections.abc import Callable

import redis
from tests.services.edge.client import Client, contiguous
from tests.services.edge.rig import Edge, World, until

from heliograph.local.redis_cluster import RedisCluster
from heliograph.stores.keys import virtual_shard
from heliograph.stores.redis.live import RedisLiveStore
from heliograph.stores.redis.topology import slot_of_virtual_shard

MESSAGES = 150


def new_session() -> str:
    return f"acme:planner:{secrets.token_hex(6)}"


def slot(session: str) -> int:
    return slot_of_virtual_shard(virtual_shard(session, 256))


async def edge_on(world: World, cluster: RedisCluster) -> Edge:
    """An edge whose live store is this cluster; the rest is in memory."""
    live = RedisLiveStore(cluster.url, uniform=random.random)
    return await world.edge(stores=world.stores(live=live), heads_interval_s=1.0)


async def publish_all(client: Client, session: str, *payloads: int) -> tuple[list[str], set[str]]:
    """Publish each until it is taken, as an SDK does; the positions, and codes of refusals."""
    positions, refused = [], set()
    for payload in payloads:
        answer = await client.publish(session, payload, ack="accepted")
        while answer["type"] == "refused":
            refused.add(answer["code"])
            await asyncio.sleep(0.02)
            answer = await client.publish(session, payload, ack="accepted")
        positions.append(answer["position"])
    return positions, refused


def by_epoch(positions: list[str]) -> list[list[str]]:
    epochs = sorted({position[:22] for position in positions})
    return [[position for position in positions if position.startswith(epoch)] for epoch in epochs]


async def test_a_slot_that_moves_under_publishes_is_one_stream_to_who_listens_elsewhere(
    world: World, redis_cluster: Callable[..., RedisCluster]
) -> None:
    world.answer_history()
    cluster = redis_cluster()
    listening, publishing = await edge_on(world, cluster), await edge_on(world, cluster)
    sessions = [new_session() for _ in range(3)]
    reader, writers = await listening.client(), [await publishing.client() for _ in sessions]
    for session in sessions:
        await reader.subscribe(session)
    pairs = list(zip(writers, sessions, strict=True))
    work = [asyncio.create_task(publish_all(writer, session, *range(MESSAGES))) for writer, session in pairs]
    for session in sessions:
        source = cluster.owner_of_slot(slot(session))
        target = next(node for node in cluster.primaries if node is not source)
        await asyncio.to_thread(cluster.move_slot, slot(session), target)
    for (positions, refused), session in zip(await asyncio.gather(*work), sessions, strict=True):
        assert refused == set(), "all waited for the slot"
        messages = await reader.messages(session, MESSAGES)
        assert [message["payload"] for message in messages] == list(range(MESSAGES))
        assert [message["position"] for message in messages] == positions
        assert all(contiguous(epoch) for epoch in by_epoch(positions))
    assert reader.of("gap") == []
    assert publishing.value("live_shards") == 3
    assert publishing.value("live_shards_away") == 0
    assert publishing.value("live_moves") >= 1


async def test_a_promoted_replica_begins_an_epoch_and_other_primaries_sessions_go_on(
    world: World, redis_cluster: Callable[..., RedisCluster]
) -> None:
    world.answer_history()
    cluster = redis_cluster(replicas=1)
    listening, publishing = await edge_on(world, cluster), await edge_on(world, cluster)
    session = new_session()
    victim = cluster.owner_of_slot(slot(session))
    other = new_session()
    while cluster.owner_of_slot(slot(other)) is victim:
        other = new_session()
    reader, writer = await listening.client(), await publishing.client()
    for one in (session, other):
        await reader.subscribe(one)
    old, _ = await publish_all(writer, session, *range(5))
    with redis.Redis.from_url(victim.url) as control:
        control.wait(1, 5_000)
    victim.kill()
    await until(lambda: publishing.value("live_shards_away") == 1, "noticed")
    _, refused = await publish_all(writer, other, *range(5))
    assert refused == set()
    deferred = await writer.publish(session, {"stop": True}, **{"class": "control"})
    assert (deferred["type"], deferred.get("deferred")) == ("published", True)
    new, refused = await publish_all(writer, session, *range(5, 10))
    assert refused <= {"live_unavailable"}
    assert new[0][:22] > old[0][:22]
    messages = await reader.messages(session, 10)
    assert [message["payload"] for message in messages] == list(range(10))
    assert contiguous([message["position"] for message in messages[5:]])
    assert [frame["last"] for frame in reader.of("epoch")] == [old[-1]]
    assert len(await reader.messages(other, 5)) == 5
    assert reader.of("gap") == []
