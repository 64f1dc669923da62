"""Edges' leases and connections in the metadata Redis.

The lease is the store's: it runs out by the clock of Redis, and what an edge registered counts only while it holds. A
lease carries a generation that the edge learns from the answer, so that an edge whose first renewal was carried out
but never answered is told again to register everything.

A lease that ran out stays written, and what was registered under it, until somebody buries it: then its connections
can be told as lost, by whoever comes to it first. Nothing that is said about a lapsed lease can touch an edge that is
back: its renewal changed the lease, and names in hash and lists carry the registration that they are of.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec

from heliograph.core.errors import InvalidValueError
from heliograph.stores import keys
from heliograph.stores.ports import Connection, EdgeLease
from heliograph.stores.redis.metadata.client import MetadataClient, store_errors
from heliograph.stores.registrations import check_edge, member, named, past, registered, scopes

MEMBERS = 1_000
"""Of one session's list in one reply: some 60 KB."""

BATCH = 100
"""Connections of one pipeline; with 1,000 subscriptions each that is some 10 MB, with the usual few some 50 KB."""

# KEYS: lease of an edge. ARGV: incarnation, generation that the edge knows, time in ms, lease (JSON).
# Answers: whether it was known, generation, end of the lease in ms.
_RENEW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ends = string.format('%.0f', now + tonumber(ARGV[3]))
local stored = redis.call('HMGET', KEYS[1], 'incarnation', 'generation', 'ends_ms')
local known = stored[1] == ARGV[1] and stored[2] == ARGV[2] and (tonumber(stored[3]) or 0) > now
local generation = ARGV[2]
if not known then generation = time[1] .. '.' .. time[2] end
redis.call('HSET', KEYS[1], 'incarnation', ARGV[1], 'generation', generation, 'ends_ms', ends, 'lease_ms', ARGV[3],
  'lease', ARGV[4])
