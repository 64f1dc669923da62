"""What edges use of what is limited over all of them, in the metadata Redis.

One script does a part of a round: it renews the holder, puts what it told in the place of what it told before, keeps
the totals, and takes off what holders that ran out had told. All keys share one tag: the totals can't come apart.
"""

from collections.abc import Sequence
from itertools import islice

from heliograph.stores import keys
from heliograph.stores.redis.metadata.client import MetadataClient, store_errors
from heliograph.stores.usage import Told, Totals

CHUNK = 500
"""Names of one script call: about a millisecond of Redis."""

REAP = 500
"""Names of a holder that ran out, taken off by one round: of a large edge all are gone within some rounds."""

# KEYS: holders, totals, prefix of a holder's names.
# ARGV: holder, 1 where it begins, ms that it counts for, names to reap at most, number of names told; each name and
# its count; the names asked. Answers nothing where the holder is not known, else the number of holders and each total.
_TELL = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function add(name, by)
  local total = redis.call('HINCRBY', KEYS[2], name, by)
  if total <= 0 then redis.call('HDEL', KEYS[2], name) end
  return total
end

local function change(of, name, count)
  local by = count - (tonumber(redis.call('HGET', of, name) or 0) or 0)
  if by == 0 then return end
  if count > 0 then redis.call('HSET', of, name, count) else redis.call('HDEL', of, name) end
  local total = add(name, by)
  local set = string.match(name, '^(.-)%z')
  if not set then return end
  if total > 0 and total - by <= 0 then add(set, 1) elseif total <= 0 and total - by > 0 then add(set, -1) end
end

local ends = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or 0)
if ends <= now and ARGV[2] ~= '1' then return false end
redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[3]), ARGV[1])

local at = 6
for _ = 1, tonumber(ARGV[5]) do
  change(KEYS[3] .. ARGV[1], ARGV[at], tonumber(ARGV[at + 1]))
  at = at + 2
end

local reap = tonumber(ARGV[4])
if reap > 0 then
  for _, gone in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 1)) do
    local of = KEYS[3] .. gone
    local found = redis.call('HSCAN', of, 0, 'COUNT', reap)[2]
    for index = 1, #found, 2 do change(of, found[index], 0) end
    if redis.call('EXISTS', of) == 0 then redis.call('ZREM', KEYS[1], gone) end
  end
end

local answer = {redis.call('ZCOUNT', KEYS[1], '(' .. string.format('%.0f', now), '+inf')}
for index = at, #ARGV do answer[#answer + 1] = redis.call('HGET', KEYS[2], ARGV[index]) or '0' end
return answer
"""


class RedisUsageStore:
    """`heliograph.stores.usage.UsageStore`."""

    def __init__(self, client: MetadataClient) -> None:
        self._client = client
        self._tell = client.redis.register_script(_TELL)

    async def tell(self, told: Told, ttl_s: float) -> Totals | None:
        counts = iter(told.counts.items())
        chunks = [dict(islice(counts, CHUNK)) for _ in range(0, max(1, len(told.counts)), CHUNK)]
        asked = [told.asked[start : start + CHUNK] for start in range(0, max(1, len(told.asked)), CHUNK)]
        with store_errors("hg:{use}:*"):
            async with self._client.pipeline() as pipeline:
                for number, chunk in enumerate(chunks):
                    await self._queue(pipeline, told, ttl_s, chunk, (), begins=told.begins and number == 0, reap=0)
                for number, names in enumerate(asked):
                    await self._queue(pipeline, told, ttl_s, {}, names, begins=False, reap=REAP if number == 0 else 0)
                answers = await pipeline.execute()
        if any(answer is None for answer in answers):
            return None
        totals = answers[len(chunks) :]
        return Totals(int(totals[0][0]), [max(0, int(count)) for answer in totals for count in answer[1:]])

    async def _queue(
        self,
        pipeline: object,
        told: Told,
        ttl_s: float,
        counts: dict[str, int],
        asked: Sequence[str],
        *,
        begins: bool,
        reap: int,
    ) -> None:
        arguments: list[str | int] = [told.holder, int(begins), max(1, int(ttl_s * 1000)), reap, len(counts)]
        for name, count in counts.items():
            arguments += (name, count)
        await self._tell(
            keys=[keys.USE_HOLDERS, keys.USE_TOTALS, keys.USE_OF], args=[*arguments, *asked], client=pipeline
        )

    async def leave(self, holder: str) -> None:
        """Whoever tells next takes it off."""
        with store_errors(keys.USE_HOLDERS):
            await self._client.redis.zadd(keys.USE_HOLDERS, {holder: 0}, xx=True)
