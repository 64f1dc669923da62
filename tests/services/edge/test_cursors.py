"""Consumers and their cursors: `ack`, and subscriptions that begin where the consumer stands."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from tests.services.edge.client import Client, contiguous
from tests.services.edge.rig import Edge, World, until

from heliograph.core.limits import CONSUMERS_PER_SESSION
from heliograph.core.positions import Position
from heliograph.edge import cursors
from heliograph.stores.keys import client_consumer, serving_consumer
from heliograph.stores.memory.live import MemoryLiveStore
from heliograph.stores.ports import Ack, Acknowledged, StoreError

SESSION = "acme:planner:1"
ZERO = "0000000000000-00000000-0000000000000000"


async def publish(client: Client, *payloads: object, session: str = SESSION) -> list[str]:
    return [(await client.publish(session, payload))["position"] for payload in payloads]


async def ack(client: Client, position: str, session: str = SESSION) -> dict[str, object]:
    return await client.ask("ack", session=session, position=position)


def stands(world: World, subject: str = "somebody", consumer: str = "screen", session: str = SESSION) -> str | None:
    """The stored cursor of a consumer."""
    found = world.live.session(session)
    position = None if found is None else found.cursor(client_consumer(subject, consumer)).position
    return None if position is None else str(position)


async def consumer(world: World, edge: Edge, name: str = "screen", subject: str = "somebody") -> Client:
    return await edge.client(token=world.token(subject=subject), consumer=name)


class CountedStore(MemoryLiveStore):
    """Counts the writes of acks, and can hold them and fail them."""

    def __init__(self, world: World) -> None:
        super().__init__(world.live)
        self.writes: list[list[Ack]] = []
        self.looks = 0
        self.failing = 0
        self.broken = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def acknowledge(self, acks: Sequence[Ack]) -> list[Acknowledged | StoreError]:
        self.writes.append(list(acks))
        await self.gate.wait()
        if self.broken:
            raise ZeroDivisionError
        return await super().acknowledge(acks)

    async def cursors(self, session: str, consumers: Sequence[str]) -> list[Position | None]:
        self.looks += 1
        await self.gate.wait()
        if self.failing > 0:
            self.failing -= 1
            raise StoreError("live_unavailable", "a test says so")
        return await super().cursors(session, consumers)


# ---- acknowledging --------------------------------------------------------------------------------------------------


async def test_an_ack_with_an_id_is_answered_once_the_cursor_is_stored(world: World, edge: Edge) -> None:
    client = await consumer(world, edge)
    positions = await publish(client, *range(3))
    answer = await ack(client, positions[1])
    assert (answer["type"], answer["session"], answer["position"]) == ("acked", SESSION, positions[1])
    assert stands(world) == positions[1]
    assert edge.value("acks_total") == 1


async def test_an_ack_without_an_id_is_stored_and_not_answered(world: World, edge: Edge) -> None:
    client = await consumer(world, edge)
    positions = await publish(client, *range(3))
    await client.send({"type": "ack", "session": SESSION, "position": positions[2]})
    await until(lambda: stands(world) == positions[2])
    await client.barrier()
    assert client.of("acked") == client.of("refused") == []


async def test_a_cursor_never_moves_back_and_the_answer_says_where_it_stands(world: World, edge: Edge) -> None:
    client = await consumer(world, edge)
    positions = await publish(client, *range(3))
    await ack(client, positions[2])
    for lower in (positions[0], ZERO, "1000000000000-00000000-0000000000000009"):
        assert (await ack(client, lower))["position"] == positions[2]
    assert stands(world) == positions[2]


async def test_what_the_session_has_not_given_is_refused_with_its_own_code(world: World, edge: Edge) -> None:
    client = await consumer(world, edge)
    (position,) = await publish(client, 0)
    await ack(client, position)
    above = str(Position.parse(position).next)
    later = "9999999999999-ffffffff-0000000000000001"
    for bad, session in ((above, SESSION), (later, SESSION), (position, "acme:planner:nobody")):
        answer = await ack(client, bad, session)
        assert (answer["type"], answer["code"], answer["session"]) == ("refused", "position_ahead", session)
        assert "retry_after_ms" not in answer
    await client.send({"type": "ack", "session": SESSION, "position": above})
    refused = await client.next("refused", session=SESSION)
    assert (refused["code"], "id" in refused) == ("position_ahead", False)
    assert stands(world) == position
    assert edge.value("refused_total", code="position_ahead") == 4


async def test_an_ack_that_is_good_is_not_lost_to_one_ahead_of_it_in_the_same_batch(world: World, edge: Edge) -> None:
    client = await consumer(world, edge)
    positions = await publish(client, *range(3))
    above = str(Position.parse(positions[2]).next)
    for id_, position in ((71, positions[0]), (72, positions[1]), (73, above)):
        await client.send({"type": "ack", "id": id_, "session": SESSION, "position": position})
    assert (await client.next(id=73))["code"] == "position_ahead"
    assert (await client.next(id=71))["type"] == "acked"
    assert (await client.next(id=72))["position"] == positions[1]
    assert stands(world) == positions[1]


async def test_many_acks_in_a_tick_are_one_write_of_the_furthest(world: World) -> None:
    store = CountedStore(world)
    edge = await world.edge(stores=world.stores(live=store))
    client = await consumer(world, edge)
    positions = await publish(client, *range(200))
    store.gate.clear()
    await client.send({"type": "ack", "session": SESSION, "position": positions[0]})
    await until(lambda: len(store.writes) == 1)  # under way: what comes now is the next batch
    for position in [*positions[:0:-1], *positions[1:]]:
        await client.send({"type": "ack", "session": SESSION, "position": position})
    await client.send({"type": "ack", "id": 90, "session": SESSION, "position": positions[100]})
    await client.barrier()
    store.gate.set()
    assert (await client.next(id=90))["position"] == positions[-1]
    assert [[str(one.position) for one in batch] for batch in store.writes] == [[positions[0]], [positions[-1]]]
    assert (edge.value("acks_total"), edge.value("cursors_written_total")) == (400, 2)


async def test_more_waiting_acks_than_the_edge_holds_are_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cursors, "WAITING_MOST", 3)
    store = CountedStore(world)
    edge = await world.edge(stores=world.stores(live=store))
    client = await consumer(world, edge)
    (position,) = await publish(client, 0)
    store.gate.clear()
    await client.send({"type": "ack", "session": SESSION, "position": position})
    await until(lambda: store.writes)
    for id_ in (1, 2, 3):
        await client.send({"type": "ack", "id": id_, "session": SESSION, "position": position})
    refused = await client.next("refused")
    assert (refused["code"], refused["id"], refused["retry_after_ms"] > 0) == ("rate_limited", 3, True)
    store.gate.set()
    for id_ in (1, 2):
        assert (await client.next(id=id_))["type"] == "acked"


async def test_acknowledging_takes_the_subscribe_scope_on_an_own_session(world: World, edge: Edge) -> None:
    (position,) = await publish(await edge.client(), 0)
    for scopes, session, allowed in (
        (["subscribe:planner:1"], SESSION, True),
        (["subscribe:planner:2", "publish:*:*", "history:*:*", "serve:planner:*"], SESSION, False),
        (["subscribe:*:*"], "other:planner:1", False),
    ):
        client = await edge.client(token=world.token(scopes=scopes), consumer="screen")
        answer = await ack(client, position, session)
        assert answer.get("code") == (None if allowed else "forbidden"), scopes
    assert edge.value("refused_total", code="forbidden") == 2


async def test_a_consumer_is_needed(world: World, edge: Edge) -> None:
    client = await edge.client()
    (position,) = await publish(client, 0)
    assert (await ack(client, position))["code"] == "consumer_missing"
    answer = await client.subscribe(SESSION, "cursor")
    assert (answer["type"], answer["code"], answer["session"]) == ("refused", "consumer_missing", SESSION)
    await client.subscribe(SESSION)
    other = await edge.connect()
    await other.hello(subscriptions=[{"session": SESSION, "from": "cursor"}])
    assert (await other.next("refused"))["code"] == "consumer_missing"


BAD_ACKS: list[tuple[dict[str, Any], str]] = [
    ({"position": "latest"}, "position_invalid"),
    ({"position": "cursor"}, "position_invalid"),
    ({"position": "1"}, "position_invalid"),
    ({"session": "acme:planner:"}, "session_invalid"),
    ({"lease": "17"}, "lease_lost"),
    ({"lease": "17", "done": True}, "lease_lost"),
    ({"done": True}, "value_invalid"),
]


async def test_an_ack_that_makes_no_sense_is_refused_and_moves_nothing(world: World, edge: Edge) -> None:
    client = await consumer(world, edge)
    (position,) = await publish(client, 0)
    for fields, code in BAD_ACKS:
        answer = await client.ask("ack", **{"session": SESSION, "position": position, **fields})
        assert (answer["type"], answer["code"]) == ("refused", code), fields
    assert stands(world) is None


async def test_more_consumers_than_a_session_remembers_are_refused(world: World, edge: Edge) -> None:
    client = await consumer(world, edge, "one-more")
    (position,) = await publish(client, 0)
    for number in range(CONSUMERS_PER_SESSION):
        world.live.acknowledge(Ack(SESSION, client_consumer("robot", str(number)), Position.parse(position)))
    answer = await ack(client, position)
    assert (answer["type"], answer["code"]) == ("refused", "too_many_consumers")


async def test_while_the_live_store_is_away_acks_are_refused_and_may_be_sent_again(world: World, edge: Edge) -> None:
    client = await consumer(world, edge)
    (position,) = await publish(client, 0)
    world.live.stop()
    answer = await ack(client, position)
    assert (answer["type"], answer["code"], answer["retry_after_ms"]) == ("refused", "live_unavailable", 1_000)
    await client.send({"type": "ack", "session": SESSION, "position": position})
    assert (await client.next("refused"))["code"] == "live_unavailable"
    world.live.restart(keep=True)
    assert (await ack(client, position))["position"] == position


async def test_a_bug_of_the_store_is_an_answer_and_not_the_end(world: World) -> None:
    store = CountedStore(world)
    edge = await world.edge(stores=world.stores(live=store))
    client = await consumer(world, edge)
    (position,) = await publish(client, 0)
    store.broken = True
    assert (await ack(client, position))["code"] == "internal"
    store.broken = False
    assert (await ack(client, position))["type"] == "acked"


async def test_an_edge_that_stops_writes_what_it_was_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cursors, "BATCH_S", 3600.0)
    edge = await world.edge()
    client = await consumer(world, edge)
    (position,) = await publish(client, 0)
    await client.send({"type": "ack", "session": SESSION, "position": position})
    await client.barrier()
    assert stands(world) is None
    await edge.stop()
    assert stands(world) == position


async def test_a_connection_that_is_gone_before_the_answer_harms_nobody(world: World) -> None:
    store = CountedStore(world)
    edge = await world.edge(stores=world.stores(live=store))
    goes, stays = await consumer(world, edge, "goes"), await consumer(world, edge, "stays")
    (position,) = await publish(stays, 0)
    store.gate.clear()
    for client in (goes, stays):
        await client.send({"type": "ack", "id": 1, "session": SESSION, "position": position})
    await until(lambda: store.writes)
    await goes.close()
    await until(lambda: edge.value("connections") == 1)
    store.gate.set()
    assert (await stays.next(id=1))["type"] == "acked"
    assert stands(world, consumer="goes") == position


# ---- coming back ----------------------------------------------------------------------------------------------------


async def test_from_the_cursor_it_goes_on_behind_what_was_acknowledged_on_any_edge(world: World, edge: Edge) -> None:
    client = await consumer(world, edge)
    positions = await publish(client, *range(5))
    await ack(client, positions[2])
    await client.close()
    back = await consumer(world, await world.edge())
    answer = await back.subscribe(SESSION, "cursor")
    assert (answer["type"], answer["position"]) == ("subscribed", positions[2])
    assert answer.get("recovered", True) is True
    assert answer.get("cursor_missing", False) is False
    await publish(back, 5)
    assert [message["payload"] for message in await back.messages(SESSION, 3)] == [3, 4, 5]


async def test_without_a_cursor_it_begins_at_the_earliest_and_says_so(world: World, edge: Edge) -> None:
    world.answer_history()
    client = await consumer(world, edge)
    await publish(client, *range(3))
    answer = await client.subscribe(SESSION, "cursor")
    assert (answer["position"], answer["cursor_missing"]) == (ZERO, True)
    assert answer.get("recovered", True) is True
    assert [message["payload"] for message in await client.messages(SESSION, 3)] == [0, 1, 2]
    assert edge.value("cursors_missing_total") == 1


async def test_a_session_without_messages_has_no_cursor(world: World, edge: Edge) -> None:
    world.answer_history()
    client = await consumer(world, edge)
    answer = await client.subscribe(SESSION, "cursor")
    assert (answer["position"] > ZERO, answer["cursor_missing"]) == (True, True)
    await publish(client, 0)
    assert [message["payload"] for message in await client.messages(SESSION, 1)] == [0]


async def test_subscriptions_in_hello_may_begin_at_the_cursor(world: World, edge: Edge) -> None:
    writer = await consumer(world, edge)
    positions = await publish(writer, *range(3))
    await ack(writer, positions[1])
    client = await edge.connect(token=world.token(subject="somebody"))
    await client.hello(consumer="screen", subscriptions=[{"session": SESSION, "from": "cursor"}])
    assert (await client.next("subscribed"))["position"] == positions[1]
    assert [message["payload"] for message in await client.messages(SESSION, 1)] == [2]


async def test_what_was_acknowledged_just_before_counts(world: World, edge: Edge) -> None:
    client = await consumer(world, edge)
    positions = await publish(client, *range(4))
    await client.send({"type": "ack", "session": SESSION, "position": positions[2]})
    answer = await client.subscribe(SESSION, "cursor")
    assert answer["position"] == positions[2]


async def test_subjects_never_share_a_cursor(world: World, edge: Edge) -> None:
    """Not by the same consumer's name, not by one that spells another's, and never the serving workers'."""
    world.answer_history()
    names = [("a", "b/c"), ("a/b", "c"), ("a", "b"), ("serve", "planner"), ("s:planner", "planner")]
    writer = await edge.client()
    positions = await publish(writer, *range(len(names)))
    clients = [await consumer(world, edge, name, subject) for subject, name in names]
    for client, position in zip(clients, positions, strict=True):
        await ack(client, position)
    for client, position in zip(clients, positions, strict=True):
        assert (await client.subscribe(SESSION, "cursor"))["position"] == position
    found = world.live.session(SESSION)
    assert found is not None
    assert found.cursor(serving_consumer("planner")).position is None
    assert len(found.cursors) == len(names)


