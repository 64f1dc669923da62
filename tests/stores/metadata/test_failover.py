"""The metadata stores while the Redis below them changes its primary, or moves its slots.

The store may be away for some seconds, and says so with StoreError; it comes back by itself, in a bounded time, with
what it was given before, and nothing in between is answered wrongly.
"""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from redis.asyncio import Redis

from heliograph.core.positions import Position
from heliograph.local.redis import RedisServer
from heliograph.local.redis_cluster import RedisCluster, slot_of
from heliograph.local.redis_sentinel import RedisSentinel
from heliograph.stores import keys
from heliograph.stores.keys import ServeKeys
from heliograph.stores.ports import IndexEntry, Order, RehydratedPage, RehydrationRequest, StoreError
from heliograph.stores.redis.metadata import (
    MetadataClient,
    RedisEdgeOrders,
    RedisLeases,
    RedisPositionIndex,
    RedisRehydration,
    RedisServeStore,
    RedisUsageStore,
)
from heliograph.stores.usage import Told

BACK_S = 60.0
"""A failover takes 3 to 5 s on an idle machine; one that others use may need a second attempt."""
TIMEOUT_S = 1.0
EPOCH = "1764000000000-0a0b0c0d"


@pytest.fixture
async def opened() -> Any:
    """Opens clients, and closes them."""
    clients: list[MetadataClient] = []

    async def open_(url: str, timeout_s: float = TIMEOUT_S) -> MetadataClient:
        client = MetadataClient(url, timeout_s=timeout_s)
        clients.append(client)
        await client.start()
        return client

    yield open_
    for client in clients:
        await client.close()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Its StoreErrors are what is waited out."""
    deadline = time.monotonic() + BACK_S
    while True:
        with suppress(StoreError):
            if await condition():
                return
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def other_than(servers: RedisSentinel, before: RedisServer) -> None:
    async def changed() -> bool:
        return await asyncio.to_thread(lambda: servers.primary) is not before

    await until(changed)


async def replicated(server: RedisServer) -> None:
    async with Redis.from_url(server.url) as client:
        assert await client.wait(1, 10_000) == 1


class Use:
    """Acquires one lease again and again, and keeps what it was told."""

    def __init__(self, client: MetadataClient, *names: str) -> None:
        self._leases = RedisLeases(client)
        self._names = names
        self.held = dict.fromkeys(names, 0)
        self.failed = dict.fromkeys(names, 0)
        self.refused = 0
        self._ending = False
        self._tasks = [asyncio.create_task(self._go_on(name)) for name in names]

    async def _go_on(self, name: str) -> None:
        while not self._ending:
            try:
                if await self._leases.acquire(name, "me", 60.0):
                    self.held[name] += 1
                else:
                    self.refused += 1
            except StoreError:
                self.failed[name] += 1
            await asyncio.sleep(0.01)

    async def goes_on(self) -> None:
        before = dict(self.held)

        async def more() -> bool:
            assert not any(task.done() for task in self._tasks)
            return all(self.held[name] > before[name] for name in self._names)

        await until(more)

    async def end(self) -> None:
        self._ending = True
        await asyncio.gather(*self._tasks)
        assert self.refused == 0


# ---- Sentinel -------------------------------------------------------------------------------------------------------


async def test_behind_sentinel_a_killed_primary_is_followed_by_its_replica(
    redis_sentinel: Callable[..., RedisSentinel], opened: Callable[[str], Awaitable[MetadataClient]]
) -> None:
    servers = redis_sentinel(password="of/servers", sentinel_password="of-sentinels")
    client = await opened(servers.url)
    serving, waiting = RedisServeStore(client), RedisServeStore(await opened(servers.url))
    first = servers.primary
    use = Use(client, "shard-1")
    await use.goes_on()
    await RedisLeases(client).acquire("before", "somebody", 60.0)
    await replicated(first)
    blocked = asyncio.create_task(waiting.orders("edge-1", 0.9))
    assert "acme:planner" not in await waiting.changed(0.0)

    await asyncio.to_thread(first.kill)
    await other_than(servers, first)
    await use.goes_on()
    assert use.failed["shard-1"] > 0
    assert not await RedisLeases(client).acquire("before", "somebody else", 60.0)
    with suppress(StoreError):
        assert await blocked == []

    # Blocking reads and the subscription are at the new primary as well.
    order = Order("acme:planner", "acme:planner:s1", "worker", 1, None)
    await serving.order("edge-1", [order])
    assert await waiting.orders("edge-1", 0.9) == [order]

    async def heard() -> bool:
        await client.redis.publish(keys.SERVE_TYPES, "acme:planner")
        return "acme:planner" in await waiting.changed(0.2)

    await until(heard)
    await use.end()
    await serving.close()
    await waiting.close()

    # The old one comes back as the new one's replica: nobody is led back to it.
    await asyncio.to_thread(first.start)
    await asyncio.to_thread(servers.wait_ready)
    assert servers.primary is not first
    assert not await RedisLeases(client).acquire("before", "somebody else", 60.0)


async def test_behind_sentinel_a_primary_that_was_cut_off_gets_no_more_writes(
    redis_sentinel: Callable[..., RedisSentinel], opened: Callable[[str], Awaitable[MetadataClient]]
) -> None:
    """Stopped, with open connections: they are left once the sentinels name another, and stay left."""
    servers = redis_sentinel()
    client = await opened(servers.url)
    first = servers.primary
    use = Use(client, "shard-1", "shard-2")
    await use.goes_on()
    assert first.process is not None
    first.process.signal(signal.SIGSTOP)
    try:
        await other_than(servers, first)
        await use.goes_on()
        second = servers.primary
    finally:
        first.process.signal(signal.SIGCONT)
    await RedisLeases(client).acquire("after", "me", 60.0)
    await use.goes_on()
    await use.end()
    async with Redis.from_url(second.url) as there:
        assert await there.get(keys.lease("after")) == b"me"
    await asyncio.to_thread(servers.wait_ready)
    assert servers.primary is second


async def test_behind_sentinel_a_failover_in_order_is_followed(
    redis_sentinel: Callable[..., RedisSentinel], opened: Callable[[str], Awaitable[MetadataClient]]
) -> None:
    servers = redis_sentinel()
    client = await opened(servers.url)
    use = Use(client, "shard-1", "shard-2", "shard-3")
    await use.goes_on()
    first = servers.primary
    await asyncio.to_thread(servers.fail_over)
    await other_than(servers, first)
    await use.goes_on()
    await use.end()


async def test_sentinels_that_are_away_or_know_no_such_primary_are_told_without_passwords(
    redis_sentinel: Callable[..., RedisSentinel],
) -> None:
    servers = redis_sentinel(password="of-servers", sentinel_password="of-sentinels")
    for url, says in (
        (servers.url.replace("/main?", "/other?"), "knows no primary other"),
        (servers.url.replace("of-sentinels", "s3cret"), "metadata_redis_url"),
        (servers.url.replace("of-servers", "s3cret"), "metadata_redis_url"),
        ("redis+sentinel://:s3cret@127.0.0.1:1,127.0.0.1:2/main", "no sentinel names a primary"),
    ):
        client = MetadataClient(url, timeout_s=TIMEOUT_S)
        with pytest.raises(StoreError, match=says) as caught:
            await client.start()
        assert "s3cret" not in str(caught.value)
        await client.close()


# ---- Cluster --------------------------------------------------------------------------------------------------------


def names_on(cluster: RedisCluster) -> dict[RedisServer, str]:
    """A lease's name for each primary."""
    found: dict[RedisServer, str] = {}
    for number in range(1_000):
        found.setdefault(cluster.owner(keys.lease(f"l{number}")), f"l{number}")
        if len(found) == len(cluster.primaries):
            return found
    raise AssertionError("a primary has no slots")


