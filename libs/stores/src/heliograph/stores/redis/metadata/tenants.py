"""Tenant records in the metadata Redis, and what changed since when.

A change is one script: record, version and the tenant's place among the changes move together, so whoever saw version
N and asks for changes since N can't miss one. Versions begin at the store's clock: a store that lost its data goes on
above what services remember, and they notice.
"""

import msgspec

from heliograph.core.sessions import check_label
from heliograph.protocol.tenants import decode_tenant
from heliograph.stores.keys import TENANT_CHANGES, TENANT_OWNERS, TENANTS, TENANTS_TAKEN, TENANTS_VERSION
from heliograph.stores.ports import CorruptError, Owner
from heliograph.stores.redis.metadata.client import MetadataClient, store_errors

RECORDS_PER_READ = 200
"""Records are a few KB: a reply stays below a MB."""

# KEYS: records, changes, version. ARGV: tenant, record ('' deletes), what must be there now ('': nothing; not given:
# whatever). Answers the version, or nothing where something else is there.
_CHANGE = """
if ARGV[3] and (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[3] then return false end
local time = redis.call('TIME')
local version = tonumber(redis.call('GET', KEYS[3]) or '0') + 1
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if version < now then version = now end
local text = string.format('%.0f', version)
redis.call('ZADD', KEYS[2], text, ARGV[1])
if ARGV[2] == '' then
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
end
redis.call('SET', KEYS[3], text)
return text
"""

# KEYS: changes, version. ARGV: since. Answers the version and the tenants that changed.
_CHANGES = """
return {redis.call('GET', KEYS[2]) or '', redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. ARGV[1], '+inf')}
"""

# KEYS: taken. ARGV: service, version, time in ms.
_TAKE = """
local time = redis.call('TIME')
local ends = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[3])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. string.format('%.0f', ends))
return 1
"""

# KEYS: taken. ARGV: version. Answers the services; those that no longer run are forgotten.
_BEHIND = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local all, behind = redis.call('HGETALL', KEYS[1]), {}
for i = 1, #all, 2 do
  local version, ends = string.match(all[i + 1], '^(%d+) (%d+)$')
  if not ends or tonumber(ends) <= now then
    redis.call('HDEL', KEYS[1], all[i])
  elseif tonumber(version) < tonumber(ARGV[1]) then
    behind[#behind + 1] = all[i]
  end
end
return behind
"""

# KEYS: owners. ARGV: tenant, what must be there now ('': nothing), what is to be there.
_OWN = """
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return 0 end
if ARGV[3] == '' then redis.call('HDEL', KEYS[1], ARGV[1]) else redis.call('HSET', KEYS[1], ARGV[1], ARGV[3]) end
return 1
"""

_encode = msgspec.json.Encoder(order="deterministic").encode
_owner = msgspec.json.Decoder(Owner)

_KEYS = (TENANTS, TENANT_CHANGES, TENANTS_VERSION)


class RedisTenantStore:
    """`heliograph.stores.ports.TenantStore`."""

    def __init__(self, client: MetadataClient) -> None:
        self._client = client
        self._change = client.redis.register_script(_CHANGE)
        self._changes = client.redis.register_script(_CHANGES)
        self._take = client.redis.register_script(_TAKE)
        self._behind = client.redis.register_script(_BEHIND)
        self._own = client.redis.register_script(_OWN)

    async def put(self, tenant: str, record: bytes) -> int:
        check_label("tenant", tenant)
        with store_errors(TENANTS):
            return int(await self._change(keys=_KEYS, args=(tenant, record)))

    async def replace(self, tenant: str, before: bytes | None, record: bytes) -> bool:
        check_label("tenant", tenant)
        with store_errors(TENANTS):
            return await self._change(keys=_KEYS, args=(tenant, record, before or b"")) is not None

    async def get(self, tenant: str) -> bytes | None:
        """Raises CorruptError where the stored record is none of this tenant."""
        with store_errors(TENANTS):
            record: bytes | None = await self._client.redis.hget(TENANTS, tenant)
        if record is not None:
            _check(tenant, record)
        return record

    async def delete(self, tenant: str) -> None:
        check_label("tenant", tenant)
        with store_errors(TENANTS):
            await self._change(keys=_KEYS, args=(tenant, b""))

    async def version(self) -> int:
        with store_errors(TENANTS_VERSION):
            return _version(await self._client.redis.get(TENANTS_VERSION))

    async def changes(self, since: int) -> tuple[int, dict[str, bytes | None]]:
        """Records as they are stored: one that is corrupt is found by who decodes it, beside the others.

        The version is read with the list of changes, records after it: they may be newer than the version says, and
        then come once more. A version below `since` means that the store lost its data: all that it has is returned.
        """
        redis = self._client.redis
        with store_errors(TENANT_CHANGES):
            stored, names = await self._changes(keys=[TENANT_CHANGES, TENANTS_VERSION], args=[since])
            version = _version(stored)
            if version < since:
                names = await redis.zrange(TENANT_CHANGES, 0, -1)
            found: dict[str, bytes | None] = {}
            for start in range(0, len(names), RECORDS_PER_READ):
                chunk = names[start : start + RECORDS_PER_READ]
                for name, record in zip(chunk, await redis.hmget(TENANTS, chunk), strict=True):
                    found[name.decode(errors="replace")] = record
        return version, found

    async def taken_up(self, service: str, version: int, ttl_s: float) -> None:
        with store_errors(TENANTS_TAKEN):
            await self._take(keys=[TENANTS_TAKEN], args=[service, version, max(1, int(ttl_s * 1000))])

    async def behind(self, version: int) -> list[str]:
        with store_errors(TENANTS_TAKEN):
            found = await self._behind(keys=[TENANTS_TAKEN], args=[version])
        return sorted(service.decode(errors="replace") for service in found)

    async def owner(self, tenant: str) -> Owner | None:
        with store_errors(TENANT_OWNERS):
            found: bytes | None = await self._client.redis.hget(TENANT_OWNERS, tenant)
        if found is None:
            return None
        try:
            owner: Owner = _owner.decode(found)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise CorruptError(f"{TENANT_OWNERS} {tenant}", "names no owner") from None
        return owner

    async def own(self, tenant: str, before: Owner | None, after: Owner | None) -> bool:
        check_label("tenant", tenant)
        given = [b"" if one is None else _encode(one) for one in (before, after)]
        with store_errors(TENANT_OWNERS):
            return bool(await self._own(keys=[TENANT_OWNERS], args=[tenant, *given]))


def _version(stored: bytes | None) -> int:
    try:
        return int(stored or 0)
    except ValueError:
        raise CorruptError(TENANTS_VERSION, "is no number") from None


def _check(tenant: str, record: bytes) -> None:
    try:
        name = decode_tenant(record).tenant
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise CorruptError(f"{TENANTS} {tenant}", "is no tenant record") from None
    if name != tenant:
        raise CorruptError(f"{TENANTS} {tenant}", "is the record of another tenant")
