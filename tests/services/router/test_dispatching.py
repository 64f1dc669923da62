"""Sessions that wait get a worker, each one, whatever dies in between."""

import asyncio
from collections import defaultdict

import msgspec
import pytest
from tests.services.router.helpers import MemoryWorld, RunningRouter, World, until

from heliograph.core.positions import Position
from heliograph.router.dispatching import Dispatcher
from heliograph.router.metrics import RouterMetrics
from heliograph.router.tending import MISSED_S, Tending, TendingLimits
from heliograph.service.metrics import Metrics
from heliograph.stores.keys import serving_consumer
from heliograph.stores.memory.metadata import MemoryServeStore
from heliograph.stores.ports import Ack, Acknowledged, AckStatus, EdgeLease, Order, ServeStore, Worker

QUICK = {"dispatch_lease_s": 1, "edge_lease_s": 1, "take_up_s": 30}
CONSUMER = serving_consumer("planner")


class Edge:
    """An edge with workers, as far as routers see one."""

    def __init__(self, world: World, name: str = "edge-1", incarnation: str = "first") -> None:
        self.world = world
        self.serving: ServeStore = world.serving
        self.name = name
        self.incarnation = incarnation
        self.kind = f"{world.tenant}:planner"
        self.orders: list[Order] = []

    async def renew(self, ttl_s: float = 60) -> None:
        await self.world.connections.renew(EdgeLease(self.name, self.incarnation, "", 0, 0), ttl_s)

    async def offer(self, worker: str, capacity: int = 1_000) -> None:
        await self.renew()
        offered = Worker(worker, self.name, self.incarnation, f"connection-{worker}", "agent", capacity)
        await self.serving.offer(self.kind, [offered])

    async def order(self) -> Order:
        """The next one, taken up."""
        while not self.orders:
            self.orders = await self.serving.orders(self.name, 1)
        order = self.orders.pop(0)
        assert await self.serving.take(self.kind, [(order.session, order.fence)]) == [True]
        return order

    async def no_order(self) -> None:
        assert await self.serving.orders(self.name, 0.3) == []

    async def mark(self, session: str, position: str | None) -> None:
        assert position is not None
        await self.serving.mark(self.kind, {session: position})


async def acknowledged(world: World, session: str, position: str | None, fence: int = 0) -> Acknowledged:
    at = Position.parse(position) if position is not None else None
    (answer,) = await world.live.acknowledge([Ack(session, CONSUMER, at, fence)])
    assert isinstance(answer, Acknowledged)
    return answer


async def test_a_session_that_waits_is_ordered_with_the_cursor_and_a_fence_that_claims_it(world: World) -> None:
    edge, session = Edge(world), world.session()
    first, second = await world.publish(session, 2)
    await acknowledged(world, session, first.position)
    await edge.offer("w1")
    await world.router(**QUICK)
    await edge.mark(session, second.position)
    order = await edge.order()
    assert (order.session, order.worker, order.start) == (session, "w1", first.position)
    claim = await acknowledged(world, session, second.position, order.fence - 1)
    assert (claim.status, claim.fence) == (AckStatus.FENCED, order.fence)
    claim = await acknowledged(world, session, second.position, order.fence)
    assert claim.status is AckStatus.OK


async def test_what_the_log_has_makes_a_session_due_but_not_a_workers_own_message(world: World) -> None:
    edge, session, own = Edge(world), world.session(), world.session()
    await edge.offer("w1")
    router = await world.router(**QUICK, serve_rescan_s=3_600)
    await until(lambda: router.value("serve_kinds") == 1, "the router knows what is served")
    message = msgspec.structs.replace(world.message(own, 1), by_worker=True)
    await world.append(message)
    await world.log(message)
    await world.until_confirmed(own, 1)
    await world.publish(session, 1)
    order = await edge.order()
    assert order.session == session
    await edge.no_order()


async def test_sessions_that_are_older_than_the_first_worker_are_found(world: World) -> None:
    edge = Edge(world)
    waiting, done, own = world.session(), world.session(), world.session()
    await world.publish(waiting, 1)
    (message,) = await world.publish(done, 1)
    await acknowledged(world, done, message.position)
    await world.append(msgspec.structs.replace(world.message(own, 1), by_worker=True))
    router = await world.router(**QUICK)
    await until(lambda: router.value("records_total") >= 2, "nobody serves yet")
    await edge.offer("w1")
    assert (await edge.order()).session == waiting
    await edge.no_order()


