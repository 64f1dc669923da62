"""The live store in memory, on a real Redis, and on a real Redis Cluster of three.

`live` shares a server; `mortal` has one that may be restarted.
"""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
import redis
from tests.stores.live.helpers import Listener, Live, live_on, wall_ms

from heliograph.local import RedisServer
from heliograph.local.providers import throwaway_redis_cluster
from heliograph.local.redis_cluster import RedisCluster
from heliograph.stores.memory.live_server import MemoryLiveServer
from heliograph.stores.ports import LiveStore


@pytest.fixture(scope="session")
def redis_url(redis_url: str) -> str:
    """A database that no other worker of the run uses, also where all share one Redis."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return urlunsplit(urlsplit(redis_url)._replace(path=f"/{1 + worker % 15}"))


@pytest.fixture(params=["memory", "redis", "cluster"])
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
async def live(kind: str, request: pytest.FixtureRequest) -> AsyncIterator[Live]:
    found = live_on(kind, request)
    yield found
    await found.close()


@pytest.fixture(scope="session")
def mortal_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """One for all tests of the run that want one: to form it takes longer than to restart it."""
    with throwaway_redis_cluster(tmp_path_factory.mktemp("mortal-cluster"), appendonly=True) as cluster:
        yield cluster


def without_data(directory: Path) -> None:
    for file in directory.glob("appendonlydir/*"):
        file.unlink()


@pytest.fixture
async def mortal(kind: str, request: pytest.FixtureRequest) -> AsyncIterator[Live]:
    """Its server can be restarted with or without its data."""
    if kind == "memory":
        memory = MemoryLiveServer(wall_ms)
        found = Live(memory, memory.stop, lambda keep: memory.restart(keep=keep))
    elif kind == "cluster":
        cluster: RedisCluster = request.getfixturevalue("mortal_cluster")
        cluster.start()
        for node in cluster.nodes:
            with redis.Redis.from_url(node.url) as client:
                client.flushall()
                client.config_set("maxmemory", "0")

        def restart_cluster(keep: bool) -> None:
            cluster.kill()
            if not keep:
                for node in cluster.nodes:
                    without_data(node.directory)
            cluster.restart()

        found = Live(cluster.url, cluster.kill, restart_cluster, servers=[node.url for node in cluster.nodes])
    else:
        start: Callable[..., RedisServer] = request.getfixturevalue("redis_server")
        server = start(appendonly=True)

        def restart_redis(keep: bool) -> None:
            server.kill()
            if not keep:
                without_data(server.directory)
            server.restart()

        found = Live(server.url, server.kill, restart_redis)
    yield found
    await found.close()


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
async def store(live: Live, listener: Listener) -> LiveStore:
    """One store with a listener."""
    return await live.store(listener)