async def test_in_a_cluster_only_what_a_killed_primary_had_waits_for_its_replica(
    redis_cluster: Callable[..., RedisCluster], opened: Callable[[str], Awaitable[MetadataClient]]
) -> None:
    cluster = redis_cluster(replicas=1, password="of/servers")
    client = await opened(cluster.url)
    names = names_on(cluster)
    uses = {server: Use(client, name) for server, name in names.items()}
    for use in uses.values():
        await use.goes_on()
    first = next(iter(names))
    await RedisLeases(client).acquire(names[first], "me", 60.0)
    await replicated(first)

    await asyncio.to_thread(first.kill)
    for server, use in uses.items():
        if server is not first:
            await use.goes_on()
    await uses[first].goes_on()
    assert uses[first].failed[names[first]] > 0
    for server, use in uses.items():
        if server is not first:
            assert use.failed[names[server]] == 0
        await use.end()
    assert not await RedisLeases(client).acquire(names[first], "somebody else", 60.0)

    async def starts() -> bool:
        await client.start()
        return True

    await until(starts)


async def test_in_a_cluster_a_primary_that_is_stopped_is_followed_by_its_replica_and_holds_up_no_other(
    redis_cluster: Callable[..., RedisCluster], opened: Callable[[str], Awaitable[MetadataClient]]
) -> None:
    cluster = redis_cluster(replicas=1)
    client = await opened(cluster.url)
    names = names_on(cluster)
    first, *others = names
    use, rest = Use(client, names[first]), Use(client, *(names[server] for server in others))
    await use.goes_on()
    assert first.process is not None
    first.process.signal(signal.SIGSTOP)
    try:
        await rest.goes_on()
        await use.goes_on()
    finally:
        first.process.signal(signal.SIGCONT)
    await use.end()
    await rest.end()
    assert use.failed[names[first]] > 0
    assert not any(rest.failed.values())