async def test_what_was_published_before_everybody_knew_of_the_first_worker_is_found(memory: MemoryWorld) -> None:
    edge, waiting, session = Edge(memory), memory.session(), memory.session()
    await memory.publish(waiting, 1)
    await edge.offer("w1")
    await memory.router(**QUICK, serve_rescan_s=3_600, reconcile_interval_s=3_600)
    assert (await edge.order()).session == waiting  # the scan for the first worker is over
    await memory.publish(session, 1, logged=False)  # by an edge that marks nothing; the log's record told nobody either
    assert (await edge.order()).session == session


async def test_without_a_cursor_a_session_begins_where_its_window_does(world: World) -> None:
    edge, session = Edge(world), world.session()
    (message,) = await world.publish(session, 1)
    await edge.offer("w1")
    await world.router(**QUICK)
    await edge.mark(session, message.position)
    assert (await edge.order()).start == f"{message.position[:22]}-{0:016d}"  # type: ignore[index]


async def test_what_waited_when_a_live_store_was_lost_is_begun_in_the_log(world: World) -> None:
    edge, session = Edge(world), world.session()
    (message,) = await world.publish(session, 1)
    await edge.mark(session, "0000000000001-00000000-0000000000000001")  # of an epoch that is gone
    await edge.mark(session, message.position)
    await edge.offer("w1")
    await world.router(**QUICK)
    assert (await edge.order()).start is None


async def test_marks_that_a_metadata_store_lost_are_found_when_its_workers_are_back(memory: MemoryWorld) -> None:
    edge, session = Edge(memory), memory.session()
    await edge.offer("w1", 0)
    router = await memory.router(**QUICK)
    await memory.publish(session, 1)
    await until(lambda: router.value("serve_due_sessions", kind=edge.kind) == 1)
    memory.serving._kinds.clear()  # type: ignore[attr-defined]  # as a Redis without its data
    await edge.offer("w1-anew")
    assert (await edge.order()).session == session


async def test_many_routers_give_each_session_to_one_worker(memory: MemoryWorld) -> None:
    edges = [Edge(memory, f"edge-{number}") for number in range(3)]
    for number, edge in enumerate(edges):
        await edge.offer(f"w{number}", 70)
    sessions = [memory.session() for _ in range(200)]
    routers = await asyncio.gather(*(memory.router(**QUICK) for _ in range(3)))
    await asyncio.gather(*(memory.publish(session, 1) for session in sessions))
    found: defaultdict[str, list[Order]] = defaultdict(list)
    by_worker: defaultdict[str, int] = defaultdict(int)

    async def collect(edge: Edge) -> None:
        while sum(map(len, found.values())) < len(sessions):
            for order in await edge.serving.orders(edge.name, 0.2):
                found[order.session].append(order)
                by_worker[order.worker] += 1
                assert await edge.serving.take(edge.kind, [(order.session, order.fence)]) == [True]

    async with asyncio.timeout(30):
        await asyncio.gather(*map(collect, edges))
    assert set(found) == set(sessions)
    assert max(map(len, found.values())) == 1
    assert max(by_worker.values()) <= 70
    assert min(by_worker.values()) >= 55  # the most free first
    assert sum(router.value("assigned_total") for router in routers) == 200


async def test_another_router_goes_on_where_one_stops(memory: MemoryWorld) -> None:
    edge = Edge(memory)
    await edge.offer("w1")
    first = await memory.router(**QUICK)
    await until(lambda: first.value("dispatched_kinds") == 1)
    second = await memory.router(**QUICK)
    await first.stop()
    session = memory.session()
    await memory.publish(session, 1)
    assert (await edge.order()).session == session
    assert second.value("assigned_total") == 1


@pytest.mark.parametrize("how", ["restarted", "gone"])
async def test_what_the_workers_of_a_lost_edge_held_goes_to_others(memory: MemoryWorld, how: str) -> None:
    lost, other, session = Edge(memory), Edge(memory, "edge-2"), memory.session()
    await lost.offer("w1")
    (message,) = await memory.publish(session, 1)
    router = await memory.router(**QUICK)
    before = await lost.order()
    await other.offer("w2")
    if how == "restarted":
        await Edge(memory, incarnation="second").renew()
    else:
        await lost.renew(0.01)
    order = await other.order()
    assert (order.session, order.worker) == (session, "w2")
    assert order.fence > before.fence
    assert (await acknowledged(memory, session, message.position, before.fence)).status is AckStatus.FENCED
    assert router.value("workers_lost_total") == 1
    assert await memory.serving.known(lost.kind, ["w1"]) == [False]


