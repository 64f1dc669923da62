import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.client.conftest import QUICK
from tests.client.fake_edge import SILENT, FakeConnection, FakeEdge

from heliograph.client import (
    Client,
    ClosedError,
    InvalidValueError,
    Message,
    PublishRefused,
    PublishUncertain,
    Receipt,
)
from heliograph.core.limits import PRODUCER_RING
from heliograph.protocol.frames import Error, Published, Refused

SESSION = "acme:planner:1"
MakeClient = Callable[..., Client]


async def test_a_receipt_says_where_the_message_stands(edge: FakeEdge, make_client: MakeClient) -> None:
    async with make_client() as client:
        receipt = await client.publish(SESSION, {"step": 1}, id="mine")
        assert receipt.position == str(edge.session(SESSION).head)
        assert receipt.is_durable
        assert not receipt.duplicate
        assert receipt.message_id == "mine"


async def test_the_same_id_again_is_the_same_message(edge: FakeEdge, make_client: MakeClient) -> None:
    async with make_client() as client:
        first = await client.publish(SESSION, 1, id="mine")
    async with make_client(producer="restarted") as client:
        again = await client.publish(SESSION, 1, id="mine")
        other = await client.publish(SESSION, 2)
    assert again.duplicate
    assert again.position == first.position
    assert other.position != first.position
    assert edge.session(SESSION).payloads == [1, 2]


async def test_all_that_a_caller_says_of_a_message_is_in_its_frame(edge: FakeEdge, make_client: MakeClient) -> None:
    async with make_client(producer="planner", consumer="me", agent="planner-7") as client:
        await client.publish(
            SESSION,
            1,
            cls="control",
            ack="accepted",
            event_type="com.acme.plan",
            correlation_id="c",
            causation_id="d",
            reply_to="acme:planner:2",
            traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )
    frame, hello = edge.publishes[0], edge.hellos[0]
    assert (frame.class_, frame.ack, frame.event_type) == ("control", "accepted", "com.acme.plan")
    assert (frame.correlation_id, frame.causation_id, frame.reply_to) == ("c", "d", "acme:planner:2")
    assert frame.traceparent
    assert frame.message_id is None
    assert (hello.token, hello.producer, hello.consumer, hello.agent) == ("t", "planner", "me", "planner-7")
    assert hello.incarnation


async def test_concurrent_publishes_keep_the_order_of_the_calls(edge: FakeEdge, make_client: MakeClient) -> None:
    async with make_client() as client:
        await asyncio.gather(*(client.publish(SESSION, number) for number in range(500)))
    assert edge.session(SESSION).payloads == list(range(500))


async def test_at_most_64_are_unanswered_per_session_and_class(edge: FakeEdge, make_client: MakeClient) -> None:
    edge.on_publish = lambda connection, frame: SILENT
    async with make_client(settings=replace(QUICK, close_timeout_s=0.05)) as client:
        tasks = [asyncio.create_task(client.publish(SESSION, number)) for number in range(100)]
        control = asyncio.create_task(client.publish(SESSION, "c", cls="control"))
        await edge.until(lambda: len(edge.publishes) == PRODUCER_RING + 1)
        await asyncio.sleep(0)
        assert sum(frame.class_ == "event" for frame in edge.publishes) == PRODUCER_RING
        edge.on_publish = None
        edge.drop_all()
        await asyncio.gather(*tasks, control)
    assert [payload for payload in edge.session(SESSION).payloads if payload != "c"] == list(range(100))


async def test_an_answer_lost_with_its_connection_is_learnt_by_sending_again(
    edge: FakeEdge, make_client: MakeClient
) -> None:
    def once(connection: FakeConnection, frame: object) -> object:
        edge.on_publish = None
        asyncio.get_running_loop().call_later(0.01, connection.drop)
        return SILENT

    async with make_client() as client:
        await client.publish(SESSION, 0)
        edge.on_publish = once
        receipt = await client.publish(SESSION, 1)
        assert receipt.duplicate
        assert client.stats.resends == 1
    assert edge.session(SESSION).payloads == [0, 1]
    assert edge.hellos[0].incarnation == edge.hellos[1].incarnation


