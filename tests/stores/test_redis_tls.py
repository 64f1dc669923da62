"""TLS to sentinels, the servers behind them, and all nodes of a Redis Cluster, none of which speaks anything else.

Their certificate is for a name, not for an address: who is named by its address, though it is the same server, is
nobody that was asked for.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.certificates import NAME, certificate
from tests.stores.live.helpers import Listener, ask, message, new_session, put, subscribed, until

from heliograph.local.ports import LOOPBACK
from heliograph.local.redis import Tls
from heliograph.local.redis_cluster import RedisCluster, slot_of
from heliograph.local.redis_sentinel import RedisSentinel, asked
from heliograph.stores import keys
from heliograph.stores.keys import virtual_shard
from heliograph.stores.ports import Appended, StoreError
from heliograph.stores.redis.live import RedisLiveStore
from heliograph.stores.redis.metadata import MetadataClient, RedisLeases
from heliograph.stores.redis.topology import slot_of_virtual_shard

BACK_S = 60.0
"""A failover takes a second on an idle machine; one that others use may need a second attempt."""
HOST = "localhost"
SHARDS = 256
LEASES = [f"tls-{number}" for number in range(8)]
"""With eight of a kind each primary of a Cluster has some."""

Servers = RedisSentinel | RedisCluster


@pytest.fixture
def tls(tmp_path: Path) -> Tls:
    ca = certificate(tmp_path, NAME)
    return Tls(ca, tmp_path / "key.pem", ca, host=HOST)


@pytest.fixture(params=["sentinel", "cluster"])
def servers(request: pytest.FixtureRequest, tls: Tls) -> Servers:
    make: Callable[..., Servers] = request.getfixturevalue(f"redis_{request.param}")
    return make(password="p@ss", tls=tls)


@asynccontextmanager
async def live_on(url: str, listener: Listener) -> AsyncIterator[RedisLiveStore]:
    store = RedisLiveStore(url, uniform=random.random)
    try:
        await store.start(listener)
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def metadata_on(url: str) -> AsyncIterator[MetadataClient]:
    client = MetadataClient(url)
    try:
        await client.start()
        yield client
    finally:
        await client.close()


async def use_live(url: str) -> None:
    """By all connections that there are: for commands, history and subscriptions."""
    listener = Listener()
    async with live_on(url, listener) as store:
        for _ in range(8):
            session = new_session()
            await subscribed(store, listener, session)
            await put(store, message(session))
            await until(lambda session=session: len(listener.of(session)) == 1)  # type: ignore[misc]
            assert len((await store.page(session, None)).frames) == 1


async def use_metadata(url: str) -> None:
    async with metadata_on(url) as client:
        for name in LEASES:
            assert await RedisLeases(client).acquire(name, "me", BACK_S)


async def move(servers: Servers, session: str) -> None:
    """What `session` and the first lease are on is elsewhere when this returns, or soon."""
    if isinstance(servers, RedisSentinel):
        servers.fail_over()
        return
    for slot in (slot_of_virtual_shard(virtual_shard(session, SHARDS)), slot_of(keys.lease(LEASES[0]))):
        source = servers.owner_of_slot(slot)
        target = next(node for node in servers.primaries if node is not source)
        await asyncio.to_thread(servers.move_slot, slot, target)


async def test_another_primary_is_followed_over_tls(servers: Servers) -> None:
    assert servers.url.startswith("rediss+")
    await use_live(servers.url)
    listener, session = Listener(), new_session()
    async with live_on(servers.url, listener) as store, metadata_on(servers.url) as client:
        await subscribed(store, listener, session)
        await put(store, message(session))
        assert await RedisLeases(client).acquire(LEASES[0], "me", BACK_S)
        await move(servers, session)
        async with asyncio.timeout(BACK_S):
            while not store.load.moves or not isinstance(await ask(store, message(session)), Appended):
                await asyncio.sleep(0.05)
            while not await acquired(client):
                await asyncio.sleep(0.05)
        await until(lambda: len(listener.subscribed) == 2)


async def acquired(client: MetadataClient) -> bool:
    try:
        return await RedisLeases(client).acquire(LEASES[0], "me", BACK_S)
    except StoreError:
        return False


@pytest.mark.parametrize("use", [use_live, use_metadata])
async def test_whoever_is_not_the_one_that_was_asked_for_is_refused(
    use: Callable[[str], Awaitable[None]], servers: Servers, tmp_path: Path
) -> None:
    """By its CA, by its name, and not only those that the URL has: also those that these then name."""
    await use(servers.url)
    other = tmp_path / "other"
    other.mkdir()
    stranger = servers.url.replace(str(tmp_path / "cert.pem"), str(certificate(other, NAME)))
    assert stranger != servers.url
    await refused(use, stranger, "certificate verify failed")
    without, _, _ = servers.url.partition("?")
    await refused(use, without, "certificate verify failed")  # the system's CAs
    await refused(use, servers.url.replace(HOST, LOOPBACK), "IP address mismatch")
    await asyncio.to_thread(name_by_address, servers)
    await refused(use, servers.url, "IP address mismatch")
    await use(f"{without}?ssl_cert_reqs=none")


def name_by_address(servers: Servers) -> None:
    """Whoever asks where the servers are is told their addresses from now on."""
    if isinstance(servers, RedisCluster):
        for node in servers.nodes:
            asked(node, lambda client: client.config_set("cluster-preferred-endpoint-type", "ip"))
        return
    for sentinel in servers.sentinels:
        asked(sentinel, lambda client: client.execute_command("SENTINEL CONFIG", "SET", "announce-hostnames", "no"))


async def refused(use: Callable[[str], Awaitable[None]], url: str, why: str) -> None:
    """It is said why, and which setting to look at; the password is not said."""
    with pytest.raises(StoreError) as caught:
        await use(url)
    said = caught.value.message
    assert why in said
    assert "ssl_ca_certs in" in said
    assert "p@ss" not in said
    assert "p%40ss" not in said
