"""What a live store on Redis is asked, and answers without changing anything: heads, windows, cursors, its load."""

import asyncio
from collections.abc import Sequence
from typing import Any

from heliograph.core.limits import PAGE_BYTES
from heliograph.core.positions import Position
from heliograph.protocol.messages import frame_position, is_by_worker
from heliograph.stores.events import StoreEvent
from heliograph.stores.ports import (
    CorruptError,
    Head,
    LiveLoad,
    LiveMemory,
    LivePressure,
    Page,
    StoreError,
    Unconfirmed,
)
from heliograph.stores.redis.appends import Appends
from heliograph.stores.redis.calls import Calls
from heliograph.stores.redis.connection import pack
from heliograph.stores.redis.cursors import cursor_of
from heliograph.stores.redis.routes import Route, Routes
from heliograph.stores.redis.shards import Shards
from heliograph.stores.redis.stats import LiveStats

SESSIONS_PER_CALL = 200
"""Sessions of one virtual shard in one call: under a millisecond of Redis."""
UNCONFIRMED_BYTES_PER_CALL = 1024 * 1024
SESSIONS_PER_SCAN = 500
ENTRIES_PER_LOOK = 16
"""Of a window, newest first: the message that a worker should see is nearly always among them."""


class LiveReads:
    """Half of `heliograph.stores.redis.live.RedisLiveStore`, which makes what this uses."""

    stats: LiveStats
    _shards: Shards
    _routes: Routes
    _calls: Calls
    _appends: Appends
    _virtual_shards: int
    _max_in_flight: int

    async def heads(self, sessions: Sequence[str]) -> list[Head]:
        """A session whose state is corrupt is given as one without keys, and counted."""
        found = []
        for head in await self.heads_many(sessions):
            if isinstance(head, StoreError):
                raise head
            found.append(head)
        return found

    async def heads_many(self, sessions: Sequence[str]) -> list[Head | StoreError]:
        return [one if isinstance(one, StoreError) else one[0] for one in await self._heads(sessions)]

    async def partition_of(self, session: str) -> int | None:
        (found,) = await self._heads([session])
        if isinstance(found, StoreError):
            raise found
        return found[1] if found[1] >= 0 else None

    async def _heads(self, sessions: Sequence[str]) -> list[tuple[Head, int] | StoreError]:
        groups = grouped([self._routes.of(session) for session in sessions])
        replies = await self._calls.many(
            self._shards.commands,
            [
                (group[0][1].virtual_shard,
                 pack((b"FCALL", b"hg1_heads", 1 + len(group), group[0][1].shard_keys.shard,
                       *(route.keys.meta for _, route in group))))
                for group in groups
            ],
        )  # fmt: skip
        found: list[tuple[Head, int] | StoreError] = [(NO_HEAD, -1)] * len(sessions)
        for group, reply in zip(groups, replies, strict=True):
            if isinstance(reply, Exception):
                error = self.stats.told(reply)
                for index, _ in group:
                    found[index] = error
                continue
            next_epoch = reply[0].decode()
            for (index, _), answer in zip(group, reply[1:], strict=True):
                if isinstance(answer, Exception):
                    self.stats.told(answer)
                    found[index] = (Head("", 0, 0, 0, next_epoch), -1)
                else:
                    found[index] = (head_of(answer, next_epoch), int(answer[4]))
        return found

    async def page(self, session: str, after: Position | None) -> Page:
        route = self._routes.of(session)
        reply = await self._calls.one(
            self._shards.history,
            route.virtual_shard,
            pack((
                b"FCALL", b"hg1_page", b"3", route.keys.meta, route.keys.window, route.shard_keys.shard,
                after.epoch if after else b"", after.seq if after else 0, PAGE_BYTES,
            )),
        )  # fmt: skip
        head = head_of(reply[1:5], reply[0].decode())
        return Page(reply[7:], head, reply[5] == b"1", reply[6] == b"1")

    async def confirmed(self, session: str, positions: Sequence[Position]) -> list[bool | None]:
        route = self._routes.of(session)
        arguments = [part for position in positions for part in (position.epoch, position.seq)]
        reply = await self._calls.one(
            self._shards.commands,
            route.virtual_shard,
            pack((b"FCALL", b"hg1_confirmed", b"3", route.keys.meta, route.keys.ahead, route.keys.window, *arguments)),
        )
        return [_CONFIRMED[answer] for answer in reply]

    async def cursors(self, session: str, consumers: Sequence[str]) -> list[Position | None]:
        if not consumers:
            return []
        route = self._routes.of(session)
        key = route.keys.cursors
        reply = await self._calls.one(self._shards.commands, route.virtual_shard, pack((b"HMGET", key, *consumers)))
        try:
            return [cursor_of(key, value) for value in reply]
        except CorruptError as error:
            raise self.stats.told(error) from None

    async def sessions(self, virtual_shard: int, prefix: str, cursor: int = 0) -> tuple[int, list[str]]:
        key = self._routes.shard(virtual_shard).idle  # every session that has keys is in it
        reply = await self._calls.one(
            self._shards.commands,
            virtual_shard,
            pack((b"ZSCAN", key, cursor, b"MATCH", f"{prefix}*", b"COUNT", SESSIONS_PER_SCAN)),
        )
        return int(reply[0]), [member.decode() for member in reply[1][::2]]

    async def beginnings(self, sessions: Sequence[str]) -> list[Position | None]:
        routes = [self._routes.of(session) for session in sessions]
        looks = [
            (route.virtual_shard, pack((b"XRANGE", route.keys.window, b"-", b"+", b"COUNT", b"1"))) for route in routes
        ]
        found: list[Position | None] = []
        for reply in await self._calls.many(self._shards.history, looks):
            if isinstance(reply, Exception):
                raise self.stats.told(reply)
            text = None
            for _, fields in reply:
                text = frame_position(dict(zip(fields[::2], fields[1::2], strict=True)).get(b"f", b""))
            found.append(Position.parse(text.decode()) if text is not None else None)
        return found

    async def unserved(self, session: str, after: Position | None) -> Position | None:
        route = self._routes.of(session)
        oldest = f"({after.epoch_ms}-{after.seq}" if after is not None else "-"
        next_seq, epoch = (after.seq + 1, after.epoch) if after is not None else (1, None)
        newest, last, reached = "+", None, False
        while True:
            look = pack((b"XREVRANGE", route.keys.window, newest, oldest, b"COUNT", ENTRIES_PER_LOOK))
            entries = await self._calls.one(self._shards.history, route.virtual_shard, look)
            for _, fields in entries:
                found = dict(zip(fields[::2], fields[1::2], strict=True))
                text = frame_position(found.get(b"f", b""))
                if text is None:
                    continue
                position = Position.parse(text.decode())
                last = last or position
                if not is_by_worker(found.get(b"h", b"")):
                    return position
                reached = reached or (position.seq == next_seq and epoch in (None, position.epoch))
            if len(entries) < ENTRIES_PER_LOOK:
                return None if reached else last
            newest = f"({entries[-1][0].decode()}"

    async def dirty(self, virtual_shard: int, before_ms: int, limit: int) -> list[tuple[str, int]]:
        key = self._routes.shard(virtual_shard).dirty
        reply = await self._calls.one(
            self._shards.commands,
            virtual_shard,
            pack((b"ZRANGE", key, b"-inf", f"({before_ms}", b"BYSCORE", b"LIMIT", 0, limit, b"WITHSCORES")),
        )
        return [(member.decode(), int(score)) for member, score in reply]

    async def unconfirmed(self, session: str, limit: int) -> list[Unconfirmed]:
        """At most UNCONFIRMED_BYTES_PER_CALL of frames, at least one message where any is left."""
        route = self._routes.of(session)
        reply = await self._calls.one(
            self._shards.history,
            route.virtual_shard,
            pack((
                b"FCALL", b"hg1_unconfirmed", b"3", route.keys.meta, route.keys.window, route.keys.ahead, limit,
                UNCONFIRMED_BYTES_PER_CALL,
            )),
        )  # fmt: skip
        return [
            Unconfirmed(Position(reply[at].decode(), int(reply[at + 1])), reply[at + 2], reply[at + 3])
            for at in range(0, len(reply), 4)
        ]

    async def placed(self, session: str, message_ids: Sequence[str]) -> list[bool]:
        route = self._routes.of(session)
        prefix = route.keys.id_prefix
        looks = [(route.virtual_shard, pack((b"EXISTS", prefix + message_id.encode()))) for message_id in message_ids]
        found = []
        for reply in await self._calls.many(self._shards.history, looks):
            if isinstance(reply, Exception):
                raise self.stats.told(reply)
            found.append(reply == 1)
        return found

    @property
    def load(self) -> LiveLoad:
        shards = self._shards
        fullest = max((shard.commands.in_flight for shard in shards.all), default=0)
        return LiveLoad(
            fullest + self._appends.held,
            self._max_in_flight,
            len(shards.all),
            shards.away,
            shards.moves,
            self.stats[StoreEvent.REDIRECTED],
            moving=shards.moving,
        )

    async def memory(self) -> LiveMemory:
        found, error = [], StoreError("live_unavailable", "no primary of the live store is there")
        for reply in await self._ask_each(_INFO_MEMORY):
            if isinstance(reply, Exception):
                error = self.stats.told(reply)
                continue
            info = str(reply, "ascii", "replace")
            memory = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
            found.append(LiveMemory(int(memory.get("used_memory", 0)), int(memory.get("maxmemory", 0))))
        if not found:
            raise error
        return max(found, key=lambda one: (one.share, one.used_bytes))

    async def _ask_each(self, packed: bytes) -> list[Any]:
        """The replies of all primaries, errors among them."""
        answers = await asyncio.gather(*(shard.history.call_many([packed]) for shard in self._shards.all))
        return [answer for (answer,) in answers]

    async def pressure(self) -> LivePressure:
        memory = await self.memory()
        looks = [
            (number, pack(("HGET", self._routes.shard(number).shard, "bytes")))
            for number in range(self._virtual_shards)
        ]
        replies = await self._calls.many(self._shards.history, looks)
        for reply in replies:
            if isinstance(reply, Exception):
                raise self.stats.told(reply)
        unconfirmed = sum(int(value) for value in replies if value is not None)
        return LivePressure(memory.used_bytes, memory.max_bytes, unconfirmed)


_INFO_MEMORY = pack(("INFO", "memory"))
NO_HEAD = Head("", 0, 0, 0, "")
_CONFIRMED: dict[bytes, bool | None] = {b"1": True, b"0": False, b"?": None}


def head_of(answer: Sequence[bytes], next_epoch: str) -> Head:
    """A head as functions answer it."""
    return Head(answer[0].decode(), int(answer[1]), int(answer[2]), int(answer[3]), next_epoch)


def grouped(routes: list[Route]) -> list[list[tuple[int, Route]]]:
    """Indexed routes by virtual shard, at most SESSIONS_PER_CALL together."""
    open_: dict[int, list[tuple[int, Route]]] = {}
    groups = []
    for index, route in enumerate(routes):
        group = open_.get(route.virtual_shard)
        if group is None or len(group) >= SESSIONS_PER_CALL:
            group = open_[route.virtual_shard] = []
            groups.append(group)
        group.append((index, route))
    return groups
