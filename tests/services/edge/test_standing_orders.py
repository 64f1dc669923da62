"""An edge does what it is told by who runs the fleet: it drains without ending, comes back, sheds some clients."""

import asyncio

import httpx
import pytest
from tests.services.edge.client import Client
from tests.services.edge.rig import Edge, World, until, until_told
from tests.services.edge.test_serving import Router, busy
from websockets.exceptions import InvalidStatus

from heliograph.stores.memory.metadata import MemoryEdgeOrders
from heliograph.stores.ports import DrainOrder, EdgeLease, ShedOrder, StandingOrders, StoreError

SESSION = "acme:planner:1"
DRAIN = DrainOrder("retire/pod-1", 1.0)
OBEYED_S = 1.0
"""What an order may take to be obeyed; and as much again for a busy machine."""


async def lease_of(world: World) -> EdgeLease:
    async def registered() -> bool:
        return bool(await world.connections.edges())

    await until_told(registered)
    (lease,) = await world.connections.edges()
    return lease


async def drained(world: World, edge: Edge, order: DrainOrder = DRAIN) -> None:
    """Order it, and wait until the edge reports that nobody is left."""
    await world.orders.drain("edge-1", order, 60)

    async def nobody_left() -> bool:
        lease = await lease_of(world)
        return lease.drain_order == order.id and lease.connections == 0 and not lease.ready

    await until_told(nobody_left)
    assert edge.value("connections") == 0


async def in_service(world: World) -> None:
    async def serves() -> bool:
        lease = await lease_of(world)
        return lease.ready and not lease.draining and not lease.drain_order

    await until_told(serves)


async def test_an_order_is_obeyed_within_a_second(world: World) -> None:
    edge = await world.edge()
    loop = asyncio.get_running_loop()
    await world.orders.drain("edge-1", DRAIN, 60)
    begin = loop.time()
    await until(lambda: not edge.service.readiness.ready)
    assert loop.time() - begin < 2 * OBEYED_S


async def test_a_drained_edge_is_alive_and_not_ready_and_takes_nobody_until_it_is_stopped(world: World) -> None:
    edge = await world.edge()
    clients = [await edge.client() for _ in range(8)]
    told = [asyncio.create_task(client.next("reconnect")) for client in clients]
    await drained(world, edge)
    assert {(await frame)["reason"] for frame in told} == {"draining"}
    assert {await client.closed() for client in clients} == {4001}
    async with httpx.AsyncClient(base_url=edge.url) as http:
        ready, alive = await http.get("/readyz"), await http.get("/livez")
        assert (ready.status_code, ready.json()["waiting_for"]) == (503, ["orders"])
        assert alive.status_code == 200
        answer = await http.post(
            "/v1/sessions/acme/planner/1/messages",
            json={"payload": 1},
            headers={"Authorization": f"Bearer {world.token()}"},
        )
        assert (answer.status_code, answer.json()["code"]) == (503, "draining")
    with pytest.raises(InvalidStatus) as refused:
        await edge.connect()
    assert refused.value.response.status_code == 503
    lease = await lease_of(world)
    assert (lease.draining, lease.drain_order) == (True, DRAIN.id)
    assert edge.value("drained_by_order") == 1
    await edge.stop()
    assert await world.connections.edges() == []


async def test_clients_are_told_at_a_pace_and_served_until_they_go(world: World) -> None:
    edge = await world.edge()
    clients = [await edge.client() for _ in range(12)]
    times: list[float] = []
    loop = asyncio.get_running_loop()

    async def told(client: Client) -> None:
        await client.next("reconnect")
        times.append(loop.time())
        assert (await client.publish(SESSION))["durable"] is True

    watching = [asyncio.create_task(told(client)) for client in clients]
    await world.orders.drain("edge-1", DrainOrder("retire/1", 3.0), 60)
    await asyncio.gather(*watching)
    assert max(times) - min(times) > 1.0, "spread over the drain time, not a wave"
    assert edge.value("moved_total", reason="draining") == 12


