"""What the registry knows of an edge: its lease and its connections, whatever the metadata store does."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

from tests.services.edge.rig import Edge, World, until, until_told

from heliograph.edge.announcing import Announcer
from heliograph.edge.metrics import EdgeMetrics
from heliograph.edge.registration import Registration
from heliograph.service.health import Readiness
from heliograph.service.metrics import Metrics
from heliograph.stores.memory.live import MemoryLiveStore
from heliograph.stores.memory.metadata import MemoryConnectionStore
from heliograph.stores.ports import Connection, EdgeLease, StoreError

SESSION = "acme:planner:1"


class Registry(MemoryConnectionStore):
    """The store in memory, which can be away, forget, and be slow."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.updates: list[tuple[list[str], list[str]]] = []
        self.renewals = 0
        self.pause: asyncio.Event | None = None
        """An answer to `paused` comes only once it is set."""
        self.paused = ""
        self.waiting = 0

    async def _reach(self, call: str) -> None:
        if self.pause is not None and self.paused == call:
            self.waiting += 1
            await self.pause.wait()
            self.waiting -= 1
        if self.away:
            raise StoreError("unavailable", "the registry is away")

    def hold(self, call: str) -> asyncio.Event:
        """Let calls of this name wait; what ends that."""
        self.pause, self.paused = asyncio.Event(), call
        return self.pause

    async def renew(self, lease: EdgeLease, ttl_s: float) -> bool:
        self.renewals += 1
        await self._reach("renew")
        return await super().renew(lease, ttl_s)

    async def update(self, edge: str, changed: Sequence[Connection], gone: Sequence[Connection]) -> None:
        await self._reach("update")
        self.updates.append(([one.connection for one in changed], [one.connection for one in gone]))
        await super().update(edge, changed, gone)

    async def release(self, edge: str) -> None:
        await self._reach("release")
        await super().release(edge)

    async def forget(self) -> None:
        """As when the lease ran out, or the store lost its data."""
        await super().release("edge-1")


async def registered(world: World) -> tuple[Edge, Registry]:
    store = Registry()
    world.connections = store
    return await world.edge(lease_s=1.0), store


async def known(store: Registry, scope: str = "acme") -> list[Connection]:
    return [connection for _, connection in await store.connections(scope, 100)]


async def test_connections_are_known_with_what_they_follow_and_forgotten_when_they_go(world: World) -> None:
    edge, store = await registered(world)
    client = await edge.client(token=world.token(subject="robot"), agent="arm-7")
    welcome = client.of("welcome")[0]
    await client.subscribe(SESSION)

    async def follows() -> bool:
        found = await known(store)
        return bool(found and found[0].sessions == [SESSION])

    await until_told(follows)
    (connection,) = await known(store, SESSION)
    assert (connection.connection, connection.tenant) == (welcome["connection"], "acme")
    assert (connection.subject, connection.agent) == ("robot", "arm-7")

    async def counted() -> bool:
        (lease,) = await store.edges()
        assert (lease.edge, lease.draining) == ("edge-1", False)
        return lease.connections == 1

    await until_told(counted)
    await client.ask("unsubscribe", session=SESSION)

    async def follows_nothing() -> bool:
        return [one.sessions for one in await known(store)] == [[]]

    await until_told(follows_nothing)
    await client.close()

    async def gone() -> bool:
        return not await known(store)

    await until_told(gone)


async def test_who_said_no_hello_is_not_registered(world: World) -> None:
    edge, store = await registered(world)
    silent, client = await edge.connect(), await edge.client()
    await until(lambda: store.updates)
    await silent.close()
    await client.close()
    await until(lambda: len(store.updates) > 1)
    assert {id_ for update in store.updates for ids in update for id_ in ids} == {client.of("welcome")[0]["connection"]}


async def test_a_lost_lease_registers_everybody_anew(world: World) -> None:
    edge, store = await registered(world)
    clients = [await edge.client() for _ in range(3)]

    async def all_known() -> bool:
        return len(await known(store)) == 3

    await until_told(all_known)
    await store.forget()
    assert await known(store) == []
    await until_told(all_known)
    assert all(not client.is_closed for client in clients)