async def test_publishing_goes_on_while_there_is_no_connection(edge: FakeEdge, make_client: MakeClient) -> None:
    async with make_client() as client:
        port = edge.port
        await edge.stop()
        tasks = [asyncio.create_task(client.publish(SESSION, number)) for number in range(100)]
        await asyncio.sleep(0)
        await edge.start(port)
        await asyncio.gather(*tasks)
    assert edge.session(SESSION).payloads == list(range(100))


async def test_a_counter_that_the_server_forgot_begins_anew_without_loss(
    edge: FakeEdge, make_client: MakeClient
) -> None:
    async with make_client() as client:
        await client.publish(SESSION, 0)
        edge.forget(SESSION)
        await asyncio.gather(*(client.publish(SESSION, number) for number in range(1, 200)))
        assert client.stats.rotations == 1
    assert edge.session(SESSION).payloads == list(range(200))
    assert edge.hellos[0].incarnation != edge.hellos[1].incarnation


async def test_a_refusal_that_may_pass_is_tried_again_in_order(edge: FakeEdge, make_client: MakeClient) -> None:
    refusals = 5

    def refuse(connection: FakeConnection, frame: object) -> object:
        nonlocal refusals
        refusals -= 1
        if refusals < 0:
            return None
        return Refused("backlog", "too much", id=frame.id, retry_after_ms=1)  # type: ignore[attr-defined]

    edge.on_publish = refuse
    async with make_client() as client:
        await asyncio.gather(*(client.publish(SESSION, number) for number in range(20)))
        assert client.stats.refusals >= 5
    assert edge.session(SESSION).payloads == list(range(20))


async def test_an_event_that_stays_refused_raises_with_code_and_retry_time(
    edge: FakeEdge, make_client: MakeClient
) -> None:
    edge.on_publish = lambda connection, frame: Refused("backlog", "too much", id=frame.id, retry_after_ms=20)
    async with make_client(settings=replace(QUICK, retry_for_s=0.1)) as client:
        with pytest.raises(PublishRefused) as caught:
            await client.publish(SESSION, 1)
        assert (caught.value.code, caught.value.retry_after_s, caught.value.session) == ("backlog", 0.02, SESSION)
        assert caught.value.retry
        assert len(edge.publishes) > 1


async def test_without_retry_the_first_refusal_is_raised(edge: FakeEdge, make_client: MakeClient) -> None:
    edge.on_publish = lambda connection, frame: Refused("rate_limited", "slower", id=frame.id, retry_after_ms=20)
    async with make_client() as client:
        with pytest.raises(PublishRefused, match="rate_limited"):
            await client.publish(SESSION, 1, retry=False)
    assert len(edge.publishes) == 1


@pytest.mark.parametrize("answer", [Refused, Error])
async def test_a_refusal_for_good_is_raised_at_once(
    edge: FakeEdge, make_client: MakeClient, answer: Callable[..., Refused]
) -> None:
    edge.on_publish = lambda connection, frame: answer("forbidden", "not yours", id=frame.id)
    async with make_client() as client:
        with pytest.raises(PublishRefused) as caught:
            await client.publish(SESSION, 1)
        assert not caught.value.retry
        edge.on_publish = None
        await client.publish(SESSION, 2)
    assert edge.session(SESSION).payloads == [2]


async def test_a_refused_event_does_not_block_control(edge: FakeEdge, make_client: MakeClient) -> None:
    def refuse_events(connection: FakeConnection, frame: object) -> object:
        if frame.class_ == "event":  # type: ignore[attr-defined]
            return Refused("backlog", "", id=frame.id, retry_after_ms=60_000)  # type: ignore[attr-defined]
        return None

    edge.on_publish = refuse_events
    async with make_client(settings=replace(QUICK, retry_for_s=600, close_timeout_s=0.05)) as client:
        event = asyncio.create_task(client.publish(SESSION, "event"))
        await edge.until(lambda: len(edge.publishes) == 1)
        await client.publish(SESSION, "control", cls="control")
        assert not event.done()
    with pytest.raises(PublishUncertain):
        await event


