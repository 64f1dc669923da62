"""Cursors as Redis keeps them: their layout, one write a batch, and stored values that are not ours."""

import struct
from collections.abc import AsyncIterator, Callable

import pytest
import redis as redis_client
from tests.stores.live.helpers import in_shard_of, message, new_session, put, redis_store, shard_of

from heliograph.core.positions import Position
from heliograph.local import RedisServer
from heliograph.stores.events import StoreEvent
from heliograph.stores.keys import SessionKeys, client_consumer
from heliograph.stores.ports import Ack, Acknowledged, AckStatus, CorruptError, StoreError
from heliograph.stores.redis.live import RedisLiveStore

SECRET = b"c0rrupt-value"
ME = client_consumer("you", "screen")


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[RedisLiveStore]:
    store = await redis_store(redis_url)
    yield store
    await store.close()


@pytest.fixture
def client(redis_url: str) -> redis_client.Redis:
    return redis_client.Redis.from_url(redis_url)


def keys_of(session: str) -> SessionKeys:
    return SessionKeys.of(session, shard_of(session))


async def test_a_cursor_is_a_packed_field_of_its_consumer(store: RedisLiveStore, client: redis_client.Redis) -> None:
    session = new_session()
    position = await put(store, message(session))
    await store.acknowledge([Ack(session, ME, position, 3)])
    stored = {b"c:you\0screen": struct.pack(">22sQQ", position.epoch.encode(), position.seq, 3)}
    assert client.hgetall(keys_of(session).cursors) == stored
    assert client.ttl(keys_of(session).cursors) == -1, "it goes with its session"


async def test_a_forgotten_session_leaves_no_cursor_behind(store: RedisLiveStore, client: redis_client.Redis) -> None:
    session = new_session()
    position = await put(store, message(session))
    await store.acknowledge([Ack(session, ME, position)])
    await store.confirm(session, position.epoch, [(1, 513)])
    assert client.exists(keys_of(session).cursors)
    await store.expire(shard_of(session), 0, 10_000)
    assert list(client.scan_iter(f"*{session}*", count=10_000)) == []


async def test_a_batch_is_one_call_a_virtual_shard(redis_server: Callable[..., RedisServer]) -> None:
    server = redis_server()
    store = await redis_store(server)
    one = new_session()
    sessions = [one, *(in_shard_of(one, "other") for _ in range(3))]
    positions = [await put(store, message(session)) for session in sessions]
    client = redis_client.Redis.from_url(server.url)
    client.config_resetstat()
    acks = [
        Ack(session, f"c:{number}", position)
        for session, position in zip(sessions, positions, strict=True)
        for number in range(40)
    ]
    answers = await store.acknowledge(acks)
    assert answers == [Acknowledged(AckStatus.OK, ack.position, 0) for ack in acks]
    assert client.info("commandstats")["cmdstat_fcall"]["calls"] == 1
    await store.close()


@pytest.mark.parametrize(
    "garbage", [SECRET, b"", b"\xff" * 38, b"x" * 37, b"1764000000000-1a2b3c4d" + b"\xff" * 16, b"1" * 38]
)
async def test_a_cursor_that_is_not_ours_is_named_and_harms_nobody_else(
    store: RedisLiveStore, client: redis_client.Redis, garbage: bytes
) -> None:
    session = new_session()
    other = in_shard_of(session, "other")
    position, others = await put(store, message(session)), await put(store, message(other))
    key = keys_of(session).cursors
    client.hset(key, ME, garbage)
    answers = await store.acknowledge(
        [Ack(session, ME, position), Ack(session, "c:b", position), Ack(other, ME, others)]
    )
    assert isinstance(answers[0], CorruptError), answers[0]
    assert (answers[0].code, answers[0].key) == ("internal", key.decode())
    assert SECRET.decode() not in str(answers[0])
    assert answers[1:] == [Acknowledged(AckStatus.OK, position, 0), Acknowledged(AckStatus.OK, others, 0)]
    assert client.hget(key, ME) == garbage, "left as it is, for who looks into it"
    corrupt_before = store.stats[StoreEvent.VALUE_CORRUPT]
    with pytest.raises(CorruptError) as caught:
        await store.cursors(session, [ME])
    assert caught.value.key == key.decode()
    assert SECRET.decode() not in str(caught.value)
    assert store.stats[StoreEvent.VALUE_CORRUPT] == corrupt_before + 1
    assert await store.cursors(session, ["c:b"]) == [position]
    client.hdel(key, ME)
    assert await store.acknowledge([Ack(session, ME, position)]) == [Acknowledged(AckStatus.OK, position, 0)]


@pytest.mark.parametrize("name", ["meta", "cursors"])
async def test_a_key_of_the_wrong_type_is_named_and_harms_no_other_session(
    store: RedisLiveStore, client: redis_client.Redis, name: str
) -> None:
    session = new_session()
    other = in_shard_of(session, "other")
    position, others = await put(store, message(session)), await put(store, message(other))
    key: bytes = getattr(keys_of(session), name)
    client.delete(key)
    client.set(key, SECRET)
    answers = await store.acknowledge([Ack(session, ME, position), Ack(other, ME, others)])
    assert isinstance(answers[0], CorruptError), answers[0]
    assert answers[0].key == key.decode()
    assert answers[1] == Acknowledged(AckStatus.OK, others, 0)
    assert client.get(key) == SECRET
    if name == "cursors":
        with pytest.raises(CorruptError):
            await store.cursors(session, [ME])


async def test_a_full_redis_refuses_acks_and_still_tells_cursors(redis_server: Callable[..., RedisServer]) -> None:
    server = redis_server()
    store = await redis_store(server)
    session = new_session()
    first, second = [await put(store, message(session)) for _ in range(2)]
    await store.acknowledge([Ack(session, ME, first)])
    with redis_client.Redis.from_url(server.url) as client:
        client.config_set("maxmemory", "1")
        (answer,) = await store.acknowledge([Ack(session, ME, second)])
        assert isinstance(answer, StoreError)
        assert answer.code == "overloaded"
        assert await store.cursors(session, [ME]) == [first]
        client.config_set("maxmemory", "0")
    assert await store.acknowledge([Ack(session, ME, second)]) == [Acknowledged(AckStatus.OK, second, 0)]
    await store.close()


async def test_a_lost_library_is_loaded_and_the_acks_are_done(
    redis_server: Callable[..., RedisServer],
) -> None:
    server = redis_server()
    store = await redis_store(server)
    session = new_session()
    position: Position = await put(store, message(session))
    with redis_client.Redis.from_url(server.url) as client:
        client.function_flush()
    assert await store.acknowledge([Ack(session, ME, position)]) == [Acknowledged(AckStatus.OK, position, 0)]
    await store.close()
