"""`append` on Redis: the hot path. One packed command, one callback; no task or future a message.

Where an answer says that a primary hasn't got the virtual shard (any more, or not just now), or not the functions, the
appends that it was said of and those that come meanwhile are held (`held`) and go out in their order: a message must
not overtake the one before it.
"""

import struct
from functools import partial
from typing import Any

from heliograph.stores.ports import Append, Appended, AppendStatus, Bounds
from heliograph.stores.redis.connection import RedisConnection, pack
from heliograph.stores.redis.held import BEHIND, Answered, HeldAppends, Turn
from heliograph.stores.redis.redirects import again
from heliograph.stores.redis.routes import Route, Routes
from heliograph.stores.redis.shards import Shards
from heliograph.stores.redis.stats import LiveStats

BOUNDS_CACHED = 10_000
"""Texts of bounds kept ready: one a tenant."""

_fixed = struct.Struct(">8sQII").pack
_STATUSES = {str(status).encode(): status for status in AppendStatus}


class Appends:
    """On all shards."""

    def __init__(self, shards: Shards, routes: Routes, stats: LiveStats, *, deadline_s: float, held_most: int) -> None:
        """At most `held_most` appends are held at a time, each for `deadline_s` at most."""
        self._shards = shards
        self._commands = shards.commands
        self._routes = routes
        self._stats = stats
        self._bounds: tuple[Bounds | None, bytes] = (None, b"")
        """The last ones: most appends of a tick have the same."""
        self._bounds_texts: dict[Bounds, bytes] = {}
        self._held = HeldAppends(shards, stats, self._send, self._answered, deadline_s=deadline_s, most=held_most)
        self._holding = self._held.by_virtual_shard
        """Empty but while something is held."""

    @property
    def held(self) -> int:
        """Appends that wait to be sent again."""
        return self._held.count

    def wait_for(self, virtual_shard: int, former: RedisConnection) -> None:
        """From now on it is at another primary; what `former` has still to answer comes first."""
        self._held.wait_for(virtual_shard, former)

    async def close(self) -> None:
        await self._held.close()

    def append(self, message: Append, bounds: Bounds, done: Answered) -> None:
        route = self._routes.of(message.session)
        if message.message_id:
            start: tuple[Any, ...] = route.append_start_with_id(message.message_id)
        else:
            start = route.append_start
        packed = pack((
            *start, message.rest, message.extras, message.producer,
            _fixed(message.content_hash, message.producer_seq, message.size_bytes, message.partition),
            self._bounds_text(bounds),
        ))  # fmt: skip
        number = route.virtual_shard
        if self._holding and number in self._holding:
            self._held.came(route, packed, done)
        else:
            self._commands[number].send(packed, partial(self._answered, route, packed, done, None))

    def _send(self, route: Route, packed: bytes, done: Answered) -> None:
        self._commands[route.virtual_shard].send(packed, partial(self._answered, route, packed, done, None))

    def _bounds_text(self, bounds: Bounds) -> bytes:
        last, text = self._bounds
        if last is bounds:
            return text
        found = self._bounds_texts.get(bounds)
        if found is None:
            if len(self._bounds_texts) >= BOUNDS_CACHED:
                self._bounds_texts.clear()
            found = self._bounds_texts[bounds] = b"%d,%d,%d,%d,%d" % (
                bounds.unconfirmed_messages,
                bounds.unconfirmed_bytes,
                bounds.tenant_shard_bytes,
                bounds.window_messages,
                bounds.window_bytes,
            )
        self._bounds = (bounds, found)
        return found

    def _answered(self, route: Route, packed: bytes, done: Answered, turn: Turn | None, reply: Any) -> None:
        if type(reply) is list and (status := _STATUSES.get(reply[0])) is not None:
            expected = 0
            if len(reply) > 5:
                if self._holding and self._held.is_behind(route):
                    self._held.came_back(route, packed, done, turn, BEHIND)
                    return
                expected = int(reply[5])
            self._stats.appends += 1
            if len(reply) == 1:
                done(Appended(status))
            else:
                done(Appended(
                    status, reply[1].decode(), int(reply[2]), reply[3] == b"1", int(reply[4]), expected,
                ))  # fmt: skip
        else:
            self._failed(route, packed, done, turn, reply)

    def _failed(self, route: Route, packed: bytes, done: Answered, turn: Turn | None, reply: Any) -> None:
        what = again(reply, self._commands[route.virtual_shard].node)
        if what is not None:
            self._held.came_back(route, packed, done, turn, what)
            return
        self._shards.noticed(route.virtual_shard, reply)
        done(self._stats.told(reply))
