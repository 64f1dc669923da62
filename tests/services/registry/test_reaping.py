"""Edges that died are reaped: what is told, how often, and when nobody may be."""

import asyncio
from collections.abc import Sequence

import pytest
from tests.services.registry.helpers import SESSION, Registry, Stores, connection, edge, lost_edge

from heliograph.service.presence import SETTLE_S
from heliograph.stores.memory.metadata import MemoryConnectionStore
from heliograph.stores.ports import Connection, EdgeLease, StoreError

OTHER = "acme:planner:trip-43"
LEASE_S = 0.3


async def test_the_sessions_concerned_are_told_and_the_edge_is_forgotten(stores: Stores) -> None:
    await stores.listen(SESSION, OTHER)
    store = stores.connections[0]
    lease = await lost_edge(store, "edge-1", connection("a", SESSION, OTHER, agent="planner-7"), connection("b"))
    registry = Registry(stores)
    await registry.watch(LEASE_S)
    heard = sorted(await stores.heard(2), key=lambda frame: str(frame["session"]))
    assert heard[0] == {
        "type": "presence",
        "session": SESSION,
        "event": "leave",
        "connection": "a",
        "subject": "user-a",
        "time": lease.ends_ms,
        "id": "edge-1/a/1/1/leave",
        "agent": "planner-7",
        "reason": "lost",
    }
    assert (heard[1]["session"], heard[1]["id"]) == (OTHER, "edge-1/a/1/2/leave")
    await stores.silent()
    assert await store.lapsed() == []
    assert await store.counts(["acme"]) == [0]
    assert registry.value("reaped_edges_total") == 1
    assert registry.value("lost_connections_total") == 2
    assert registry.value("lost_announced_total") == 2
    assert registry.value("lapsed_edges") == 0
    assert registry.value("lost_after_seconds_count") == 1
    assert registry.value("lost_after_seconds_sum") >= LEASE_S


async def test_however_many_registries_look_each_loss_is_told_and_counted_once(stores: Stores) -> None:
    await stores.listen(SESSION)
    names = [f"c{number:03}" for number in range(450)]
    await lost_edge(stores.connections[0], "edge-1", *(connection(name, SESSION) for name in names), lease_s=1.5)
    registries = [Registry(stores, 0), Registry(stores, 1)]
    await asyncio.gather(*(registry.watch(1.5) for registry in registries))
    heard = await stores.heard(len(names))
    assert sorted(frame["connection"] for frame in heard) == names
    await stores.silent()
    for name, count in (("lost_connections_total", 450), ("lost_announced_total", 450), ("reaped_edges_total", 1)):
        assert sum(registry.value(name) for registry in registries) == count


async def test_losses_are_counted_as_they_are_told_not_when_all_are(stores: Stores) -> None:
    await stores.listen(SESSION)
    names = [f"c{number:03}" for number in range(450)]
    await lost_edge(stores.connections[0], "edge-1", *(connection(name, SESSION) for name in names), lease_s=1.5)
    registry = Registry(stores)
    watching = asyncio.create_task(registry.watch(1.5))
    seen: set[tuple[float, float]] = set()
    while not watching.done():
        seen.add((registry.value("lost_connections_total"), registry.value("lost_announced_total")))
        await asyncio.sleep(0)
    await watching
    assert any(0 < connections < 450 and announced >= connections for connections, announced in seen), seen
    assert registry.value("lost_announced_total") == 450


async def test_an_agent_that_is_back_elsewhere_is_not_told_as_lost(stores: Stores) -> None:
    await stores.listen(SESSION, OTHER)
    store = stores.connections[0]
    await edge(store, "edge-2", connection("x", SESSION, subject="robot", agent="arm-7"))
    await lost_edge(
        store,
        "edge-1",
        connection("a", SESSION, OTHER, subject="robot", agent="arm-7"),
        connection("b", SESSION, subject="robot", agent="arm-8"),
        connection("c", SESSION, subject="another", agent="arm-7"),
    )
    registry = Registry(stores)
    await registry.watch(LEASE_S)
    heard = await stores.heard(3)
    assert sorted((frame["connection"], frame["session"]) for frame in heard) == [
        ("a", OTHER),
        ("b", SESSION),
        ("c", SESSION),
    ]
    await stores.silent()
    assert registry.value("lost_suppressed_total") == 1
    assert registry.value("lost_announced_total") == 3


async def test_an_agent_on_two_edges_that_are_lost_is_told_for_both(stores: Stores) -> None:
    await stores.listen(SESSION)
    for name in ("edge-1", "edge-2"):
        await lost_edge(stores.connections[0], name, connection(f"at-{name}", SESSION, subject="robot"))
    await Registry(stores).watch(LEASE_S)
    assert sorted(frame["connection"] for frame in await stores.heard(2)) == ["at-edge-1", "at-edge-2"]


async def test_a_subscription_whose_join_was_not_announced_leaves_unannounced(stores: Stores) -> None:
    await stores.listen(SESSION, OTHER)
    quiet = connection("a", SESSION, OTHER)
    quiet.joins = [0, 9]
    old = connection("b", SESSION)
    old.joins = []
    await lost_edge(stores.connections[0], "edge-1", quiet, old)
    await Registry(stores).watch(LEASE_S)
    assert [frame["id"] for frame in await stores.heard(1)] == ["edge-1/a/1/9/leave"]
    await stores.silent()


