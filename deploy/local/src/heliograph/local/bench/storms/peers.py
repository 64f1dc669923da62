"""A lean client that comes back: a raw WebSocket, backoff with full jitter, subscriptions from the last position.

What the SDK does, at a tenth of its cost, so that thousands of them fit beside the server on few cores. For load only.
"""

import asyncio
import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from heliograph.core.backoff import Backoff, BackoffPolicy
from heliograph.local.bench.client import HandshakeError, LoadClient, connect
from heliograph.local.bench.storms.streams import Reading, Stream, hello

OPEN_TIMEOUT_S = 10.0
"""Connect, handshake and `welcome`, as the SDK."""
AGAIN_LOOK_S = 0.02
"""Between looks whether all answers to what followed a refused message have come."""
_MESSAGE = b'{"type":"message"'
_PING = b'{"type":"ping"'
_PONG = b'{"type":"pong"}'


@dataclass(frozen=True, slots=True)
class Return:
    """One time that a peer was without its subscription."""

    peer: int
    lost_ns: int
    resumed_ns: int


class Peer:
    """One connection at a time, until `stop`."""

    def __init__(
        self,
        index: int,
        name: str,
        addresses: Sequence[str],
        token: str,
        policy: BackoffPolicy,
        uniform: Callable[[], float],
        reading: Reading | None,
        streams: Sequence[Stream],
    ) -> None:
        self.index = index
        self.reading = reading
        self.streams = streams
        self.up = False
        """Welcomed, and where it reads subscribed."""
        self.returns: list[Return] = []
        self.told_ns: list[int] = []
        """When the server asked it to move."""
        self.cut_ns: list[int] = []
        """When it was up and lost its connection though nobody had asked it to move."""
        self.welcomed_ns: list[int] = []
        self.errors: list[str] = []
        """What the server called an error, or a refusal of a subscription."""
        self._name = name
        self._incarnation = secrets.token_hex(6)
        self._addresses = addresses
        self._at = 0
        self._token = token
        self._backoff = Backoff(policy, uniform)
        self._client: LoadClient | None = None
        self._welcomed = False
        self._after_ms: float | None = None
        self._moving = self._told = False
        self._lost_ns = 0
        self._ended = asyncio.Event()
        self._requests: dict[int, tuple[Stream, int]] = {}
        self._next_id = 10
        self._stopping = False

    async def keep(self) -> None:
        """Connect, and come back, until stopped."""
        while not self._stopping:
            delay_s = await self._once()
            if not self._stopping:
                await asyncio.sleep(delay_s)

    def stop(self) -> None:
        self._stopping = True
        self._ended.set()

    def cut(self) -> None:
        """End the present connection, without a word."""
        if self._client is not None:
            self._client.close()

    def publish(self, stream: Stream, intended_ns: int) -> None:
        """The stream's next message; sent at once where it may be."""
        self._next_id += 1
        number = stream.give(intended_ns, self._next_id)
        self._requests[self._next_id] = (stream, number)
        self._pump(stream)

    @property
    def address(self) -> str:
        """Where it is, or tries to be."""
        return self._addresses[self._at]

    @property
    def unsent_bytes(self) -> int:
        return 0 if self._client is None else self._client.unsent_bytes

    # ---- connection -------------------------------------------------------------------------------------------------

    async def _once(self) -> float:
        """One connection from beginning to end; seconds to wait before the next."""
        ended = self._ended = asyncio.Event()  # of this connection: the one before may still be closing
        self._after_ms, self._moving, self._told, self._welcomed = None, False, False, False
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                self._client = await connect(self._addresses[self._at], "", self._on_text, ended.set)
        except HandshakeError as error:
            return self._failed(None if error.retry_after_s is None else error.retry_after_s * 1000)
        except (OSError, TimeoutError):
            return self._failed(None)
        session, position = (None, "") if self.reading is None else (self.reading.session, self.reading.position)
        self._client.send(hello(self._token, self._name, self._incarnation, session, position))
        timer = asyncio.get_running_loop().call_later(OPEN_TIMEOUT_S, self._give_up)
        await ended.wait()
        timer.cancel()
        self._client.close()
        self._client = None
        if self.up:
            self.up = False
            self._lost_ns = time.monotonic_ns()
            if not self._told and not self._stopping:
                self.cut_ns.append(self._lost_ns)
        for stream in self.streams:
            stream.connection_lost()
        if self._moving:
            self._at = (self._at + 1) % len(self._addresses)
            return 0.0
        return self._failed(self._after_ms)

    def _failed(self, after_ms: float | None) -> float:
        if not self._welcomed:
            self._at = (self._at + 1) % len(self._addresses)
        return self._backoff.failed(time.monotonic(), after_ms)

    def _give_up(self) -> None:
        if not self._welcomed:
            self._ended.set()

    def _move(self) -> None:
        self._moving = True
        self._ended.set()

    # ---- in ---------------------------------------------------------------------------------------------------------

    def _on_text(self, client: LoadClient, text: bytes) -> None:
        if client is not self._client and self._client is not None:
            return
        if text.startswith(_MESSAGE):
            if self.reading is not None:
                self.reading.message(text)
        elif text.startswith(_PING):
            client.send(_PONG)
        else:
            self._on_frame(json.loads(text))

    def _on_frame(self, frame: dict[str, Any]) -> None:
        kind = frame["type"]
        if kind in {"published", "refused"} and frame.get("id") in self._requests:
            self._answered(frame)
        elif kind == "confirmed":
            for stream in self.streams:
                if stream.session == frame["session"]:
                    stream.confirmed(frame["position"])
        elif kind == "welcome":
            self._welcomed = True
            self.welcomed_ns.append(time.monotonic_ns())
            self._backoff.succeeded(time.monotonic())
            if self.reading is None:
                self._is_up()
            for stream in self.streams:
                self._pump(stream)
        elif kind == "subscribed":
            assert self.reading is not None
            self.reading.unrecovered += not frame.get("recovered", True)
            if not self.reading.position:
                self.reading.position = frame["position"]
            self._is_up()
        elif kind == "gap":
            assert self.reading is not None
            self.reading.gaps += 1
        elif kind == "reconnect":
            if self._welcomed:
                self._told = True
                self.told_ns.append(time.monotonic_ns())
                asyncio.get_running_loop().call_later(frame["after_ms"] / 1000, self._move)
            else:
                self._after_ms = frame["after_ms"]
        elif kind in {"error", "refused"}:
            self.errors.append(f"{kind} {frame.get('code')}: {frame.get('message')}")
            self._ended.set()

    def _is_up(self) -> None:
        self.up = True
        if self._lost_ns:
            self.returns.append(Return(self.index, self._lost_ns, time.monotonic_ns()))
            self._lost_ns = 0

    # ---- publishing -------------------------------------------------------------------------------------------------

    def _pump(self, stream: Stream) -> None:
        if self._client is not None and self._welcomed:
            for frame in stream.due():
                self._client.send(frame)

    def _answered(self, frame: dict[str, Any]) -> None:
        stream, number = self._requests[frame["id"]]
        if stream.answered(number, frame):
            delay_s = (frame.get("retry_after_ms") or 50) / 1000
            asyncio.get_running_loop().call_later(delay_s, self._again, stream)
        elif frame["type"] == "published" or not stream.counted:
            del self._requests[frame["id"]]
            self._pump(stream)

    def _again(self, stream: Stream) -> None:
        if stream.send_again():
            self._pump(stream)
        else:
            asyncio.get_running_loop().call_later(AGAIN_LOOK_S, self._again, stream)