async def test_a_cursor_goes_with_its_session(world: World, edge: Edge) -> None:
    world.answer_history()
    client = await consumer(world, edge)
    positions = await publish(client, *range(2))
    await ack(client, positions[1])
    world.confirm_log()
    for shard in range(world.live.virtual_shards):
        world.live.expire(shard, 0, 100)
    answer = await client.subscribe(SESSION, "cursor")
    assert answer["cursor_missing"] is True
    assert [message["payload"] for message in await client.messages(SESSION, 2)] == [0, 1]


async def test_a_cursor_far_behind_the_hot_window_goes_on_from_the_log(world: World, edge: Edge) -> None:
    world.answer_history()
    client = await consumer(world, edge)
    positions = await publish(client, *range(5))
    await ack(client, positions[1])
    world.confirm_log()
    session = world.live.session(SESSION)
    assert session is not None
    del session.entries[:4]
    await client.subscribe(SESSION, "cursor")
    assert [message["payload"] for message in await client.messages(SESSION, 3)] == [2, 3, 4]
    assert world.history_requests >= 1


async def test_a_cursor_of_an_older_epoch_goes_on_into_the_new_one(world: World, edge: Edge) -> None:
    world.answer_history()
    client = await consumer(world, edge)
    positions = await publish(client, *range(3))
    await ack(client, positions[0])
    world.confirm_log()
    world.live.restart(keep=True)
    await until(lambda: edge.service_live.available)
    await publish(client, 3)
    await client.subscribe(SESSION, "cursor")
    assert [message["payload"] for message in await client.messages(SESSION, 3)] == [1, 2, 3]
    assert len(client.of("epoch")) == 1


