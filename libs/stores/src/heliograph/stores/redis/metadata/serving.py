"""Serving in the metadata Redis: what is to be one step is one script; all keys of a kind share a tag.

A session's entry is JSON: `worker` (absent: nobody), `previous`, `fence`, `since`, `taken`, `first`, `last`, `cursor`,
all text.
Loads are counted where sessions are given and given back, so that no worker is ever given more than it offers, even
by two dispatchers at once.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from heliograph.stores import keys
from heliograph.stores.keys import SERVE_TYPES, ServeKeys
from heliograph.stores.ports import DueSession, Order, Served, ServeView, Worker
from heliograph.stores.redis.metadata.announcements import Announcements
from heliograph.stores.redis.metadata.client import MetadataClient, store_errors
from heliograph.stores.registrations import check_edge

BATCH = 500
"""Sessions of one script: some ms of Redis."""

ORDERS_TTL_MS = 60_000
"""Orders are void long before: an edge that is gone leaves none behind."""

ORDERS_AT_ONCE = 200

_COMMON = """
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local workers, load, due, sessions, fences = unpack(KEYS)
local function decoded(text)
  local good, found = pcall(cjson.decode, text or '')
  return good and type(found) == 'table' and found or nil
end
local function entry(session) -- one that can't be read is begun anew
  local found = decoded(redis.call('HGET', sessions, session)) or {}
  if not tonumber(found.fence) then found.fence = '0' end
  found.last, found.cursor = tostring(found.last or ''), tostring(found.cursor or '')
  return found
end
local function capacity(worker)
  local found = decoded(redis.call('HGET', workers, worker))
  return found and tonumber(found.capacity) or -1
end
local function keep(session, found) redis.call('HSET', sessions, session, cjson.encode(found)) end
local function announce(yes)
  if yes then redis.call('PUBLISH', '%(channel)s', string.match(due, '^hg:{serve:(.-)}:')) end
end
""".replace("%(channel)s", SERVE_TYPES)

# ARGV: worker, record (JSON), …
_OFFER = """
local room = false
for i = 1, #ARGV, 2 do
  local record = cjson.decode(ARGV[i + 1])
  record.offered_ms = tonumber(now)
  if capacity(ARGV[i]) < record.capacity then room = true end
  redis.call('HSET', workers, ARGV[i], cjson.encode(record))
end
announce(room and redis.call('EXISTS', due) == 1)
return now
"""

# ARGV: session, position, …
_MARK = """
local fresh = false
for i = 1, #ARGV, 2 do
  local session, position = ARGV[i], ARGV[i + 1]
  local found = entry(session)
  if position > found.cursor then
    if position > found.last then
      if found.last <= found.cursor then found.first = position end
      found.last = position
      found.since = found.since or now
      keep(session, found)
    end
    if not found.worker and redis.call('ZADD', due, 'NX', now, session) == 1 then fresh = true end
  end