return {known and 1 or 0, generation, ends}
"""

# KEYS: lease of an edge. ARGV: incarnation (empty: it could not be read) and end of a lease as it was read. Deletes it
# where it is that still, and ran out; answers whether nothing is left of it.
_BURY_LEASE = """
local time = redis.call('TIME')
local stored = redis.call('HMGET', KEYS[1], 'incarnation', 'ends_ms')
if not stored[1] then return 1 end
local lapsed = (tonumber(stored[2]) or 0) <= time[1] * 1000 + math.floor(time[2] / 1000)
local same = ARGV[1] == '' or stored[1] == ARGV[1]
if not same or stored[2] ~= ARGV[2] or not lapsed then return 0 end
redis.call('DEL', KEYS[1])
return 1
"""

# KEYS: edges. ARGV: edge, end of its lease. Answers whether it was listed with that end, and is no longer.
_UNLIST = """
if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or -1) ~= tonumber(ARGV[2]) then return 0 end
return redis.call('ZREM', KEYS[1], ARGV[1])
"""

_encode = msgspec.json.Encoder().encode
_lease_decoder = msgspec.json.Decoder(EdgeLease)
_connection_decoder = msgspec.json.Decoder(Connection)


class RedisConnectionStore:
    """`heliograph.stores.ports.ConnectionStore`."""

    def __init__(self, client: MetadataClient) -> None:
        self._client = client
        self._renew = client.redis.register_script(_RENEW)
        self._bury_lease = client.redis.register_script(_BURY_LEASE)
        self._unlist = client.redis.register_script(_UNLIST)
        self._generations: dict[tuple[str, str], str] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self.corrupt_records = 0
        """Leases and connections that could not be read, and were left out: one must not hide the others."""

    async def renew(self, lease: EdgeLease, ttl_s: float) -> bool:
        """Where it answers False, nothing that the edge registered before is left."""
        key, ttl_ms = keys.edge(check_edge(lease.edge)), max(1, int(ttl_s * 1000))
        told = self._generations.get((lease.edge, lease.incarnation), "")
        async with self._lock(lease.edge):
            with store_errors(key):
                known, generation, ends = await self._renew(
                    keys=[key], args=[lease.incarnation, told, ttl_ms, _encode(lease)]
                )
                await self._client.redis.zadd(keys.EDGES, {lease.edge: int(ends)})
            if not known:
                await self._forget_connections(lease.edge)
                for name in [name for name in self._generations if name[0] == lease.edge]:
                    del self._generations[name]
                self._generations[lease.edge, lease.incarnation] = generation.decode()
        return bool(known)

    async def release(self, edge: str) -> None:
        check_edge(edge)
        async with self._lock(edge):
            with store_errors(keys.edge(edge)):
                await self._client.redis.delete(keys.edge(edge))  # first, so that nobody is found on it any more
            await self._forget_connections(edge)
            with store_errors(keys.EDGES):
                await self._client.redis.zrem(keys.EDGES, edge)
            for name in [name for name in self._generations if name[0] == edge]:
                del self._generations[name]

    async def update(self, edge: str, changed: Sequence[Connection], gone: Sequence[Connection]) -> None:
        check_edge(edge)
        latest: dict[str, Connection | None] = {registered(connection): connection for connection in changed}
        latest.update({registered(connection): None for connection in gone})
        declared = {registered(connection): scopes(connection) for connection in gone}
        names = list(latest)
        async with self._lock(edge):
            for start in range(0, len(names), BATCH):
                await self._update(edge, {name: latest[name] for name in names[start : start + BATCH]}, declared)

    async def _update(self, edge: str, batch: dict[str, Connection | None], declared: dict[str, set[str]]) -> None:
        key = keys.edge_connections(edge)
        with store_errors(key):
            stored = await self._client.redis.hmget(key, list(batch))
            listed, unlisted = defaultdict[str, dict[str, float]](dict), defaultdict[str, list[str]](list)
            for (name, connection), record in zip(batch.items(), stored, strict=True):
                before = _scopes_of(record)
                if connection is None:
                    before |= declared[name]
                after = scopes(connection) if connection is not None else set()
                for scope in after - before:
                    listed[scope][member(edge, name)] = 0
                for scope in before - after:
                    unlisted[scope].append(member(edge, name))
            async with self._client.pipeline() as pipeline:
                for scope, members in listed.items():
                    pipeline.zadd(keys.where(scope), members)
                for scope, names in unlisted.items():
                    pipeline.zrem(keys.where(scope), *names)
                await pipeline.execute()
            # The records come last, and by themselves since lists may be on other nodes: they say what is listed, so a
            # batch that broke off is repaired by the next.
            records: dict[
                Any, bytes
            ] = {  # Any: redis-py takes no dict of plain text here, though that is what it is for
                name: _encode(connection) for name, connection in batch.items() if connection is not None
            }
            gone = [name for name, connection in batch.items() if connection is None]
            async with self._client.pipeline() as pipeline:
                if records:
                    pipeline.hset(key, mapping=records)
                if gone:
                    pipeline.hdel(key, *gone)
                await pipeline.execute()

    async def edges(self) -> list[EdgeLease]:
        redis = self._client.redis
        with store_errors(keys.EDGES):
            now_ms = await self._client.now_ms(keys.EDGES)
            names = [name.decode() for name in await redis.zrangebyscore(keys.EDGES, now_ms, "+inf")]
        leases = await self._held(names)
        return [lease for name in names if (lease := leases[name]) is not None]

    async def lease(self, edge: str) -> EdgeLease | None:
        return (await self._leases([check_edge(edge)]))[1][edge]

    async def lapsed(self) -> list[EdgeLease]:
        redis = self._client.redis
        with store_errors(keys.EDGES):
            now_ms = await self._client.now_ms(keys.EDGES)
            listed = await redis.zrangebyscore(keys.EDGES, "-inf", now_ms, withscores=True)
        names = {name.decode(): int(ends_ms) for name, ends_ms in listed}
        now_ms, leases = await self._leases(list(names))
        found = [leases[name] or _nameless(name, ends_ms) for name, ends_ms in names.items()]
        return [lease for lease in found if lease.ends_ms <= now_ms]

    async def left_behind(self, lease: EdgeLease, limit: int) -> list[Connection]:
        key, cursor, found = keys.edge_connections(lease.edge), 0, list[Connection]()
        with store_errors(key):
            while not found:
                cursor, listed = await self._client.redis.hscan(key, cursor, count=limit)
                for name, record in listed.items():
                    connection = _connection(record)
                    if connection is not None and registered(connection) == name.decode(errors="replace"):
                        found.append(connection)
                    else:
                        self.corrupt_records += 1
                        await self._client.redis.hdel(key, name)
                if cursor == 0:
                    break
        # Read after the connections: an edge that registers anew renews its lease first.
        stored = await self.lease(lease.edge) or _nameless(lease.edge, lease.ends_ms)
        return found if (stored.incarnation, stored.ends_ms) == (lease.incarnation, lease.ends_ms) else []

    async def remove(self, lease: EdgeLease, lost: Sequence[Connection]) -> list[bool]:
        key, removed = keys.edge_connections(lease.edge), list[bool]()
        for start in range(0, len(lost), BATCH):
            batch = lost[start : start + BATCH]
            with store_errors(key):
                unlisted = defaultdict[str, list[str]](list)
                for connection in batch:
                    for scope in scopes(connection):
                        unlisted[scope].append(member(lease.edge, registered(connection)))
                async with self._client.pipeline() as pipeline:
                    for scope, names in unlisted.items():
                        pipeline.zrem(keys.where(scope), *names)
                    await pipeline.execute()  # the record says what is listed: it goes last
                async with self._client.pipeline() as pipeline:
                    for connection in batch:
                        pipeline.hdel(key, registered(connection))
                    removed += [gone == 1 for gone in await pipeline.execute()]
        return removed

    async def bury(self, lease: EdgeLease) -> bool:
        with store_errors(keys.edge(lease.edge)):
            if not await self._bury_lease(keys=[keys.edge(lease.edge)], args=[lease.incarnation, lease.ends_ms]):
                return False
            return bool(await self._unlist(keys=[keys.EDGES], args=[lease.edge, lease.ends_ms]))

    async def connections(self, scope: str, limit: int, after: str = "") -> list[tuple[EdgeLease, Connection]]:
        """An edge that was lost leaves names behind until it is reaped: they are read past."""
        key, found = keys.where(scope), list[tuple[EdgeLease, Connection]]()
        leases: dict[str, EdgeLease | None] = {}
        while len(found) < limit:
            with store_errors(key):
                minimum = f"({past(after)}" if after else "-"
                listed = await self._client.redis.zrangebylex(key, minimum, "+", start=0, num=max(limit, BATCH))
            if not listed:
                break
            names = [name.decode(errors="replace") for name in listed]
            after = named(names[-1])
            unknown = {name.partition("/")[0] for name in names} - leases.keys()
            leases.update(await self._held(sorted(unknown)))
            held = [name for name in names if leases[name.partition("/")[0]] is not None]
            for name, connection in zip(held, await self._records(held), strict=True):
                lease = leases[name.partition("/")[0]]
                if lease is not None and connection is not None and scope in scopes(connection):
                    found.append((lease, connection))
            if len(listed) < max(limit, BATCH):
                break
        return found[:limit]

    async def agents(self, sessions: Sequence[str], besides: str) -> list[set[tuple[str, str | None]]]:
        """Where nobody is subscribed but through `besides`, as is usual when that edge is lost, a line read is all."""
        found: list[set[tuple[str, str | None]]] = [set() for _ in sessions]
        wanted = dict.fromkeys(range(len(sessions)), "-")
        """Session → from where its list is to be read on."""
        while wanted:
            with store_errors("hg:where:*"):
                async with self._client.pipeline() as pipeline:
                    for index, minimum in wanted.items():
                        pipeline.zrangebylex(keys.where(sessions[index]), minimum, "+", start=0, num=MEMBERS)
                    pages = await pipeline.execute()
            listed: list[tuple[int, str]] = []
            for (index, _), page in zip(list(wanted.items()), pages, strict=True):
                names = [name.decode(errors="replace") for name in page]
                listed += [(index, name) for name in names if name.partition("/")[0] != besides]
                if len(names) < MEMBERS:
                    del wanted[index]
                else:
                    wanted[index] = f"({names[-1]}"
            leases = await self._held(sorted({name.partition("/")[0] for _, name in listed}))
            listed = [(index, name) for index, name in listed if leases[name.partition("/")[0]] is not None]
            records = await self._records([name for _, name in listed])
            for (index, _), connection in zip(listed, records, strict=True):
                if connection is not None and sessions[index] in connection.sessions:
                    found[index].add((connection.subject, connection.agent))
        return found

    async def counts(self, tenants: Sequence[str]) -> list[int]:
        with store_errors("hg:where:*"):
            async with self._client.pipeline() as pipeline:
                for tenant in tenants:
                    pipeline.zcard(keys.where(tenant))
                counts: list[int] = await pipeline.execute()
        return counts

    async def _held(self, edges: Sequence[str]) -> dict[str, EdgeLease | None]:
        """Those leases that have not run out."""
        now_ms, leases = await self._leases(edges)
        return {edge: lease if lease and lease.ends_ms > now_ms else None for edge, lease in leases.items()}

    async def _leases(self, edges: Sequence[str]) -> tuple[int, dict[str, EdgeLease | None]]:
        """The store's time in ms, and leases as they are written."""
        if not edges:
            return 0, {}
        with store_errors("hg:edge:*"):
            async with self._client.pipeline() as pipeline:
                pipeline.time()
                for edge in edges:
                    pipeline.hmget(keys.edge(edge), "lease", "ends_ms", "lease_ms")
                (seconds, micros), *answers = await pipeline.execute()
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        return now_ms, {edge: self._lease(*answer) for edge, answer in zip(edges, answers, strict=True)}

    async def _records(self, members: Sequence[str]) -> list[Connection | None]:
        if not members:
            return []
        with store_errors("hg:edge:*:connections"):
            async with self._client.pipeline() as pipeline:
                for name in members:
                    edge, _, connection = name.partition("/")
                    pipeline.hget(keys.edge_connections(edge), connection)
                answers: list[bytes | None] = await pipeline.execute()
        found = [_connection(answer) for answer in answers]
        self.corrupt_records += sum(
            answer is not None and read is None for answer, read in zip(answers, found, strict=True)
        )
        return found

    def _lease(self, stored: bytes | None, ends_ms: bytes | None, lease_ms: bytes | None) -> EdgeLease | None:
        if stored is None or ends_ms is None:
            return None
        try:
            lease = _lease_decoder.decode(stored)
            lease.ends_ms, lease.lease_ms = int(ends_ms), int(lease_ms or 0)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            self.corrupt_records += 1
            return None
        return lease

    async def _forget_connections(self, edge: str) -> None:
        key, cursor = keys.edge_connections(edge), 0
        with store_errors(key):
            while True:
                cursor, listed = await self._client.redis.hscan(key, cursor, count=BATCH)
                async with self._client.pipeline() as pipeline:
                    for name, record in listed.items():
                        for scope in sorted(_scopes_of(record)):
                            pipeline.zrem(keys.where(scope), member(edge, name.decode()))
                    await pipeline.execute()
                if cursor == 0:
                    await self._client.redis.delete(key)
                    return

    def _lock(self, edge: str) -> asyncio.Lock:
        return self._locks.setdefault(edge, asyncio.Lock())


def _nameless(edge: str, ends_ms: int) -> EdgeLease:
    """What stands for a lease that is listed but can't be read: somebody was about to bury it, or it is corrupt."""
    return EdgeLease(edge, "", "", 0, 0, ends_ms)


def _connection(record: bytes | None) -> Connection | None:
    if record is None:
        return None
    try:
        connection = _connection_decoder.decode(record)
        scopes(connection)
    except (msgspec.MsgspecError, InvalidValueError, ValueError, RecursionError):
        return None
    return connection


def _scopes_of(record: bytes | None) -> set[str]:
    """The scopes of a stored record; none of one that can't be read (what it was listed under is read past)."""
    connection = _connection(record)
    return scopes(connection) if connection is not None else set()
