"""`serve` and `serve_each` against real services (in memory): who gets what, and what is said when it is lost."""

import asyncio
import secrets
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest

from heliograph.client import (
    Client,
    ClientSettings,
    Gap,
    InvalidValueError,
    LeaseLost,
    Message,
    ServeRefused,
    WorkSession,
)
from heliograph.core.backoff import BackoffPolicy
from heliograph.dev.process import HeliographDev

QUICK = ClientSettings(
    reconnect=BackoffPolicy(base_s=0.01, cap_s=0.05, healthy_s=0.2), ack_interval_s=0.02, handler_pause_s=0.05
)
DEADLINE_S = 30.0


class Type:
    """An agent type that only this test has."""

    def __init__(self, dev: HeliographDev) -> None:
        self.dev = dev
        self.name = f"t{secrets.token_hex(6)}"

    def session(self, name: str = "one") -> str:
        return f"{self.dev.tenants[0]}:{self.name}:{name}"

    def client(self, **options: Any) -> Client:
        return self.dev.client(settings=options.pop("settings", QUICK), **options)


@pytest.fixture
def kind(heliograph_dev: HeliographDev) -> Type:
    return Type(heliograph_dev)


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not holds():
            await asyncio.sleep(0.005)


async def take(session: WorkSession, count: int) -> list[Any]:
    async with asyncio.timeout(DEADLINE_S):
        items = [await anext(session) for _ in range(count)]
    assert not any(isinstance(item, Gap) for item in items)
    return [item.data for item in items if isinstance(item, Message)]


async def next_session(work: Any) -> WorkSession:
    async with asyncio.timeout(DEADLINE_S):
        session: WorkSession = await anext(work)
    return session


def drop(client: Client) -> None:
    """Its connection breaks."""
    assert client._runner is not None
    assert client._runner.link is not None
    client._runner.link._ws.transport.abort()


async def test_a_worker_gets_sessions_that_it_never_heard_of(kind: Type) -> None:
    async with kind.client() as worker, kind.client() as user, worker.serve(kind.name, capacity=4) as work:
        await work.ready()
        await user.publish(kind.session("a"), 1)
        await user.publish(kind.session("b"), 2)
        found = [await next_session(work), await next_session(work)]
        assert {session.session for session in found} == {kind.session("a"), kind.session("b")}
        assert found[0].key.agent_type == kind.name
        assert sorted([await take(session, 1) for session in found]) == [[1], [2]]
        assert worker.stats.assigned == 2


async def test_what_was_acknowledged_does_not_come_again(kind: Type) -> None:
    async with kind.client() as user, kind.client() as first:
        for number in range(4):
            await user.publish(kind.session(), number)
        async with first.serve(kind.name) as work:
            session = await next_session(work)
            assert await take(session, 3) == [0, 1, 2]  # asking for 1 and 2 said that 0 and 1 are done with
        assert session.over
        async with kind.client() as second, second.serve(kind.name) as work:
            session = await next_session(work)
            assert await take(session, 2) == [2, 3]
            await session.done()
        async with kind.client() as third, third.serve(kind.name) as work:
            await user.publish(kind.session(), 4)
            assert await take(await next_session(work), 1) == [4]


async def test_manual_acks_alone_count_where_they_are_asked_for(kind: Type) -> None:
    async with kind.client() as user, kind.client() as worker:
        for number in range(3):
            await user.publish(kind.session(), number)
        async with worker.serve(kind.name, ack="manual") as work:
            session = await next_session(work)
            first = await anext(session)
            await take(session, 2)
            assert isinstance(first, Message)
            await first.ack()
            await session.done()
            assert await take(await next_session(work), 2) == [1, 2]


async def test_done_with_something_left_brings_the_session_again(kind: Type) -> None:
    async with kind.client() as user, kind.client() as worker, worker.serve(kind.name) as work:
        for number in range(3):
            await user.publish(kind.session(), number)
        session = await next_session(work)
        assert await take(session, 1) == [0]
        await session.done()
        assert [item async for item in session] == []
        again = await next_session(work)
        assert (again.session, again.lease > session.lease) == (session.session, True)
        assert await take(again, 2) == [1, 2]


