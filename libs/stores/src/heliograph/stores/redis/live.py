"""The live store on Redis: `heliograph.stores.ports.LiveStore`. What it only reads is in `reads`.

Each virtual shard is asked for at the primary that has it (`shards`): the one there is, the one that sentinels name, or
one of a Redis Cluster's.
"""

import struct
from collections.abc import Callable, Sequence

from heliograph.core.limits import VIRTUAL_SHARDS
from heliograph.stores.events import StoreEvent
from heliograph.stores.ports import Ack, Acknowledged, Append, Appended, Bounds, Head, LiveListener, StoreError
from heliograph.stores.redis import library
from heliograph.stores.redis.address import RedisKind, RedisLocation
from heliograph.stores.redis.appends import Appends
from heliograph.stores.redis.calls import Calls
from heliograph.stores.redis.cluster import ClusterSettings, ClusterShards
from heliograph.stores.redis.connection import ConnectionSettings, RedisConnection, pack
from heliograph.stores.redis.cursors import ack_arguments, acknowledged
from heliograph.stores.redis.reads import NO_HEAD, LiveReads, grouped, head_of
from heliograph.stores.redis.routes import Routes
from heliograph.stores.redis.sentinels import SentinelShards
from heliograph.stores.redis.server_checks import check_server
from heliograph.stores.redis.shards import ShardParts, Shards
from heliograph.stores.redis.stats import LiveStats

SESSIONS_PER_FORGET = 50
"""In one call: each may have a window of megabytes to free, and Redis does nothing else meanwhile."""


