"""Leases in the metadata Redis: who does what, by the store's clock."""

from heliograph.stores import keys
from heliograph.stores.redis.metadata.client import MetadataClient, store_errors

# KEYS: lease. ARGV: holder, time in ms.
_ACQUIRE = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""

# KEYS: lease. ARGV: holder.
_RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
"""


class RedisLeases:
    """`heliograph.stores.ports.Leases`."""

    def __init__(self, client: MetadataClient) -> None:
        self._acquire = client.redis.register_script(_ACQUIRE)
        self._release = client.redis.register_script(_RELEASE)

    async def acquire(self, name: str, holder: str, ttl_s: float) -> bool:
        key = keys.lease(name)
        with store_errors(key):
            return bool(await self._acquire(keys=[key], args=[holder, max(1, int(ttl_s * 1000))]))

    async def release(self, name: str, holder: str) -> None:
        key = keys.lease(name)
        with store_errors(key):
            await self._release(keys=[key], args=[holder])
