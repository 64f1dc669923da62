"""Joins and leaves beside messages: only for who asked, in the place where they came."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.client.conftest import QUICK
from tests.client.fake_edge import FakeEdge

from heliograph.client import Client, Message, Presence, PresenceSubscription, SubscribeRefused
from heliograph.protocol import frames

SESSION = "acme:planner:1"
MakeClient = Callable[..., Client]


def event(number: int, kind: str = "join", reason: str | None = None) -> frames.Presence:
    return frames.Presence(SESSION, kind, f"c-{number}", "robot", 1_000, f"e/c-{number}/1/1/{kind}", "arm-7", reason)


async def take(subscription: PresenceSubscription, count: int) -> list[object]:
    """Data of the next messages, connections of the next events."""
    async with asyncio.timeout(15):
        items = [await anext(subscription) for _ in range(count)]
    return [
        item.data if isinstance(item, Message) else item.connection if isinstance(item, Presence) else item
        for item in items
    ]


async def test_joins_and_leaves_come_between_the_messages(edge: FakeEdge, make_client: MakeClient) -> None:
    async with make_client() as client, client.subscribe(SESSION, presence=True) as subscription:
        await subscription.ready()
        edge.publish(SESSION, 0)
        edge.tell(event(1))
        edge.publish(SESSION, 1)
        edge.tell(event(1, "leave", "lost"))
        assert await take(subscription, 3) == [0, "c-1", 1]
        assert subscription.position == str(edge.session(SESSION).head)
        left = await anext(subscription)
        assert left == Presence(SESSION, "leave", "robot", "arm-7", "c-1", "lost", 1_000, "e/c-1/1/1/leave")
        assert left.time.year == 1970


async def test_who_did_not_ask_is_given_none(edge: FakeEdge, make_client: MakeClient) -> None:
    async with make_client() as client:
        plain, watching = client.subscribe(SESSION), client.subscribe(SESSION, presence=True)
        await plain.ready()
        await watching.ready()
        await edge.until(lambda: bool(edge.connections[0].presence))
        edge.tell(event(1))
        edge.publish(SESSION, 0)
        assert await take(watching, 2) == ["c-1", 0]
        async with asyncio.timeout(15):
            item = await anext(plain)
        assert isinstance(item, Message)
        assert plain.buffered == 0


async def test_it_is_not_asked_for_where_nobody_wants_it(edge: FakeEdge, make_client: MakeClient) -> None:
    async with make_client() as client, client.subscribe(SESSION) as subscription:
        await subscription.ready()
        assert [frame.presence for frame in edge.subscribes] == [False]


async def test_a_reader_that_wants_it_later_gets_it_and_nobody_misses_a_message(
    edge: FakeEdge, make_client: MakeClient
) -> None:
    async with make_client() as client:
        plain = client.subscribe(SESSION, start="earliest")
        await plain.ready()
        edge.publish_many(SESSION, [0, 1])
        watching = client.subscribe(SESSION, start="earliest", presence=True)
        await edge.until(lambda: bool(edge.connections[0].presence))
        edge.publish(SESSION, 2)
        async with asyncio.timeout(15):
            read = [await anext(plain) for _ in range(3)]
        assert [item.data for item in read if isinstance(item, Message)] == [0, 1, 2]
        assert await take(watching, 3) == [0, 1, 2]
        edge.tell(event(1))
        assert await take(watching, 1) == ["c-1"]


async def test_it_is_asked_for_again_after_a_lost_connection(edge: FakeEdge, make_client: MakeClient) -> None:
    async with make_client() as client, client.subscribe(SESSION, presence=True) as subscription:
        await subscription.ready()
        edge.drop_all()
        await edge.until(lambda: len(edge.subscribes) == 2 and bool(edge.connections[-1].presence))
        edge.tell(event(1))
        assert await take(subscription, 1) == ["c-1"]


async def test_where_it_is_forbidden_others_of_the_session_read_on(edge: FakeEdge, make_client: MakeClient) -> None:
    def forbid(_connection: object, frame: frames.Subscribe) -> frames.Refused | None:
        return frames.Refused("forbidden", "no", frame.id, frame.session) if frame.presence else None

    edge.on_subscribe = forbid
    async with make_client() as client:
        plain, watching = client.subscribe(SESSION), client.subscribe(SESSION, presence=True)
        with pytest.raises(SubscribeRefused):
            await watching.ready()
        await plain.ready()
        edge.publish(SESSION, 0)
        async with asyncio.timeout(15):
            assert isinstance(await anext(plain), Message)


async def test_a_slow_reader_loses_events_before_messages_and_they_are_counted(
    edge: FakeEdge, make_client: MakeClient
) -> None:
    settings = replace(QUICK, buffered_messages=4)
    async with make_client(settings=settings) as client, client.subscribe(SESSION, presence=True) as subscription:
        await subscription.ready()
        edge.publish_many(SESSION, [0, 1, 2, 3])
        for number in range(3):
            edge.tell(event(number))
        edge.publish(SESSION, 4)
        await edge.until(lambda: subscription.dropped_presence == 3)
        assert await take(subscription, 5) == [0, 1, 2, 3, 4]
