"""The metadata store in memory: for unit tests, and for a whole system in one process."""

from heliograph.stores.memory.metadata.connections import MemoryConnectionStore
from heliograph.stores.memory.metadata.edge_orders import MemoryEdgeOrders
from heliograph.stores.memory.metadata.expiries import MemorySessionExpiries
from heliograph.stores.memory.metadata.index import MemoryPositionIndex
from heliograph.stores.memory.metadata.leases import MemoryLeases
from heliograph.stores.memory.metadata.quotas import MemoryQuotaStore
from heliograph.stores.memory.metadata.rehydration import MemoryRehydration
from heliograph.stores.memory.metadata.serving import MemoryServeStore
from heliograph.stores.memory.metadata.tenants import MemoryTenantStore
from heliograph.stores.memory.metadata.usage import MemoryUsageStore

__all__ = [
    "MemoryConnectionStore",
    "MemoryEdgeOrders",
    "MemoryLeases",
    "MemoryPositionIndex",
    "MemoryQuotaStore",
    "MemoryRehydration",
    "MemoryServeStore",
    "MemorySessionExpiries",
    "MemoryTenantStore",
    "MemoryUsageStore",
]