async def test_a_workers_own_messages_are_left_out_and_acknowledged(kind: Type) -> None:
    async with kind.client() as user, kind.client() as worker, worker.serve(kind.name) as work:
        await user.publish(kind.session(), "question")
        session = await next_session(work)
        question = await anext(session)
        assert isinstance(question, Message)
        await worker.reply(question, "answer")
        await worker.publish(kind.session(), "more", id="chosen")
        receipt = await user.publish(kind.session(), "next")
        assert await take(session, 1) == ["next"]
        await session.done()
        assert session.position == receipt.position


async def test_nothing_more_comes_than_there_is_capacity_for(kind: Type) -> None:
    async with kind.client() as user, kind.client() as worker, worker.serve(kind.name, capacity=2) as work:
        for number in range(5):
            await user.publish(kind.session(str(number)), number)
        seen = [await next_session(work), await next_session(work)]
        assert await take(seen[0], 1)
        assert len(work.held) == 2
        for _ in range(3):
            await take(seen[-1], 0)
            await seen[-2].done()
            seen.append(await next_session(work))
            assert len(work.held) <= 2
        assert len({session.session for session in seen}) >= 4


async def test_a_lost_connection_loses_the_sessions_and_they_come_again(kind: Type) -> None:
    async with kind.client() as user, kind.client() as worker, worker.serve(kind.name) as work:
        await user.publish(kind.session(), 1)
        session = await next_session(work)
        assert await take(session, 1) == [1]
        drop(worker)
        await until(lambda: session.over)
        with pytest.raises(LeaseLost) as caught:
            await anext(session)
        assert (caught.value.session, caught.value.reason) == (kind.session(), "disconnected")
        await session.done()  # nothing to give back any more
        again = await next_session(work)
        assert await take(again, 1) == [1]
        assert worker.stats.leases_lost == 1


async def test_another_worker_takes_over_from_the_cursor(kind: Type) -> None:
    async with (
        kind.client() as user,
        kind.client() as first,
        kind.client() as second,
        first.serve(kind.name) as work,
        second.serve(kind.name, capacity=1) as other,
    ):
        await asyncio.gather(work.ready(), other.ready())
        for number in range(3):
            await user.publish(kind.session(), number)
        session = await next_session(work)  # it has more room
        assert await take(session, 2) == [0, 1]
        drop(first)  # while the program works on number 1
        await until(lambda: session.over)
        with pytest.raises(LeaseLost):
            await anext(session)
        await work.close()
        found = await take(await next_session(other), 2)
        assert found in ([0, 1], [1, 2])  # whether number 0's acknowledgement was out already


async def test_a_reader_that_falls_behind_gives_back_and_goes_on_later(kind: Type) -> None:
    settings = ClientSettings(buffered_messages=10, ack_interval_s=0.02)
    async with kind.client() as user, kind.client(settings=settings) as worker, worker.serve(kind.name) as work:
        for number in range(50):
            await user.publish(kind.session(), number, ack="accepted")
        found: list[Any] = []
        sessions = 0
        async with asyncio.timeout(DEADLINE_S):
            while len(found) < 50:
                session = await next_session(work)
                sessions += 1
                async for item in session:
                    assert isinstance(item, Message)
                    found.append(item.data)
                    if len(found) == 50:
                        break
        assert found == list(range(50))
        assert sessions > 1


async def test_a_subscription_of_the_same_client_goes_on_beside_the_work(kind: Type) -> None:
    async with (
        kind.client() as user,
        kind.client() as worker,
        worker.serve(kind.name) as work,
        worker.subscribe(kind.session()) as watch,
    ):
        await watch.ready()
        await user.publish(kind.session(), 1)
        session = await next_session(work)
        assert await take(session, 1) == [1]
        await user.publish(kind.session(), 2)
        assert await take(session, 1) == [2]
        await session.done()
        await user.publish(kind.session(), 3)
        async with asyncio.timeout(DEADLINE_S):
            items = [await anext(watch) for _ in range(3)]
        assert [item.data for item in items if isinstance(item, Message)] == [1, 2, 3]


async def test_a_worker_can_ask_in_the_session_it_works_on(kind: Type) -> None:
    async with kind.client() as user, kind.client() as worker, worker.serve(kind.name) as work:
        await user.publish(kind.session(), "start")
        session = await next_session(work)
        assert await take(session, 1) == ["start"]

        async def answer() -> None:
            async for item in user.subscribe(kind.session(), start="earliest"):
                if isinstance(item, Message) and item.data == "which one?":
                    await user.reply(item, "the left one")
                    return

        answering = asyncio.create_task(answer())
        reply = await worker.request(kind.session(), "which one?", timeout=DEADLINE_S)
        assert reply.data == "the left one"
        await answering


