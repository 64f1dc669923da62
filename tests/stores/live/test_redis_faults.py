"""What the live store does when its Redis is killed, stopped, flushed, full, or slow to be read."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import redis as redis_client
from msgspec.structs import replace
from tests.stores.live.helpers import (
    DUPLICATE,
    OK,
    ROOMY,
    Listener,
    ask,
    ask_all,
    message,
    new_session,
    put,
    put_many,
    redis_store,
    shard_of,
    status,
    subscribed,
    until,
)

from heliograph.core.positions import Position
from heliograph.local import RedisServer
from heliograph.protocol.messages import frame_position
from heliograph.stores.events import StoreEvent
from heliograph.stores.keys import SessionKeys
from heliograph.stores.ports import Appended, StoreError
from heliograph.stores.redis.connection import ConnectionSettings
from heliograph.stores.redis.live import RedisLiveStore

QUICK = ConnectionSettings(deadline_s=0.4, ping_idle_s=0.2)


@pytest.fixture
def server(redis_server: Callable[..., RedisServer]) -> RedisServer:
    return redis_server()


@pytest.fixture
def client(server: RedisServer) -> redis_client.Redis:
    return redis_client.Redis.from_url(server.url)


@pytest.fixture
async def store(server: RedisServer, listener: Listener) -> AsyncIterator[RedisLiveStore]:
    store = await redis_store(server, listener, QUICK)
    yield store
    await store.close()


@pytest.fixture
def stopped(server: RedisServer) -> Iterator[Callable[[bool], None]]:
    """SIGSTOP and SIGCONT to the server; it is continued at the end."""

    def stop(yes: bool) -> None:
        assert server.process is not None
        os.kill(server.process.pid, signal.SIGSTOP if yes else signal.SIGCONT)

    yield stop
    if server.running:
        stop(False)


def all_up(store: RedisLiveStore) -> bool:
    return all(connection.available for connection in store.connections.values())


async def test_a_server_killed_in_mid_pipeline_answers_each_append_or_says_maybe_done(
    store: RedisLiveStore, server: RedisServer, stopped: Callable[[bool], None]
) -> None:
    session = new_session()
    answers: list[Appended | StoreError] = []
    await put(store, message(session))
    stopped(True)
    for _ in range(500):
        store.append(message(session), ROOMY, answers.append)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    server.kill()
    await until(lambda: len(answers) == 500)
    errors = [answer for answer in answers if isinstance(answer, StoreError)]
    assert len(errors) == 500
    assert all((error.code, error.maybe_done) == ("live_unavailable", True) for error in errors)
    assert store.connections["commands"].stats[StoreEvent.CONNECTION_LOST] == 1


async def test_commands_while_the_server_is_down_fail_at_once_and_were_not_done(
    store: RedisLiveStore, server: RedisServer
) -> None:
    server.kill()
    await until(lambda: not store.available)
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    answer = await ask(store, message(new_session()))
    assert loop.time() - started_s < QUICK.deadline_s
    assert isinstance(answer, StoreError)
    assert (answer.code, answer.maybe_done) == ("live_unavailable", False)
    told: list[bool] = []
    store.publish_unsequenced(new_session(), b"{}", told.append)
    assert not told, "callbacks never run inside the call"
    await until(lambda: told == [False])


async def test_a_killed_append_only_server_repeats_no_position_and_a_retry_finds_its_first(
    redis_server: Callable[..., RedisServer],
) -> None:
    server = redis_server(appendonly=True)
    store = await redis_store(server)
    session, promised = new_session(), []
    await put(store, message(session, b"0"))
    for first in (1, 65):
        answers: list[Appended | StoreError] = []
        for seq in range(first, first + 64):
            store.append(message(session, b"%d" % seq, seq=seq), ROOMY, answers.append)
        if first > 1:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            server.kill()
        await until(lambda answers=answers: len(answers) == 64)  # type: ignore[misc]
        promised += [Position(answer.epoch, answer.seq) for answer in answers if isinstance(answer, Appended)]
    server.restart()
    await until(lambda: all_up(store))
    retried = await ask_all(store, [message(session, b"%d" % seq, seq=seq) for seq in range(len(promised) + 1, 129)])
    positions = [*promised, *(Position(one.epoch, one.seq) for one in retried if isinstance(one, Appended))]
    assert {status(answer) for answer in retried} <= {OK, DUPLICATE}
    assert len(set(positions)) == 128, "every message has a position of its own"
    await store.close()


async def test_a_stopped_server_is_noticed_by_the_deadline_and_found_again(
    store: RedisLiveStore, stopped: Callable[[bool], None]
) -> None:
    session = new_session()
    await put(store, message(session))
    stopped(True)
    answer = await ask(store, message(session, b"2", seq=1))
    assert isinstance(answer, StoreError)
    assert (answer.code, answer.maybe_done) == ("live_unavailable", True)
    assert not store.available
    assert store.connections["commands"].stats[StoreEvent.ANSWER_LATE] == 1
    stopped(False)
    await until(lambda: all_up(store))
    assert status(await ask(store, message(session, b"2", seq=1))) in {OK, DUPLICATE}


async def test_idle_connections_to_a_stopped_server_are_noticed_too(
    store: RedisLiveStore, listener: Listener, stopped: Callable[[bool], None]
) -> None:
    session = new_session()
    await subscribed(store, listener, session)
    stopped(True)
    await until(lambda: not any(connection.available for connection in store.connections.values()))
    assert listener.lost == 1
    stopped(False)
    await until(lambda: listener.subscribed == [session, session])


async def test_functions_that_are_gone_are_loaded_again_and_the_failed_calls_repeated_in_order(
    store: RedisLiveStore, client: redis_client.Redis
) -> None:
    session = new_session()
    first = await put(store, message(session, b"1", seq=1))
    client.function_flush()
    answers = await ask_all(store, [message(session, b"%d" % seq, seq=seq) for seq in range(2, 102)])
    assert [(status(answer), getattr(answer, "seq", 0)) for answer in answers] == [(OK, seq) for seq in range(2, 102)]
    assert store.stats[StoreEvent.LIBRARY_LOADED] == 2
    client.function_flush()
    assert [head.seq for head in await store.heads([session, new_session()])] == [101, 0]
    client.function_flush()
    assert len((await store.page(session, first)).frames) == 100
    client.function_flush()
    assert (await store.confirm(session, first.epoch, [(1, 513)])).confirmed == 1


async def test_where_functions_can_not_be_loaded_again_each_append_is_refused_once(
    store: RedisLiveStore, client: redis_client.Redis
) -> None:
    client.function_flush()
    client.acl_setuser("default", enabled=True, nopass=True, commands=["-function"])
    session = new_session()
    answers: list[Appended | StoreError] = []
    for seq in range(1, 51):
        store.append(message(session, b"%d" % seq, seq=seq), ROOMY, answers.append)
    await until(lambda: len(answers) == 50)
    await until(lambda: not store.available)
    assert {getattr(answer, "code", "") for answer in answers} == {"live_unavailable"}
    client.acl_setuser("default", enabled=True, nopass=True, commands=["+@all"])
    await until(lambda: store.available)
    await put(store, message(session, b"1", seq=1))
    assert len(answers) == 50


async def test_a_full_server_refuses_with_a_code_writes_nothing_and_can_still_be_confirmed(
    store: RedisLiveStore, client: redis_client.Redis
) -> None:
    session = new_session()
    positions = await put_many(store, session, [b"1"] * 3)
    client.config_set("maxmemory", "1mb")
    before = {key: client.dump(key) for key in client.scan_iter()}
    answer = await ask(store, message(session, b"4", seq=1))
    assert isinstance(answer, StoreError)
    assert (answer.code, answer.maybe_done) == ("overloaded", False)
    assert {key: client.dump(key) for key in client.scan_iter()} == before
    assert (await store.heads([session]))[0].seq == 3
    assert len((await store.page(session, None)).frames) == 3
    assert (await store.confirm(session, positions[0].epoch, [(1, 513), (2, 513), (3, 513)])).confirmed == 3
    pressure = await store.pressure()
    assert pressure.used_bytes > pressure.max_bytes == 1024 * 1024
    client.config_set("maxmemory", "0")
    assert (await put(store, message(session, b"4", seq=1))).seq == 4


async def test_a_server_that_becomes_full_in_mid_pipeline_admits_a_prefix_and_refuses_the_rest(
    store: RedisLiveStore, client: redis_client.Redis
) -> None:
    session, body = new_session(), b'"' + b"x" * 20_000 + b'"'
    client.config_set("maxmemory", int(client.info("memory")["used_memory"]) + 3_000_000)
    answers = await ask_all(store, [message(session, body, seq=seq) for seq in range(1, 401)])
    admitted = [answer for answer in answers if isinstance(answer, Appended) and answer.status is OK]
    refused = [answer for answer in answers if isinstance(answer, StoreError)]
    assert [answer.seq for answer in admitted] == list(range(1, len(admitted) + 1))
    assert refused
    assert not any(answer.maybe_done for answer in refused)
    client.config_set("maxmemory", "0")
    following = len(admitted) + 1
    assert (await put(store, message(session, body, seq=following))).seq == following


CATCH_UP_MESSAGES, CATCH_UP_BODY = 1_000, b'"' + b"x" * 45_000 + b'"'


async def test_a_45_mb_catch_up_comes_in_pages_and_costs_no_connection(
    redis_server: Callable[..., RedisServer], listener: Listener
) -> None:
    """The whole history in one reply outgrows the server's output buffer for us, and the connection is killed."""
    limit = "normal 16mb 8mb 5 replica 0 0 0 pubsub 8mb 4mb 5"
    server = redis_server(settings={"client-output-buffer-limit": limit})
    store = await redis_store(server, listener)
    session, live_session = new_session(), new_session()
    await subscribed(store, listener, live_session)
    bounds = replace(ROOMY, window_bytes=1 << 30)
    for _ in range(20):
        await put_many(store, session, [CATCH_UP_BODY] * (CATCH_UP_MESSAGES // 20), bounds)
    after, seqs, sent, size = None, [], 0, 0
    while True:
        page = await store.page(session, after)
        assert page.complete
        seqs += [int((frame_position(frame) or b"")[-16:]) for frame in page.frames]
        size += sum(map(len, page.frames))
        after = Position(page.head.epoch, seqs[-1])
        await put(store, message(live_session))
        sent += 1
        if not page.more:
            break
    assert seqs == list(range(1, CATCH_UP_MESSAGES + 1))
    assert size > 45_000_000
    await until(lambda: len(listener.of(live_session)) == sent)
    assert [connection.stats[StoreEvent.CONNECTION_LOST] for connection in store.connections.values()] == [0, 0, 0]
    await store.close()
    with redis_client.Redis.from_url(server.url) as simple:
        # Many times, since a reader as fast as the server may get away with one.
        pipeline = simple.pipeline(transaction=False)
        for _ in range(20):
            pipeline.xrange(SessionKeys.of(session, shard_of(session)).window)
        with pytest.raises(redis_client.ConnectionError):
            pipeline.execute()


async def test_the_last_message_of_a_session_lost_by_pub_sub_is_seen_in_its_head(
    store: RedisLiveStore, listener: Listener, client: redis_client.Redis
) -> None:
    """No later message shows the hole: only the head does."""
    session = new_session()
    await subscribed(store, listener, session)
    first = await put(store, message(session, b"1"))
    await until(lambda: listener.of(session))
    client.client_kill_filter(_type="pubsub")
    last = await put(store, message(session, b"2"))
    await until(lambda: len(listener.subscribed) == 2)
    assert len(listener.of(session)) == 1, "lost"
    (head,) = await store.heads([session])
    assert (head.epoch, head.seq) == last
    page = await store.page(session, first)
    assert (len(page.frames), page.complete) == (1, True)


async def test_many_subscriptions_come_back_in_batches_and_each_is_told(
    store: RedisLiveStore, listener: Listener, client: redis_client.Redis
) -> None:
    sessions = [new_session() for _ in range(1_203)]
    for session in sessions:
        store.subscribe(session)
    await until(lambda: len(listener.subscribed) == 1_203)
    client.config_resetstat()
    client.client_kill_filter(_type="pubsub")
    await until(lambda: len(listener.subscribed) == 2_406)
    assert listener.subscribed[1_203:] == sessions
    assert listener.lost == 1
    assert client.info("commandstats")["cmdstat_ssubscribe"]["calls"] == 3
    await put(store, message(sessions[700]))
    await until(lambda: listener.of(sessions[700]))