async def test_what_an_edge_does_not_take_up_is_given_out_again(memory: MemoryWorld) -> None:
    edge, session = Edge(memory), memory.session()
    await edge.offer("w1")
    await memory.router(**{**QUICK, "take_up_s": 0.5})
    await memory.publish(session, 1)
    first: list[Order] = []
    while not first:
        first = await edge.serving.orders(edge.name, 1)
    second = await edge.order()
    assert second.fence > first[0].fence
    assert await edge.serving.take(edge.kind, [(session, first[0].fence)]) == [False]


async def test_a_session_with_nothing_behind_the_cursor_is_not_given_out(memory: MemoryWorld) -> None:
    edge, session = Edge(memory), memory.session()
    await edge.offer("w1")
    (message,) = await memory.publish(session, 1, logged=False)
    await acknowledged(memory, session, message.position)
    router = await memory.router(**QUICK)
    await edge.mark(session, message.position)
    await until(lambda: router.value("nothing_to_serve_total") == 1)
    await edge.no_order()
    view = await memory.serving.view(edge.kind, 10)
    assert view.due == []
    assert [held for _, held in view.workers] == [0]


async def test_while_the_live_store_is_away_sessions_wait(memory: MemoryWorld) -> None:
    edge, session = Edge(memory), memory.session()
    (message,) = await memory.publish(session, 1, logged=False)
    router = await memory.router(**QUICK)
    memory.server.stop()
    await edge.offer("w1")  # not before: a router that looks for who waits would find the session
    await edge.mark(session, message.position)
    await until(lambda: router.value("dispatch_failures_total", step="claim") > 0)

    async def waits() -> bool:
        return [one.session for one in (await memory.serving.view(edge.kind, 10)).due] == [session]

    await until(waits)
    memory.server.restart(keep=True)
    assert (await edge.order()).session == session


async def test_fences_go_on_above_those_that_the_live_store_knows(memory: MemoryWorld) -> None:
    edge, session = Edge(memory), memory.session()
    (message,) = await memory.publish(session, 1, logged=False)
    ahead = 10 * (await memory.serving.view(edge.kind, 1)).now_ms
    await acknowledged(memory, session, None, ahead)
    await edge.offer("w1")
    await memory.router(**QUICK)
    await edge.mark(session, message.position)
    assert (await edge.order()).fence > ahead


async def test_what_nobody_serves_any_more_is_forgotten(memory: MemoryWorld) -> None:
    edge = Edge(memory)
    await edge.offer("w1")
    router = await memory.router(**QUICK, unserved_keep_s=0.2)
    await until(lambda: router.value("dispatched_kinds") == 1)
    await edge.serving.leave(edge.kind, ["w1"])

    async def forgotten() -> bool:
        return await edge.serving.kinds() == {}

    await until(forgotten)
    await until(lambda: router.value("dispatched_kinds") == 0)
    await until(lambda: router.value("serve_kinds") == 0)


async def test_a_pause_of_the_metadata_store_loses_nobody(memory: MemoryWorld) -> None:
    now = [1_000.0]
    metrics, serving = RouterMetrics(Metrics("router", "0")), MemoryServeStore(lambda: int(now[0] * 1_000))
    edge = Edge(memory)
    edge.serving = serving
    await edge.offer("w1")
    dispatcher = Dispatcher(serving, memory.live, memory.leases, metrics, holder="me", ttl_s=60, clock=lambda: now[0])
    tending = Tending(
        dispatcher, serving, memory.connections, memory.live, metrics,
        TendingLimits(grace_s=6, take_up_s=5, unserved_keep_s=60, rescan_s=60), shards=4, clock=lambda: now[0],
    )  # fmt: skip
    await dispatcher.lease_round()
    await memory.connections.release(edge.name)
    for _ in range(6):
        await tending.sweep_round()
        now[0] += 1
    now[0] += MISSED_S  # it did not answer for so long: leases may have run out with everybody alive
    for _ in range(6):
        await tending.sweep_round()
        assert await serving.known(edge.kind, ["w1"]) == [True]
        now[0] += 1
    await tending.sweep_round()
    assert await serving.known(edge.kind, ["w1"]) == [False]


async def test_a_router_shows_what_it_gives_out(memory: MemoryWorld) -> None:
    edge = Edge(memory)
    await edge.offer("w1", 1)
    router: RunningRouter = await memory.router(**QUICK)
    sessions = [memory.session() for _ in range(3)]
    for session in sessions:
        await memory.publish(session, 1)
    await edge.order()
    kind = edge.kind
    await until(lambda: router.value("serve_due_sessions", kind=kind) == 2)
    assert router.value("serve_held_sessions", kind=kind) == 1
    assert router.value("serve_capacity_sessions", kind=kind) == 1
    assert router.value("serve_workers", kind=kind) == 1
