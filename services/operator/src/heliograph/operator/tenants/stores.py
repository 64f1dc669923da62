"""What tenants are kept in, apart from Kubernetes: the ports that the reconciler works on."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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


AWAY_FOR_S = 5.0
"""Until a Kafka that did not answer is asked again."""


class NamedLogAdmin:
    """A LogAdmin whose errors are LogErrors, and that waits for a Kafka that is away once, not once for each Tenant.

    To notice that it is away takes ten seconds. With hundreds of Tenants, workers that all wait for that would hold up
    what needs no Kafka: a suspension, a key that is withdrawn. So one look asks, and the others are told what was so.
    """

    def __init__(self, admin: LogAdmin, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: s."""
        self._admin = admin
        self._clock = clock
        self._away = ""
        """Why it is taken to be away; empty: it is not."""
        self._asked_at = float("-inf")
        self._asking = False

    async def describe(self, topics: Sequence[str]) -> dict[str, TopicInfo]:
        """Every look begins with it."""
        if self._away and (self._asking or self._clock() < self._asked_at + AWAY_FOR_S):
            raise LogError("log_unavailable", self._away)
        self._asking = True
        try:
            with _named():
                found = await self._admin.describe(topics)
        except LogError as error:
            self._away = error.message if error.code == "log_unavailable" else ""
            raise
        finally:
            self._asking = False
            self._asked_at = self._clock()
        self._away = ""
        return found

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