async def test_in_a_cluster_announcements_are_heard_whichever_node_is_lost(
    redis_cluster: Callable[..., RedisCluster], opened: Callable[[str], Awaitable[MetadataClient]]
) -> None:
    cluster = redis_cluster(replicas=1)
    client = await opened(cluster.url)
    edge, replay = RedisRehydration(client), RedisRehydration(await opened(cluster.url), block_s=0.2)
    answering = asyncio.create_task(answer(replay))
    await asked(edge, "s0")
    lost = [cluster.owner(keys.REPLAY_REQUESTS), next(iter(cluster.primaries))]
    await replicated(lost[0])
    await asyncio.to_thread(lost[0].kill)
    for number in range(1, 4):
        await asked(edge, f"s{number}")
    while not answering.done():
        # Again and again: redis-py sends under `asyncio.wait_for`, which in Python 3.11 may swallow a cancellation.
        answering.cancel()
        await asyncio.wait([answering], timeout=0.05)
    await edge.close()
    await replay.close()


async def answer(replay: RedisRehydration) -> None:
    while True:
        with suppress(StoreError):
            async for request in replay.requests("replay-1"):
                await replay.answer(request, RehydratedPage([], more=False))
        await asyncio.sleep(0.1)


async def asked(edge: RedisRehydration, session: str) -> None:
    async def found() -> bool:
        return (await edge.ask(RehydrationRequest(f"acme:planner:{session}", None, None), 2.0)).code is None

    await until(found)


