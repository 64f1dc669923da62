"""When sessions' messages are forgotten, in the metadata Redis.

The state is written before the tenant's version: who sees the version finds the state. Where that breaks off between
the two, whoever asked is told so and asks again; and the record in the log makes a router do the same.
"""

import re
from collections.abc import Sequence

from heliograph.core.expiry import Expiry
from heliograph.core.sessions import SessionKey
from heliograph.stores.keys import EXPIRY_VERSIONS, expiry
from heliograph.stores.ports import CorruptError
from heliograph.stores.redis.metadata.client import MetadataClient, store_errors

SCAN_COUNT = 500
"""Fields looked at in one step of `forget`."""

_VALUE = re.compile(rb"([0-9]{1,15}) ([0-9]{1,15}) ([0-9]{1,15})")

# `Expiry.merged`. KEYS: the tenant's states. ARGV: session, expires at, set at, floor. What can't be read is replaced.
_PUT = """
local at, set, floor = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local known = redis.call('HGET', KEYS[1], ARGV[1])
if known then
  local a, s, f = string.match(known, '^(%d+) (%d+) (%d+)$')
  if a then
    a, s, f = tonumber(a), tonumber(s), tonumber(f)
    if s > set or (s == set and a > at) then at, set = a, s end
    if f > floor then floor = f end
  end
end
local value = string.format('%.0f %.0f %.0f', at, set, floor)
redis.call('HSET', KEYS[1], ARGV[1], value)
return value
"""

# KEYS: versions. ARGV: tenant. A store that lost its data goes on above what services remember.
_CHANGED = """
local time = redis.call('TIME')
local version = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or '0') + 1
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if version < now then version = now end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', version))
return 1
"""

# Only where the state is still what was found. KEYS: the tenant's states. ARGV: session, its state.
_DROP = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
return redis.call('HDEL', KEYS[1], ARGV[1])
"""


class RedisSessionExpiries:
    """`heliograph.stores.ports.SessionExpiries`."""

    def __init__(self, client: MetadataClient) -> None:
        self._client = client
        self._put = client.redis.register_script(_PUT)
        self._changed = client.redis.register_script(_CHANGED)
        self._drop = client.redis.register_script(_DROP)

    async def put(self, session: str, state: Expiry) -> Expiry:
        tenant = SessionKey.parse(session).tenant
        key = expiry(tenant)
        given = (session, state.expires_at_ms, state.set_at_ms, state.floor_ms)
        with store_errors(key):
            stored = await self._put(keys=[key], args=given)
        with store_errors(EXPIRY_VERSIONS):
            await self._changed(keys=[EXPIRY_VERSIONS], args=[tenant])
        return _state(key, stored)

    async def get(self, sessions: Sequence[str]) -> list[Expiry | None]:
        keys = [expiry(session.partition(":")[0]) for session in sessions]
        with store_errors("hg:expiry:*"):
            async with self._client.pipeline() as pipeline:
                for key, session in zip(keys, sessions, strict=True):
                    pipeline.hget(key, session)
                found = await pipeline.execute()
        return [None if value is None else _state(key, value) for key, value in zip(keys, found, strict=True)]

    async def versions(self) -> dict[str, int]:
        with store_errors(EXPIRY_VERSIONS):
            found = await self._client.redis.hgetall(EXPIRY_VERSIONS)
        try:
            return {tenant.decode(): int(version) for tenant, version in found.items()}
        except ValueError:
            raise CorruptError(EXPIRY_VERSIONS, "holds what is no version") from None

    async def forget(self, tenant: str, before_ms: int) -> int:
        key, cursor, gone = expiry(tenant), 0, 0
        with store_errors(key):
            while True:
                cursor, found = await self._client.redis.hscan(key, cursor, count=SCAN_COUNT)
                for session, value in found.items():
                    match = _VALUE.fullmatch(value)
                    if match is not None and max(int(match[1]), int(match[3])) < before_ms:
                        gone += await self._drop(keys=[key], args=[session, value])
                if cursor == 0:
                    return gone


def _state(key: str, value: bytes) -> Expiry:
    match = _VALUE.fullmatch(value)
    if match is None:
        raise CorruptError(key, "holds what is no expiry")
    return Expiry(int(match[1]), int(match[2]), int(match[3]))
