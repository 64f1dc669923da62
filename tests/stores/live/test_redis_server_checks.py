"""What a Redis must be, checked at start, and how the function library gets into it."""

import hashlib
from collections.abc import Callable
from typing import Any

import hiredis
import pytest
import redis as redis_client
from tests.stores.live.helpers import message, new_session, put, redis_store, until

from heliograph.local import RedisServer
from heliograph.stores.events import StoreEvent
from heliograph.stores.ports import StoreError
from heliograph.stores.redis import library
from heliograph.stores.redis.live import RedisLiveStore
from heliograph.stores.redis.server_checks import check_server


async def test_a_redis_that_may_evict_is_refused(redis_server: Callable[..., RedisServer]) -> None:
    server = redis_server(settings={"maxmemory-policy": "allkeys-lru"})
    with pytest.raises(StoreError) as caught:
        await redis_store(server)
    assert "allkeys-lru" in caught.value.message
    assert "noeviction" in caught.value.message


async def test_a_redis_that_begins_to_evict_is_noticed_on_reconnect(
    redis_server: Callable[..., RedisServer],
) -> None:
    server = redis_server()
    store = await redis_store(server)
    with redis_client.Redis.from_url(server.url) as client:
        client.config_set("maxmemory-policy", "volatile-ttl")
        client.client_kill_filter(_type="normal", skipme=True)
        await until(lambda: store.connections["commands"].stats[StoreEvent.CONNECTION_LOST] == 1)
        with pytest.raises(StoreError):
            await store.heads([new_session()])
        client.config_set("maxmemory-policy", "noeviction")
    await until(lambda: store.available)
    await store.close()


async def test_a_redis_laid_out_for_another_number_of_virtual_shards_is_refused(
    redis_server: Callable[..., RedisServer],
) -> None:
    server = redis_server()
    first = await redis_store(server)
    await first.close()
    second = RedisLiveStore(server.url, uniform=lambda: 0.5, virtual_shards=128)
    with pytest.raises(StoreError) as caught:
        await second.start()
    assert "256" in caught.value.message
    assert "128" in caught.value.message
    assert not second.available


async def test_an_old_redis_is_refused() -> None:
    async def call(*command: Any) -> Any:
        return b"redis_version:6.2.14\r\n"

    with pytest.raises(StoreError) as caught:
        await check_server(call, 256)
    assert "6.2.14" in caught.value.message


async def test_no_more_rights_are_needed_than_these(redis_server: Callable[..., RedisServer]) -> None:
    """Managed Redis forbids CONFIG and the like."""
    server = redis_server()
    commands = ["+@read", "+@write", "+@connection", "+info", "+fcall", "+function|load", "+time"]
    commands += ["+spublish", "+ssubscribe", "+sunsubscribe", "+ping"]
    with redis_client.Redis.from_url(server.url) as client:
        client.acl_setuser(
            "edge", enabled=True, passwords=["+s3cret"], keys=["hg:*"], channels=["hg:*"], commands=commands
        )
    store = await redis_store(f"redis://edge:s3cret@127.0.0.1:{server.port}")
    await put(store, message(new_session()))
    await store.close()


# ---- the library ----------------------------------------------------------------------------------------------------


async def test_a_library_that_is_there_is_not_loaded_again(redis_server: Callable[..., RedisServer]) -> None:
    server = redis_server()
    stores = [await redis_store(server) for _ in range(2)]
    assert [store.stats[StoreEvent.LIBRARY_LOADED] for store in stores] == [1, 0]
    for store in stores:
        await store.close()


@pytest.mark.parametrize(("theirs", "loaded"), [(-1, 1), (0, 0), (1, 0)])
async def test_a_library_is_raised_to_our_revision_and_never_lowered(
    redis_server: Callable[..., RedisServer], theirs: int, loaded: int
) -> None:
    server = redis_server()
    revision = library.revision() + theirs
    with redis_client.Redis.from_url(server.url) as client:
        client.function_load(library.source().replace(f"REVISION = {library.revision()}", f"REVISION = {revision}"))
        store = await redis_store(server)
        assert store.stats[StoreEvent.LIBRARY_LOADED] == loaded
        assert client.fcall("hg1_version", 0) == max(revision, library.revision())
    await put(store, message(new_session()))
    await store.close()


async def test_a_library_of_another_version_may_be_beside_ours(redis_server: Callable[..., RedisServer]) -> None:
    server = redis_server()
    with redis_client.Redis.from_url(server.url) as client:
        client.function_load(library.source().replace("heliograph_1", "heliograph_2").replace("hg1_", "hg2_"))
    store = await redis_store(server)
    await put(store, message(new_session()))
    await store.close()


async def test_a_library_that_can_not_be_loaded_says_so() -> None:
    async def call(*command: Any) -> Any:
        missing = command[0] == "FCALL"
        return hiredis.ReplyError("ERR Function not found" if missing else "NOPERM no permission")

    with pytest.raises(StoreError) as caught:
        await library.ensure(call)
    assert "NOPERM" in caught.value.message


SOURCES = {9: "7fab01bce6ed10666811ad3d738d8d18191e0db2f06561a838ad651a5a3a3f70"}
"""SHA-256 of the library by revision. A changed library needs a higher one: servers keep the one they have."""


def test_a_changed_library_has_a_new_revision() -> None:
    assert SOURCES[library.revision()] == hashlib.sha256(library.source().encode()).hexdigest()


def test_names_carry_the_version() -> None:
    names = [line.split("'")[1] for line in library.source().splitlines() if line.startswith("redis.register")]
    assert len(names) == 12
    assert all(name.startswith("hg1_") for name in names)
    assert library.source().startswith("#!lua name=heliograph_1\n")
