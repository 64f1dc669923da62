import asyncio
import gc
from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.client.conftest import QUICK
from tests.client.fake_edge import FakeEdge

from heliograph.client import Client, ClosedError, Gap, InvalidValueError, Message, SubscribeRefused, Subscription
from heliograph.protocol.frames import Gap as GapFrame
from heliograph.protocol.frames import Refused

SESSION = "acme:planner:1"
MakeClient = Callable[..., Client]


async def take(subscription: Subscription, count: int) -> list[object]:
    """Data of the next messages; gaps as they are."""
    async with asyncio.timeout(15):
        items = [await anext(subscription) for _ in range(count)]
    return [item.data if isinstance(item, Message) else item for item in items]


async def test_earliest_latest_and_a_position(edge: FakeEdge, make_client: MakeClient) -> None:
    edge.publish_many(SESSION, [0, 1, 2])
    async with make_client() as client:
        everything, new = client.subscribe(SESSION, start="earliest"), client.subscribe(SESSION)
        await new.ready()
        edge.publish(SESSION, 3)
        assert await take(everything, 4) == [0, 1, 2, 3]
        assert await take(new, 1) == [3]
        assert everything.position == str(edge.session(SESSION).head)
        rest = client.subscribe(SESSION, start=str(edge.session(SESSION).log[1][0]))
        assert await take(rest, 2) == [2, 3]


async def test_messages_come_as_they_were_published(edge: FakeEdge, make_client: MakeClient) -> None:
    async with make_client() as client:
        await client.publish(SESSION, {"a": [1, None, "ü"]}, event_type="t", correlation_id="c", causation_id="d")
        await client.publish(SESSION, b"\x00\xff")
        await client.publish(SESSION, "plain", content_type="text/plain")
        async with client.subscribe(SESSION, start="earliest") as subscription:
            first, second, third = [item async for item in _first(subscription, 3)]
    assert (first.data, first.event_type, first.correlation_id, first.causation_id) == (
        {"a": [1, None, "ü"]}, "t", "c", "d",
    )  # fmt: skip
    assert (second.data, second.content_type) == (b"\x00\xff", "application/octet-stream")
    assert (third.data, third.content_type) == (b"plain", "text/plain")
    assert first.time.year == 1970
    assert "ü" not in repr(first)


async def _first(subscription: Subscription, count: int):  # type: ignore[no-untyped-def]
    async for item in subscription:
        assert isinstance(item, Message)
        yield item
        count -= 1
        if not count:
            return


async def test_it_goes_on_after_a_lost_connection_without_hole_or_repeat(
    edge: FakeEdge, make_client: MakeClient
) -> None:
    async with make_client() as client, client.subscribe(SESSION, start="earliest") as subscription:
        got: list[object] = []
        for number in range(50):
            edge.publish(SESSION, number)
            if number % 10 == 3:
                edge.drop_all()
            if number % 10 == 7:
                got += await take(subscription, 1)
        got += await take(subscription, 50 - len(got))
        assert got == list(range(50))
        assert client.stats.holes == 0


async def test_half_a_frame_is_no_message(edge: FakeEdge, make_client: MakeClient) -> None:
    async with make_client() as client, client.subscribe(SESSION, start="earliest") as subscription:
        edge.publish(SESSION, 0)
        assert await take(subscription, 1) == [0]
        edge.connections[0].drop_mid_frame()
        edge.publish(SESSION, 1)
        assert await take(subscription, 1) == [1]
        assert client.stats.connections == 2


async def test_a_repeated_frame_is_dropped(edge: FakeEdge, make_client: MakeClient) -> None:
    async with make_client() as client, client.subscribe(SESSION, start="earliest") as subscription:
        edge.publish(SESSION, 0)
        assert await take(subscription, 1) == [0]
        edge.broadcast(edge.session(SESSION).log[0][1])
        edge.publish(SESSION, 1)
        assert await take(subscription, 1) == [1]
        assert client.stats.dropped == 1


