"""What tenants are kept in, apart from Kubernetes: the ports that the reconciler works on."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from heliograph.stores.keys import Topics
from heliograph.stores.ports import (
    ConnectionStore,
    LiveStore,
    LogAccess,
    LogAdmin,
    ServeStore,
    SessionExpiries,
    StoreError,
    TenantStore,
    TopicInfo,
    TopicSpec,
)


class LogError(StoreError):
    """Kafka could not be asked, or its answer was no: told apart from other stores' errors by who was asked."""


class NamedLogAdmin:
    """A LogAdmin whose errors are LogErrors."""

    def __init__(self, admin: LogAdmin) -> None:
        self._admin = admin

    async def describe(self, topics: Sequence[str]) -> dict[str, TopicInfo]:
        with _named():
            return await self._admin.describe(topics)

    async def create(self, topic: TopicSpec) -> None:
        with _named():
            await self._admin.create(topic)

    async def grow(self, topic: str, partitions: int) -> None:
        with _named():
            await self._admin.grow(topic, partitions)

    async def alter(self, topic: str, config: Mapping[str, str | None]) -> None:
        with _named():
            await self._admin.alter(topic, config)

    async def delete(self, topic: str) -> None:
        with _named():
            await self._admin.delete(topic)

    async def messages(self, partitions: Mapping[str, int]) -> dict[str, int]:
        with _named():
            return await self._admin.messages(partitions)


@contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except StoreError as error:
        raise LogError(error.code, error.message, maybe_done=error.maybe_done) from error


@dataclass(frozen=True, slots=True)
class TenantStores:
    """All of them."""

    topics: Topics
    admin: LogAdmin
    access: LogAccess
    tenants: TenantStore
    connections: ConnectionStore
    live: LiveStore
    serving: ServeStore
    expiries: SessionExpiries
    virtual_shards: int
