import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest
from tests.client.conftest import QUICK
from tests.client.fake_edge import FakeEdge

from heliograph.client import Client, ClosedError, Message, RequestTimeout, SubscribeRefused
from heliograph.protocol.frames import Refused

SESSION, ANSWERS = "acme:planner:1", "acme:caller:1"
MakeClient = Callable[..., Client]


@contextlib.asynccontextmanager
async def serving(client: Client, session: str = SESSION) -> AsyncIterator[None]:
    """An agent that answers each request with its double."""
    subscription = client.subscribe(session)

    async def serve() -> None:
        async for item in subscription:
            if isinstance(item, Message) and item.causation_id is None:
                await client.reply(item, item.data * 2)

    await subscription.ready()
    task = asyncio.create_task(serve())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_request_gets_its_answer(edge: FakeEdge, make_client: MakeClient) -> None:
    async with make_client() as agent, make_client() as caller, serving(agent):
        answer = await caller.request(SESSION, 21)
        assert answer.data == 42
        request = edge.session(SESSION).log[0][1]
        assert answer.causation_id == request.message_id
        assert answer.correlation_id == request.correlation_id == request.message_id


async def test_each_of_many_requests_gets_its_own_answer(edge: FakeEdge, make_client: MakeClient) -> None:
    async with make_client() as agent, make_client() as caller, serving(agent):
        answers = await asyncio.gather(*(caller.request(SESSION, number) for number in range(40)))
        assert [answer.data for answer in answers] == [2 * number for number in range(40)]
        assert len([frame for frame in edge.subscribes if frame.session == SESSION]) == 2


async def test_answers_can_go_to_another_session(edge: FakeEdge, make_client: MakeClient) -> None:
    async with make_client() as agent, make_client() as caller, serving(agent):
        answer = await caller.request(SESSION, 21, reply_to=ANSWERS)
        assert (answer.data, answer.session) == (42, ANSWERS)


async def test_one_client_may_ask_in_a_session_it_follows(edge: FakeEdge, make_client: MakeClient) -> None:
    async with make_client() as client, serving(client):
        assert (await client.request(SESSION, 3)).data == 6


async def test_a_conversation_keeps_its_correlation(edge: FakeEdge, make_client: MakeClient) -> None:
    async with make_client() as agent, make_client() as caller, serving(agent):
        answer = await caller.request(SESSION, 1, correlation_id="trip")
        assert answer.correlation_id == "trip"


async def test_an_answer_survives_a_lost_connection(edge: FakeEdge, make_client: MakeClient) -> None:
    async with make_client() as caller:
        task = asyncio.create_task(caller.request(SESSION, 21))
        await edge.until(lambda: len(edge.session(SESSION).log) == 1)
        edge.drop_all()
        request = edge.session(SESSION).log[0][1]
        edge.publish(SESSION, 42, causation_id=request.message_id)
        assert (await task).data == 42


async def test_no_answer_is_an_error_in_time(edge: FakeEdge, make_client: MakeClient) -> None:
    async with make_client() as caller:
        with pytest.raises(RequestTimeout) as caught:
            await caller.request(SESSION, 21, timeout=0.05, id="r1")
        assert (caught.value.session, caught.value.message_id, caught.value.timeout_s) == (SESSION, "r1", 0.05)
        assert isinstance(caught.value, TimeoutError)


async def test_the_watch_for_answers_ends_when_nobody_asks_any_more(edge: FakeEdge, make_client: MakeClient) -> None:
    brief = replace(QUICK, reply_linger_s=0.01)
    async with make_client() as agent, make_client(settings=brief) as caller, serving(agent):
        await caller.request(SESSION, 1)
        await edge.until(lambda: edge.unsubscribes == 1)
        assert (await caller.request(SESSION, 2)).data == 4


async def test_answers_that_may_not_be_read_are_an_error(edge: FakeEdge, make_client: MakeClient) -> None:
    edge.on_subscribe = lambda connection, frame: Refused("forbidden", "not yours", frame.id, frame.session)
    async with make_client() as caller:
        with pytest.raises(SubscribeRefused):
            await caller.request(SESSION, 1)
        assert edge.session(SESSION).log == []
        edge.on_subscribe = None
        with pytest.raises(RequestTimeout):
            await caller.request(SESSION, 1, timeout=0.05)


async def test_closing_ends_a_request(edge: FakeEdge, make_client: MakeClient) -> None:
    async with make_client() as caller:
        task = asyncio.create_task(caller.request(SESSION, 1))
        await edge.until(lambda: len(edge.session(SESSION).log) == 1)
    with pytest.raises(ClosedError):
        await task


async def test_a_cancelled_request_leaves_nothing_behind(edge: FakeEdge, make_client: MakeClient) -> None:
    async with make_client() as caller:
        task = asyncio.create_task(caller.request(SESSION, 1))
        await edge.until(lambda: len(edge.session(SESSION).log) == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert caller._replies[SESSION]._waiting == {}