async def test_cancelling_a_publish_does_not_break_the_order(edge: FakeEdge, make_client: MakeClient) -> None:
    edge.on_publish = lambda connection, frame: SILENT
    async with make_client() as client:
        tasks = [asyncio.create_task(client.publish(SESSION, number)) for number in range(70)]
        await edge.until(lambda: len(edge.publishes) == PRODUCER_RING)
        tasks[3].cancel()  # sent: it stays
        tasks[66].cancel()  # waits for room: it goes
        await asyncio.sleep(0)
        edge.on_publish = None
        edge.drop_all()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [number for number, each in enumerate(results) if isinstance(each, BaseException)] == [3, 66]
    assert edge.session(SESSION).payloads == [number for number in range(70) if number != 66]


async def test_a_publish_cancelled_before_it_was_sent_never_is(edge: FakeEdge, make_client: MakeClient) -> None:
    async with make_client() as client:
        port = edge.port
        await edge.stop()
        first, second = (asyncio.create_task(client.publish(SESSION, number)) for number in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        await edge.start(port)
        await second
    assert edge.session(SESSION).payloads == [1]


async def test_the_room_of_a_cancelled_waiter_goes_to_the_next(edge: FakeEdge, make_client: MakeClient) -> None:
    edge.on_publish = lambda connection, frame: SILENT
    async with make_client() as client:
        tasks = [asyncio.create_task(client.publish(SESSION, number)) for number in range(PRODUCER_RING + 2)]
        await edge.until(lambda: len(edge.publishes) == PRODUCER_RING)
        frame = edge.publishes[0]
        edge.on_publish = None
        client._publisher.published(Published(True, id=frame.id, position=str(edge.session(SESSION).log[0][0])))
        tasks[PRODUCER_RING].cancel()  # its turn has come, and it goes
        await tasks[PRODUCER_RING + 1]
        edge.drop_all()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert edge.session(SESSION).payloads[-1] == PRODUCER_RING + 1


async def test_ack_none_does_not_wait_and_is_still_sent_again(
    edge: FakeEdge, make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    edge.on_publish = lambda connection, frame: SILENT
    async with make_client() as client:
        receipt = await client.publish(SESSION, 1, ack="none")
        assert receipt.position is None
        await edge.until(lambda: len(edge.publishes) == 1)
        edge.on_publish = None
        edge.drop_all()
    assert len(edge.publishes) == 2
    assert edge.session(SESSION).payloads == [1]
    assert not [
        record for record in caplog.records if record.levelno >= logging.WARNING and "heliograph" in record.name
    ]


async def test_a_refusal_that_nobody_waits_for_is_logged(
    edge: FakeEdge, make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    edge.on_publish = lambda connection, frame: Refused("forbidden", "", id=frame.id)
    async with make_client() as client:
        await client.publish(SESSION, "a secret", ack="none")
    assert "forbidden" in caplog.text
    assert "a secret" not in caplog.text


async def test_telemetry_is_sent_without_a_counter(edge: FakeEdge, make_client: MakeClient) -> None:
    async with make_client() as client, client.subscribe(SESSION) as subscription:
        await subscription.ready()
        receipt = await client.publish(SESSION, {"tokens": 3}, cls="telemetry")
        assert receipt.position is None
        item = await anext(subscription)
        assert isinstance(item, Message)
        assert (item.data, item.position) == ({"tokens": 3}, None)
        accepted = await client.publish(SESSION, {"tokens": 4}, cls="telemetry", ack="accepted")
        assert accepted.message_id == "t"
    assert [frame.seq for frame in edge.publishes] == [None, None]


async def test_telemetry_is_shed_and_counted_without_a_connection(edge: FakeEdge, make_client: MakeClient) -> None:
    async with make_client() as client:
        await edge.stop()
        await edge.until(lambda: client.state != "connected")
        await client.publish(SESSION, 1, cls="telemetry")
        assert client.stats.shed == 1
        with pytest.raises(PublishRefused, match="live_unavailable"):
            await client.publish(SESSION, 1, cls="telemetry", ack="accepted")


async def test_a_payload_above_the_servers_limit_is_refused_here(make_client: MakeClient) -> None:
    async with FakeEdge(max_payload_bytes=100) as edge, make_client(url=edge.url) as client:
        with pytest.raises(PublishRefused, match="payload_too_large"):
            await client.publish(SESSION, "x" * 200)
        await client.publish(SESSION, "x" * 50)
        assert len(edge.publishes) == 1


@pytest.mark.parametrize("session", ["acme:planner", "Acme:planner:1", "acme:planner:1:2", "", "acme:planner:../1"])
async def test_what_is_no_session_is_refused_here(make_client: MakeClient, session: str) -> None:
    async with make_client() as client:
        with pytest.raises(InvalidValueError) as caught:
            await client.publish(session, 1)
        assert caught.value.code == "session_invalid"


async def test_a_client_that_is_not_connected_says_so() -> None:
    client = Client("ws://127.0.0.1:1")
    with pytest.raises(ClosedError, match="not connected"):
        await client.publish(SESSION, 1)


async def test_a_closed_client_says_so(edge: FakeEdge, make_client: MakeClient) -> None:
    async with make_client() as client:
        pass
    with pytest.raises(ClosedError, match="closed"):
        await client.publish(SESSION, 1)


async def test_close_waits_for_answers(edge: FakeEdge, make_client: MakeClient) -> None:
    client = make_client()
    await client.connect()
    tasks = [asyncio.create_task(client.publish(SESSION, number)) for number in range(200)]
    await asyncio.sleep(0)
    await client.close()
    await asyncio.gather(*tasks)
    assert edge.session(SESSION).payloads == list(range(200))


async def test_close_gives_up_in_time_and_says_what_is_uncertain(edge: FakeEdge, make_client: MakeClient) -> None:
    edge.on_publish = lambda connection, frame: SILENT
    client = make_client()
    await client.connect()
    tasks = [asyncio.create_task(client.publish(SESSION, number, id=f"m{number}")) for number in range(66)]
    await edge.until(lambda: len(edge.publishes) == PRODUCER_RING)
    await client.close(timeout=0.01)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, PublishUncertain) for result in results[:PRODUCER_RING])
    assert all(isinstance(result, ClosedError) for result in results[PRODUCER_RING:])
    first = results[0]
    assert isinstance(first, PublishUncertain)
    assert first.message_id == "m0"


async def test_an_error_in_the_block_leaves_at_once(edge: FakeEdge, make_client: MakeClient) -> None:
    edge.on_publish = lambda connection, frame: SILENT
    tasks: list[asyncio.Task[Receipt]] = []

    async def agent() -> None:
        async with make_client(settings=replace(QUICK, close_timeout_s=60)) as client:
            tasks.append(asyncio.create_task(client.publish(SESSION, 1)))
            await edge.until(lambda: len(edge.publishes) == 1)
            raise RuntimeError("of the agent")

    with pytest.raises(RuntimeError, match="of the agent"):
        await agent()
    with pytest.raises(PublishUncertain):
        await tasks[0]


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "x" * 129},
        {"id": ""},
        {"event_type": "dev.heliograph.mine"},
        {"correlation_id": "two\nlines"},
        {"causation_id": "\ud800"},
        {"traceparent": "yes"},
        {"reply_to": "nowhere"},
    ],
)
async def test_what_the_server_would_call_malformed_is_refused_here(
    edge: FakeEdge, make_client: MakeClient, fields: dict[str, str]
) -> None:
    async with make_client() as client:
        with pytest.raises(InvalidValueError):
            await client.publish(SESSION, 1, **fields)  # type: ignore[arg-type]
    assert edge.publishes == []
