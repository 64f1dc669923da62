"""A function that fails half-way neither loses a message nor stores it twice. Redis does not roll back.

The library under test is ours with one change: its n-th write raises. Each n is tried, for each kind of append.
"""

from collections.abc import Callable

import pytest
import redis as redis_client
from tests.stores.live.helpers import DUPLICATE, OK, ask, message, new_session, put, redis_store, shard_of, status

from heliograph.local import RedisServer
from heliograph.stores.ports import Append, LiveStore, StoreError
from heliograph.stores.redis import library

CALLS = "call, pcall_ = redis.call, redis.pcall"
COUNTED = """
local fail_at, writes = 0, 0
local READS = { HGET = 1, HKEYS = 1, HMGET = 1, GET = 1, XRANGE = 1, ZSCORE = 1, ZCARD = 1, TIME = 1, INFO = 1,
  ZRANGE = 1 }
local function counted(real)
  return function(name, ...)
    if not READS[name] then
      writes = writes + 1
      if writes == fail_at then error('injected') end
    end
    return real(name, ...)
  end
end
redis.register_function('test_fail', function(_, args)
  local before = writes
  fail_at, writes = tonumber(args[1]), 0
  return before
end)
"""


def breaking_library() -> str:
    first, _, rest = library.source().partition("\n")
    assert CALLS in rest
    rest = rest.replace(CALLS, "call, pcall_ = counted(redis.call), counted(redis.pcall)")
    return f"{first}\n{COUNTED}\n{rest}".replace(f"local REVISION = {library.revision()}", "local REVISION = 999999")


@pytest.fixture
def breaking(redis_server: Callable[..., RedisServer]) -> tuple[RedisServer, redis_client.Redis]:
    server = redis_server()
    client = redis_client.Redis.from_url(server.url)
    client.function_load(breaking_library())
    return server, client


async def settle(store: LiveStore, session: str) -> None:
    """What is unconfirmed is in the window, and can be confirmed until nothing of the session is left."""
    left = await store.unconfirmed(session, 100)
    assert all(one.frame for one in left)
    by_epoch: dict[str, list[tuple[int, int]]] = {}
    for one in left:
        by_epoch.setdefault(one.position.epoch, []).append((one.position.seq, 513))
    for epoch, pairs in by_epoch.items():
        await store.confirm(session, epoch, pairs)
    assert await store.unconfirmed(session, 100) == []
    assert session not in dict(await store.dirty(shard_of(session), 10**14, 1_000))
    assert (await store.pressure()).unconfirmed_bytes == 0


async def first_of_a_session(_store: LiveStore, _client: redis_client.Redis, session: str) -> Append:
    return message(session, b"2", seq=1, message_id="x")


async def next_of_a_producer(store: LiveStore, _client: redis_client.Redis, session: str) -> Append:
    await put(store, message(session, b"1", seq=1))
    return message(session, b"2", seq=2, message_id="x")


async def first_of_an_epoch(store: LiveStore, client: redis_client.Redis, session: str) -> Append:
    await put(store, message(session, b"1", seq=1))
    client.hset(f"hg:{{v{shard_of(session)}}}:shard", "run", "0" * 40)
    return message(session, b"2", seq=2, message_id="x")


async def a_repeat_by_id(store: LiveStore, _client: redis_client.Redis, session: str) -> Append:
    await put(store, message(session, b"2", seq=1, message_id="x"))
    return message(session, b"2", seq=1, incarnation="inc-00000002", message_id="x")


@pytest.mark.parametrize("others", [False, True], ids=["alone", "with others between"])
@pytest.mark.parametrize("prepare", [first_of_a_session, next_of_a_producer, first_of_an_epoch, a_repeat_by_id])
async def test_a_retry_after_a_function_failed_half_way_loses_nothing_and_doubles_nothing(
    breaking: tuple[RedisServer, redis_client.Redis],
    prepare: Callable[[LiveStore, redis_client.Redis, str], object],
    others: bool,
) -> None:
    server, client = breaking
    store = await redis_store(server)
    try:
        client.fcall("test_fail", 0, "0")
        probe = await prepare(store, client, new_session())  # type: ignore[misc]
        client.fcall("test_fail", 0, "0")
        assert not isinstance(await ask(store, probe), StoreError)
        writes = client.fcall("test_fail", 0, "0")
        assert isinstance(writes, int)
        assert writes >= 1
        client.flushall()
        for failing in range(1, writes + 1):
            session = new_session()
            one: Append = await prepare(store, client, session)  # type: ignore[misc]
            before = len((await store.page(session, None)).frames)
            client.fcall("test_fail", 0, failing)
            broken = await ask(store, one)
            client.fcall("test_fail", 0, "0")
            assert isinstance(broken, StoreError), (failing, broken)
            assert broken.maybe_done
            if others:
                assert status(await ask(store, message(session, b"0", seq=1, producer="other"))) is OK
            answer = status(await ask(store, one))
            assert answer in {OK, DUPLICATE}
            assert status(await ask(store, one)) is DUPLICATE
            following = message(session, b"3", seq=one.producer_seq + 1, incarnation=one.producer.decode()[-12:])
            assert status(await ask(store, following)) is OK
            page = await store.page(session, None)
            assert page.complete
            assert [one.frame for one in await store.unconfirmed(session, 100)] == page.frames
            assert sum(frame.endswith(b'"payload":2}') for frame in page.frames) == 1, failing
            assert len(page.frames) in {before + 1 + others, before + 2 + others}
            await settle(store, session)
    finally:
        await store.close()


async def test_a_retry_after_confirm_failed_half_way_confirms_all(
    breaking: tuple[RedisServer, redis_client.Redis],
) -> None:
    server, client = breaking
    store = await redis_store(server)
    try:
        failing = 0
        while True:
            failing += 1
            session = new_session()
            first = await put(store, message(session, b"1"))
            for _ in range(3):
                await put(store, message(session, b"1"))
            await store.confirm(session, first.epoch, [(3, 513)])
            client.fcall("test_fail", 0, failing)
            try:
                await store.confirm(session, first.epoch, [(1, 513), (4, 513), (2, 513)])
                break
            except StoreError:
                client.fcall("test_fail", 0, "0")
            head = await store.confirm(session, first.epoch, [(1, 513), (4, 513), (2, 513)])
            assert (head.seq, head.confirmed) == (4, 4), failing
            await settle(store, session)
        assert failing > 5
    finally:
        await store.close()