async def test_in_a_cluster_nobody_notices_that_slots_move(
    redis_cluster: Callable[..., RedisCluster], opened: Callable[..., Awaitable[MetadataClient]]
) -> None:
    """Commands and scripts of one key, of some that exist and some that don't, by themselves and in pipelines."""
    cluster = redis_cluster()
    client = await opened(cluster.url)
    leases, index, serving = RedisLeases(client), RedisPositionIndex(client), RedisServeStore(client)
    sessions = [f"acme:planner:s{number}" for number in range(20)]
    rounds = 0

    async def once() -> None:
        nonlocal rounds
        rounds += 1
        assert await leases.acquire("l0", "me", 60.0)
        assert await leases.acquire(f"new-{rounds}", "me", 60.0)
        entry = IndexEntry(str(Position(EPOCH, rounds)), "topic", 0, rounds)
        await index.add([(session, entry) for session in sessions], 60.0)
        for session in (sessions[0], sessions[-1]):
            assert await index.last(session) == entry
        order = Order("acme:planner", sessions[0], "worker", rounds, None)
        await serving.order("edge-1", [order])
        assert await serving.orders("edge-1", 0.5) == [order]
        await RedisEdgeOrders(client).standing([f"edge-{number}" for number in range(10)])

    for key in (keys.lease("l0"), keys.index(sessions[0]), keys.edge_orders("edge-1"), keys.edge_drain("edge-1")):
        await once()
        slot, source = slot_of(key), cluster.owner(key)
        target = next(node for node in cluster.primaries if node is not source)
        await asyncio.to_thread(cluster.begin_move, slot, source, target)
        await once()
        while await asyncio.to_thread(cluster.move_keys, slot, source, target, 1):
            await once()
        await asyncio.to_thread(cluster.end_move, slot, source, target)
        await once()
        assert cluster.owner(key) is target
    await serving.close()


async def test_in_a_cluster_scripts_over_several_keys_wait_for_their_slot_to_arrive(
    redis_cluster: Callable[..., RedisCluster], opened: Callable[..., Awaitable[MetadataClient]]
) -> None:
    cluster = redis_cluster()
    client = await opened(cluster.url, 10.0)
    usage, serving = RedisUsageStore(client), RedisServeStore(client)
    rounds = 0
    ending = False

    async def count() -> None:
        nonlocal rounds
        while not ending:
            rounds += 1
            told = await usage.tell(Told("edge-1", rounds == 1, {"c:acme": rounds}, ("c:acme",)), 60.0)
            assert told is not None
            assert list(told.counts) == [rounds]
            await serving.mark("acme:planner", {f"acme:planner:s{rounds}": str(Position(EPOCH, rounds))})
            assert len((await serving.view("acme:planner", 1_000)).due) == min(rounds, 1_000)

    counting = asyncio.create_task(count())
    for key in (keys.USE_TOTALS, ServeKeys.of("acme:planner").due):
        for _ in range(3):
            before = rounds

            async def went_on(before: int = before) -> bool:
                return rounds > before + 5 or counting.done()

            await until(went_on)
            source = cluster.owner(key)
            target = next(node for node in cluster.primaries if node is not source)
            await asyncio.to_thread(cluster.move_slot, slot_of(key), target)
    ending = True
    await counting
    await serving.close()


async def test_a_cluster_node_that_restarted_is_given_its_scripts_again(
    redis_cluster: Callable[..., RedisCluster], opened: Callable[[str], Awaitable[MetadataClient]]
) -> None:
    cluster = redis_cluster(appendonly=True)
    client = await opened(cluster.url)
    index = RedisPositionIndex(client)
    entries = [
        (f"acme:planner:s{number}", IndexEntry(str(Position(EPOCH, 1)), "topic", 0, number)) for number in range(20)
    ]
    await index.add(entries, 60.0)
    await client.redis.script_flush()
    await index.add(entries, 60.0)
    await asyncio.to_thread(cluster.nodes[0].restart)

    async def added() -> bool:
        await index.add(entries, 60.0)
        return True

    await until(added)
    for session, entry in entries:
        assert await index.last(session) == entry


async def test_a_cluster_that_is_spoken_to_as_one_server_and_the_reverse_are_told(
    redis_cluster_url: str, redis_url: str
) -> None:
    node = redis_cluster_url.replace("redis+cluster", "redis").partition(",")[0]
    for url, says in (
        (node, r"its URL must begin with redis\+cluster://"),
        (redis_url.replace("redis", "redis+cluster", 1), "cluster support disabled"),
    ):
        client = MetadataClient(url, timeout_s=TIMEOUT_S)
        with pytest.raises(StoreError, match=says):
            await acquired(client, 20)
        await client.close()


async def acquired(client: MetadataClient, count: int) -> None:
    for number in range(count):
        await RedisLeases(client).acquire(f"l{number}", "me", 1.0)
