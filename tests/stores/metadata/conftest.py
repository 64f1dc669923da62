"""Each metadata store twice: in memory, and on a real Redis whose database is empty before each test."""

import os
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit, urlunsplit

import pytest

from heliograph.stores.edge_orders import EdgeOrders
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
async def client(metadata_url: str) -> AsyncIterator[MetadataClient]:
    client = MetadataClient(metadata_url)
    await client.start()
    await client.redis.flushdb()
    yield client
    await client.close()


@pytest.fixture(params=["memory", "redis"])
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
def tenants(kind: str, request: pytest.FixtureRequest) -> TenantStore:
    return MemoryTenantStore() if kind == "memory" else RedisTenantStore(request.getfixturevalue("client"))


@pytest.fixture
def connections(kind: str, request: pytest.FixtureRequest) -> ConnectionStore:
    return MemoryConnectionStore() if kind == "memory" else RedisConnectionStore(request.getfixturevalue("client"))


@pytest.fixture
def edge_orders(kind: str, request: pytest.FixtureRequest) -> EdgeOrders:
    return MemoryEdgeOrders() if kind == "memory" else RedisEdgeOrders(request.getfixturevalue("client"))


@pytest.fixture
def index(kind: str, request: pytest.FixtureRequest) -> PositionIndex:
    if kind == "memory":
        return MemoryPositionIndex(entries_per_session=100)
    return RedisPositionIndex(request.getfixturevalue("client"), entries_per_session=100)


@pytest.fixture
def leases(kind: str, request: pytest.FixtureRequest) -> Leases:
    return MemoryLeases() if kind == "memory" else RedisLeases(request.getfixturevalue("client"))


@pytest.fixture
def expiries(kind: str, request: pytest.FixtureRequest) -> SessionExpiries:
    return MemorySessionExpiries() if kind == "memory" else RedisSessionExpiries(request.getfixturevalue("client"))


@pytest.fixture
def client_if_redis(kind: str, request: pytest.FixtureRequest) -> MetadataClient | None:
    return request.getfixturevalue("client") if kind == "redis" else None


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