async def test_while_the_store_is_away_clients_are_served_and_readiness_says_so(world: World) -> None:
    edge, store = await registered(world)
    client = await edge.client()
    store.away = True
    await until(lambda: "registry" in edge.service.readiness.degraded())
    assert edge.service.readiness.ready
    assert (await client.publish(SESSION))["durable"] is True
    newcomer, leaver = await edge.client(), client
    await leaver.close()
    assert edge.value("registry_failures_total") >= 1
    store.away = False
    await until(lambda: "registry" not in edge.service.readiness.degraded())

    async def right() -> bool:
        return [one.connection for one in await known(store)] == [newcomer.of("welcome")[0]["connection"]]

    await until_told(right)


async def test_who_goes_while_the_store_fails_is_not_told_as_there(world: World) -> None:
    edge, store = await registered(world)
    stays = await edge.client()
    await until(lambda: store.updates)
    pause = store.hold("update")
    leaver = await edge.client()
    await until(lambda: store.waiting == 1)
    await leaver.close()
    await until(lambda: edge.value("connections") == 1)
    store.updates.clear()
    store.away, store.pause = True, None
    pause.set()
    await until(lambda: edge.value("registry_failures_total") >= 1)
    store.away = False
    await until(lambda: store.updates)
    told = {id_ for changed, _ in store.updates for id_ in changed}
    assert leaver.of("welcome")[0]["connection"] not in told
    assert [one.connection for one in await known(store)] == [stays.of("welcome")[0]["connection"]]


async def test_nothing_is_told_behind_the_release(world: World) -> None:
    """A renewal under way when the edge stops must not bring its lease back."""
    edge, store = await registered(world)
    pause = store.hold("renew")
    await until(lambda: store.waiting == 1)
    edge.begin_stop()
    await until(lambda: edge.service.readiness.draining)
    pause.set()
    await edge.stopped()
    assert await store.edges() == []
    assert store.waiting == 0


async def test_after_the_release_there_is_nothing_more_to_tell(world: World) -> None:
    store = Registry()
    edge: Any = Edges()
    metrics = EdgeMetrics(Metrics("edge", process=False))
    condition = Readiness().condition("registry")
    live = MemoryLiveStore(world.live)
    announcer = Announcer(live, metrics, edge="edge-1", subscribers_most=200, draining=lambda: True)
    registration = Registration(
        store, edge, announcer, metrics, condition, edge="edge-1", address=lambda: "here:1", lease_s=9.0
    )
    await registration.tell(100.0)
    assert [lease.edge for lease in await store.edges()] == ["edge-1"]
    await registration.release()
    await registration.tell(200.0)
    assert await store.edges() == []
    assert store.renewals == 1


class Edges:
    """Stands for the connections of an edge that has none."""

    def __init__(self) -> None:
        self.draining = False
        self.on_changed: object = None
        self.on_gone: object = None

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Iterator[Any]:
        return iter(())


async def test_a_store_that_is_away_at_the_end_does_not_hold_it_up(world: World) -> None:
    edge, store = await registered(world)
    await until(lambda: "edge-1" in store._leases)
    store.away = True
    edge.begin_stop()
    await edge.stopped()
    assert "edge-1" in store._leases, "its lease ends by itself"


async def test_the_lease_says_what_the_edge_carries(world: World) -> None:
    edge, store = await registered(world)
    reader, writer = await edge.client(), await edge.client()
    await reader.subscribe(SESSION)

    async def busy() -> bool:
        await writer.publish(SESSION, "x", ack="accepted")
        (lease,) = await store.edges()
        return lease.messages_in_per_s > 0 and lease.messages_out_per_s > 0

    await until_told(busy)

    async def at_rest() -> bool:
        (lease,) = await store.edges()
        return (lease.messages_in_per_s, lease.messages_out_per_s, lease.outbound_bytes) == (0, 0, 0)

    await until_told(at_rest)


async def test_many_connections_are_told_in_batches(world: World) -> None:
    edge, store = await registered(world)
    pause = store.hold("update")
    clients = [await edge.client() for _ in range(10)]
    store.pause = None
    pause.set()

    async def all_known() -> bool:
        return len(await known(store)) == len(clients)

    await until_told(all_known)
    assert len(store.updates) <= 3
