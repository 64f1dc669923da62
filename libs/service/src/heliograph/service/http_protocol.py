"""uvicorn's HTTP protocol with what a port that is open to everybody needs.

Every part of a request has its time: the head, the body, and the time in which a client must take something of an
answer. Who sends byte by byte, or for ever, or reads nothing, is cut off. Connections that wait for a next request are
bounded in time and number. And what a client sent right behind its WebSocket handshake, in the same segment, is handed
on; uvicorn drops it.
"""

import asyncio
import fcntl
import json
import random
import sys
import termios
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import httptools
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from heliograph.protocol.codes import CODES
from heliograph.service.http import PROBLEM, problem
from heliograph.service.sockets import OpenSockets, Seat, tcp_info
from heliograph.service.turnstile import Turnstile

HEAD_BYTES = 64 * 1024
"""Four times what common proxies let through, cookies and a token of the largest size included."""

PROBES = (b"/livez", b"/readyz", b"/metrics")
"""Answered also where no client is: who asks decides whether to restart it."""

PROBE_REQUESTS = tuple(b"GET " + path for path in PROBES)

RETRY_S = (1, 5)
"""Told to who finds no room: a number in between, each another one."""

UPGRADES_AT_ONCE = 2
"""WebSocket handshakes that one turn of the event loop takes: 0.7 ms each, while those who are connected wait."""

_ESTABLISHED = 1
"""The first byte of TCP_INFO as long as neither side has ended (Linux, include/net/tcp_states.h)."""

_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_TOO_LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class HttpTimes:
    """How long a client may take."""

    head_s: float
    """From the connection, or the first byte of a further request, to the end of its head."""
    body_s: float
    """From there to the end of the body."""
    unread_s: float
    """In which a client must take something of what waits for it."""
    idle_s: float
    """Between requests."""
    idle_most: int
    """Connections between requests; more, and the one that waited longest is closed."""


class IdleConnections:
    """Those between requests, the longest first."""

    def __init__(self, sockets: OpenSockets, most: int) -> None:
        self._sockets = sockets
        self._most = most
        self._waiting: dict[GuardedHttpProtocol, None] = {}

    def add(self, protocol: "GuardedHttpProtocol") -> None:
        self._waiting[protocol] = None
        if len(self._waiting) > self._most:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            oldest.close_idle()
        self._sockets.idle = len(self._waiting)

    def discard(self, protocol: "GuardedHttpProtocol") -> None:
        self._waiting.pop(protocol, None)
        self._sockets.idle = len(self._waiting)


class HttpGuard:
    """Makes the protocol of each connection of one service: uvicorn's `http` option."""

    def __init__(self, sockets: OpenSockets, times: HttpTimes) -> None:
        self.sockets = sockets
        self.times = times
        self.idle = IdleConnections(sockets, times.idle_most)
        self.upgrades = Turnstile(UPGRADES_AT_ONCE)

    def __call__(self, **options: Any) -> "GuardedHttpProtocol":
        return GuardedHttpProtocol(self, **options)


