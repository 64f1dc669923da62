"""How the live store's values are laid out in Redis: what another version, or a person with redis-cli, relies on."""

import asyncio
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis as redis_client
import uvloop
from tests.stores.live.helpers import (
    DUPLICATE,
    Listener,
    ask,
    ask_all,
    message,
    new_session,
    put,
    redis_store,
    shard_of,
    status,
    subscribed,
    until,
)

from heliograph.core.positions import MAX_SEQ
from heliograph.protocol.messages import frame_position
from heliograph.stores.keys import SessionKeys, session_of_channel
from heliograph.stores.ports import Ack, Appended, AppendStatus
from heliograph.stores.redis.live import RedisLiveStore

STATE = struct.Struct(">22sQQIQQQQQIQI")
PRODUCER = "event|agent|inc-00000001"


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[RedisLiveStore]:
    store = await redis_store(redis_url)
    yield store
    await store.close()


@pytest.fixture
def client(redis_url: str) -> Any:
    """redis-py's types are for both of its decoding modes at once; here every reply is bytes."""
    return redis_client.Redis.from_url(redis_url)


def keys_of(session: str) -> SessionKeys:
    return SessionKeys.of(session, shard_of(session))


async def test_numbers_up_to_2_to_the_53_are_exact(store: RedisLiveStore, client: Any) -> None:
    """Lua's own tostring would say 9.007e+15, and positions would repeat."""
    session = new_session()
    await put(store, message(session, b"1", seq=1))
    meta = keys_of(session).meta
    state = list(STATE.unpack(client.hget(meta, "s") or b""))
    state[1] = state[2] = MAX_SEQ - 2
    client.hset(meta, "s", STATE.pack(*state))
    client.hset(meta, PRODUCER, struct.pack(">QQ", MAX_SEQ - 2, 1))
    client.hset(meta, f"{PRODUCER}\0{(MAX_SEQ - 2) // 8 % 9}", b"\0" * 24 * ((MAX_SEQ - 2) % 8))
    skipped = await ask(store, message(session, b"2", seq=MAX_SEQ))
    assert skipped == Appended(AppendStatus.OUT_OF_ORDER, expected=MAX_SEQ - 1)
    for seq in (MAX_SEQ - 1, MAX_SEQ):
        position = await put(store, message(session, b"2", seq=seq))
        assert position.seq == seq
        page = await store.page(session, None)
        assert frame_position(page.frames[-1]) == str(position).encode()
        assert status(await ask(store, message(session, b"2", seq=seq))) is DUPLICATE
    assert (await store.heads([session]))[0].seq == MAX_SEQ
    assert [one.position.seq for one in await store.unconfirmed(session, 5)] == [MAX_SEQ - 1, MAX_SEQ]


async def test_a_ring_is_a_counter_and_nine_blocks_of_at_most_eight(store: RedisLiveStore, client: Any) -> None:
    """Read and written whole, it would cost more Redis time than the rest of an append."""
    session = new_session()
    await ask_all(store, [message(session, b"1", seq=seq) for seq in range(1, 301)])
    fields = client.hgetall(keys_of(session).meta)
    assert set(fields) == {b"s", PRODUCER.encode(), *(f"{PRODUCER}\0{block}".encode() for block in range(9))}
    assert max(len(value) for value in fields.values()) == 8 * 24
    assert len(fields[b"s"]) == STATE.size


async def test_a_memory_that_begins_in_mid_ring_judges_what_it_has_and_refuses_the_rest(
    store: RedisLiveStore, client: Any
) -> None:
    """As it is restored from the log's tail: what lies before it is blank."""
    session = new_session()
    await ask_all(store, [message(session, b"%d" % seq, seq=seq) for seq in range(1, 8)])
    meta, field = keys_of(session).meta, f"{PRODUCER}\x000"
    block = client.hget(meta, field) or b""
    client.hset(meta, field, b"\0" * 72 + block[72:])
    assert status(await ask(store, message(session, b"3", seq=3))) is AppendStatus.PRODUCER_SEQ_EXPIRED
    assert status(await ask(store, message(session, b"4", seq=4))) is DUPLICATE
    await put(store, message(session, b"8", seq=8))


async def test_the_channel_of_a_session_is_its_windows_key(store: RedisLiveStore, client: Any) -> None:
    session = new_session()
    await put(store, message(session))
    window = keys_of(session).window
    assert client.type(window) == b"stream"
    assert session_of_channel(window) == session
    ((entry_id, fields),) = client.xrange(window)
    (head,) = await store.heads([session])
    assert entry_id == f"{head.epoch[:13]}-1".encode()
    assert set(fields) == {b"f", b"h", b"c"}


async def test_all_keys_of_a_session_share_a_hash_tag(store: RedisLiveStore, client: Any) -> None:
    session = new_session()
    first = await put(store, message(session, b"1", seq=1, message_id="a"))
    await put(store, message(session, b"2", seq=2))
    await put(store, message(session, b"3", seq=3))
    await store.confirm(session, first.epoch, [(2, 513)])
    await store.acknowledge([Ack(session, "c:you", first)])
    tag = b"hg:{v%d}:" % shard_of(session)
    found = list(client.scan_iter(f"*{session}*", count=10_000))
    assert len(found) == 5
    assert all(key.startswith(tag) for key in found)


def test_the_store_runs_on_uvloop(redis_url: str) -> None:
    async def run() -> None:
        listener, session = Listener(), new_session()
        store = await redis_store(redis_url, listener)
        await subscribed(store, listener, session)
        await ask_all(store, [message(session, b'"%b"' % (b"x" * 5_000)) for _ in range(300)])
        await until(lambda: len(listener.of(session)) == 300)
        await store.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
