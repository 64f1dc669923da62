"""What announcing promises: whoever is subscribed hears of it, and once, however many say it."""

import asyncio
from collections.abc import Callable

import redis as redis_client
from tests.stores.live.helpers import (
    Listener,
    Live,
    message,
    new_session,
    put,
    redis_store,
    shard_of,
    subscribed,
    until,
)

from heliograph.core.limits import ANNOUNCED_S
from heliograph.local import RedisServer
from heliograph.protocol.frames import Presence, encode
from heliograph.stores.memory.live import MemoryLiveStore
from heliograph.stores.memory.live_server import MemoryLiveServer
from heliograph.stores.ports import LiveStore, StoreError


def joined(session: str, id_: str) -> bytes:
    return encode(Presence(session, "join", "c-1", "robot", 1_764_000_000_000, id_))


async def test_an_announcement_reaches_who_is_subscribed_once_an_id(live: Live) -> None:
    listeners = [Listener() for _ in range(2)]
    stores = [await live.store(listener) for listener in listeners]
    session = new_session()
    for store, listener in zip(stores, listeners, strict=True):
        await subscribed(store, listener, session)
    first, second = joined(session, "edge-1/c-1/1/1/join"), joined(session, "edge-1/c-2/1/2/join")
    assert await stores[0].announce(session, "edge-1/c-1/1/1/join", first) is True
    assert await stores[1].announce(session, "edge-1/c-1/1/1/join", first) is False
    assert await stores[1].announce(session, "edge-1/c-2/1/2/join", second) is True
    for listener in listeners:
        await until(lambda listener=listener: len(listener.of(session)) == 2)  # type: ignore[misc]
        assert listener.of(session) == [first, second]


async def test_of_many_who_say_it_at_once_one_is_heard(live: Live) -> None:
    listener, session = Listener(), new_session()
    stores = [await live.store(listener if number == 0 else None) for number in range(5)]
    await subscribed(stores[0], listener, session)
    said = await asyncio.gather(*(store.announce(session, "x", joined(session, "x")) for store in stores))
    assert sorted(said) == [False, False, False, False, True]
    await stores[0].announce(session, "last", joined(session, "last"))
    await until(lambda: len(listener.of(session)) == 2)


async def test_the_same_id_of_another_session_is_another(store: LiveStore, listener: Listener) -> None:
    one, other = new_session(), new_session()
    await subscribed(store, listener, other)
    assert await store.announce(one, "x", joined(one, "x"))
    assert await store.announce(other, "x", joined(other, "x"))
    await until(lambda: listener.frames)
    assert listener.frames == [(other, joined(other, "x"))]


async def test_a_batch_is_announced_in_order_and_answered_each(store: LiveStore, listener: Listener) -> None:
    session, other = new_session(), new_session()
    await subscribed(store, listener, session)
    ids = ["a", "b", "a", "c"]
    answers = await store.announce_many([(session, id_, joined(session, id_)) for id_ in ids] + [(other, "a", b"{}")])
    assert answers == [True, True, False, True, True]
    await until(lambda: len(listener.of(session)) == 3)
    assert listener.of(session) == [joined(session, id_) for id_ in "abc"]
    assert await store.announce_many([]) == []


async def test_an_announcement_gives_a_session_no_position_and_no_window(store: LiveStore) -> None:
    session = new_session()
    assert await store.announce(session, "x", joined(session, "x"))
    assert (await store.heads([session]))[0].epoch == ""
    await put(store, message(session))
    assert await store.announce(session, "y", joined(session, "y"))
    assert len((await store.page(session, None)).frames) == 1
    assert (await store.heads([session]))[0].seq == 1


async def test_while_the_store_is_away_nothing_is_announced_and_each_is_told(mortal: Live) -> None:
    store, session = await mortal.store(), new_session()
    await mortal.stop()
    answers = await store.announce_many([(session, "x", b"{}"), (session, "y", b"{}")])
    assert [answer.code for answer in answers if isinstance(answer, StoreError)] == ["live_unavailable"] * 2


async def test_an_announcement_is_forgotten_after_its_time() -> None:
    now_ms = 1_764_000_000_000
    server = MemoryLiveServer(lambda: now_ms)
    store = MemoryLiveStore(server)
    await store.start()
    session = new_session()
    assert await store.announce(session, "x", b"{}")
    now_ms += ANNOUNCED_S * 1000 - 1
    assert not await store.announce(session, "x", b"{}")
    now_ms += 1
    assert await store.announce(session, "x", b"{}")
    await store.close()


async def test_its_key_lives_as_long_as_the_documents_say(redis_server: Callable[..., RedisServer]) -> None:
    server, session = redis_server(), new_session()
    store = await redis_store(server)
    await store.announce(session, "edge-1/c-1/1/1/join", b"{}")
    with redis_client.Redis.from_url(server.url) as client:
        left = client.pttl(f"hg:{{v{shard_of(session)}}}:a:{session}:edge-1/c-1/1/1/join")
        assert (ANNOUNCED_S - 60) * 1000 < int(left) <= ANNOUNCED_S * 1000
        client.function_flush()
    assert await store.announce(session, "y", b"{}"), "the library is loaded again"
    await store.close()