async def test_a_look_that_fails_is_repeated_until_it_is_had(world: World) -> None:
    store = CountedStore(world)
    edge = await world.edge(stores=world.stores(live=store))
    client = await consumer(world, edge)
    positions = await publish(client, *range(3))
    await ack(client, positions[1])
    store.failing = 3
    assert (await client.subscribe(SESSION, "cursor"))["position"] == positions[1]
    assert store.looks == 4
    assert edge.value("history_failures_total", source="cursor") == 3


async def test_a_look_that_takes_too_long_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heliograph.edge.connections.PASS_S", 0.05)
    store = CountedStore(world)
    edge = await world.edge(stores=world.stores(live=store), subscribe_timeout_s=0.3)
    client = await consumer(world, edge)
    store.gate.clear()
    answer = await client.subscribe(SESSION, "cursor")
    assert (answer["type"], answer["code"], answer["retry_after_ms"]) == ("refused", "live_unavailable", 1_000)
    store.gate.set()
    assert (await client.subscribe(SESSION, "latest"))["type"] == "subscribed"


async def test_unsubscribing_while_the_cursor_is_looked_up_ends_it(world: World) -> None:
    store = CountedStore(world)
    edge = await world.edge(stores=world.stores(live=store))
    client = await consumer(world, edge)
    positions = await publish(client, *range(3))
    store.gate.clear()
    await client.send({"type": "subscribe", "id": 91, "session": SESSION, "from": "cursor"})
    await until(lambda: store.looks == 1)
    await client.ask("unsubscribe", session=SESSION)
    store.gate.set()
    assert (await client.subscribe(SESSION, positions[1]))["position"] == positions[1]
    assert [message["payload"] for message in await client.messages(SESSION, 1)] == [2]
    assert len(client.of("subscribed")) == 1
    assert edge.value("sessions") == 1


async def test_messages_that_come_while_the_cursor_is_looked_up_come_once_and_in_order(world: World) -> None:
    store = CountedStore(world)
    edge = await world.edge(stores=world.stores(live=store))
    client, writer = await consumer(world, edge), await edge.client()
    positions = await publish(writer, *range(3))
    await ack(client, positions[0])
    store.gate.clear()
    await client.send({"type": "subscribe", "id": 91, "session": SESSION, "from": "cursor"})
    await until(lambda: store.looks == 1)
    await publish(writer, 3, 4)
    store.gate.set()
    await publish(writer, 5)
    assert [message["payload"] for message in await client.messages(SESSION, 5)] == [1, 2, 3, 4, 5]
    assert contiguous(client.positions(SESSION), 2)