async def test_serve_each_handles_sessions_beside_one_another_and_each_in_order(kind: Type) -> None:
    found: defaultdict[str, list[Any]] = defaultdict(list)
    together = asyncio.Barrier(2)

    async def handle(session: WorkSession, item: Message | Gap) -> None:
        assert isinstance(item, Message)
        if item.data == 0:
            async with asyncio.timeout(DEADLINE_S):
                await together.wait()
        found[session.session].append(item.data)

    async with kind.client() as user, kind.client() as worker:
        serving = asyncio.create_task(worker.serve_each(kind.name, handle, capacity=2, idle_s=0.2))
        for number in range(5):
            for name in ("a", "b"):
                await user.publish(kind.session(name), number)
        await until(lambda: all(found[kind.session(name)] == list(range(5)) for name in ("a", "b")))
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def test_serve_each_gives_an_idle_session_back(kind: Type) -> None:
    handled: list[str] = []

    async def handle(session: WorkSession, item: Message | Gap) -> None:
        handled.append(session.session)

    async with kind.client() as user, kind.client() as worker:
        serving = asyncio.create_task(worker.serve_each(kind.name, handle, capacity=1, idle_s=0.1))
        await user.publish(kind.session("a"), 1)
        await user.publish(kind.session("b"), 1)
        await until(lambda: set(handled) == {kind.session("a"), kind.session("b")})
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
    assert len(handled) == 2


async def test_a_handler_that_fails_gets_the_message_again(kind: Type) -> None:
    tries: list[Any] = []

    async def handle(_session: WorkSession, item: Message | Gap) -> None:
        assert isinstance(item, Message)
        tries.append(item.data)
        if tries.count(2) == 1 and item.data == 2:
            raise RuntimeError("not today")

    async with kind.client() as user, kind.client() as worker:
        serving = asyncio.create_task(worker.serve_each(kind.name, handle))
        for number in (1, 2, 3):
            await user.publish(kind.session(), number)
        await until(lambda: tries == [1, 2, 2, 3])
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def test_a_handler_is_cancelled_when_its_session_is_lost(kind: Type) -> None:
    begun, ended = [0], [""]

    async def handle(_session: WorkSession, _item: Message | Gap) -> None:
        begun[0] += 1
        if begun[0] == 1:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ended[0] = "cancelled"
                raise

    async with kind.client() as user, kind.client() as worker:
        serving = asyncio.create_task(worker.serve_each(kind.name, handle))
        await user.publish(kind.session(), 1)
        await until(lambda: begun[0] == 1)
        drop(worker)
        await until(lambda: begun[0] == 2)
        assert ended == ["cancelled"]
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def test_without_the_scope_serving_is_refused(kind: Type) -> None:
    async with kind.client(scopes=["subscribe:*:*"]) as worker, worker.serve(kind.name) as work:
        with pytest.raises(ServeRefused) as caught:
            await next_session(work)
        assert caught.value.code == "forbidden"
        with pytest.raises(ServeRefused):
            await work.ready()


async def test_what_can_not_be_served_is_told_here(kind: Type) -> None:
    async with kind.client() as worker, worker.serve(kind.name):
        for agent_type, capacity in ((kind.name, 1), ("Not A Label", 1), ("planner", 0), ("planner", 10_001)):
            with pytest.raises(InvalidValueError):
                worker.serve(agent_type, capacity=capacity)


async def test_closing_the_client_gives_the_sessions_back_with_their_cursors(kind: Type) -> None:
    async with kind.client() as user:
        for number in range(2):
            await user.publish(kind.session(), number)
        async with kind.client() as worker:
            work = worker.serve(kind.name)
            session = await next_session(work)
            assert await take(session, 1) == [0]
            await session.ack(await anext(session))
        with pytest.raises(StopAsyncIteration):
            await anext(work)
        await user.publish(kind.session(), 2)
        async with kind.client() as worker, worker.serve(kind.name) as again:
            assert await take(await next_session(again), 1) == [2]
