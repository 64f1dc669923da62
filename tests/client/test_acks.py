"""Acknowledging, and coming back where the consumer left off, whatever becomes of connections and processes."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from msgspec import Struct
from tests.client.conftest import QUICK
from tests.client.fake_edge import SILENT, FakeConnection, FakeEdge

from heliograph.client import Client, ClientError, Gap, InvalidValueError, Message, Subscription
from heliograph.protocol.frames import Ack, Reconnect, Refused
from heliograph.protocol.frames import Gap as GapFrame

SESSION, OTHER = "acme:planner:1", "acme:planner:2"
MakeClient = Callable[..., Client]
ME = ("screen", SESSION)
PROMPT = replace(QUICK, ack_interval_s=0.0)
PATIENT = replace(QUICK, ack_interval_s=3600.0)
"""Sends the first ack at once and no other, unless it has a reason to."""


async def take(subscription: Subscription, count: int) -> list[Message]:
    async with asyncio.timeout(15):
        items = [await anext(subscription) for _ in range(count)]
    assert all(isinstance(item, Message) for item in items)
    return items  # type: ignore[return-value]


def data(messages: list[Message]) -> list[object]:
    return [message.data for message in messages]


async def test_from_the_cursor_it_goes_on_behind_what_was_acknowledged(edge: FakeEdge, make_client: MakeClient) -> None:
    edge.publish_many(SESSION, [0, 1, 2, 3])
    async with make_client(consumer="screen") as client, client.subscribe(SESSION, start="cursor") as subscription:
        messages = await take(subscription, 3)
        assert data(messages) == [0, 1, 2]
        assert subscription.cursor_missing
        await messages[1].ack()
    assert edge.cursors[ME] == messages[1].position
    async with make_client(consumer="screen") as client, client.subscribe(SESSION, start="cursor") as subscription:
        assert data(await take(subscription, 2)) == [2, 3]
        assert not subscription.cursor_missing


async def test_many_acks_are_one_frame_with_the_furthest(edge: FakeEdge, make_client: MakeClient) -> None:
    edge.publish_many(SESSION, list(range(100)))
    edge.publish_many(OTHER, list(range(100)))
    async with make_client(consumer="screen", settings=PATIENT) as client:
        for session in (SESSION, OTHER):
            messages = await take(client.subscribe(session, start="earliest"), 100)
            for message in [*messages[::-1], *messages]:
                await message.ack()
        await edge.until(lambda: len(edge.acks) == 1)
    assert [(frame.session, frame.position) for frame in edge.acks] == [
        (session, str(edge.session(session).head)) for session in (SESSION, OTHER)
    ]
    assert client.stats.acks == 2


async def test_acks_are_sent_now_and_then(edge: FakeEdge, make_client: MakeClient) -> None:
    async with make_client(consumer="screen", settings=replace(QUICK, ack_interval_s=0.01)) as client:
        subscription = client.subscribe(SESSION)
        await subscription.ready()
        for number in range(3):
            edge.publish(SESSION, number)
            (message,) = await take(subscription, 1)
            await message.ack()
            await edge.until(lambda position=message.position: edge.cursors.get(ME) == position)  # type: ignore[misc]
    assert len(edge.acks) == 3


async def test_auto_acknowledges_a_message_when_the_next_one_is_asked_for(
    edge: FakeEdge, make_client: MakeClient
) -> None:
    edge.publish_many(SESSION, [0, 1, 2])
    async with make_client(consumer="screen", settings=PROMPT) as client:
        subscription = client.subscribe(SESSION, start="cursor", ack="auto")
        messages = await take(subscription, 3)
        await edge.until(lambda: edge.cursors.get(ME) == messages[1].position)
    assert edge.cursors[ME] == messages[1].position, "the last one was never done with"
    async with make_client(consumer="screen") as client:
        subscription = client.subscribe(SESSION, start="cursor", ack="auto")
        (message,) = await take(subscription, 1)
        assert message.data == 2
        await subscription.ack(message)
    assert edge.cursors[ME] == message.position


async def test_a_gap_is_acknowledged_as_well(edge: FakeEdge, make_client: MakeClient) -> None:
    position = edge.publish(SESSION, 0)
    edge.session(SESSION).seq += 1
    missing = str(position.next)
    async with make_client(consumer="screen", settings=PROMPT) as client:
        subscription = client.subscribe(SESSION, start="earliest", ack="auto")
        await take(subscription, 1)
        edge.broadcast(GapFrame(SESSION, "never_written", missing, missing))
        edge.publish(SESSION, 2)
        gap = await anext(subscription)
        assert isinstance(gap, Gap)
        assert data(await take(subscription, 1)) == [2]
        await edge.until(lambda: edge.cursors.get(ME) == missing)


async def test_telemetry_has_no_place_to_acknowledge(edge: FakeEdge, make_client: MakeClient) -> None:
    async with make_client(consumer="screen", settings=PROMPT) as client:
        subscription = client.subscribe(SESSION, ack="auto")
        await subscription.ready()
        edge.telemetry(SESSION, "t")
        edge.publish(SESSION, 0)
        telemetry, message = await take(subscription, 2)
        await telemetry.ack()
        await message.ack()
        await edge.until(lambda: edge.cursors.get(ME) == message.position)
    assert len(edge.acks) == 1


# ---- connections ----------------------------------------------------------------------------------------------------


async def test_what_the_server_did_not_confirm_is_sent_again_after_a_lost_connection(
    edge: FakeEdge, make_client: MakeClient
) -> None:
    edge.publish_many(SESSION, [0, 1])
    edge.on_ack = lambda connection, frame: SILENT
    async with make_client(consumer="screen", settings=PROMPT) as client:
        messages = await take(client.subscribe(SESSION, start="earliest"), 2)
        await messages[0].ack()
        await edge.until(lambda: len(edge.acks) == 1)
        await messages[1].ack()
        edge.cursors.clear()
        edge.on_ack = None
        edge.drop_all()
        await edge.until(lambda: edge.cursors.get(ME) == messages[1].position)
    assert [frame.position for frame in edge.acks] == [messages[0].position, messages[1].position]


async def test_what_is_acknowledged_while_the_connection_is_away_is_told_when_it_is_back(
    edge: FakeEdge, make_client: MakeClient
) -> None:
    edge.publish(SESSION, 0)
    async with make_client(consumer="screen", settings=PATIENT) as client:
        (message,) = await take(client.subscribe(SESSION, start="earliest"), 1)
        port = edge.port
        await edge.stop()
        await message.ack()
        await edge.start(port)
        await edge.until(lambda: edge.cursors.get(ME) == message.position)


async def test_closing_waits_until_the_cursor_is_stored(edge: FakeEdge, make_client: MakeClient) -> None:
    edge.publish_many(SESSION, [0, 1, 2])
    async with make_client(consumer="screen", settings=PATIENT) as client:
        messages = await take(client.subscribe(SESSION, start="earliest"), 3)
        for message in messages:
            await message.ack()
    assert edge.cursors[ME] == messages[-1].position


async def test_a_program_that_ends_by_an_error_still_says_what_it_has_done(
    edge: FakeEdge, make_client: MakeClient
) -> None:
    edge.publish(SESSION, 0)

    async def program() -> None:
        async with make_client(consumer="screen", settings=PATIENT) as client:
            (message,) = await take(client.subscribe(SESSION, start="earliest"), 1)
            await message.ack()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await program()
    await edge.until(lambda: edge.cursors.get(ME) == str(edge.session(SESSION).head))


async def test_closing_a_subscription_tells_the_server_at_once(edge: FakeEdge, make_client: MakeClient) -> None:
    edge.publish_many(SESSION, [0, 1, 2])
    async with make_client(consumer="screen", settings=PATIENT) as client:
        async with client.subscribe(SESSION, start="earliest") as subscription:
            messages = await take(subscription, 3)
            await messages[0].ack()
            await edge.until(lambda: edge.cursors.get(ME) == messages[0].position)
            await subscription.ack(messages[2])
        await edge.until(lambda: edge.cursors.get(ME) == messages[2].position)


async def test_a_parked_subscription_tells_the_server_at_once(edge: FakeEdge, make_client: MakeClient) -> None:
    settings = replace(PATIENT, buffered_messages=4)
    async with make_client(consumer="screen", settings=settings) as client:
        subscription = client.subscribe(SESSION)
        await subscription.ready()
        edge.publish_many(SESSION, [0, 1])
        messages = await take(subscription, 2)
        await messages[0].ack()
        await edge.until(lambda: edge.cursors.get(ME) == messages[0].position)
        await messages[1].ack()
        edge.publish_many(SESSION, list(range(10)))
        await edge.until(lambda: edge.cursors.get(ME) == messages[1].position)
        assert subscription.times_parked >= 1


async def test_a_server_that_asks_to_reconnect_is_told_first(edge: FakeEdge, make_client: MakeClient) -> None:
    edge.publish_many(SESSION, [0, 1])
    async with make_client(consumer="screen", settings=PATIENT) as client:
        messages = await take(client.subscribe(SESSION, start="earliest"), 2)
        await messages[0].ack()
        await edge.until(lambda: edge.cursors.get(ME) == messages[0].position)
        await messages[1].ack()
        (connection,) = edge.connections
        edge.broadcast(Reconnect(1, "draining"))
        await edge.until(lambda: len(edge.hellos) == 2)
        assert any(isinstance(one, Ack) and one.position == messages[1].position for one in connection.received)


async def test_a_lost_connection_goes_on_from_the_last_message_not_from_the_cursor(
    edge: FakeEdge, make_client: MakeClient
) -> None:
    async with make_client(consumer="screen") as client:
        subscription = client.subscribe(SESSION, start="cursor")
        got: list[object] = []
        for number in range(20):
            edge.publish(SESSION, number)
            got += data(await take(subscription, 1))
            if number % 5 == 2:
                edge.drop_all()
        assert got == list(range(20))


async def test_a_missing_cursor_that_another_process_moves_meanwhile_skips_nothing(
    edge: FakeEdge, make_client: MakeClient
) -> None:
    async with make_client(consumer="screen") as client:
        subscription = client.subscribe(SESSION, start="cursor")
        await subscription.ready()
        edge.drop_all()
        edge.publish_many(SESSION, [0, 1, 2])
        edge.cursors[ME] = str(edge.session(SESSION).head)
        assert data(await take(subscription, 3)) == [0, 1, 2]


async def test_readers_of_one_session_each_begin_where_they_asked(edge: FakeEdge, make_client: MakeClient) -> None:
    edge.publish_many(SESSION, [0, 1, 2])
    edge.cursors[ME] = str(edge.session(SESSION).log[0][0])
    async with make_client(consumer="screen") as client:
        latest = client.subscribe(SESSION)
        first, second = client.subscribe(SESSION, start="cursor"), client.subscribe(SESSION, start="cursor")
        earliest = client.subscribe(SESSION, start="earliest")
        await latest.ready()
        edge.publish(SESSION, 3)
        assert data(await take(earliest, 4)) == [0, 1, 2, 3]
        assert data(await take(first, 3)) == data(await take(second, 3)) == [1, 2, 3]
        assert data(await take(latest, 1)) == [3]


# ---- refusals -------------------------------------------------------------------------------------------------------


async def test_a_refusal_that_may_pass_is_tried_again(edge: FakeEdge, make_client: MakeClient) -> None:
    edge.publish(SESSION, 0)
    refused = 0

    def refuse_thrice(connection: FakeConnection, frame: Ack) -> Struct | None:
        nonlocal refused
        refused += 1
        return Refused("live_unavailable", "away", frame.id, SESSION, 1) if refused <= 3 else None

    edge.on_ack = refuse_thrice
    async with make_client(consumer="screen", settings=PROMPT) as client:
        (message,) = await take(client.subscribe(SESSION, start="earliest"), 1)
        await message.ack()
        await edge.until(lambda: edge.cursors.get(ME) == message.position)
    assert (refused, client.stats.acks_refused) == (4, 0)


@pytest.mark.parametrize("code", ["position_ahead", "too_many_consumers", "forbidden"])
async def test_a_refusal_that_will_not_pass_is_counted_and_holds_nothing_up(
    edge: FakeEdge, make_client: MakeClient, code: str
) -> None:
    edge.publish_many(SESSION, [0, 1])
    edge.on_ack = lambda connection, frame: Refused(code, "no", frame.id, SESSION)
    async with make_client(consumer="screen", settings=PROMPT) as client:
        subscription = client.subscribe(SESSION, start="earliest")
        first, second = await take(subscription, 2)
        await first.ack()
        await edge.until(lambda: client.stats.acks_refused == 1)
        edge.on_ack = None
        await second.ack()
        await edge.until(lambda: edge.cursors.get(ME) == second.position)
        edge.publish(SESSION, 2)
        assert data(await take(subscription, 1)) == [2]


async def test_without_a_consumer_there_is_nothing_to_acknowledge(edge: FakeEdge, make_client: MakeClient) -> None:
    edge.publish(SESSION, 0)
    async with make_client() as client:
        with pytest.raises(InvalidValueError) as invalid:
            client.subscribe(SESSION, start="cursor")
        assert invalid.value.code == "consumer_missing"
        with pytest.raises(InvalidValueError, match="consumer"):
            client.subscribe(SESSION, ack="auto")
        with pytest.raises(InvalidValueError):
            client.subscribe(SESSION, ack="sometimes")  # type: ignore[call-overload]
        (message,) = await take(client.subscribe(SESSION, start="earliest"), 1)
        with pytest.raises(ClientError) as raised:
            await message.ack()
        assert raised.value.code == "consumer_missing"
    assert edge.acks == []
