"""One TCP connection to Redis: commands of a loop tick leave in one write, answers run callbacks, in order.

No task, future or timer a command: what waits is a deque of callbacks, in the order Redis answers (RESP3: pushes come
between answers and answer nothing). What this must never do: lose a callback. Each one runs exactly once, with the
reply, a `hiredis.ReplyError`, or a StoreError when the connection goes.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, cast

import hiredis

from heliograph.stores.ports import StoreError

Done = Callable[[Any], None]
"""Gets a reply, a hiredis.ReplyError, or a StoreError."""
OnPush = Callable[[bytes, bytes, Any], None]
"""Kind, channel, and the frame (`smessage`) or count."""

WRITE_HIGH_WATER_BYTES = 256 * 1024
"""Above this in the transport nothing more is handed to it: what waits here can still be refused."""

_NOTHING = object()
_SMESSAGE = b"smessage"


class SubscriptionBatch:
    """One SSUBSCRIBE or SUNSUBSCRIBE that waits: Redis answers it by a push a channel, or by one error."""

    __slots__ = ("channels", "done", "kind")

    def __init__(self, kind: bytes, channels: Iterable[bytes], done: Callable[[Exception | None], None]) -> None:
        self.kind = kind
        self.channels = set(channels)
        self.done = done

    def __call__(self, reply: Any) -> None:
        """An error instead of pushes."""
        self.done(reply if isinstance(reply, Exception) else None)


class Wire(asyncio.Protocol):
    """`lost` runs once, after all callbacks were told."""

    __slots__ = (
        "_flush_scheduled", "_loop", "_lost", "_on_push", "_out", "_paused", "_reader", "_transport", "closing",
        "progress_s", "queued_bytes", "waiting",
    )  # fmt: skip

    def __init__(self, on_push: OnPush | None, lost: Callable[["Wire", str], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._transport: asyncio.Transport | None = None
        self._on_push = on_push
        self._lost = lost
        self._out: list[bytes] = []
        self._flush_scheduled = False
        self._paused = False
        self.waiting: deque[Done] = deque()
        self.queued_bytes = 0
        """Not yet handed to the transport."""
        self.progress_s = self._loop.time()
        """When Redis last said something, or the oldest waiting command was sent."""
        self.closing: str | None = None
        """Why it is being closed."""

    # ---- commands ---------------------------------------------------------------------------------------------------

    def send(self, packed: bytes, done: Done) -> None:
        """Queue one packed command (`hiredis.pack_command`). `done` never runs inside this call."""
        waiting = self.waiting
        if not waiting:
            self.progress_s = self._loop.time()
        waiting.append(done)
        self._out.append(packed)
        self.queued_bytes += len(packed)
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def abort(self, reason: str) -> None:
        """Drop the connection; what waits is told."""
        if self.closing is None:
            self.closing = reason
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        self._flush_scheduled = False
        out = self._out
        if self._paused or not out or self._transport is None:
            return
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        self.queued_bytes = 0
        self._transport.write(data)

    # ---- asyncio.Protocol -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop has transports of its own
        self._transport = transport
        transport.set_write_buffer_limits(high=WRITE_HIGH_WATER_BYTES)
        if self.closing is not None:
            transport.abort()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._flush()

    def data_received(self, data: bytes) -> None:
        self.progress_s = self._loop.time()
        reader, waiting = self._reader, self.waiting
        gets = reader.gets
        reader.feed(data)
        try:
            reply = gets()
            while reply is not _NOTHING:
                if type(reply) is hiredis.PushNotification:
                    self._pushed(reply)
                else:
                    done = waiting.popleft()
                    try:
                        done(reply)
                    except Exception as error:  # noqa: BLE001 - one caller's bug must not cost the others their answers
                        self._report("a callback of a Redis command failed", error)
                reply = gets()
        except (hiredis.ProtocolError, IndexError, UnicodeDecodeError) as error:
            self.abort(f"not the Redis protocol ({type(error).__name__})")

    def connection_lost(self, exc: Exception | None) -> None:
        reason = self.closing or (f"connection lost ({exc})" if exc else "connection closed by the server")
        self.closing = reason
        self._transport = None
        self._out.clear()
        waiting, self.waiting = self.waiting, deque()
        error = StoreError("live_unavailable", reason, maybe_done=True)
        for done in waiting:
            try:
                done(error)
            except Exception as bug:  # noqa: BLE001 - as above
                self._report("a callback of a Redis command failed", bug)
        self._lost(self, reason)

    def _pushed(self, push: list[Any]) -> None:
        kind, channel = push[0], push[1]
        if kind != _SMESSAGE and self.waiting:
            batch = self.waiting[0]
            if type(batch) is SubscriptionBatch and batch.kind == kind and channel in batch.channels:
                batch.channels.discard(channel)
                self._tell(kind, channel, True)
                if not batch.channels:
                    self.waiting.popleft()
                    batch.done(None)
                return
        self._tell(kind, channel, push[2] if kind == _SMESSAGE else False)

    def _tell(self, kind: bytes, channel: bytes, value: Any) -> None:
        if self._on_push is None:
            return
        try:
            self._on_push(kind, channel, value)
        except Exception as error:  # noqa: BLE001 - as above
            self._report("the handler of a Redis push failed", error)

    def _report(self, message: str, error: Exception) -> None:
        self._loop.call_exception_handler({"message": message, "exception": error, "protocol": self})
