"""Each metadata store three times: in memory, on a real Redis and on a real Redis Cluster, both empty before each test.

All of it on all three: a Cluster costs a few seconds once a worker, and no test more than with one server.
"""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

import pytest

from heliograph.stores.memory.metadata import (
    MemoryConnectionStore,
    MemoryEdgeOrders,
    MemoryLeases,
    MemoryPositionIndex,
    MemoryRehydration,
    MemoryServeStore,
    MemorySessionExpiries,
    MemoryTenantStore,
)
from heliograph.stores.ports import (
    ConnectionStore,
    EdgeOrders,
    Leases,
    PositionIndex,
    Rehydration,
    ServeStore,
    SessionExpiries,
    TenantStore,
)
from heliograph.stores.redis.metadata import (
    MetadataClient,
    RedisConnectionStore,
    RedisEdgeOrders,
    RedisLeases,
    RedisPositionIndex,
    RedisRehydration,
    RedisServeStore,
    RedisSessionExpiries,
    RedisTenantStore,
)

DATABASES = 16
"""Of a Redis with default settings."""


@pytest.fixture
def metadata_url(redis_url: str) -> str:
    """A database that no other worker of the run uses, also where all share one Redis."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return urlunsplit(urlsplit(redis_url)._replace(path=f"/{1 + worker % (DATABASES - 1)}"))


@pytest.fixture
async def redis_client(metadata_url: str) -> AsyncIterator[MetadataClient]:
    async with emptied(metadata_url) as client:
        yield client


@pytest.fixture
async def cluster_client(redis_cluster_url: str) -> AsyncIterator[MetadataClient]:
    async with emptied(redis_cluster_url) as client:
        yield client


@asynccontextmanager
async def emptied(url: str) -> AsyncIterator[MetadataClient]:
    client = MetadataClient(url)
    await client.start()
    await client.redis.flushdb()
    yield client
    await client.close()


@pytest.fixture(params=["redis", "cluster"])
def client(request: pytest.FixtureRequest) -> MetadataClient:
    """For tests of what only Redis can have."""
    client: MetadataClient = request.getfixturevalue(f"{request.param}_client")
    return client


@pytest.fixture(params=["memory", "redis", "cluster"])
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
def client_if_redis(kind: str, request: pytest.FixtureRequest) -> MetadataClient | None:
    return None if kind == "memory" else request.getfixturevalue(f"{kind}_client")


@pytest.fixture
def tenants(client_if_redis: MetadataClient | None) -> TenantStore:
    return MemoryTenantStore() if client_if_redis is None else RedisTenantStore(client_if_redis)


@pytest.fixture
def connections(client_if_redis: MetadataClient | None) -> ConnectionStore:
    return MemoryConnectionStore() if client_if_redis is None else RedisConnectionStore(client_if_redis)


@pytest.fixture
def edge_orders(client_if_redis: MetadataClient | None) -> EdgeOrders:
    return MemoryEdgeOrders() if client_if_redis is None else RedisEdgeOrders(client_if_redis)


@pytest.fixture
def index(client_if_redis: MetadataClient | None) -> PositionIndex:
    if client_if_redis is None:
        return MemoryPositionIndex(entries_per_session=100)
    return RedisPositionIndex(client_if_redis, entries_per_session=100)


@pytest.fixture
def leases(client_if_redis: MetadataClient | None) -> Leases:
    return MemoryLeases() if client_if_redis is None else RedisLeases(client_if_redis)


@pytest.fixture
def expiries(client_if_redis: MetadataClient | None) -> SessionExpiries:
    return MemorySessionExpiries() if client_if_redis is None else RedisSessionExpiries(client_if_redis)


@pytest.fixture
async def rehydrations(client_if_redis: MetadataClient | None) -> AsyncIterator[Callable[[], Rehydration]]:
    """Makes what one process has; all of a test meet in one store."""
    memory = MemoryRehydration(tenant_bytes=1_000, total_bytes=1_500, claim_idle_s=0.2)
    made: list[RedisRehydration] = []

    def make() -> Rehydration:
        if client_if_redis is None:
            return memory
        store = RedisRehydration(client_if_redis, tenant_bytes=1_000, total_bytes=1_500, claim_idle_s=0.2, block_s=0.1)
        made.append(store)
        return store

    yield make
    for store in made:
        await store.close()


@pytest.fixture
def rehydration(rehydrations: Callable[[], Rehydration]) -> Rehydration:
    return rehydrations()


@pytest.fixture
async def serving(client_if_redis: MetadataClient | None) -> AsyncIterator[ServeStore]:
    if client_if_redis is None:
        yield MemoryServeStore()
        return
    store = RedisServeStore(client_if_redis)
    yield store
    await store.close()
