"""The metadata store on Redis: everything that is not the live path's."""

from heliograph.stores.redis.metadata.client import MetadataClient
from heliograph.stores.redis.metadata.connections import RedisConnectionStore
from heliograph.stores.redis.metadata.edge_orders import RedisEdgeOrders
from heliograph.stores.redis.metadata.expiries import RedisSessionExpiries
from heliograph.stores.redis.metadata.index import RedisPositionIndex
from heliograph.stores.redis.metadata.leases import RedisLeases
from heliograph.stores.redis.metadata.quotas import RedisQuotaStore
from heliograph.stores.redis.metadata.rehydration import RedisRehydration
from heliograph.stores.redis.metadata.serving import RedisServeStore
from heliograph.stores.redis.metadata.tenants import RedisTenantStore
from heliograph.stores.redis.metadata.usage import RedisUsageStore

__all__ = [
    "MetadataClient",
    "RedisConnectionStore",
    "RedisEdgeOrders",
    "RedisLeases",
    "RedisPositionIndex",
    "RedisQuotaStore",
    "RedisRehydration",
    "RedisServeStore",
    "RedisSessionExpiries",
    "RedisTenantStore",
    "RedisUsageStore",
]