async def test_a_hole_is_noticed_and_filled(edge: FakeEdge, make_client: MakeClient) -> None:
    async with make_client() as client, client.subscribe(SESSION) as subscription:
        await subscription.ready()
        edge.publish(SESSION, 0)
        edge.swallow(SESSION, 1)
        edge.publish(SESSION, 2)
        assert await take(subscription, 3) == [0, 1, 2]
        assert subscription.holes == client.stats.holes == 1


async def test_a_gap_frame_is_an_item(edge: FakeEdge, make_client: MakeClient) -> None:
    edge.publish_many(SESSION, [0, 1, 2])
    positions = [str(position) for position, _ in edge.session(SESSION).log]
    async with make_client() as client, client.subscribe(SESSION, start=positions[0]) as subscription:
        assert await take(subscription, 2) == [1, 2]
        head = edge.session(SESSION).head
        edge.session(SESSION).seq += 2
        edge.broadcast(GapFrame(SESSION, "corrupt", str(head.next), str(head.next.next)))
        edge.publish(SESSION, 5)
        gap, five = await take(subscription, 2)
        assert gap == Gap(SESSION, "corrupt", str(head.next), str(head.next.next))
        assert five == 5


async def test_an_epoch_that_lost_nothing_goes_unnoticed(edge: FakeEdge, make_client: MakeClient) -> None:
    async with make_client() as client, client.subscribe(SESSION, start="earliest") as subscription:
        edge.publish(SESSION, 0)
        assert await take(subscription, 1) == [0]
        edge.forget(SESSION)
        edge.publish(SESSION, 1)
        assert await take(subscription, 1) == [1]


async def test_an_epoch_that_may_have_lost_something_says_so(edge: FakeEdge, make_client: MakeClient) -> None:
    async with make_client() as client, client.subscribe(SESSION, start="earliest") as subscription:
        edge.publish(SESSION, 0)
        assert await take(subscription, 1) == [0]
        edge.forget(SESSION, certain=False)
        edge.publish(SESSION, 1)
        gap, one = await take(subscription, 2)
        assert isinstance(gap, Gap)
        assert (gap.reason, gap.certain, gap.last) == ("epoch", False, None)
        assert one == 1


async def test_it_resumes_across_an_epoch(edge: FakeEdge, make_client: MakeClient) -> None:
    async with make_client() as client, client.subscribe(SESSION, start="earliest") as subscription:
        edge.publish(SESSION, 0)
        assert await take(subscription, 1) == [0]
        edge.connections[0].subscribed.clear()
        edge.publish(SESSION, 1)
        edge.forget(SESSION)
        edge.publish(SESSION, 2)
        edge.drop_all()
        assert await take(subscription, 2) == [1, 2]


async def test_a_slow_reader_is_parked_and_gets_everything(edge: FakeEdge, make_client: MakeClient) -> None:
    async with make_client(settings=replace(QUICK, buffered_messages=10)) as client:
        slow, other = client.subscribe(SESSION, start="earliest"), client.subscribe("acme:planner:2")
        await asyncio.gather(slow.ready(), other.ready())
        edge.publish_many(SESSION, list(range(100)))
        await edge.until(lambda: edge.unsubscribes == 1)
        edge.publish("acme:planner:2", "past it")
        assert await take(other, 1) == ["past it"]
        assert (slow.buffered, slow.live, slow.times_parked) == (10, False, 1)
        assert await take(slow, 100) == list(range(100))
        assert client.stats.parked == slow.times_parked > 1


async def test_a_slow_reader_can_publish(edge: FakeEdge, make_client: MakeClient) -> None:
    """On a socket left unread, the answer would wait behind the messages that the reader does not take."""
    async with make_client(settings=replace(QUICK, buffered_messages=2)) as client:
        subscription = client.subscribe(SESSION, start="earliest")
        edge.publish_many(SESSION, list(range(20)))
        async with asyncio.timeout(15):
            for number in range(20):
                item = await anext(subscription)
                assert isinstance(item, Message)
                assert item.data == number
                await client.publish("acme:planner:2", number)
    assert edge.session("acme:planner:2").payloads == list(range(20))


