"""The live store on Redis: `heliograph.stores.ports.LiveStore`.

Three connections to each Redis shard: commands, subscriptions, history. A slow page must not stand before an append,
and a subscribed connection that falls behind is killed by the server, which must cost neither of the others.
"""

import struct
from collections.abc import Callable, Sequence
from typing import Any

from heliograph.core.limits import PAGE_BYTES, VIRTUAL_SHARDS
from heliograph.core.positions import Position
from heliograph.protocol.messages import frame_position, is_by_worker
from heliograph.stores.ports import (
    Ack,
    Acknowledged,
    Append,
    Appended,
    Bounds,
    CorruptError,
    Head,
    LiveListener,
    LiveLoad,
    LiveMemory,
    LivePressure,
    Page,
    StoreError,
    Unconfirmed,
)
from heliograph.stores.redis import library
from heliograph.stores.redis.address import RedisAddress
from heliograph.stores.redis.appends import Appends, LiveStats
from heliograph.stores.redis.connection import ConnectionSettings, RedisConnection, pack
from heliograph.stores.redis.cursors import ack_arguments, acknowledged, cursor_of
from heliograph.stores.redis.routes import Route, Routes
from heliograph.stores.redis.server_checks import check_server
from heliograph.stores.redis.subscriptions import Subscriptions

SESSIONS_PER_CALL = 200
"""Sessions of one virtual shard in one call: under a millisecond of Redis."""
UNCONFIRMED_BYTES_PER_CALL = 1024 * 1024
SESSIONS_PER_SCAN = 500
SESSIONS_PER_FORGET = 50
"""In one call: each may have a window of megabytes to free, and Redis does nothing else meanwhile."""
ENTRIES_PER_LOOK = 16
"""Of a window, newest first: the message that a worker should see is nearly always among them."""


