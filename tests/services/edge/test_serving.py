"""Workers: what they offer, get, acknowledge and give back, and what they are told when it is theirs no more."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest
from tests.services.edge.client import Client
from tests.services.edge.rig import Edge, World, until

from heliograph.core.positions import BEFORE_ALL
from heliograph.protocol.codes import CLOSES, CloseCode
from heliograph.protocol.messages import message_from_record
from heliograph.stores.keys import serving_consumer
from heliograph.stores.memory.metadata import MemoryServeStore
from heliograph.stores.ports import Ack, Order, Served, ServeView, StoreError, Worker

KIND = "acme:planner"
SESSION = "acme:planner:1"
CONSUMER = serving_consumer("planner")


class Router:
    """The router's part: gives sessions that are due to the worker that a test says."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def view(self) -> ServeView:
        return await self.world.serving.view(KIND, 100)

    async def workers(self, count: int = 1) -> list[str]:
        """Names, once there are so many."""

        async def there() -> bool:
            return len((await self.view()).workers) == count

        await until_async(there)
        return [worker.name for worker, _ in (await self.view()).workers]

    async def due(self, session: str = SESSION) -> None:
        async def there() -> bool:
            return session in [one.session for one in (await self.view()).due]

        await until_async(there)

    async def give(self, worker: str, session: str = SESSION, edge: str = "edge-1") -> int:
        """The fence."""
        await self.due(session)
        (fence,) = await self.world.serving.assign(KIND, [(session, worker)])
        assert fence
        claim = self.world.live.acknowledge(Ack(session, CONSUMER, None, fence))
        start = str(claim.cursor) if claim.cursor is not None else None
        await self.world.serving.order(edge, [Order(KIND, session, worker, fence, start)])
        return fence

    async def entry(self, session: str = SESSION) -> Served:
        _, found = await self.world.serving.sessions(KIND)
        return {one.session: one for one in found}[session]