async def test_progress_stands_in_the_lease(world: World) -> None:
    edge = await world.edge(lease_s=60.0)
    clients = [await edge.client() for _ in range(10)]
    seen: set[int] = set()

    async def goes(client: Client) -> None:
        await client.next("reconnect")
        await client.close()

    going = [asyncio.create_task(goes(client)) for client in clients]

    async def over() -> bool:
        lease = await lease_of(world)
        if lease.drain_order:
            assert not lease.ready
            seen.add(lease.connections)
        return lease.drain_order != "" and lease.connections == 0

    await world.orders.drain("edge-1", DrainOrder("retire/1", 3.0), 60)
    await until_told(over)
    await asyncio.gather(*going)
    assert len(seen) > 2, "and not only when the lease is due anyway"


async def test_withdrawn_the_edge_serves_again(world: World) -> None:
    edge = await world.edge()
    await drained(world, edge)
    await world.orders.withdraw("edge-1", DRAIN.id)
    await in_service(world)
    client = await edge.client()
    assert (await client.publish(SESSION))["durable"] is True
    assert edge.value("drained_by_order") == 0


async def test_withdrawn_half_way_those_that_were_not_told_stay(world: World) -> None:
    edge = await world.edge()
    clients = [await edge.client() for _ in range(20)]
    await world.orders.drain("edge-1", DrainOrder("retire/1", 20.0), 60)
    await until(lambda: edge.value("moved_total", reason="draining") >= 2)
    await world.orders.withdraw("edge-1", "retire/1")
    await in_service(world)
    moved = edge.value("moved_total", reason="draining")
    assert moved < 20
    stayed = [client for client in clients if not client.of("reconnect")]
    assert len(stayed) == 20 - moved
    for client in stayed:
        assert (await client.publish(SESSION))["durable"] is True
    await drained(world, edge, DrainOrder("retire/2", 1.0))


async def test_an_order_that_nobody_prolongs_runs_out_and_the_edge_serves_again(world: World) -> None:
    """Who gave it is gone for good."""
    edge = await world.edge()
    await world.orders.drain("edge-1", DrainOrder("retire/1", 0.5), 2.0)
    await until(lambda: not edge.service.readiness.ready)
    await in_service(world)
    assert edge.service.readiness.ready


async def test_workers_get_no_more_work_and_get_it_again_once_the_edge_is_back(world: World) -> None:
    edge = await world.edge()
    worker = await edge.client()
    await worker.ask("serve", agent_type="planner", capacity=3)

    async def offers(capacity: int) -> bool:
        view = await world.serving.view("acme:planner", 10)
        return [one.capacity for one, _ in view.workers] == [capacity]

    await until_told(lambda: offers(3))
    await world.orders.drain("edge-1", DrainOrder("retire/1", 60.0), 60)
    await until_told(lambda: offers(0))
    await world.orders.withdraw("edge-1", "retire/1")
    await until_told(lambda: offers(3))


async def test_while_the_orders_cannot_be_read_nothing_changes(world: World) -> None:
    class Orders(MemoryEdgeOrders):
        away = False

        async def standing(self, edges: object) -> list[StandingOrders]:
            if self.away:
                raise StoreError("unavailable", "away")
            return await super().standing(["edge-1"])

    world.orders = orders = Orders()
    edge = await world.edge()
    await drained(world, edge)
    orders.away = True
    await orders.withdraw("edge-1", DRAIN.id)
    await until(lambda: edge.value("order_failures_total") >= 2)
    assert not edge.service.readiness.ready
    orders.away = False
    await in_service(world)


async def test_an_edge_that_starts_again_stays_out_of_service(world: World) -> None:
    await world.orders.drain("edge-1", DRAIN, 60)
    edge = await world.edge(ready=False)
    await until(lambda: edge.service.readiness.waiting_for() == ["orders"])
    assert not edge.service.readiness.ready


async def test_while_a_balancer_takes_notice_clients_are_still_taken_in(world: World) -> None:
    edge = await world.edge(drain_notice_s=3.0, drain_timeout_s=4.0)
    await world.orders.drain("edge-1", DrainOrder("retire/1", 4.0), 60)
    await until(lambda: not edge.service.readiness.ready)
    client = await edge.client()
    assert (await client.publish(SESSION))["durable"] is True
    assert await client.closed() == 4001


