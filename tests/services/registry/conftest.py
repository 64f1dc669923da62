"""The registry's stores twice: in memory, and on a real Redis whose database is empty before each test."""

import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from urllib.parse import urlsplit, urlunsplit

import pytest
from tests.services.registry.helpers import Listener, Stores

from heliograph.stores.memory.live import MemoryLiveStore
from heliograph.stores.memory.live_server import MemoryLiveServer
from heliograph.stores.memory.metadata import MemoryConnectionStore
from heliograph.stores.redis.live import RedisLiveStore
from heliograph.stores.redis.metadata import MetadataClient, RedisConnectionStore


@pytest.fixture(params=["memory", "redis"])
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
async def stores(kind: str, request: pytest.FixtureRequest) -> AsyncIterator[Stores]:
    """Two registries' views of the same stores, and a listener to what is announced."""
    listener = Listener()
    async with AsyncExitStack() as cleanup:
        if kind == "memory":
            server = MemoryLiveServer(lambda: time.time_ns() // 1_000_000)
            known = MemoryConnectionStore()
            memory = [MemoryLiveStore(server) for _ in range(2)]
            await memory[0].start(listener)
            await memory[1].start()
            for live in memory:
                cleanup.push_async_callback(live.close)
            yield Stores([known, known], list(memory), listener, server)
            return
        url = urlunsplit(urlsplit(request.getfixturevalue("redis_url"))._replace(path="/13"))
        found: Stores = Stores([], [], listener, None)
        for number in range(2):
            client = MetadataClient(url)
            await client.start()
            cleanup.push_async_callback(client.close)
            if number == 0:
                await client.redis.flushdb()
            found.connections.append(RedisConnectionStore(client))
            redis_live = RedisLiveStore(url, uniform=random.Random(1).random)
            await redis_live.start(listener if number == 0 else None)
            cleanup.push_async_callback(redis_live.close)
            found.live.append(redis_live)
        yield found