async def test_a_subscription_that_is_dropped_is_ended(edge: FakeEdge, make_client: MakeClient) -> None:
    edge.publish(SESSION, 0)
    async with make_client() as client:
        async for _ in client.subscribe(SESSION, start="earliest"):
            break
        gc.collect()
        await edge.until(lambda: edge.unsubscribes == 1)


async def test_closing_one_of_two_keeps_the_other(edge: FakeEdge, make_client: MakeClient) -> None:
    async with make_client() as client:
        first, second = client.subscribe(SESSION), client.subscribe(SESSION)
        await asyncio.gather(first.ready(), second.ready())
        await first.close()
        edge.publish(SESSION, 0)
        assert await take(second, 1) == [0]
        with pytest.raises(StopAsyncIteration):
            await anext(first)
        assert edge.unsubscribes == 0


async def test_closing_ends_a_waiting_reader(edge: FakeEdge, make_client: MakeClient) -> None:
    async with make_client() as client:
        subscription = client.subscribe(SESSION)
        await subscription.ready()

        async def read() -> list[object]:
            return [item async for item in subscription]

        reader = asyncio.create_task(read())
        await asyncio.sleep(0)
        await subscription.close()
        assert await reader == []


async def test_a_refused_subscription_raises(edge: FakeEdge, make_client: MakeClient) -> None:
    edge.on_subscribe = lambda connection, frame: Refused("forbidden", "not yours", frame.id, frame.session)
    async with make_client() as client:
        with pytest.raises(SubscribeRefused) as caught:
            await anext(client.subscribe(SESSION))
        assert (caught.value.code, caught.value.session) == ("forbidden", SESSION)
        with pytest.raises(SubscribeRefused):
            await client.subscribe(SESSION).ready()
        edge.on_subscribe = None
        await client.subscribe(SESSION).ready()


async def test_a_subscription_refused_for_now_is_asked_for_again(edge: FakeEdge, make_client: MakeClient) -> None:
    refusals = 3

    def refuse(connection: object, frame: object) -> Refused | None:
        nonlocal refusals
        refusals -= 1
        code = "live_unavailable"
        return Refused(code, "", frame.id, SESSION, 5) if refusals >= 0 else None  # type: ignore[attr-defined]

    edge.on_subscribe = refuse
    async with make_client() as client:
        await client.subscribe(SESSION).ready()
        assert len(edge.subscribes) == 4


async def test_two_readers_of_one_subscription_are_told(edge: FakeEdge, make_client: MakeClient) -> None:
    async with make_client() as client:
        subscription = client.subscribe(SESSION)
        first = asyncio.ensure_future(anext(subscription))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="two tasks"):
            await anext(subscription)
        first.cancel()


async def test_a_read_cancelled_as_its_message_arrives_loses_nothing(edge: FakeEdge, make_client: MakeClient) -> None:
    async with make_client() as client, client.subscribe(SESSION) as subscription:
        await subscription.ready()
        reader = asyncio.ensure_future(anext(subscription))
        await asyncio.sleep(0)
        message = edge.session(SESSION)
        edge.swallow(SESSION, 0)
        client._reader.message(message.log[0][1])
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert await take(subscription, 1) == [0]


async def test_closing_the_client_ends_its_subscriptions(edge: FakeEdge, make_client: MakeClient) -> None:
    async with make_client() as client:
        subscription = client.subscribe(SESSION, start="earliest")
        edge.publish(SESSION, 0)
        await edge.until(lambda: subscription.buffered == 1)
    assert await take(subscription, 1) == [0]
    with pytest.raises(ClosedError):
        await anext(subscription)
    with pytest.raises(ClosedError):
        await anext(client.subscribe(SESSION))


@pytest.mark.parametrize("start", ["newest", "", "12"])
async def test_a_start_that_is_no_place_is_refused_here(make_client: MakeClient, start: str) -> None:
    async with make_client() as client:
        with pytest.raises(InvalidValueError, match="position"):
            client.subscribe(SESSION, start=start)
