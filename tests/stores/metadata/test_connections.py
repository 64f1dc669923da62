"""What every connection store promises."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from tests.stores.metadata.helpers import keys_in

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


# ---- edges that were lost -------------------------------------------------------------------------------------------


async def lapsed(store: ConnectionStore, edge: str = "edge-1") -> EdgeLease:
    """The lease of an edge, once it ran out."""
    found: list[EdgeLease] = []

    async def ran_out() -> bool:
        found[:] = [lease for lease in await store.lapsed() if lease.edge == edge]
        return bool(found)

    await until(ran_out)
    return found[0]


async def test_a_lease_that_ran_out_is_found_with_what_was_registered_under_it(connections: ConnectionStore) -> None:
    await connections.renew(lease("edge-1"), 0.3)
    await connections.renew(lease("edge-2"), 30)
    known = [connection("a", "acme:planner:1"), connection("b")]
    await connections.update("edge-1", known, [])
    await connections.update("edge-2", [connection("c")], [])
    found = await lapsed(connections)
    assert (found.edge, found.incarnation, found.lease_ms) == ("edge-1", "one", 300)
    assert [one.edge for one in await connections.lapsed()] == ["edge-1"]
    assert sorted((one.connection, one.sessions) for one in await connections.left_behind(found, 100)) == [
        ("a", ["acme:planner:1"]),
        ("b", []),
    ]
    stored = await connections.lease("edge-1")
    assert stored is not None
    assert stored.ends_ms == found.ends_ms
    assert await connections.lease("edge-3") is None


async def test_of_many_who_remove_what_is_lost_one_is_told_that_it_did(connections: ConnectionStore) -> None:
    await connections.renew(lease(), 0.2)
    await connections.update("edge-1", [connection("a", "acme:planner:1"), connection("b")], [])
    found = await lapsed(connections)
    lost = await connections.left_behind(found, 100)
    assert await connections.remove(found, lost[:1]) == [True]
    assert await connections.remove(found, lost) == [False, True]
    assert await connections.left_behind(found, 100) == []
    assert await connections.counts(["acme"]) == [0]
    assert [await connections.bury(found), await connections.bury(found)] == [True, False]
    assert await connections.lapsed() == []
    assert await connections.lease("edge-1") is None


async def test_an_edge_that_is_back_is_not_reaped_by_who_saw_it_lapsed(connections: ConnectionStore) -> None:
    await connections.renew(lease(), 0.2)
    await connections.update("edge-1", [connection("a", "acme:planner:1")], [])
    found = await lapsed(connections)
    lost = await connections.left_behind(found, 100)
    assert not await connections.renew(lease(), 30), "it ran out: all is to be registered anew"
    back = connection("a", "acme:planner:1")
    back.registration = 2
    await connections.update("edge-1", [back], [])
    assert await connections.left_behind(found, 100) == []
    assert await connections.remove(found, lost) == [False]
    assert not await connections.bury(found)
    assert await names(connections, "acme:planner:1") == ["edge-1/a"]
    assert await connections.lapsed() == []


async def test_a_lease_that_holds_is_not_buried(connections: ConnectionStore) -> None:
    await connections.renew(lease(), 30)
    stored = await connections.lease("edge-1")
    assert stored is not None
    assert not await connections.bury(stored)
    assert [held.edge for held in await connections.edges()] == ["edge-1"]


async def test_what_a_former_process_of_the_name_left_is_found_until_the_edge_registers(
    connections: ConnectionStore,
) -> None:
    """Killed and started again within its lease."""
    await connections.renew(lease(incarnation="one"), 30)
    await connections.update("edge-1", [connection("a", "acme:planner:1")], [])
    former = await connections.lease("edge-1")
    assert former is not None
    assert former.incarnation == "one"
    assert [one.connection for one in await connections.left_behind(former, 10)] == ["a"]
    await connections.renew(lease(incarnation="two"), 30)
    assert await connections.left_behind(former, 10) == []


async def test_what_is_left_behind_comes_in_parts_until_all_is_removed(connections: ConnectionStore) -> None:
    await connections.renew(lease(), 1.0)
    await connections.update("edge-1", [connection(f"c{n:03}") for n in range(700)], [])
    found, seen = await lapsed(connections), list[str]()
    while lost := await connections.left_behind(found, 100):
        seen += [one.connection for one in lost]
        await connections.remove(found, lost)
    assert sorted(seen) == [f"c{n:03}" for n in range(700)]


async def test_the_agents_of_sessions_are_those_on_other_edges_that_live(connections: ConnectionStore) -> None:
    await connections.renew(lease("edge-1"), 30)
    await connections.renew(lease("edge-2"), 30)
    await connections.renew(lease("edge-3"), 0.2)
    elsewhere = connection("b", "acme:planner:1", "acme:planner:2")
    elsewhere.subject, elsewhere.agent = "robot", "arm-7"
    await connections.update("edge-1", [connection("a", "acme:planner:1")], [])
    await connections.update("edge-2", [elsewhere, connection("c", "acme:planner:3")], [])
    await connections.update("edge-3", [connection("d", "acme:planner:1")], [])
    await lapsed(connections, "edge-3")
    asked = ["acme:planner:1", "acme:planner:2", "acme:planner:3", "acme:planner:4"]
    assert await connections.agents(asked, "edge-1") == [
        {("robot", "arm-7")},
        {("robot", "arm-7")},
        {("user-c", None)},
        set(),
    ]
    assert await connections.agents(["acme:planner:1"], "edge-2") == [{("user-a", None)}]
    assert await connections.agents([], "edge-1") == []


async def test_a_session_may_have_more_subscribers_than_one_reply_holds(connections: ConnectionStore) -> None:
    await connections.renew(lease("edge-1"), 30)
    await connections.renew(lease("edge-2"), 30)
    await connections.update("edge-1", [connection(f"c{n:04}", "acme:planner:1") for n in range(1_400)], [])
    await connections.update("edge-2", [connection("z", "acme:planner:1")], [])
    assert await connections.agents(["acme:planner:1"], "edge-1") == [{("user-z", None)}]
    assert len((await connections.agents(["acme:planner:1"], "edge-2"))[0]) == 1_400


async def test_load_and_subscriptions_are_kept_with_their_numbers(connections: ConnectionStore) -> None:
    busy = lease()
    busy.messages_in_per_s, busy.messages_out_per_s, busy.outbound_bytes = 12.5, 300.0, 4_096
    await connections.renew(busy, 30)
    known = connection("a", "acme:planner:1", "acme:planner:2")
    known.registration, known.joins = 3, [7, 0]
    await connections.update("edge-1", [known], [])
    ((held, found),) = await connections.connections("acme", 10)
    assert (held.messages_in_per_s, held.messages_out_per_s, held.outbound_bytes) == (12.5, 300.0, 4_096)
    assert found == known


async def test_what_is_said_late_of_a_former_registration_does_not_touch_the_present(
    connections: ConnectionStore,
) -> None:
    await connections.renew(lease(), 0.1)
    former, present = connection("a", "acme:planner:1"), connection("a", "acme:planner:1")
    present.registration = former.registration + 1
    await connections.update("edge-1", [former], [])
    await lapsed(connections)
    assert not await connections.renew(lease(), 30)
    await connections.update("edge-1", [present], [])
    await connections.update("edge-1", [], [former])
    assert await names(connections, "acme:planner:1") == ["edge-1/a"]
    held = await connections.lease("edge-1")
    assert held is not None
    assert await connections.remove(held, [former, present]) == [False, True]
    assert await names(connections, "acme:planner:1") == []


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
    assert await keys_in(client, "*") == []


async def test_a_batch_that_broke_off_is_repaired_by_the_next(client: MetadataClient) -> None:
    store = RedisConnectionStore(client)
    await store.renew(lease(), 30)
    await client.redis.zadd(keys.where("acme"), {"edge-1/a 1": 0})  # listed, and then the connection to Redis broke
    assert await names(store, "acme") == []
    await store.update("edge-1", [connection("a", "acme:planner:1")], [])
    assert await names(store, "acme") == ["edge-1/a"]
    assert await names(store, "acme:planner") == ["edge-1/a"]


async def test_a_corrupt_connection_is_left_out(client: MetadataClient) -> None:
    store = RedisConnectionStore(client)
    await store.renew(lease(), 30)
    await store.update("edge-1", [connection("a"), connection("b")], [])
    await client.redis.hset(keys.edge_connections("edge-1"), "a 1", b'{"connection":')
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


async def test_a_registry_that_died_half_way_leaves_nothing_that_another_can_not_bury(client: MetadataClient) -> None:
    store = RedisConnectionStore(client)
    await store.renew(lease(), 0.1)
    await store.update("edge-1", [connection("a")], [])
    found = await lapsed(store)
    await store.remove(found, await store.left_behind(found, 10))
    await client.redis.delete(keys.edge("edge-1"))  # and then it died
    again = await lapsed(store)
    assert await store.left_behind(again, 10) == []
    assert await store.bury(again)
    assert await keys_in(client, "*") == []


async def test_what_can_not_be_read_does_not_keep_an_edge_from_its_grave(client: MetadataClient) -> None:
    store = RedisConnectionStore(client)
    await store.renew(lease(), 0.1)
    await store.update("edge-1", [connection("a")], [])
    await client.redis.hset(keys.edge("edge-1"), "lease", b"[1]")
    await client.redis.hset(keys.edge_connections("edge-1"), "b 1", b"{")
    found = await lapsed(store)
    lost = await store.left_behind(found, 10)
    assert [one.connection for one in lost] == ["a"]
    assert await store.remove(found, lost) == [True]
    assert await store.left_behind(found, 10) == []
    assert await store.bury(found)
    assert await keys_in(client, "*") == []
