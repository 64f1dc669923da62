"""The live store behind Sentinel: another primary is found, checked, and listened to."""

import asyncio
from collections.abc import Callable

import pytest
import redis as redis_client
from tests.stores.live.helpers import (
    Listener,
    ask,
    message,
    new_session,
    put,
    put_many,
    redis_store,
    subscribed,
    until,
)

from heliograph.core.positions import Position
from heliograph.local import RedisServer
from heliograph.local.redis_sentinel import MASTER, RedisSentinel
from heliograph.stores.events import StoreEvent
from heliograph.stores.ports import Appended, StoreError
from heliograph.stores.redis.connection import ConnectionSettings
from heliograph.stores.redis.live import RedisLiveStore

QUICK = ConnectionSettings(deadline_s=2.0, ping_idle_s=0.2)


@pytest.fixture
def servers(redis_sentinel: Callable[..., RedisSentinel]) -> RedisSentinel:
    return redis_sentinel(password="p@ss", sentinel_password="watch")


def ports(store: RedisLiveStore) -> set[int]:
    return {connection.node[1] for connection in store.connections.values()}


async def until_taken(store: RedisLiveStore, session: str) -> Position:
    """The position of the first message that is taken."""
    async with asyncio.timeout(30.0):
        while True:
            answer = await ask(store, message(session, b'"again"'))
            if isinstance(answer, Appended) and answer.epoch:
                return Position(answer.epoch, answer.seq)
            await asyncio.sleep(0.02)


async def test_a_killed_primary_is_replaced_by_its_replica_with_a_new_epoch(
    servers: RedisSentinel, listener: Listener
) -> None:
    store = await redis_store(servers, listener, QUICK)
    session = new_session()
    await subscribed(store, listener, session)
    before = (await put_many(store, session, [b"1", b"2"]))[-1]
    old = servers.primary
    with redis_client.Redis(port=old.port, password="p@ss") as client:
        client.wait(1, 5_000)
    old.kill()
    await until(lambda: not store.available)
    after = await until_taken(store, session)
    assert after > before
    assert (after.epoch == before.epoch, after.seq) == (False, 1)
    await until(lambda: listener.subscribed == [session, session])
    assert listener.lost == 1
    assert old.port not in ports(store)
    await until_taken(store, session)
    await until(lambda: len(listener.of(session)) >= 3)
    await store.close()


async def test_a_demoted_primary_that_lives_on_is_left_without_being_asked(
    servers: RedisSentinel, listener: Listener
) -> None:
    """Nobody publishes: the sentinels' word alone moves listeners to the new one."""
    store = await redis_store(servers, listener, QUICK)
    session = new_session()
    await subscribed(store, listener, session)
    old = servers.primary
    servers.fail_over()
    await until(lambda: ports(store) == {next(one.port for one in servers.servers if one is not old)})
    await until(lambda: len(listener.subscribed) >= 2 and store.available)
    assert store.load.moves >= 1
    await until_taken(store, session)
    await until(lambda: listener.of(session))
    await store.close()


async def test_a_primary_that_became_a_replica_is_left_when_it_says_so(
    redis_server: Callable[..., RedisServer],
) -> None:
    """Also where one address leads to whoever is the primary, as a Service or a managed Redis does it."""
    server, other = redis_server(), redis_server()
    store = await redis_store(server, settings=QUICK)
    session = new_session()
    await put(store, message(session, b"1", seq=1))
    with redis_client.Redis.from_url(server.url) as client:
        client.execute_command("REPLICAOF", "127.0.0.1", other.port)
        answer = await ask(store, message(session, b"2", seq=2))
        assert isinstance(answer, StoreError)
        assert (answer.code, answer.maybe_done) == ("live_unavailable", False)
        await until(lambda: store.connections["commands"].stats[StoreEvent.CONNECTION_LOST] == 1)
        client.execute_command("REPLICAOF", "NO", "ONE")
    await until_taken(store, session)
    await store.close()


async def test_a_replica_that_a_sentinel_still_names_is_not_taken(servers: RedisSentinel) -> None:
    with redis_client.Redis(port=servers.primary.port, password="p@ss") as client:
        client.execute_command("REPLICAOF", "127.0.0.1", servers.replica.port)
        with pytest.raises(StoreError) as caught:
            await redis_store(servers, settings=QUICK)
    assert caught.value.code == "live_unavailable"
    assert "not a primary" in caught.value.message


async def test_sentinels_that_are_away_are_passed_over(servers: RedisSentinel) -> None:
    for sentinel in servers.sentinels[:2]:
        sentinel.kill()
    store = await redis_store(servers, settings=QUICK)
    await put(store, message(new_session()))
    await store.close()
    servers.sentinels[2].kill()
    with pytest.raises(StoreError) as caught:
        await redis_store(servers, settings=QUICK)
    assert caught.value.code == "live_unavailable"
    assert MASTER in caught.value.message
    assert "watch" not in caught.value.message


async def test_a_store_without_sentinels_goes_on_with_the_primary_that_it_has(servers: RedisSentinel) -> None:
    store = await redis_store(servers, settings=QUICK)
    session = new_session()
    await put(store, message(session))
    for sentinel in servers.sentinels:
        sentinel.kill()
    assert (await put(store, message(session))).seq == 2
    assert store.available
    await store.close()


async def test_a_name_that_no_sentinel_knows_is_told(servers: RedisSentinel) -> None:
    with pytest.raises(StoreError) as caught:
        await redis_store(servers.url.replace(f"/{MASTER}", "/other"), settings=QUICK)
    assert "other" in caught.value.message
    assert "p%40ss" not in caught.value.message
