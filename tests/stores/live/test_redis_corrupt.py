"""Stored values that are not ours: a coded error that names the key and shows no value, and nothing half written."""

from collections.abc import AsyncIterator

import pytest
import redis as redis_client
from tests.stores.live.helpers import ask, message, new_session, put, redis_store, shard_of

from heliograph.stores.events import StoreEvent
from heliograph.stores.keys import SessionKeys, ShardKeys
from heliograph.stores.ports import CorruptError
from heliograph.stores.redis.live import RedisLiveStore

SECRET = b"c0rrupt-value"
SESSION_KEYS = ["meta", "window"]
SHARD_KEYS = ["shard", "dirty"]


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[RedisLiveStore]:
    store = await redis_store(redis_url)
    yield store
    await store.close()


@pytest.fixture
def client(redis_url: str) -> redis_client.Redis:
    return redis_client.Redis.from_url(redis_url)


class Place:
    """A session with a message that is confirmed, and the keys that its next append touches."""

    def __init__(self, client: redis_client.Redis) -> None:
        self.session = new_session()
        number = shard_of(self.session)
        self.keys = SessionKeys.of(self.session, number)
        self.shard_keys = ShardKeys.of(number)
        self._client = client

    def key(self, name: str) -> bytes:
        found: bytes = getattr(self.keys if name in SESSION_KEYS or name == "ahead" else self.shard_keys, name)
        return found

    def everything(self) -> dict[bytes, object]:
        pattern = f"hg:{{v{shard_of(self.session)}}}:*"
        return {key: self._client.dump(key) for key in self._client.scan_iter(pattern, count=10_000)}

    async def fill(self, store: RedisLiveStore) -> None:
        position = await put(store, message(self.session, b"1", seq=1))
        await store.confirm(self.session, position.epoch, [(1, 513)])


async def refused(store: RedisLiveStore, place: Place, key: bytes, **more: str) -> None:
    before = place.everything()
    answer = await ask(store, message(place.session, b"2", seq=2, **more))  # type: ignore[arg-type]
    assert isinstance(answer, CorruptError), answer
    assert answer.code == "internal"
    assert answer.key == key.decode()
    assert SECRET.decode() not in str(answer)
    assert place.everything() == before, "nothing half written"


@pytest.mark.parametrize("name", [*SESSION_KEYS, *SHARD_KEYS])
async def test_a_key_of_the_wrong_type_refuses_appends_by_name_and_its_repair_heals(
    store: RedisLiveStore, client: redis_client.Redis, name: str
) -> None:
    place = Place(client)
    await place.fill(store)
    key = place.key(name)
    if client.exists(key):
        client.rename(key, key + b".aside")
    client.set(key, SECRET)
    await refused(store, place, key)
    client.delete(key)
    if client.exists(key + b".aside"):
        client.rename(key + b".aside", key)
    assert (await put(store, message(place.session, b"2", seq=2))).seq == 2


async def test_an_idle_key_of_the_wrong_type_refuses_new_sessions_only(
    redis_url: str, client: redis_client.Redis
) -> None:
    store = await redis_store(redis_url)
    place = Place(client)
    await place.fill(store)
    newcomer = Place(client)
    while newcomer.shard_keys != place.shard_keys:
        newcomer = Place(client)
    client.rename(place.shard_keys.idle, place.shard_keys.idle + b".aside")
    client.set(place.shard_keys.idle, SECRET)
    before = newcomer.everything()
    answer = await ask(store, message(newcomer.session, b"1", seq=1))
    assert isinstance(answer, CorruptError)
    assert newcomer.everything() == before
    assert (await put(store, message(place.session, b"2", seq=2))).seq == 2
    client.rename(place.shard_keys.idle + b".aside", place.shard_keys.idle)
    await put(store, message(newcomer.session, b"1", seq=1))
    await store.close()


@pytest.mark.parametrize("garbage", [SECRET, b"", b"\xff" * 98, b"1764000000000-1a2b3c4d" + b"x" * 76])
async def test_garbage_in_the_state_refuses_by_name(
    store: RedisLiveStore, client: redis_client.Redis, garbage: bytes
) -> None:
    place = Place(client)
    await place.fill(store)
    client.hset(place.keys.meta, "s", garbage)
    await refused(store, place, place.keys.meta)
    for call in (
        store.page(place.session, None),
        store.unconfirmed(place.session, 10),
        store.confirm(place.session, "1764000000000-1a2b3c4d", [(1, 1)]),
    ):
        with pytest.raises(CorruptError) as caught:
            await call
        assert caught.value.key == place.keys.meta.decode()
    corrupt_before = store.stats[StoreEvent.VALUE_CORRUPT]
    (head,) = await store.heads([place.session])
    assert head.epoch == "", "one corrupt session must not hide the heads of the others"
    assert store.stats[StoreEvent.VALUE_CORRUPT] == corrupt_before + 1


