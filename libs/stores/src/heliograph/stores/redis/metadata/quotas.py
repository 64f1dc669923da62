"""Tenants' token buckets in the token Redis: one hash a bucket, by the clock of Redis."""

import math
from collections.abc import Sequence

from heliograph.core.buckets import Rate
from heliograph.stores import keys
from heliograph.stores.ports import QuotaGrant, QuotaRequest
from heliograph.stores.redis.metadata.client import MetadataClient, store_errors

# KEYS: bucket. ARGV: of messages, then of bytes: wanted, a second (0: unlimited), burst.
# Answers granted messages, granted bytes, seconds until the rest. The rule is heliograph.core.quotas.lease's; a test
# compares them. A field that is no number counts as a full bucket: a quota must not be the end of a tenant.
_LEASE = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local stored = redis.call('HMGET', KEYS[1], 'm', 'b')

local function lease(full_at, wanted, per_s, burst)
  if per_s == 0 then return wanted, now, 0 end
  full_at = math.max(full_at or 0, now)
  local latest = now + burst / per_s + 1e-6
  full_at = math.min(full_at, latest)
  local granted = math.max(0, math.min(wanted, math.floor((latest - full_at) * per_s)))
  full_at = full_at + granted / per_s
  local rest = math.min(wanted - granted, burst)
  local wait = 0
  if rest > 0 then wait = math.max(0, full_at + rest / per_s - latest) end
  return granted, full_at, wait
end

local messages, m, wait = lease(tonumber(stored[1]), tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]))
local bytes, b, bytes_wait = lease(tonumber(stored[2]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]))
redis.call('HSET', KEYS[1], 'm', string.format('%.6f', m), 'b', string.format('%.6f', b))
redis.call('PEXPIRE', KEYS[1], math.ceil((math.max(m, b) - now) * 1000) + 1000)
wait = string.format('%.6f', math.max(wait, bytes_wait))
return {string.format('%.0f', messages), string.format('%.0f', bytes), wait}
"""


class RedisQuotaStore:
    """`heliograph.stores.ports.QuotaStore`."""

    def __init__(self, client: MetadataClient) -> None:
        self._client = client
        self._lease = client.redis.register_script(_LEASE)

    async def lease(self, requests: Sequence[QuotaRequest]) -> list[QuotaGrant]:
        if not requests:
            return []
        with store_errors("hg:quota:*"):
            async with self._client.pipeline() as pipeline:
                for one in requests:
                    arguments = [one.messages, *_rate(one.limits.messages), one.bytes, *_rate(one.limits.bytes)]
                    await self._lease(keys=[keys.quota(one.bucket)], args=arguments, client=pipeline)
                answers = await pipeline.execute()
        return [QuotaGrant(int(messages), int(bytes_), float(wait_s)) for messages, bytes_, wait_s in answers]


def _rate(rate: Rate) -> tuple[str, str]:
    return ("0" if math.isinf(rate.per_s) else repr(float(rate.per_s))), repr(float(rate.burst))
