"""`append` on Redis: the hot path. One packed command, one callback; no task or future a message.

Where Redis has lost the function library, the appends that failed for it and those that come meanwhile wait for it to
be loaded and go out in their order: a message must not overtake the one before it.
"""

import asyncio
import struct
from collections.abc import Callable
from functools import partial
from typing import Any

from heliograph.stores.ports import Append, Appended, AppendStatus, Bounds, CorruptError, StoreError
from heliograph.stores.redis import library
from heliograph.stores.redis.connection import RedisConnection, pack, translate
from heliograph.stores.redis.routes import Routes

Answered = Callable[[Appended | StoreError], None]

BOUNDS_CACHED = 10_000
"""Texts of bounds kept ready: one a tenant."""

_fixed = struct.Struct(">8sQII").pack
_STATUSES = {str(status).encode(): status for status in AppendStatus}


class LiveStats:
    """Counters, for services to export; connections count their own."""

    __slots__ = ("appends", "corrupt_values", "functions_loaded")

    def __init__(self) -> None:
        self.appends = 0
        """Answered, admitted or refused."""
        self.functions_loaded = 0
        """Times the library had to be loaded."""
        self.corrupt_values = 0
        """Answers that named a stored value which is not ours."""

    def error(self, reply: Any) -> StoreError:
        """`reply` as an error with a code; counted."""
        error = translate(reply) if isinstance(reply, Exception) else StoreError("unavailable", "an unknown answer")
        if isinstance(error, CorruptError):
            self.corrupt_values += 1
        return error


class Appends:
    """On one connection."""

    def __init__(self, connection: RedisConnection, routes: Routes, stats: LiveStats) -> None:
        self._connection = connection
        self._routes = routes
        self._stats = stats
        self._bounds: tuple[Bounds | None, bytes] = (None, b"")
        """The last ones: most appends of a tick have the same."""
        self._bounds_texts: dict[Bounds, bytes] = {}
        self._held: list[Callable[[], None]] | None = None
        """Appends that wait for the library, in order."""
        self._loading: asyncio.Task[None] | None = None

    async def close(self) -> None:
        if self._loading is not None:
            await self._loading

    def append(self, message: Append, bounds: Bounds, done: Answered) -> None:
        if self._held is not None:
            self._held.append(partial(self._send, message, bounds, done, True))
        else:
            self._send(message, bounds, done, False)

    def _send(self, message: Append, bounds: Bounds, done: Answered, again: bool) -> None:
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
        self._connection.send(packed, partial(self._answered, message, bounds, done, again))

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

    def _answered(self, message: Append, bounds: Bounds, done: Answered, again: bool, reply: Any) -> None:
        if type(reply) is list and (status := _STATUSES.get(reply[0])) is not None:
            self._stats.appends += 1
            if len(reply) == 1:
                done(Appended(status))
            else:
                done(Appended(
                    status, reply[1].decode(), int(reply[2]), reply[3] == b"1", int(reply[4]),
                    int(reply[5]) if len(reply) > 5 else 0,
                ))  # fmt: skip
        elif not again and library.is_missing(reply):
            self._hold(partial(self._send, message, bounds, done, True))
        else:
            done(self._stats.error(reply))

    def _hold(self, again: Callable[[], None]) -> None:
        if self._held is None:
            self._held = []
            self._loading = asyncio.get_running_loop().create_task(self._load())
        self._held.append(again)

    async def _load(self) -> None:
        """Load the library and send what waited for it; where it can't be loaded the connection is given up."""
        try:
            await self.reload()
        except StoreError as error:
            self._connection.drop(error.message)
        finally:
            held, self._held = self._held or [], None
            self._loading = None
            for again in held:
                again()

    async def reload(self) -> None:
        """Load the library where it is missing. Raises StoreError."""

        async def call(*command: Any) -> Any:
            reply = (await self._connection.call_many([pack(command)]))[0]
            if isinstance(reply, StoreError):
                raise reply
            return reply

        if await library.ensure(call):
            self._stats.functions_loaded += 1