async def test_an_edge_that_lives_is_left_alone(stores: Stores) -> None:
    await stores.listen(SESSION)
    await edge(stores.connections[0], "edge-1", connection("a", SESSION))
    registry = Registry(stores)
    await registry.watch(60.0)
    await stores.silent()
    assert [lease.edge for lease in await stores.connections[0].edges()] == ["edge-1"]
    assert registry.value("reaped_edges_total") == 0


async def test_a_registry_that_has_just_started_waits_for_a_whole_lease(stores: Stores) -> None:
    await stores.listen(SESSION)
    await lost_edge(stores.connections[0], "edge-1", connection("a", SESSION))
    registry = Registry(stores)
    for _ in range(4):
        await registry.look(LEASE_S / 5)
        assert registry.value("lapsed_edges") == 1
    await stores.silent()
    await registry.look(LEASE_S / 5)
    await registry.look(LEASE_S / 5)
    await stores.heard(2)


async def test_what_one_told_before_it_died_another_does_not_tell_again(stores: Stores) -> None:
    """It died between telling and removing: that is the order, so that nothing goes untold."""
    await stores.listen(SESSION)
    lease = await lost_edge(stores.connections[0], "edge-1", connection("a", SESSION), connection("b", SESSION))
    frame = b'{"type":"presence","told":"by the one that died"}'
    assert await stores.live[1].announce(SESSION, "edge-1/a/1/1/leave", frame)
    registry = Registry(stores)
    await registry.watch(lease.lease_ms / 1000)
    heard = await stores.heard(2)
    assert [frame.get("connection") for frame in heard] == [None, "b"]
    await stores.silent()
    assert registry.value("lost_announced_total") == 1
    assert registry.value("lost_connections_total") == 2


class Unsteady(MemoryConnectionStore):
    """A store in memory that can be away, also in the midst of reaping."""

    away = ""

    def _reach(self, call: str) -> None:
        if self.away in (call, "all"):
            raise StoreError("unavailable", "the store is away")

    async def lapsed(self) -> list[EdgeLease]:
        self._reach("lapsed")
        return await super().lapsed()

    async def remove(self, lease: EdgeLease, lost: Sequence[Connection]) -> list[bool]:
        self._reach("remove")
        return await super().remove(lease, lost)


@pytest.mark.parametrize("kind", ["memory"], indirect=True)
async def test_a_store_that_was_away_reaps_nobody_until_all_have_had_time_to_renew(stores: Stores) -> None:
    await stores.listen(SESSION)
    now_ms = 1_764_000_000_000
    store = Unsteady(lambda: now_ms)
    stores.connections[0] = store
    await edge(store, "edge-1", connection("a", SESSION), lease_s=6.0)
    registry = Registry(stores)
    await registry.watch(6.0)
    store.away = "all"
    for _ in range(10):
        await registry.look(1.0)
    assert registry.value("reap_failures_total", code="unavailable") == 10
    assert "reaping" in registry.readiness.degraded()
    store.away, now_ms = "", now_ms + 60_000  # its clock went on
    for _ in range(6):
        await registry.look(1.0)
        assert registry.value("lapsed_edges") == 1
    assert await store.counts(["acme"]) == [1]
    assert not await store.renew(EdgeLease("edge-1", "run-1", "edge-1:8080", 1, now_ms), 6.0)
    await registry.watch(6.0)
    await stores.silent()
    assert registry.value("reaped_edges_total") == 0
    assert "reaping" not in registry.readiness.degraded()


@pytest.mark.parametrize("kind", ["memory"], indirect=True)
async def test_a_store_that_goes_away_in_the_midst_is_told_the_rest_later(stores: Stores) -> None:
    await stores.listen(SESSION)
    store = Unsteady()
    stores.connections[0] = store
    await lost_edge(store, "edge-1", connection("a", SESSION))
    registry = Registry(stores)
    store.away = "remove"
    await registry.watch(LEASE_S)
    await stores.heard(1)
    assert registry.value("lost_connections_total") == 0
    store.away = ""
    await registry.watch(LEASE_S)
    await stores.silent()
    assert registry.value("lost_connections_total") == 1
    assert registry.value("lost_announced_total") == 1


@pytest.mark.parametrize("kind", ["memory"], indirect=True)
async def test_while_the_live_store_is_away_nothing_is_forgotten_untold(stores: Stores) -> None:
    assert stores.server is not None
    await stores.listen(SESSION)
    await lost_edge(stores.connections[0], "edge-1", connection("a", SESSION))
    registry = Registry(stores)
    stores.server.stop()
    while stores.listener.subscribed:
        await asyncio.sleep(0.005)
    await registry.watch(LEASE_S)
    assert registry.value("reap_failures_total", code="live_unavailable") >= 1
    assert await stores.connections[0].counts(["acme"]) == [1]
    stores.server.restart(keep=True)
    for _ in range(int(SETTLE_S / LEASE_S) - 2):
        await registry.watch(LEASE_S)
    assert registry.value("lost_announced_total") == 0, "told before edges can have subscribed again"
    await stores.listen(SESSION)
    for _ in range(2):
        await registry.watch(LEASE_S)
    assert [frame["connection"] for frame in await stores.heard(1)] == ["a"]
    assert await stores.connections[0].counts(["acme"]) == [0]