class GuardedHttpProtocol(HttpToolsProtocol):
    """One connection until it ends or becomes a WebSocket."""

    _head_bytes = 0
    _timer: asyncio.TimerHandle | None = None
    """Of the part of a request that is awaited."""
    _awaits_head = False
    _awaits_body = False
    _is_new = True
    """Nothing has come yet."""
    _unread: asyncio.TimerHandle | None = None
    """Set while the client doesn't take its answer."""

    def __init__(self, guard: HttpGuard, **options: Any) -> None:
        super().__init__(**options)
        self._guard = guard
        self._seat: Seat | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
        self._seat = Seat(self._guard.sockets)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._nothing_awaited()
        self._guard.idle.discard(self)
        self._read_on()
        if self._seat is not None:
            self._seat.leave()
        super().connection_lost(exc)

    # ---- in ---------------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        new, self._is_new = self._is_new, False
        if new and len(self._guard.upgrades) and data.startswith(b"GET ") and not data.startswith(PROBE_REQUESTS):
            # One more of a crowd: already to read what it asks for takes its time.
            self._nothing_awaited()
            self._take_turn(lambda: self._feed(data, waited=True))
        else:
            self._feed(data)

    def _take_turn(self, go: Callable[[], None]) -> None:
        self.transport.pause_reading()
        self._guard.upgrades.enter(lambda: self._go_on(go))

    def _go_on(self, go: Callable[[], None]) -> None:
        if self.transport.is_closing():
            return
        try:
            go()
        except BaseException:
            self.transport.abort()  # nothing is read of it any more, and nothing is timed
            raise
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def _feed(self, data: bytes, *, waited: bool = False) -> None:
        self._unset_keepalive_if_required()
        if not self._awaits_head and (self.cycle is None or self.cycle.response_complete):
            self._await_head()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._nothing_awaited()
            behind = data[upgrade.args[0] :]
            if self._should_upgrade() and waited:
                self._upgrade(behind)
            elif self._should_upgrade():
                self._take_turn(lambda: self._upgrade(behind))
            else:
                self._unsupported_upgrade_warning()
            return
        except httptools.HttpParserError:
            self._nothing_awaited()
            self._guard.sockets.refused("no_http")
            self.send_400_response("Invalid HTTP request received.")
            return
        if self._awaits_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._refuse(_TOO_LARGE, "head_too_large")
        elif self._awaits_body and self._timer is None:
            self._timer = self.loop.call_later(self._guard.times.body_s, self._refuse, _TOO_LATE, "body_too_late")

    def on_headers_complete(self) -> None:
        self._nothing_awaited()
        if self.parser.should_upgrade() and self._should_upgrade():
            super().on_headers_complete()
            return
        assert self._seat is not None
        self._seat.known()
        self._awaits_body = True
        app = self.app
        if self._guard.sockets.full and not self.url.startswith(PROBES):
            self.app = _no_room
        super().on_headers_complete()
        self.app = app

    def on_message_complete(self) -> None:
        self._nothing_awaited()
        super().on_message_complete()

    def _upgrade(self, behind: bytes) -> None:
        if self._given_up():
            self._guard.sockets.refused("given_up")
            self.transport.abort()
            return
        seat, self._seat = self._seat, None
        self.handle_websocket_upgrade()
        protocol: Any = self.transport.get_protocol()
        protocol.seat = seat
        if protocol.conn.handshake_exc is not None:
            self._guard.sockets.refused("no_handshake")
        # It holds us by our callbacks: without this, each handshake leaves a cycle to the garbage collector.
        self.parser = None  # type: ignore[assignment]
        if behind:
            protocol.data_received(behind)

    def _given_up(self) -> bool:
        """Whether the client has ended its side while it waited, unseen as nothing is read of it meanwhile: of a crowd
        that waits for longer than it has patience, all would be greeted in vain, and nobody else.
        """
        info = tcp_info(self.transport.get_extra_info("socket"), 1)
        return info is not None and info[0] != _ESTABLISHED

    def _await_head(self) -> None:
        self._nothing_awaited()
        self._head_bytes = 0
        self._awaits_head = True
        self._timer = self.loop.call_later(self._guard.times.head_s, self._refuse, _TOO_LATE, "head_too_late")

    def _nothing_awaited(self) -> None:
        self._awaits_head = self._awaits_body = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, response: bytes, code: str) -> None:
        """There is no request, or not all of it: what could say so is told, the client by a status alone."""
        self._nothing_awaited()
        self._guard.sockets.refused(code)
        if not self.transport.is_closing():
            begun = self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete
            if not begun:
                self.transport.write(response)
            self.transport.close()

    # ---- out --------------------------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        super().pause_writing()
        self._look_at_reader(None)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._read_on()

    def _look_at_reader(self, before_bytes: int | None) -> None:
        waiting_bytes = self.transport.get_write_buffer_size() + self._in_kernel_bytes()
        if before_bytes is not None and waiting_bytes >= before_bytes:
            self._guard.sockets.refused("not_read")
            self.transport.abort()
            return
        self._unread = self.loop.call_later(self._guard.times.unread_s, self._look_at_reader, waiting_bytes)

    def _in_kernel_bytes(self) -> int:
        """Sent, and not taken by the other side's kernel: it asks us for more only when a third of a large buffer is
        free, which a slow reader may take minutes for.
        """
        answer = bytearray(4)
        try:
            fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, answer)
        except OSError:
            return 0
        return int.from_bytes(answer, sys.byteorder)

    def _read_on(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    # ---- between requests -------------------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.timeout_keep_alive_task is not None:
            self._guard.idle.add(self)

    def _unset_keepalive_if_required(self) -> None:
        super()._unset_keepalive_if_required()
        self._guard.idle.discard(self)

    def close_idle(self) -> None:
        """Others wait too, and there are too many."""
        self._guard.sockets.refused("idle_connections")
        self.timeout_keep_alive_handler()


async def _no_room(_scope: Scope, _receive: Receive, send: Send) -> None:
    """The answer where no more clients may be served."""
    known = CODES["unavailable"]
    body = json.dumps(problem(known.http, known.code, "no room for more connections")).encode()
    await send({"type": "http.response.start", "status": known.http, "headers": list(_no_room_headers(len(body)))})
    await send({"type": "http.response.body", "body": body})


def _no_room_headers(length: int) -> Iterable[tuple[bytes, bytes]]:
    yield b"content-type", PROBLEM.encode()
    yield b"content-length", b"%d" % length
    yield b"connection", b"close"
    yield b"retry-after", b"%d" % random.randint(*RETRY_S)  # noqa: S311 - a pace
