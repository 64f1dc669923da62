"""The live store twice: in memory and on a real Redis. `live` shares one; `mortal` has one that may be restarted."""

import os
import time
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit, urlunsplit

import pytest
from tests.stores.live.helpers import Listener, Live

from heliograph.local import RedisServer
from heliograph.stores.memory.live_server import MemoryLiveServer
from heliograph.stores.ports import LiveStore


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


@pytest.fixture(scope="session")
def redis_url(redis_url: str) -> str:
    """A database that no other worker of the run uses, also where all share one Redis."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return urlunsplit(urlsplit(redis_url)._replace(path=f"/{1 + worker % 15}"))


@pytest.fixture(params=["memory", "redis"])
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
async def live(kind: str, request: pytest.FixtureRequest) -> AsyncIterator[Live]:
    found = Live(MemoryLiveServer(wall_ms) if kind == "memory" else request.getfixturevalue("redis_url"))
    yield found
    await found.close()


@pytest.fixture
async def mortal(kind: str, request: pytest.FixtureRequest) -> AsyncIterator[Live]:
    """Its server can be restarted with or without its data."""
    if kind == "memory":
        memory = MemoryLiveServer(wall_ms)
        found = Live(memory, memory.stop, lambda keep: memory.restart(keep=keep))
    else:
        start: Callable[..., RedisServer] = request.getfixturevalue("redis_server")
        server = start(appendonly=True)

        def restart_redis(keep: bool) -> None:
            server.kill()
            if not keep:
                for file in server.directory.glob("appendonlydir/*"):
                    file.unlink()
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
