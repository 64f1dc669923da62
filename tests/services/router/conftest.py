"""Worlds: in memory, and on real Kafka and Redis."""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from urllib.parse import urlsplit, urlunsplit

import pytest
from redis.asyncio import Redis
from tests.services.router.helpers import MemoryWorld, RealWorld, World


@pytest.fixture
async def memory() -> AsyncIterator[MemoryWorld]:
    async with AsyncExitStack() as stack:
        world = MemoryWorld(stack)
        await world.set_up()
        yield world


@pytest.fixture
async def real(kafka_bootstrap: str, redis_url: str) -> AsyncIterator[RealWorld]:
    """A database of this worker's own, empty."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    url = urlunsplit(urlsplit(redis_url)._replace(path=f"/{1 + worker % 15}"))
    redis = Redis.from_url(url)
    await redis.flushdb()
    await redis.aclose()
    async with AsyncExitStack() as stack:
        world = RealWorld(stack, kafka_bootstrap, url)
        await world.set_up()
        yield world


@pytest.fixture(params=["memory", "real"])
def world(request: pytest.FixtureRequest) -> World:
    found: World = request.getfixturevalue(request.param)
    return found