class RedisLiveStore(LiveReads):
    """On one Redis, behind Sentinel, or on a Redis Cluster."""

    def __init__(
        self,
        url: str,
        *,
        uniform: Callable[[], float],
        virtual_shards: int = VIRTUAL_SHARDS,
        settings: ConnectionSettings | None = None,
        cluster: ClusterSettings | None = None,
    ) -> None:
        settings = settings or ConnectionSettings()
        self._location = RedisLocation.parse(url)
        self._virtual_shards = virtual_shards
        self._max_in_flight = settings.max_in_flight
        self._routes = Routes(virtual_shards)
        self.stats = LiveStats()
        self._shards = self._made(ShardParts(uniform, settings, self._set_up), cluster)
        self._calls = Calls(self._shards, self.stats, settings.deadline_s)
        self._appends = Appends(
            self._shards, self._routes, self.stats, deadline_s=settings.deadline_s, held_most=settings.max_in_flight
        )
        self._shards.on_switch = self._appends.wait_for

    def _made(self, parts: ShardParts, cluster: ClusterSettings | None) -> Shards:
        location, count = self._location, self._virtual_shards
        if location.kind is RedisKind.CLUSTER:
            return ClusterShards(location, count, parts, cluster)
        if location.kind is RedisKind.SENTINEL:
            return SentinelShards(location, count, parts)
        return Shards(location.at(*location.seeds[0]), count, parts)

    # ---- life -------------------------------------------------------------------------------------------------------

    async def start(self, listener: LiveListener | None = None) -> None:
        try:
            await self._shards.start(listener)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        await self._appends.close()
        await self._shards.close()

    @property
    def available(self) -> bool:
        return self._shards.available

    @property
    def connections(self) -> dict[str, RedisConnection]:
        """By what they are for, with the number of the shard where there are several; each has `stats`."""
        if len(self._shards.all) == 1:
            return self._shards.all[0].connections
        return {
            f"{use}-{shard.index}": connection
            for shard in self._shards.all
            for use, connection in shard.connections.items()
        }

    async def _set_up(self, connection: RedisConnection) -> None:
        await check_server(connection.call_setup, self._virtual_shards, self._location.kind)
        if await library.ensure(connection.call_setup):
            self.stats.count(StoreEvent.LIBRARY_LOADED)

    # ---- publications -----------------------------------------------------------------------------------------------

    def append(self, message: Append, bounds: Bounds, done: Callable[[Appended | StoreError], None]) -> None:
        self._appends.append(message, bounds, done)

    def publish_unsequenced(self, session: str, frame: bytes, done: Callable[[bool], None]) -> None:
        route = self._routes.of(session)

        def answered(reply: object) -> None:
            if isinstance(reply, Exception):
                self._shards.noticed(route.virtual_shard, reply)
                done(False)
            else:
                done(True)

        self._shards.commands[route.virtual_shard].send(pack((b"SPUBLISH", route.keys.window, frame)), answered)

    async def announce(self, session: str, id: str, frame: bytes) -> bool:  # noqa: A002 - the frame's member
        (answer,) = await self.announce_many([(session, id, frame)])
        if isinstance(answer, StoreError):
            raise answer
        return answer

    async def announce_many(self, batch: Sequence[tuple[str, str, bytes]]) -> list[bool | StoreError]:
        commands = []
        for session, id_, frame in batch:
            route = self._routes.of(session)
            keys = route.keys
            key = keys.announcement_prefix + id_.encode()
            command = pack((b"FCALL", b"hg1_announce", b"2", key, keys.window, frame))
            commands.append((route.virtual_shard, command))
        replies = await self._calls.many(self._shards.commands, commands)
        return [self.stats.told(reply) if isinstance(reply, Exception) else reply == 1 for reply in replies]

    # ---- subscriptions ----------------------------------------------------------------------------------------------

    def subscribe(self, session: str) -> None:
        route = self._routes.of(session)
        subscriptions = self._shards.subscriptions(route.virtual_shard)
        if subscriptions is None:
            raise RuntimeError("the store was started without a listener")
        subscriptions.subscribe(route.keys.window, session)

    def unsubscribe(self, session: str) -> None:
        route = self._routes.of(session)
        subscriptions = self._shards.subscriptions(route.virtual_shard)
        if subscriptions is not None:
            subscriptions.unsubscribe(route.keys.window)

    # ---- what changes something -------------------------------------------------------------------------------------

    async def confirm(self, session: str, epoch: str, seqs_and_sizes: Sequence[tuple[int, int]]) -> Head:
        (answer,) = await self.confirm_many([(session, epoch, seqs_and_sizes)])
        if isinstance(answer, StoreError):
            raise answer
        return answer

    async def confirm_many(
        self, batch: Sequence[tuple[str, str, Sequence[tuple[int, int]]]]
    ) -> list[Head | StoreError]:
        groups = grouped([self._routes.of(session) for session, _, _ in batch])
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
            command = pack((b"FCALL", b"hg1_confirm", len(keys), *keys, *arguments))
            commands.append((group[0][1].virtual_shard, command))
        replies = await self._calls.many(self._shards.commands, commands)
        answers: list[Head | StoreError] = [NO_HEAD] * len(batch)
        for group, reply in zip(groups, replies, strict=True):
            failed = self.stats.told(reply) if isinstance(reply, Exception) else None
            for at, (index, _) in enumerate(group):
                if failed is not None:
                    answers[index] = failed
                elif isinstance(reply[at + 1], Exception):
                    answers[index] = self.stats.told(reply[at + 1])
                else:
                    answers[index] = head_of(reply[at + 1], reply[0].decode())
        return answers

    async def unconfirm(self, session: str, epoch: str, first_seq: int, last_seq: int, size_bytes: int) -> int:
        route = self._routes.of(session)
        keys = (route.keys.meta, route.keys.ahead, route.shard_keys.shard, route.shard_keys.dirty)
        arguments = (route.session, route.tenant, epoch, first_seq, last_seq, size_bytes)
        count: int = await self._calls.one(
            self._shards.commands, route.virtual_shard, pack((b"FCALL", b"hg1_unconfirm", len(keys), *keys, *arguments))
        )
        return count

    async def acknowledge(self, acks: Sequence[Ack]) -> list[Acknowledged | StoreError]:
        groups = grouped([self._routes.of(ack.session) for ack in acks])
        commands = []
        for group in groups:
            keys = [key for _, route in group for key in (route.keys.meta, route.keys.cursors)]
            arguments = [argument for index, _ in group for argument in ack_arguments(acks[index])]
            command = pack((b"FCALL", b"hg1_cursor", len(keys), *keys, *arguments))
            commands.append((group[0][1].virtual_shard, command))
        replies = await self._calls.many(self._shards.commands, commands)
        found: dict[int, Acknowledged | StoreError] = {}
        for group, reply in zip(groups, replies, strict=True):
            failed = self.stats.told(reply) if isinstance(reply, Exception) else None
            for at, (index, _) in enumerate(group):
                answer = failed or reply[at]
                found[index] = self.stats.told(answer) if isinstance(answer, Exception) else acknowledged(answer)
        return [found[index] for index in range(len(acks))]

    async def expire(self, virtual_shard: int, idle_s: float, limit: int) -> int:
        shard_keys = self._routes.shard(virtual_shard)
        members = await self._calls.one(
            self._shards.commands, virtual_shard, pack((b"ZRANGE", shard_keys.idle, 0, limit - 1))
        )
        if not members:
            return 0
        routes = [self._routes.of(member.decode()) for member in members]
        keys = [shard_keys.shard, shard_keys.dirty, shard_keys.idle]
        for route in routes:
            keys += (route.keys.meta, route.keys.window, route.keys.ahead, route.keys.cursors)
        gone: int = await self._calls.one(
            self._shards.commands,
            virtual_shard,
            pack((b"FCALL", b"hg1_expire", len(keys), *keys, round(idle_s * 1000), *members)),
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
                gone += int(await self._calls.one(self._shards.commands, shard, call))
        return gone