async def until_async(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await holds():
            await asyncio.sleep(0.01)


@pytest.fixture
def router(world: World) -> Router:
    return Router(world)


async def worker(edge: Edge, capacity: int = 8, **hello: Any) -> Client:
    client = await edge.client(**hello)
    answer = await client.ask("serve", agent_type="planner", capacity=capacity)
    assert (answer["type"], answer["agent_type"], answer["capacity"]) == ("serving", "planner", capacity)
    return client


async def busy(world: World, edge: Edge, router: Router, messages: int = 3) -> tuple[Client, int, list[str]]:
    """A worker that has a session with messages: the client, its lease and the positions."""
    client, publisher = await worker(edge), await edge.client()
    (name,) = await router.workers()
    positions = [(await publisher.publish(SESSION, n))["position"] for n in range(messages)]
    fence = await router.give(name)
    await client.next("assigned")
    await client.messages(SESSION, messages)
    return client, fence, positions


def stands(world: World) -> str | None:
    found = world.live.session(SESSION)
    position = None if found is None else found.cursor(CONSUMER).position
    return None if position is None else str(position)


# ---- offers ---------------------------------------------------------------------------------------------------------


async def test_an_offer_is_told_to_the_store_and_can_be_changed(world: World, edge: Edge, router: Router) -> None:
    client = await worker(edge, 5, agent="planner-7")
    await router.workers()
    ((found, held),) = (await router.view()).workers
    assert (found.edge, found.subject, found.agent, found.capacity, held) == ("edge-1", "you", "planner-7", 5, 0)
    await client.ask("serve", agent_type="planner", capacity=2)

    async def changed() -> bool:
        return [one.capacity for one, _ in (await router.view()).workers] == [2]

    await until_async(changed)
    assert edge.value("workers") == 1


async def test_what_counts_is_bounded_by_the_tenants_limit_of_subscriptions(world: World, edge: Edge) -> None:
    await world.put_tenant("acme", limits={"subscriptions_per_connection": 3})
    client = await edge.client()
    await until(lambda: edge.value("tenant_changes_total") >= 3)
    answer = await client.ask("serve", agent_type="planner", capacity=100)
    assert answer["capacity"] == 3


@pytest.mark.parametrize(
    ("scopes", "code"),
    [
        (["serve:planner:*"], None),
        (["serve:*:*"], None),
        (["serve:planner:trip-*"], "forbidden"),
        (["serve:critic:*"], "forbidden"),
        (["subscribe:*:*", "publish:*:*", "admin:*:*"], "forbidden"),
    ],
)
async def test_serving_needs_the_scope_of_the_whole_type(
    world: World, edge: Edge, scopes: list[str], code: str | None
) -> None:
    client = await edge.client(token=world.token(scopes=scopes))
    answer = await client.ask("serve", agent_type="planner", capacity=1)
    assert answer.get("code") == code


@pytest.mark.parametrize("agent_type", ["Planner", "a:b", "..", "-a", "plännér"])
async def test_an_agent_type_that_is_none_is_refused(edge: Edge, agent_type: str) -> None:
    client = await edge.client()
    answer = await client.ask("serve", agent_type=agent_type, capacity=1)
    assert (answer["type"], answer["code"]) == ("refused", "session_invalid")


async def test_a_connection_that_goes_takes_its_offer_with_it(edge: Edge, router: Router) -> None:
    client = await worker(edge)
    await router.workers()
    await client.close()
    await router.workers(0)
    assert edge.value("workers") == 0


async def test_a_worker_that_waits_is_not_idle(world: World) -> None:
    edge = await world.edge(idle_timeout_s=0.1)
    client, other = await worker(edge), await edge.client()
    assert await other.closed() == CLOSES[CloseCode.IDLE].code
    await client.barrier()


# ---- sessions -------------------------------------------------------------------------------------------------------


async def test_a_worker_gets_a_session_from_the_cursor_on_and_what_is_published_meanwhile(
    world: World, edge: Edge, router: Router
) -> None:
    client, publisher = await worker(edge), await edge.client()
    (name,) = await router.workers()
    positions = [(await publisher.publish(SESSION, n))["position"] for n in range(4)]
    world.live.acknowledge(Ack(SESSION, CONSUMER, world.live.session(SESSION).entries[0].position))  # type: ignore[union-attr]
    fence = await router.give(name)
    assigned = await client.next("assigned")
    assert assigned == {"type": "assigned", "session": SESSION, "from": positions[0], "lease": str(fence)}
    positions.append((await publisher.publish(SESSION, 4))["position"])
    assert [frame["position"] for frame in await client.messages(SESSION, 4)] == positions[1:]
    assert client.of("subscribed") == []
    assert (await router.entry()).taken
    assert edge.value("assignments") == 1


async def test_without_a_cursor_a_session_begins_at_its_first_message(edge: Edge, router: Router) -> None:
    client, publisher = await worker(edge), await edge.client()
    (name,) = await router.workers()
    await publisher.publish(SESSION, 1)
    await router.give(name)
    assert (await client.next("assigned"))["from"] == str(BEFORE_ALL)
    await client.messages(SESSION, 1)


async def test_an_ack_with_the_lease_moves_the_workers_cursor(world: World, edge: Edge, router: Router) -> None:
    client, fence, positions = await busy(world, edge, router)
    answer = await client.ask("ack", session=SESSION, position=positions[1], lease=str(fence))
    assert (answer["type"], answer["position"]) == ("acked", positions[1])
    assert stands(world) == positions[1]


async def test_done_gives_the_session_back_and_nothing_of_it_follows(world: World, edge: Edge, router: Router) -> None:
    client, fence, positions = await busy(world, edge, router)
    answer = await client.ask("ack", session=SESSION, position=positions[2], lease=str(fence), done=True)
    assert (answer["type"], answer["position"]) == ("acked", positions[2])

    async def given_back() -> bool:
        return (await router.entry()).worker is None

    await until_async(given_back)
    assert (await router.view()).due == []
    publisher = await edge.client()
    await publisher.publish(SESSION, "after")
    await router.due()
    await client.barrier()
    assert len(client.positions(SESSION)) == 3
    again = await client.ask("ack", session=SESSION, position=positions[2], lease=str(fence))
    assert again["code"] == "lease_lost"


async def test_done_before_the_last_message_makes_it_due_again(world: World, edge: Edge, router: Router) -> None:
    client, fence, positions = await busy(world, edge, router)
    await client.ask("ack", session=SESSION, position=positions[0], lease=str(fence), done=True)
    await router.due()
    (name,) = await router.workers()
    assert (await router.give(name)) > fence
    assert (await client.next("assigned"))["from"] == positions[0]
    assert [frame["position"] for frame in await client.messages(SESSION, 2)] == positions[1:]


async def test_done_with_nothing_handled_moves_no_cursor(world: World, edge: Edge, router: Router) -> None:
    client, fence, _ = await busy(world, edge, router)
    answer = await client.ask("ack", session=SESSION, position=str(BEFORE_ALL), lease=str(fence), done=True)
    assert answer["type"] == "acked"
    assert stands(world) is None
    await router.due()


@pytest.mark.parametrize("lease", ["1", "nonsense", "9999999999999999"])
async def test_an_ack_with_another_lease_is_refused(world: World, edge: Edge, router: Router, lease: str) -> None:
    client, _, positions = await busy(world, edge, router)
    answer = await client.ask("ack", session=SESSION, position=positions[1], lease=lease)
    assert (answer["type"], answer["code"]) == ("refused", "lease_lost")
    assert stands(world) is None


async def test_an_ack_after_the_cursor_was_claimed_is_refused_and_the_session_revoked(
    world: World, edge: Edge, router: Router
) -> None:
    client, fence, positions = await busy(world, edge, router)
    world.live.acknowledge(Ack(SESSION, CONSUMER, None, fence + 1))
    answer = await client.ask("ack", session=SESSION, position=positions[1], lease=str(fence))
    assert answer["code"] == "lease_lost"
    revoked = await client.next("revoked")
    assert revoked == {"type": "revoked", "session": SESSION, "lease": str(fence), "reason": "reassigned"}
    publisher = await edge.client()
    await publisher.publish(SESSION, "for another")
    await client.barrier()
    assert len(client.positions(SESSION)) == 3
    assert edge.value("revoked_total", reason="reassigned") == 1


async def test_an_ack_above_the_head_is_refused_and_the_session_stays(world: World, edge: Edge, router: Router) -> None:
    client, fence, positions = await busy(world, edge, router)
    ahead = positions[-1][:-1] + "9"
    answer = await client.ask("ack", session=SESSION, position=ahead, lease=str(fence))
    assert answer["code"] == "position_ahead"
    answer = await client.ask("ack", session=SESSION, position=positions[-1], lease=str(fence))
    assert answer["type"] == "acked"


async def test_the_sessions_of_a_connection_that_goes_are_due_at_once(world: World, edge: Edge, router: Router) -> None:
    client, fence, positions = await busy(world, edge, router)
    await client.send({"type": "ack", "session": SESSION, "position": positions[0], "lease": str(fence)})
    await client.barrier()
    client.abort()
    await router.due()
    other = await worker(edge)
    (name,) = await router.workers()
    await router.give(name)
    assert (await other.next("assigned"))["from"] == positions[0]


async def test_a_session_is_not_unsubscribed_but_given_back(world: World, edge: Edge, router: Router) -> None:
    client, _, _ = await busy(world, edge, router)
    answer = await client.ask("unsubscribe", session=SESSION)
    assert answer["code"] == "value_invalid"
    assert (await client.subscribe(SESSION))["code"] == "value_invalid"


async def test_a_session_that_the_client_subscribed_to_is_assigned_all_the_same(
    world: World, edge: Edge, router: Router
) -> None:
    client, publisher = await worker(edge), await edge.client()
    (name,) = await router.workers()
    await publisher.publish(SESSION, 1)
    await client.subscribe(SESSION)
    await router.give(name)
    await client.next("assigned")
    await client.messages(SESSION, 1)
    await publisher.publish(SESSION, 2)
    (message,) = await client.messages(SESSION, 1)
    assert message["payload"] == 2


# ---- whose messages make a session due ------------------------------------------------------------------------------


async def test_a_message_makes_its_session_due_on_any_edge_once_the_type_is_served(
    world: World, edge: Edge, router: Router
) -> None:
    other = await world.edge()
    await worker(edge)
    await until(lambda: other.value("serve_kinds") == 1)
    publisher = await other.client()
    await publisher.publish(SESSION, 1)
    await router.due()


async def test_a_workers_own_message_makes_nothing_due_and_says_so_in_the_log(
    world: World, edge: Edge, router: Router
) -> None:
    client, publisher = await worker(edge), await edge.client()
    await router.workers()
    await client.publish(SESSION, "mine")
    await publisher.publish("acme:planner:2", "another's")
    await router.due("acme:planner:2")
    assert [one.session for one in (await router.view()).due] == ["acme:planner:2"]
    messages = [
        message_from_record(record.key, record.value, record.headers)
        for record in world.log.records(world.topics.log("acme"))
    ]
    assert {message.session: message.by_worker for message in messages} == {SESSION: True, "acme:planner:2": False}


async def test_a_session_of_another_type_that_a_worker_writes_to_is_due(
    world: World, edge: Edge, router: Router
) -> None:
    critic = await edge.client()
    await critic.ask("serve", agent_type="critic", capacity=1)
    await worker(edge)
    await router.workers()
    await critic.publish(SESSION, "please plan")
    await router.due()


async def test_telemetry_and_types_that_nobody_serves_cost_the_store_nothing(world: World, edge: Edge) -> None:
    client = await worker(edge)
    publisher = await edge.client()
    await publisher.publish("acme:critic:1", 1)
    await publisher.publish(SESSION, 1, class_="telemetry", ack="accepted")
    await client.barrier()
    assert edge.value("serve_marks_total") == 0


# ---- losing a session -----------------------------------------------------------------------------------------------


async def test_workers_that_the_store_does_not_know_any_more_are_told_and_offered_anew(
    world: World, router: Router
) -> None:
    edge = await world.edge(serve_check_s=0.1)
    client, fence, _ = await busy(world, edge, router)
    (before,) = await router.workers()
    await world.serving.leave(KIND, [before])  # as for an edge whose lease ran out
    revoked = await client.next("revoked")
    assert (revoked["session"], revoked["lease"], revoked["reason"]) == (SESSION, str(fence), "lost")
    (name,) = await router.workers()
    assert name != before
    assert (await router.give(name)) > fence
    await client.next("assigned")


async def test_a_drain_revokes_and_gives_back_before_the_clients_go(world: World, router: Router) -> None:
    edge, other = await world.edge(drain_timeout_s=3), await world.edge()
    client, _, _ = await busy(world, edge, router)
    edge.begin_stop()
    assert (await client.next("revoked"))["reason"] == "drained"
    await client.next("reconnect")
    await router.due()
    successor = await worker(other)
    (name,) = await router.workers()
    await router.give(name, edge="edge-2")
    await successor.next("assigned")
    refused = await client.ask("serve", agent_type="planner", capacity=1)
    assert refused["code"] == "draining"


async def test_a_new_token_without_the_scope_ends_the_serving(world: World, edge: Edge, router: Router) -> None:
    client, _, _ = await busy(world, edge, router)
    await client.ask("refresh", token=world.token(scopes=["subscribe:*:*"]))
    assert (await client.next("revoked"))["reason"] == "unserved"
    await router.workers(0)
    await router.due()


async def test_an_order_for_who_takes_no_more_is_given_back(world: World, edge: Edge, router: Router) -> None:
    client, publisher = await worker(edge), await edge.client()
    (name,) = await router.workers()
    await publisher.publish(SESSION, 1)
    await router.due()
    (fence,) = await world.serving.assign(KIND, [(SESSION, name)])
    await client.ask("serve", agent_type="planner", capacity=0)
    orders = [Order(KIND, SESSION, name, fence, None), Order(KIND, "acme:planner:2", "who-is-gone", 1, None)]
    await world.serving.order("edge-1", orders)
    await router.due()
    assert [held for _, held in (await router.view()).workers] == [0]
    assert client.of("assigned") == []
    assert edge.value("orders_void_total") == 2


async def test_an_order_that_is_void_is_not_assigned(world: World, edge: Edge, router: Router) -> None:
    client, publisher = await worker(edge), await edge.client()
    (name,) = await router.workers()
    await publisher.publish(SESSION, 1)
    await router.due()
    (fence,) = await world.serving.assign(KIND, [(SESSION, name)])
    await world.serving.order("edge-1", [Order(KIND, SESSION, name, fence - 1, None)])
    await until(lambda: edge.value("orders_void_total") == 1)
    await client.barrier()
    assert client.of("assigned") == []


class AwayStore(MemoryServeStore):
    """Answers routers, and edges only while it is not `away`."""

    away = False

    def _check(self) -> None:
        if self.away:
            raise StoreError("unavailable", "a test says so")

    async def mark(self, kind: str, positions: Mapping[str, str]) -> None:
        self._check()
        await super().mark(kind, positions)

    async def release(self, kind: str, leases: Sequence[tuple[str, int, str]]) -> list[bool]:
        self._check()
        return await super().release(kind, leases)

    async def leave(self, kind: str, workers: Sequence[str]) -> None:
        self._check()
        await super().leave(kind, workers)

    async def offer(self, kind: str, workers: Sequence[Worker]) -> None:
        self._check()
        await super().offer(kind, workers)

    async def known(self, kind: str, workers: Sequence[str]) -> list[bool]:
        self._check()
        return await super().known(kind, workers)


async def test_while_the_metadata_store_is_away_workers_go_on_and_what_changed_is_told_later(
    world: World, router: Router
) -> None:
    world.serving = store = AwayStore()
    edge = await world.edge(serve_check_s=0.05)
    client, fence, positions = await busy(world, edge, router)
    publisher, leaving = await edge.client(), await worker(edge)
    await router.workers(2)
    store.away = True
    await publisher.publish(SESSION, "meanwhile")
    await client.messages(SESSION, 1)
    await leaving.close()
    newcomer = await worker(edge)
    answer = await client.ask("ack", session=SESSION, position=positions[-1], lease=str(fence), done=True)
    assert answer["type"] == "acked"
    await until(lambda: edge.value("serve_failures_total") > 0 and edge.value("serve_mark_failures_total") > 0)
    store.away = False
    await router.due()
    await router.workers(2)
    assert client.of("revoked") == newcomer.of("revoked") == []
    assert [held for _, held in (await router.view()).workers] == [0, 0]