end
announce(fresh)
return 1
"""

# ARGV: how many due. Answers: now, workers, loads, and of each due session its name, since, entry.
_VIEW = """
local listed = redis.call('ZRANGE', due, 0, tonumber(ARGV[1]) - 1, 'WITHSCORES')
local answer = {}
for i = 1, #listed, 2 do
  answer[#answer + 1] = listed[i]
  answer[#answer + 1] = listed[i + 1]
  answer[#answer + 1] = redis.call('HGET', sessions, listed[i]) or '{}'
end
return {now, redis.call('HVALS', workers), redis.call('HGETALL', load), answer}
"""

# ARGV: above, session, worker, …. Answers the fences.
_ASSIGN = """
local answer = {}
for i = 2, #ARGV, 2 do
  local session, worker = ARGV[i], ARGV[i + 1]
  local found, given = entry(session), '0'
  local held = tonumber(redis.call('HGET', load, worker) or '0')
  if held < capacity(worker) and not found.worker and redis.call('ZSCORE', due, session) then
    local last = math.max(tonumber(redis.call('GET', fences) or '0'), tonumber(found.fence), tonumber(ARGV[1]))
    local fence = math.max(last + 1, tonumber(now))
    given = string.format('%.0f', fence)
    redis.call('SET', fences, given)
    redis.call('HINCRBY', load, worker, 1)
    redis.call('ZREM', due, session)
    found.worker, found.fence, found.since, found.taken = worker, given, now, nil
    keep(session, found)
  end
  answer[#answer + 1] = given
end
return answer
"""

# ARGV: session, fence, …
_TAKE = """
local answer = {}
for i = 1, #ARGV, 2 do
  local found = entry(ARGV[i])
  local holds = found.worker ~= nil and found.fence == ARGV[i + 1]
  if holds and not found.taken then
    found.taken = '1'
    keep(ARGV[i], found)
  end
  answer[#answer + 1] = holds and 1 or 0
end
return answer
"""

# ARGV: session, fence, cursor or '', …
_RELEASE = """
local answer, room = {}, false
for i = 1, #ARGV, 3 do
  local session, cursor = ARGV[i], ARGV[i + 2]
  local found = entry(session)
  local holds = found.worker ~= nil and found.fence == ARGV[i + 1]
  if holds then
    if redis.call('HEXISTS', workers, found.worker) == 1 then redis.call('HINCRBY', load, found.worker, -1) end
    found.worker, found.previous, found.since, found.taken = nil, found.worker, now, nil
    if cursor > found.cursor then found.cursor = cursor end
    if found.last > found.cursor then redis.call('ZADD', due, now, session) end
    keep(session, found)
    room = true
  end
  answer[#answer + 1] = holds and 1 or 0
end
announce(room and redis.call('EXISTS', due) == 1)
return answer
"""

# ARGV: before (ms), session, …
_PRUNE = """
local gone = 0
for i = 2, #ARGV do
  local found = entry(ARGV[i])
  if not found.worker and found.since and tonumber(found.since) < tonumber(ARGV[1])
      and not redis.call('ZSCORE', due, ARGV[i]) then
    gone = gone + redis.call('HDEL', sessions, ARGV[i])
  end
end
return gone
"""


# KEYS: workers, load. ARGV: worker, …
_LEAVE = """
for i = 1, #ARGV do
  redis.call('HDEL', KEYS[1], ARGV[i])
  redis.call('HDEL', KEYS[2], ARGV[i])
end
return 1
"""

# KEYS: orders to an edge. ARGV: time in ms, order (JSON), …
_ORDER = """
for i = 2, #ARGV do redis.call('RPUSH', KEYS[1], ARGV[i]) end
return redis.call('PEXPIRE', KEYS[1], ARGV[1])
"""


class _Entry(Struct):
    """A session's entry, as it is stored."""

    fence: int = 0
    first: str = ""
    last: str = ""
    cursor: str = ""
    since: int = 0
    worker: str | None = None
    previous: str | None = None
    taken: str = ""


T = TypeVar("T")

_worker_decoder = msgspec.json.Decoder(Worker)
_entry_decoder = msgspec.json.Decoder(_Entry, strict=False)  # numbers are text: Lua's would lose their last digits
_order_decoder = msgspec.json.Decoder(Order)
_encode = msgspec.json.Encoder().encode


class RedisServeStore:
    """`heliograph.stores.ports.ServeStore`."""

    def __init__(self, client: MetadataClient) -> None:
        self._client = client
        register = client.redis.register_script
        self._leave = register(_LEAVE)
        self._order = register(_ORDER)
        self._offer = register(_COMMON + _OFFER)
        self._mark = register(_COMMON + _MARK)
        self._view = register(_COMMON + _VIEW)
        self._assign = register(_COMMON + _ASSIGN)
        self._take = register(_COMMON + _TAKE)
        self._release = register(_COMMON + _RELEASE)
        self._prune = register(_COMMON + _PRUNE)
        self._announced: set[str] = set()
        self._heard = asyncio.Event()
        self._announcements = Announcements(client, SERVE_TYPES, self._hear)
        self.corrupt_records = 0
        """Workers, entries and orders that could not be read, and were left out: one must not hide the others."""

    async def close(self) -> None:
        await self._announcements.close()

    # ---- kinds ----

    async def kinds(self) -> dict[str, int]:
        with store_errors(SERVE_TYPES):
            listed = await self._client.redis.zrange(SERVE_TYPES, 0, -1, withscores=True)
        return {name.decode(): int(score) for name, score in listed}

    async def keep(self, kind: str) -> None:
        with store_errors(SERVE_TYPES):
            await self._client.redis.zadd(SERVE_TYPES, {kind: await self._client.now_ms(SERVE_TYPES)})

    async def forget(self, kind: str) -> None:
        found = ServeKeys.of(kind)
        with store_errors(SERVE_TYPES):
            await self._client.redis.zrem(SERVE_TYPES, kind)
            # The fence stays behind the clock, which no new one is below.
            await self._client.redis.unlink(found.workers, found.load, found.due, found.sessions, found.fence)

    # ---- workers ----

    async def offer(self, kind: str, workers: Sequence[Worker]) -> None:
        for worker in workers:
            check_edge(worker.edge)
        flat = [text for worker in workers for text in (worker.name, _encode(worker))]
        found = ServeKeys.of(kind)
        with store_errors(found.workers):
            now = await self._offer(keys=_all(found), args=flat)
            await self._client.redis.zadd(SERVE_TYPES, {kind: int(now)})

    async def known(self, kind: str, workers: Sequence[str]) -> list[bool]:
        key = ServeKeys.of(kind).workers
        with store_errors(key):
            return [record is not None for record in await self._client.redis.hmget(key, workers)]

    async def leave(self, kind: str, workers: Sequence[str]) -> None:
        found = ServeKeys.of(kind)
        with store_errors(found.workers):
            await self._leave(keys=[found.workers, found.load], args=workers)

    # ---- sessions ----

    async def mark(self, kind: str, positions: Mapping[str, str]) -> None:
        found, flat = ServeKeys.of(kind), [text for pair in positions.items() for text in pair]
        with store_errors(found.sessions):
            for start in range(0, len(flat), 2 * BATCH):
                await self._mark(keys=_all(found), args=flat[start : start + 2 * BATCH])

    async def view(self, kind: str, limit: int) -> ServeView:
        found = ServeKeys.of(kind)
        with store_errors(found.workers):
            now, records, loads, listed = await self._view(keys=_all(found), args=[limit])
        held = {name.decode(): int(count) for name, count in zip(loads[::2], loads[1::2], strict=True)}
        workers = []
        for record in records:
            worker = self._decoded(_worker_decoder, record)
            if worker is not None:
                workers.append((worker, held.get(worker.name, 0)))
        due = []
        for name, since, text in zip(listed[::3], listed[1::3], listed[2::3], strict=True):
            entry = self._decoded(_entry_decoder, text) or _Entry()
            due.append(
                DueSession(name.decode(), int(float(since)), entry.first, entry.last, entry.cursor, entry.previous)
            )
        return ServeView(workers, due, int(now))

    async def assign(self, kind: str, pairs: Sequence[tuple[str, str]], above: int = 0) -> list[int]:
        return [int(fence) for fence in await self._leases(self._assign, kind, pairs, above)]

    async def take(self, kind: str, leases: Sequence[tuple[str, int]]) -> list[bool]:
        return [bool(holds) for holds in await self._leases(self._take, kind, leases)]

    async def release(self, kind: str, leases: Sequence[tuple[str, int, str]]) -> list[bool]:
        return [bool(held) for held in await self._leases(self._release, kind, leases)]

    async def _leases(
        self,
        script: Any,
        kind: str,
        rows: Sequence[tuple[str, str]] | Sequence[tuple[str, int]] | Sequence[tuple[str, int, str]],
        *first: int,
    ) -> list[bytes]:
        found, answers = ServeKeys.of(kind), list[bytes]()
        with store_errors(found.sessions):
            for start in range(0, len(rows), BATCH):
                flat = [value for row in rows[start : start + BATCH] for value in row]
                answers += await script(keys=_all(found), args=[*first, *flat])
        return answers

    async def sessions(self, kind: str, cursor: int = 0) -> tuple[int, list[Served]]:
        key, found = ServeKeys.of(kind).sessions, list[Served]()
        with store_errors(key):
            cursor, listed = await self._client.redis.hscan(key, cursor, count=BATCH)
        for name, text in listed.items():
            entry = self._decoded(_entry_decoder, text)
            if entry is not None:
                session, taken = name.decode(), entry.taken == "1"
                found.append(Served(session, entry.worker, entry.fence, entry.since, taken, entry.last, entry.cursor))
        return int(cursor), found

    async def prune(self, kind: str, sessions: Sequence[str], before_ms: int) -> int:
        found, gone = ServeKeys.of(kind), 0
        with store_errors(found.sessions):
            for start in range(0, len(sessions), BATCH):
                gone += await self._prune(keys=_all(found), args=[before_ms, *sessions[start : start + BATCH]])
        return gone

    # ---- orders ----

    async def order(self, edge: str, orders: Sequence[Order]) -> None:
        key = keys.edge_orders(check_edge(edge))
        with store_errors(key):
            await self._order(keys=[key], args=[ORDERS_TTL_MS, *(_encode(order) for order in orders)])

    async def orders(self, edge: str, wait_s: float) -> list[Order]:
        key = keys.edge_orders(check_edge(edge))
        with store_errors(key):
            taken = await self._client.redis.blmpop(wait_s, 1, key, direction="LEFT", count=ORDERS_AT_ONCE)
        found = [self._decoded(_order_decoder, text) for text in (taken[1] if taken else ())]
        return [order for order in found if order is not None]

    async def changed(self, wait_s: float) -> set[str]:
        self._announcements.listen()
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._heard.wait()
        self._heard.clear()
        announced, self._announced = self._announced, set()
        return announced

    def _hear(self, kind: str) -> None:
        self._announced.add(kind)
        self._heard.set()

    def _decoded(self, decoder: "msgspec.json.Decoder[T]", text: bytes) -> T | None:
        try:
            return decoder.decode(text)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            self.corrupt_records += 1
            return None


def _all(found: ServeKeys) -> list[str]:
    return [found.workers, found.load, found.due, found.sessions, found.fence]
