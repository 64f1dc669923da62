"""Calls to whichever primary has a virtual shard, repeated where the answer says: not here, or not now.

Not for `append`, which must keep an order (`appends`). What is repeated here was not carried out, so it is done once.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from heliograph.stores.events import StoreEvent
from heliograph.stores.ports import StoreError
from heliograph.stores.redis import library
from heliograph.stores.redis.connection import RedisConnection, pack, send_asking
from heliograph.stores.redis.redirects import Again, Step, again
from heliograph.stores.redis.shards import Shards
from heliograph.stores.redis.stats import LiveStats

Command = tuple[int, bytes]
"""Virtual shard and packed command."""


async def load_library(connection: RedisConnection, stats: LiveStats) -> None:
    """Load the library where it is missing. Raises StoreError."""

    async def call(*command: Any) -> Any:
        reply = (await connection.call_many([pack(command)]))[0]
        if isinstance(reply, StoreError):
            raise reply
        return reply

    if await library.ensure(call):
        stats.count(StoreEvent.LIBRARY_LOADED)


class Calls:
    """On all shards. `deadline_s`: of being sent from one to the other, or put off."""

    def __init__(self, shards: Shards, stats: LiveStats, deadline_s: float) -> None:
        self._shards = shards
        self._stats = stats
        self._deadline_s = deadline_s

    async def one(self, connections: Sequence[RedisConnection], virtual_shard: int, packed: bytes) -> Any:
        """Raises StoreError."""
        (reply,) = await self.many(connections, [(virtual_shard, packed)])
        if isinstance(reply, Exception):
            raise self._stats.told(reply)
        return reply

    async def many(self, connections: Sequence[RedisConnection], commands: Sequence[Command]) -> list[Any]:
        """Replies in the order asked, errors among them. `connections`: by virtual shard."""
        replies = await _send(connections, commands)
        waiting = self._to_repeat(connections, commands, replies, range(len(commands)))
        if waiting:
            await self._repeat(connections, commands, replies, waiting)
        return replies

    def _to_repeat(
        self, connections: Sequence[RedisConnection], commands: Sequence[Command], replies: list[Any], of: Sequence[int]
    ) -> dict[int, Again]:
        found = {}
        for index in of:
            reply = replies[index]
            if isinstance(reply, Exception):
                number = commands[index][0]
                what = again(reply, connections[number].node)
                if what is not None:
                    found[index] = what
                else:
                    self._shards.noticed(number, reply)
        return found

    async def _repeat(
        self,
        connections: Sequence[RedisConnection],
        commands: Sequence[Command],
        replies: list[Any],
        waiting: dict[int, Again],
    ) -> None:
        loop, tries = asyncio.get_running_loop(), 0
        end_s = loop.time() + self._deadline_s
        while waiting and (left_s := end_s - loop.time()) > 0:
            prepared: dict[tuple[int, Again], RedisConnection | StoreError | None] = {}
            for index, what in waiting.items():
                number = commands[index][0]
                if (number, what) not in prepared:
                    prepared[number, what] = await self._prepare(connections[number], number, what, tries, left_s)
            plain = []
            for index, what in waiting.items():
                other = prepared[commands[index][0], what]
                if other is None:
                    plain.append(index)
                elif isinstance(other, StoreError):
                    replies[index] = other
                else:
                    replies[index] = await send_asking(other, commands[index][1])
            for index, reply in zip(plain, await _send(connections, [commands[at] for at in plain]), strict=True):
                replies[index] = reply
            waiting = self._to_repeat(connections, commands, replies, list(waiting))
            tries += 1

    async def _prepare(
        self, connection: RedisConnection, number: int, what: Again, tries: int, left_s: float
    ) -> RedisConnection | StoreError | None:
        self._stats.count(StoreEvent.REDIRECTED)
        try:
            if what.step is not Step.LOAD:
                return await self._shards.prepare(number, what, tries, left_s)
            await load_library(connection, self._stats)
        except StoreError as error:
            return error
        return None


async def _send(connections: Sequence[RedisConnection], commands: Sequence[Command]) -> list[Any]:
    """All at once, in one write to each server."""
    by_connection: dict[RedisConnection, list[int]] = {}
    for index, (number, _) in enumerate(commands):
        by_connection.setdefault(connections[number], []).append(index)
    if len(by_connection) == 1:
        (connection,) = by_connection
        return await connection.call_many([packed for _, packed in commands])
    replies: list[Any] = [None] * len(commands)

    async def ask(connection: RedisConnection, indices: list[int]) -> None:
        for index, reply in zip(indices, await connection.call_many([commands[at][1] for at in indices]), strict=True):
            replies[index] = reply

    await asyncio.gather(*(ask(connection, indices) for connection, indices in by_connection.items()))
    return replies
