"""What every connection store promises."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from heliograph.core.errors import InvalidValueError
from heliograph.stores import keys
from heliograph.stores.ports import Connection, ConnectionStore, EdgeLease
from heliograph.stores.redis.metadata import MetadataClient, RedisConnectionStore


def lease(edge: str = "edge-1", incarnation: str = "one", connections: int = 0) -> EdgeLease:
    return EdgeLease(edge, incarnation, f"{edge}:8080", connections, started_ms=1_764_000_000_000)


def connection(name: str, *sessions: str, tenant: str = "acme") -> Connection:
    return Connection(name, tenant, f"user-{name}", None, 1_764_000_000_500, list(sessions))


async def names(store: ConnectionStore, scope: str, limit: int = 100, after: str = "") -> list[str]:
    return [f"{held.edge}/{found.connection}" for held, found in await store.connections(scope, limit, after)]


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + 5
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_an_edge_that_is_new_is_told_to_register_everything(connections: ConnectionStore) -> None:
    assert not await connections.renew(lease(), 30)
    assert await connections.renew(lease(connections=3), 30)
    assert not await connections.renew(lease(incarnation="two"), 30)
    assert await connections.renew(lease(incarnation="two"), 30)


async def test_edges_are_those_whose_lease_holds(connections: ConnectionStore) -> None:
    await connections.renew(lease("edge-1", connections=3), 30)
    await connections.renew(lease("edge-2"), 0.05)

    async def only_the_first() -> bool:
        return [held.edge for held in await connections.edges()] == ["edge-1"]

    await until(only_the_first)
    (held,) = await connections.edges()
    assert (held.incarnation, held.address, held.connections) == ("one", "edge-1:8080", 3)
    assert held.ends_ms > time.time() * 1000


async def test_a_connection_is_found_by_tenant_agent_type_and_session(connections: ConnectionStore) -> None:
    await connections.renew(lease(), 30)
    await connections.update("edge-1", [connection("a", "acme:planner:1"), connection("b", "acme:tool:1")], [])
    assert await names(connections, "acme") == ["edge-1/a", "edge-1/b"]
    assert await names(connections, "acme:planner") == ["edge-1/a"]
    assert await names(connections, "acme:tool:1") == ["edge-1/b"]
    assert await names(connections, "acme:tool:2") == []
    ((held, found),) = await connections.connections("acme:planner:1", 10)
    assert held.edge == "edge-1"
    assert found == connection("a", "acme:planner:1")


async def test_a_change_replaces_the_sessions(connections: ConnectionStore) -> None:
    await connections.renew(lease(), 30)
    await connections.update("edge-1", [connection("a", "acme:planner:1", "acme:planner:2")], [])
    await connections.update("edge-1", [connection("a", "acme:planner:2", "acme:tool:3")], [])
    assert await names(connections, "acme:planner:1") == []
    assert await names(connections, "acme:planner:2") == ["edge-1/a"]
    assert await names(connections, "acme:planner") == ["edge-1/a"]
    assert await names(connections, "acme:tool") == ["edge-1/a"]


async def test_a_connection_that_is_gone_is_found_nowhere(connections: ConnectionStore) -> None:
    await connections.renew(lease(), 30)
    gone = connection("a", "acme:planner:1")
    await connections.update("edge-1", [gone, connection("b", "acme:planner:1")], [])
    await connections.update("edge-1", [], [gone])
    for scope in ("acme", "acme:planner", "acme:planner:1"):
        assert await names(connections, scope) == ["edge-1/b"]


async def test_one_that_came_and_went_in_a_batch_is_gone(connections: ConnectionStore) -> None:
    await connections.renew(lease(), 30)
    both = connection("a", "acme:planner:1")
    await connections.update("edge-1", [both], [both])
    assert await names(connections, "acme") == []


async def test_the_connections_of_an_edge_count_while_its_lease_holds(connections: ConnectionStore) -> None:
    await connections.renew(lease("edge-1"), 30)
    await connections.renew(lease("edge-2"), 0.3)
    await connections.update("edge-1", [connection("a", "acme:planner:1")], [])
    await connections.update("edge-2", [connection("b", "acme:planner:1")], [])

    async def only_the_first() -> bool:
        return await names(connections, "acme:planner:1") == ["edge-1/a"]

    await until(only_the_first)


async def test_an_edge_that_registers_anew_has_nothing_of_before(connections: ConnectionStore) -> None:
    await connections.renew(lease(incarnation="one"), 30)
    await connections.update("edge-1", [connection("a", "acme:planner:1")], [])
    assert not await connections.renew(lease(incarnation="two"), 30)
    assert await names(connections, "acme") == []
    await connections.update("edge-1", [connection("b", "acme:planner:1")], [])
    assert await names(connections, "acme") == ["edge-1/b"]


async def test_release_leaves_nothing(connections: ConnectionStore) -> None:
    await connections.renew(lease("edge-1"), 30)
    await connections.renew(lease("edge-2"), 30)
    await connections.update("edge-1", [connection("a", "acme:planner:1")], [])
    await connections.update("edge-2", [connection("b", "acme:planner:1")], [])
    await connections.release("edge-1")
    assert [held.edge for held in await connections.edges()] == ["edge-2"]
    assert await names(connections, "acme") == ["edge-2/b"]
    assert not await connections.renew(lease("edge-1"), 30)
    assert await names(connections, "acme") == ["edge-2/b"]


async def test_connections_are_paged_in_the_order_of_their_names(connections: ConnectionStore) -> None:
    await connections.renew(lease("edge-1"), 30)
    await connections.renew(lease("edge-2"), 30)
    await connections.update("edge-1", [connection(f"c{n:03}") for n in range(450)], [])
    await connections.update("edge-2", [connection("a")], [])
    seen: list[str] = []
    while page := await names(connections, "acme", 100, seen[-1] if seen else ""):
        assert len(page) <= 100
        seen += page
    assert seen == [*(f"edge-1/c{n:03}" for n in range(450)), "edge-2/a"]


async def test_a_limit_is_met_past_an_edge_that_was_lost(connections: ConnectionStore) -> None:
    await connections.renew(lease("edge-1"), 0.3)
    await connections.renew(lease("edge-2"), 30)
    await connections.update("edge-1", [connection(f"c{n:03}") for n in range(300)], [])
    await connections.update("edge-2", [connection("a"), connection("b")], [])

    async def lost() -> bool:
        return await names(connections, "acme", 2) == ["edge-2/a", "edge-2/b"]

    await until(lost)


async def test_connections_are_counted_by_tenant(connections: ConnectionStore) -> None:
    await connections.renew(lease(), 30)
    await connections.update("edge-1", [connection("a"), connection("b"), connection("c", tenant="beta")], [])
    assert await connections.counts(["acme", "beta", "nobody"]) == [2, 1, 0]
    assert await connections.counts([]) == []


@pytest.mark.parametrize("edge", ["", "a/b", "a:connections", "a b", "é"])
async def test_a_name_that_could_be_taken_for_another_is_refused(connections: ConnectionStore, edge: str) -> None:
    with pytest.raises(InvalidValueError):
        await connections.renew(lease(edge), 30)


async def test_a_renewal_that_was_never_answered_is_no_registration(client: MetadataClient) -> None:
    """The first renewal was carried out, its answer was lost: the edge must still be told to register everything."""
    assert not await RedisConnectionStore(client).renew(lease(), 30)
    edge_that_heard_nothing = RedisConnectionStore(client)
    assert not await edge_that_heard_nothing.renew(lease(), 30)
    assert await edge_that_heard_nothing.renew(lease(), 30)


async def test_nothing_is_left_in_redis_when_all_are_gone(client: MetadataClient) -> None:
    store = RedisConnectionStore(client)
    await store.renew(lease("edge-1"), 30)
    await store.renew(lease("edge-2"), 30)
    gone = connection("x", "acme:planner:1", "acme:tool:2")
    await store.update("edge-1", [connection(f"c{n}", "acme:planner:1") for n in range(500)], [])
    await store.update("edge-2", [gone], [])
    await store.update("edge-2", [], [gone])
    await store.release("edge-1")
    await store.release("edge-2")
    assert await client.redis.keys("*") == []


async def test_a_batch_that_broke_off_is_repaired_by_the_next(client: MetadataClient) -> None:
    store = RedisConnectionStore(client)
    await store.renew(lease(), 30)
    await client.redis.zadd(keys.where("acme"), {"edge-1/a": 0})  # listed, and then the connection to Redis broke
    assert await names(store, "acme") == []
    await store.update("edge-1", [connection("a", "acme:planner:1")], [])
    assert await names(store, "acme") == ["edge-1/a"]
    assert await names(store, "acme:planner") == ["edge-1/a"]


async def test_a_corrupt_connection_is_left_out(client: MetadataClient) -> None:
    store = RedisConnectionStore(client)
    await store.renew(lease(), 30)
    await store.update("edge-1", [connection("a"), connection("b")], [])
    await client.redis.hset(keys.edge_connections("edge-1"), "a", b'{"connection":')
    assert await names(store, "acme") == ["edge-1/b"]
    assert store.corrupt_records == 1
    await store.update("edge-1", [connection("a")], [])
    assert await names(store, "acme") == ["edge-1/a", "edge-1/b"]


async def test_a_corrupt_lease_hides_no_other(client: MetadataClient) -> None:
    store = RedisConnectionStore(client)
    for edge in ("edge-1", "edge-2"):
        await store.renew(lease(edge), 30)
        await store.update(edge, [connection("a")], [])
    await client.redis.hset(keys.edge("edge-1"), "lease", b"[1]")
    assert [held.edge for held in await store.edges()] == ["edge-2"]
    assert await names(store, "acme") == ["edge-2/a"]
    assert store.corrupt_records == 2
    await store.renew(lease("edge-1"), 30)
    assert await names(store, "acme") == ["edge-1/a", "edge-2/a"]
