"""The composition root of the development server: the four services on stores that they share in memory.

Each service's own `compose` puts it together; here are only the stores, and settings that a process for one person
wants otherwise than an installation.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from heliograph.core.limits import VIRTUAL_SHARDS
from heliograph.dev.options import NOTHING_IS_DURABLE, DevOptions, DevServerError, TenantRecord
from heliograph.edge import bootstrap as edge
from heliograph.edge.settings import EdgeSettings
from heliograph.protocol.tenants import Tenant, parse_tenant
from heliograph.registry import bootstrap as registry
from heliograph.registry.settings import RegistrySettings
from heliograph.replay import bootstrap as replay
from heliograph.replay.settings import ReplaySettings
from heliograph.router import bootstrap as router
from heliograph.router.settings import RouterSettings
from heliograph.service.applying import apply, plan
from heliograph.service.command_line import validation_lines
from heliograph.service.lifecycle import Service
from heliograph.service.settings import ServiceSettings
from heliograph.stores.keys import Topics
from heliograph.stores.memory.live import MemoryLiveStore
from heliograph.stores.memory.live_server import MemoryLiveServer
from heliograph.stores.memory.log import (
    MemoryLog,
    MemoryLogAdmin,
    MemoryLogConsumer,
    MemoryLogReader,
    MemoryLogWriter,
)
from heliograph.stores.memory.metadata import (
    MemoryConnectionStore,
    MemoryEdgeOrders,
    MemoryLeases,
    MemoryPositionIndex,
    MemoryQuotaStore,
    MemoryRehydration,
    MemoryServeStore,
    MemorySessionExpiries,
    MemoryTenantStore,
    MemoryUsageStore,
)
from heliograph.stores.memory.metadata.clock import now_ms
from heliograph.stores.memory.retention import retain

S = TypeVar("S", bound=ServiceSettings)

TOPIC_PREFIX = "heliograph"
GROUP = f"{TOPIC_PREFIX}.router"

LOG_TOPIC = {"partitions": 3, "retention_s": 24 * 3600, "retention_bytes": 64 * 1024 * 1024}
"""Of a tenant that is given by name: several partitions, as everywhere, and bounds, since all of it is memory."""

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "edge": {"edge_name": "dev"},
    "router": {"router_name": "dev"},
    "replay": {"settle_s": 1.0},  # no other edge can be late with a message of an epoch that is over
    "registry": {},
}
"""What an installation chooses otherwise. All else is each service's default, or what its variable says."""

STOPPING = {"drain_timeout_s": 1.0, "drain_notice_s": 0.0, "stop_timeout_s": 2.0}
"""Ctrl-C should be felt: there is no other edge that clients could be sent to at a pace."""

SHARED = {"topic_prefix": TOPIC_PREFIX, "virtual_shards": VIRTUAL_SHARDS}
"""Whoever shares stores must agree on these, whatever the environment says."""


async def _nothing() -> None:
    """Memory needs no connection."""


class Memory:
    """What the services have in common where others have Redis and Kafka."""

    def __init__(self) -> None:
        self.live = MemoryLiveServer(now_ms)
        self.log = MemoryLog()
        self.admin = MemoryLogAdmin(self.log)
        self.tenants = MemoryTenantStore()
        self.connections = MemoryConnectionStore()
        self.rehydration = MemoryRehydration()
        self.index = MemoryPositionIndex()
        self.leases = MemoryLeases()
        self.serving = MemoryServeStore()
        self.orders = MemoryEdgeOrders()
        self.expiries = MemorySessionExpiries()
        self.quotas = MemoryQuotaStore()
        self.usage = MemoryUsageStore()

    async def apply(self, tenant: Tenant) -> None:
        """Make the tenant's topics and write its record, as `heliograph tenant apply` does."""
        change = await plan(tenant, Topics(TOPIC_PREFIX), self.admin, self.tenants)
        await apply(change, self.admin, self.tenants, lambda _step: None)

    def forget(self) -> None:
        """Forget what is past its retention."""
        retain(self.log, now_ms())

    def edge(self) -> edge.Stores:
        return edge.Stores(
            live=MemoryLiveStore(self.live),
            log=MemoryLogWriter(self.log),
            admin=self.admin,
            tenants=self.tenants,
            connections=self.connections,
            rehydration=self.rehydration,
            serving=self.serving,
            expiries=self.expiries,
            quotas=self.quotas,
            orders=self.orders,
            usage=self.usage,
            start=_nothing,
            stop=_nothing,
        )

    def router(self) -> router.Stores:
        return router.Stores(
            live=MemoryLiveStore(self.live),
            consumer=MemoryLogConsumer(self.log, GROUP),
            writer=MemoryLogWriter(self.log),
            reader=MemoryLogReader(self.log),
            admin=self.admin,
            tenants=self.tenants,
            index=self.index,
            leases=self.leases,
            connections=self.connections,
            serving=self.serving,
            expiries=self.expiries,
            start_metadata=_nothing,
            stop_metadata=_nothing,
            find_log=_nothing,
            stop_admin=_nothing,
        )

    def replay(self) -> replay.Stores:
        return replay.Stores(
            live=MemoryLiveStore(self.live),
            http_log=MemoryLogReader(self.log),
            edge_log=MemoryLogReader(self.log),
            tenants=self.tenants,
            index=self.index,
            rehydration=self.rehydration,
            expiries=self.expiries,
            start=_nothing,
            stop=_nothing,
        )


def compose(options: DevOptions, memory: Memory) -> Sequence[Service]:
    """The services, in the order in which they are to be stopped. Must be called on the loop that they will run on.

    Raises DevServerError(`value_invalid`) for a variable that is none.
    """
    ports = options.ports()

    def chosen(name: str, cls: type[S]) -> S:
        values: dict[str, Any] = {"host": options.host, "port": ports[name], **STOPPING, **SHARED, **SETTINGS[name]}
        try:
            return cls(**values)
        except ValidationError as error:
            lines = validation_lines(cls, error, os.environ)
            raise DevServerError("value_invalid", "\n       ".join(lines)) from None

    services = (
        edge.compose(chosen("edge", EdgeSettings), memory.edge()),
        router.compose(chosen("router", RouterSettings), memory.router()),
        replay.compose(chosen("replay", ReplaySettings), memory.replay()),
        registry.compose(
            chosen("registry", RegistrySettings),
            memory.connections,
            memory.tenants,
            MemoryLiveStore(memory.live),
            _nothing,
            _nothing,
        ),
    )
    for service in services:
        service.readiness.notes["durability"] = NOTHING_IS_DURABLE
    return services


def tenant_of(given: TenantRecord, jwks: Mapping[str, Any]) -> Tenant:
    """The record of a tenant that the server's key signs for, unless it has keys. Raises InvalidValueError."""
    record = {"tenant": given, "topics": {"log": LOG_TOPIC}} if isinstance(given, str) else dict(given)
    record.setdefault("auth", {"jwks": dict(jwks)})
    return parse_tenant(record)