class RedisLiveStore:
    """One Redis, for now: `_commands` and `_history` become one a shard where there are several."""

    def __init__(
        self,
        url: str,
        *,
        uniform: Callable[[], float],
        virtual_shards: int = VIRTUAL_SHARDS,
        settings: ConnectionSettings | None = None,
    ) -> None:
        self._address = RedisAddress.parse(url)
        self._uniform = uniform
        self._settings = settings or ConnectionSettings()
        self._shards = virtual_shards
        self._routes = Routes(virtual_shards)
        self._subscriptions: Subscriptions | None = None
        self._commands = RedisConnection(
            self._address, name="commands", uniform=uniform, settings=self._settings, on_up=self._set_up
        )
        self._history = RedisConnection(self._address, name="history", uniform=uniform, settings=self._settings)
        self.stats = LiveStats()
        self._appends = Appends(self._commands, self._routes, self.stats)

    # ---- life -------------------------------------------------------------------------------------------------------

    async def start(self, listener: LiveListener | None = None) -> None:
        try:
            await self._commands.start()
            await self._history.start()
            if listener is not None and self._subscriptions is None:
                self._subscriptions = Subscriptions(self._address, listener, self._uniform, self._settings)
            if self._subscriptions is not None:
                await self._subscriptions.start()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        await self._appends.close()
        if self._subscriptions is not None:
            await self._subscriptions.close()
        await self._history.close()
        await self._commands.close()

    @property
    def available(self) -> bool:
        return self._commands.available

    @property
    def connections(self) -> dict[str, RedisConnection]:
        """By what they are for; each has `stats`."""
        found = {"commands": self._commands, "history": self._history}
        if self._subscriptions is not None:
            found["subscriptions"] = self._subscriptions.connection
        return found

    async def _set_up(self, connection: RedisConnection) -> None:
        await check_server(connection.call_setup, self._shards)
        if await library.ensure(connection.call_setup):
            self.stats.functions_loaded += 1

    # ---- publications -----------------------------------------------------------------------------------------------

    def append(self, message: Append, bounds: Bounds, done: Callable[[Appended | StoreError], None]) -> None:
        self._appends.append(message, bounds, done)

    def publish_unsequenced(self, session: str, frame: bytes, done: Callable[[bool], None]) -> None:
        self._commands.send(
            pack((b"SPUBLISH", self._routes.of(session).keys.window, frame)),
            lambda reply: done(not isinstance(reply, Exception)),
        )

    async def announce(self, session: str, id: str, frame: bytes) -> bool:  # noqa: A002 - the frame's member
        (answer,) = await self.announce_many([(session, id, frame)])
        if isinstance(answer, StoreError):
            raise answer
        return answer

    async def announce_many(self, batch: Sequence[tuple[str, str, bytes]]) -> list[bool | StoreError]:
        commands = []
        for session, id_, frame in batch:
            keys = self._routes.of(session).keys
            key = keys.announcement_prefix + id_.encode()
            commands.append(pack((b"FCALL", b"hg1_announce", b"2", key, keys.window, frame)))
        replies = await self._call(self._commands, commands)
        return [self.stats.error(reply) if isinstance(reply, Exception) else reply == 1 for reply in replies]

    # ---- subscriptions ----------------------------------------------------------------------------------------------

    def subscribe(self, session: str) -> None:
        if self._subscriptions is None:
            raise RuntimeError("the store was started without a listener")
        self._subscriptions.subscribe(self._routes.of(session).keys.window, session)

    def unsubscribe(self, session: str) -> None:
        if self._subscriptions is not None:
            self._subscriptions.unsubscribe(self._routes.of(session).keys.window)

    # ---- everything else --------------------------------------------------------------------------------------------

    async def heads(self, sessions: Sequence[str]) -> list[Head]:
        """A session whose state is corrupt is given as one without keys, and counted."""
        return [head for head, _ in await self._heads(sessions)]

    async def partition_of(self, session: str) -> int | None:
        ((_, partition),) = await self._heads([session])
        return partition if partition >= 0 else None

    async def _heads(self, sessions: Sequence[str]) -> list[tuple[Head, int]]:
        groups = self._grouped([self._routes.of(session) for session in sessions])
        replies = await self._call(
            self._commands,
            [
                pack((b"FCALL", b"hg1_heads", 1 + len(group), group[0][1].shard_keys.shard,
                      *(route.keys.meta for _, route in group)))
                for group in groups
            ],
        )  # fmt: skip
        found: list[tuple[Head, int]] = [(_NO_HEAD, -1)] * len(sessions)
        for group, reply in zip(groups, replies, strict=True):
            if isinstance(reply, Exception):
                raise self.stats.error(reply)
            shard_epoch = reply[0].decode()
            for (index, _), answer in zip(group, reply[1:], strict=True):
                if isinstance(answer, Exception):
                    self.stats.error(answer)
                    found[index] = (Head("", 0, 0, 0, shard_epoch), -1)
                else:
                    found[index] = (_head(answer, shard_epoch), int(answer[4]))
        return found

    async def page(self, session: str, after: Position | None) -> Page:
        route = self._routes.of(session)
        reply = await self._call_one(
            self._history,
            pack((
                b"FCALL", b"hg1_page", b"3", route.keys.meta, route.keys.window, route.shard_keys.shard,
                after.epoch if after else b"", after.seq if after else 0, PAGE_BYTES,
            )),
        )  # fmt: skip
        head = _head(reply[1:5], reply[0].decode())
        return Page(reply[7:], head, reply[5] == b"1", reply[6] == b"1")

    async def confirm(self, session: str, epoch: str, seqs_and_sizes: Sequence[tuple[int, int]]) -> Head:
        (answer,) = await self.confirm_many([(session, epoch, seqs_and_sizes)])
        if isinstance(answer, StoreError):
            raise answer
        return answer

    async def confirm_many(
        self, batch: Sequence[tuple[str, str, Sequence[tuple[int, int]]]]
    ) -> list[Head | StoreError]:
        groups = self._grouped([self._routes.of(session) for session, _, _ in batch])
        commands = []
        for group in groups:
            shard_keys = group[0][1].shard_keys
            keys = [shard_keys.shard, shard_keys.dirty]
            arguments: list[bytes | str] = []
            for index, route in group:
                _, epoch, pairs = batch[index]
                keys += (route.keys.meta, route.keys.ahead)
                flat = [number for pair in pairs for number in pair]
                arguments += (route.session, route.tenant, epoch, struct.pack(">" + "QI" * len(pairs), *flat))
            commands.append(pack((b"FCALL", b"hg1_confirm", len(keys), *keys, *arguments)))
        replies = await self._call(self._commands, commands)
        answers: list[Head | StoreError] = [_NO_HEAD] * len(batch)
        for group, reply in zip(groups, replies, strict=True):
            failed = self.stats.error(reply) if isinstance(reply, Exception) else None
            for at, (index, _) in enumerate(group):
                if failed is not None:
                    answers[index] = failed
                elif isinstance(reply[at + 1], Exception):
                    answers[index] = self.stats.error(reply[at + 1])
                else:
                    answers[index] = _head(reply[at + 1], reply[0].decode())
        return answers

    async def unconfirm(self, session: str, epoch: str, first_seq: int, last_seq: int, size_bytes: int) -> int:
        route = self._routes.of(session)
        keys = (route.keys.meta, route.keys.ahead, route.shard_keys.shard, route.shard_keys.dirty)
        arguments = (route.session, route.tenant, epoch, first_seq, last_seq, size_bytes)
        count: int = await self._call_one(
            self._commands, pack((b"FCALL", b"hg1_unconfirm", len(keys), *keys, *arguments))
        )
        return count

    async def confirmed(self, session: str, positions: Sequence[Position]) -> list[bool | None]:
        route = self._routes.of(session)
        arguments = [part for position in positions for part in (position.epoch, position.seq)]
        reply = await self._call_one(
            self._commands,
            pack((b"FCALL", b"hg1_confirmed", b"3", route.keys.meta, route.keys.ahead, route.keys.window, *arguments)),
        )
        return [_CONFIRMED[answer] for answer in reply]

    async def acknowledge(self, acks: Sequence[Ack]) -> list[Acknowledged | StoreError]:
        groups = self._grouped([self._routes.of(ack.session) for ack in acks])
        commands = []
        for group in groups:
            keys = [key for _, route in group for key in (route.keys.meta, route.keys.cursors)]
            arguments = [argument for index, _ in group for argument in ack_arguments(acks[index])]
            commands.append(pack((b"FCALL", b"hg1_cursor", len(keys), *keys, *arguments)))
        replies = await self._call(self._commands, commands)
        found: dict[int, Acknowledged | StoreError] = {}
        for group, reply in zip(groups, replies, strict=True):
            failed = self.stats.error(reply) if isinstance(reply, Exception) else None
            for at, (index, _) in enumerate(group):
                answer = failed or reply[at]
                found[index] = self.stats.error(answer) if isinstance(answer, Exception) else acknowledged(answer)
        return [found[index] for index in range(len(acks))]

    async def cursors(self, session: str, consumers: Sequence[str]) -> list[Position | None]:
        if not consumers:
            return []
        key = self._routes.of(session).keys.cursors
        reply = await self._call_one(self._commands, pack((b"HMGET", key, *consumers)))
        try:
            return [cursor_of(key, value) for value in reply]
        except CorruptError as error:
            raise self.stats.error(error) from None

    async def sessions(self, virtual_shard: int, prefix: str, cursor: int = 0) -> tuple[int, list[str]]:
        key = self._routes.shard(virtual_shard).idle  # every session that has keys is in it
        reply = await self._call_one(
            self._commands, pack((b"ZSCAN", key, cursor, b"MATCH", f"{prefix}*", b"COUNT", SESSIONS_PER_SCAN))
        )
        return int(reply[0]), [member.decode() for member in reply[1][::2]]

    async def beginnings(self, sessions: Sequence[str]) -> list[Position | None]:
        windows = [self._routes.of(session).keys.window for session in sessions]
        looks = [pack((b"XRANGE", window, b"-", b"+", b"COUNT", b"1")) for window in windows]
        found: list[Position | None] = []
        for reply in await self._call(self._history, looks):
            if isinstance(reply, Exception):
                raise self.stats.error(reply)
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
            entries = await self._call_one(self._history, look)
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
        reply = await self._call_one(
            self._commands,
            pack((b"ZRANGE", key, b"-inf", f"({before_ms}", b"BYSCORE", b"LIMIT", 0, limit, b"WITHSCORES")),
        )
        return [(member.decode(), int(score)) for member, score in reply]

    async def unconfirmed(self, session: str, limit: int) -> list[Unconfirmed]:
        """At most UNCONFIRMED_BYTES_PER_CALL of frames, at least one message where any is left."""
        route = self._routes.of(session)
        reply = await self._call_one(
            self._history,
            pack((
                b"FCALL", b"hg1_unconfirmed", b"3", route.keys.meta, route.keys.window, route.keys.ahead, limit,
                UNCONFIRMED_BYTES_PER_CALL,
            )),
        )  # fmt: skip
        return [
            Unconfirmed(Position(reply[at].decode(), int(reply[at + 1])), reply[at + 2], reply[at + 3])
            for at in range(0, len(reply), 4)
        ]

    async def expire(self, virtual_shard: int, idle_s: float, limit: int) -> int:
        shard_keys = self._routes.shard(virtual_shard)
        members = await self._call_one(self._commands, pack((b"ZRANGE", shard_keys.idle, 0, limit - 1)))
        if not members:
            return 0
        routes = [self._routes.of(member.decode()) for member in members]
        keys = [shard_keys.dirty, shard_keys.idle]
        for route in routes:
            keys += (route.keys.meta, route.keys.window, route.keys.ahead, route.keys.cursors)
        gone: int = await self._call_one(
            self._commands, pack((b"FCALL", b"hg1_expire", len(keys), *keys, round(idle_s * 1000), *members))
        )
        return gone

    async def forget(self, sessions: Sequence[str]) -> int:
        routes, gone = [self._routes.of(session) for session in sessions], 0
        for shard in sorted({route.virtual_shard for route in routes}):
            shard_keys = self._routes.shard(shard)
            mine = [route for route in routes if route.virtual_shard == shard]
            for start in range(0, len(mine), SESSIONS_PER_FORGET):
                chunk = mine[start : start + SESSIONS_PER_FORGET]
                keys = [shard_keys.shard, shard_keys.dirty, shard_keys.idle]
                for route in chunk:
                    keys += (route.keys.meta, route.keys.window, route.keys.ahead, route.keys.cursors)
                names = [route.session for route in chunk]
                call = pack((b"FCALL", b"hg1_forget", len(keys), *keys, *names))
                gone += int(await self._call_one(self._commands, call))
        return gone

    async def placed(self, session: str, message_ids: Sequence[str]) -> list[bool]:
        prefix = self._routes.of(session).keys.id_prefix
        looks = [pack((b"EXISTS", prefix + message_id.encode())) for message_id in message_ids]
        found = []
        for reply in await self._call(self._history, looks):
            if isinstance(reply, Exception):
                raise self.stats.error(reply)
            found.append(reply == 1)
        return found

    @property
    def load(self) -> LiveLoad:
        return LiveLoad(self._commands.in_flight, self._settings.max_in_flight)

    async def memory(self) -> LiveMemory:
        info = str(await self._call_one(self._history, _INFO_MEMORY), "ascii", "replace")
        memory = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
        return LiveMemory(int(memory.get("used_memory", 0)), int(memory.get("maxmemory", 0)))

    async def pressure(self) -> LivePressure:
        memory = await self.memory()
        looks = [pack(("HGET", self._routes.shard(number).shard, "bytes")) for number in range(self._shards)]
        replies = await self._call(self._history, looks)
        for reply in replies:
            if isinstance(reply, Exception):
                raise self.stats.error(reply)
        unconfirmed = sum(int(value) for value in replies if value is not None)
        return LivePressure(memory.used_bytes, memory.max_bytes, unconfirmed)

    # ---- calls ------------------------------------------------------------------------------------------------------

    def _grouped(self, routes: list[Route]) -> list[list[tuple[int, Route]]]:
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

    async def _call_one(self, connection: RedisConnection, packed: bytes) -> Any:
        (reply,) = await self._call(connection, [packed])
        if isinstance(reply, Exception):
            raise self.stats.error(reply)
        return reply

    async def _call(self, connection: RedisConnection, packed: Sequence[bytes]) -> list[Any]:
        """Replies in order, errors among them; what failed for want of the library is repeated with it."""
        replies = await connection.call_many(packed)
        missing = [index for index, reply in enumerate(replies) if library.is_missing(reply)]
        if missing:
            await self._appends.reload()
            again = await connection.call_many([packed[index] for index in missing])
            for index, reply in zip(missing, again, strict=True):
                replies[index] = reply
        return replies


_INFO_MEMORY = pack(("INFO", "memory"))
_NO_HEAD = Head("", 0, 0, 0, "")
_CONFIRMED: dict[bytes, bool | None] = {b"1": True, b"0": False, b"?": None}


def _head(answer: Sequence[bytes], shard_epoch: str) -> Head:
    return Head(answer[0].decode(), int(answer[1]), int(answer[2]), int(answer[3]), shard_epoch)