async def test_a_drain_by_order_that_is_stopped_ends_in_the_time_that_stopping_has(world: World) -> None:
    edge = await world.edge(drain_timeout_s=1.0)
    clients = [await edge.client() for _ in range(6)]
    await world.orders.drain("edge-1", DrainOrder("retire/1", 600.0), 60)
    await until(lambda: edge.service.readiness.waiting_for() == ["orders"])
    edge.begin_stop()
    assert {await client.closed() for client in clients} == {4001}
    assert all(len(client.of("reconnect")) == 1 for client in clients), "nobody is told twice"
    await edge.stopped()


# ---- shedding ------------------------------------------------------------------------------------------------------


async def shed(world: World, count: int, over_s: float = 1.0, id_: str = "shed/1", ttl_s: float = 60) -> ShedOrder:
    order = ShedOrder(id_, (await lease_of(world)).incarnation, count, over_s)
    await world.orders.shed("edge-1", order, ttl_s)
    return order


async def test_some_clients_are_asked_to_go_and_the_edge_stays_in_service(world: World) -> None:
    edge = await world.edge()
    clients = [await edge.client() for _ in range(10)]
    order = await shed(world, 4)

    async def done() -> bool:
        lease = await lease_of(world)
        return lease.shed_order == order.id and lease.shed_left == 0

    await until_told(done)
    assert edge.value("moved_total", reason="rebalancing") == 4
    await until(lambda: sum(bool(client.of("reconnect")) for client in clients) == 4)
    asked = [client for client in clients if client.of("reconnect")]
    assert {client.of("reconnect")[0]["reason"] for client in asked} == {"rebalancing"}
    assert edge.service.readiness.ready
    for client in clients:
        assert (await client.publish(SESSION))["durable"] is True, "nobody is closed"


async def test_who_works_is_disturbed_last(world: World) -> None:
    edge, router = await world.edge(), Router(world)
    clients = [await edge.client() for _ in range(3)]
    working, _, _ = await busy(world, edge, router)  # with a publisher, that does not work
    await shed(world, 4, ttl_s=2.0)
    await until(lambda: edge.value("moved_total", reason="rebalancing") == 4)
    for client in clients:
        assert (await client.next("reconnect"))["reason"] == "rebalancing"
    assert not working.of("reconnect")

    async def ran_out() -> bool:
        return (await world.orders.standing(["edge-1"]))[0].shed is None

    await until_told(ran_out)
    await shed(world, 5, id_="shed/2")
    await working.next("reconnect")
    assert working.of("revoked"), "and its sessions go to another worker at once"


async def test_an_order_for_the_edge_before_is_not_obeyed(world: World) -> None:
    """Its connections went with it."""
    edge = await world.edge()
    clients = [await edge.client() for _ in range(3)]
    await world.orders.shed("edge-1", ShedOrder("shed/1", "another incarnation", 3, 0.1), 60)
    await world.orders.drain("edge-1", DrainOrder("retire/1", 0.5), 60)  # obeyed after it was looked at
    await until(lambda: edge.value("connections") == 0)
    assert edge.value("moved_total", reason="rebalancing") == 0
    assert {client.of("reconnect")[0]["reason"] for client in clients} == {"draining"}


async def test_an_order_is_obeyed_once(world: World) -> None:
    edge = await world.edge()
    for _ in range(6):
        await edge.client()
    await shed(world, 2, over_s=0.1)
    await until(lambda: edge.value("moved_total", reason="rebalancing") == 2)
    looks = 0
    look = edge.world.orders.standing

    async def counted(edges: object) -> list[StandingOrders]:
        nonlocal looks
        looks += 1
        return await look(["edge-1"])

    edge.world.orders.standing = counted  # type: ignore[method-assign]
    await until(lambda: looks >= 2)
    assert edge.value("moved_total", reason="rebalancing") == 2


async def test_the_lease_says_what_the_edge_costs(world: World) -> None:
    await world.edge(lease_s=1.0)

    async def measured() -> bool:
        return (await lease_of(world)).cpu is not None

    await until_told(measured)
    lease = await lease_of(world)
    assert lease.cpu is not None
    assert 0 <= lease.cpu < 64
    assert lease.ready