@pytest.mark.parametrize("garbage", [SECRET, b"", b"x" * 17, b"x" * (8 * 24)])
@pytest.mark.parametrize("field", ["event|agent|inc-00000001", "event|agent|inc-00000001\x000"])
async def test_garbage_in_a_ring_refuses_by_name(
    store: RedisLiveStore, client: redis_client.Redis, field: str, garbage: bytes
) -> None:
    place = Place(client)
    await place.fill(store)
    client.hset(place.keys.meta, field, garbage)
    await refused(store, place, place.keys.meta)
    await put(store, message(place.session, b"1", seq=1, producer="healthy"))


@pytest.mark.parametrize("name", ["epoch", "last"])
async def test_garbage_in_a_shard_refuses_new_sessions_by_name(
    store: RedisLiveStore, client: redis_client.Redis, name: str
) -> None:
    place, newcomer = Place(client), Place(client)
    await place.fill(store)
    while newcomer.shard_keys != place.shard_keys:
        newcomer = Place(client)
    key = place.shard_keys.shard
    kept = client.hget(key, name)
    client.hset(key, name, SECRET)
    before = newcomer.everything()
    answer = await ask(store, message(newcomer.session, b"1", seq=1))
    assert isinstance(answer, CorruptError)
    assert answer.key == key.decode()
    assert newcomer.everything() == before
    with pytest.raises(CorruptError):
        await store.heads([newcomer.session])
    client.hset(key, name, kept)
    await put(store, message(newcomer.session, b"1", seq=1))


async def test_another_run_in_a_shard_is_another_process_and_begins_an_epoch(
    store: RedisLiveStore, client: redis_client.Redis
) -> None:
    place = Place(client)
    await place.fill(store)
    (head,) = await store.heads([place.session])
    client.hset(place.shard_keys.shard, "run", SECRET)
    position = await put(store, message(place.session, b"2", seq=2))
    assert (position.seq, position.epoch > head.epoch) == (1, True)


async def test_garbage_in_sums_refuses_by_name(store: RedisLiveStore, client: redis_client.Redis) -> None:
    place = Place(client)
    await place.fill(store)
    for field in ("bytes", "bytes:" + place.session.partition(":")[0]):
        kept = client.hget(place.shard_keys.shard, field)
        client.hset(place.shard_keys.shard, field, SECRET)
        await refused(store, place, place.shard_keys.shard)
        client.hset(place.shard_keys.shard, field, kept)


async def test_garbage_under_an_id_refuses_by_name(store: RedisLiveStore, client: redis_client.Redis) -> None:
    place = Place(client)
    await place.fill(store)
    key = place.keys.id_prefix + b"order-7"
    client.set(key, SECRET, px=60_000)
    answer = await ask(store, message(place.session, b"2", seq=2, message_id="order-7"))
    assert isinstance(answer, CorruptError)
    assert answer.key == key.decode()
    await put(store, message(place.session, b"2", seq=2))


async def test_an_id_is_kept_for_ten_minutes_from_its_first_use(
    store: RedisLiveStore, client: redis_client.Redis
) -> None:
    place = Place(client)
    one = message(place.session, b"1", seq=1, message_id="order-7")
    await put(store, one)
    key = place.keys.id_prefix + b"order-7"
    assert 590_000 < int(client.pttl(key)) <= 600_000
    client.pexpire(key, 300_000)
    await ask(store, message(place.session, b"1", seq=1, incarnation="inc-00000002", message_id="order-7"))
    assert int(client.pttl(key)) <= 300_000, "a repeat doesn't prolong it"


async def test_a_window_entry_that_is_not_ours_is_named(store: RedisLiveStore, client: redis_client.Redis) -> None:
    place = Place(client)
    await place.fill(store)
    await put(store, message(place.session, b"2", seq=2))
    (head,) = await store.heads([place.session])
    client.delete(place.keys.window)
    assert (await store.unconfirmed(place.session, 10))[0].frame is None, "lost, and said so"
    client.xadd(place.keys.window, {"other": SECRET}, id=f"{head.epoch[:13]}-2")
    for call in (store.page(place.session, None), store.unconfirmed(place.session, 10)):
        with pytest.raises(CorruptError) as caught:
            await call
        assert caught.value.key == place.keys.window.decode()


async def test_a_corrupt_ahead_set_fails_its_session_and_not_the_batch(
    store: RedisLiveStore, client: redis_client.Redis
) -> None:
    place, other = Place(client), Place(client)
    while other.shard_keys != place.shard_keys:
        other = Place(client)
    first = await put(store, message(place.session))
    second = await put(store, message(other.session))
    client.set(place.keys.ahead, SECRET)
    answers = await store.confirm_many([
        (place.session, first.epoch, [(1, 513)]),
        (other.session, second.epoch, [(1, 513)]),
    ])  # fmt: skip
    assert isinstance(answers[0], CorruptError)
    assert getattr(answers[1], "confirmed", None) == 1
