"""uvicorn's sans-I/O WebSocket protocol, with the two ends of the hot path cut short.

Inbound, a complete text frame is handed to the connection at once: no queue, no task. Outbound, a connection collects
frames during a tick of the event loop and a `TickWriter` writes them with one call at its end. The ASGI application
only decides about the handshake and then sleeps until the connection is gone.

Nothing here knows what a frame says.
"""

import asyncio
import fcntl
import socket
import sys
import termios
from typing import Any, Protocol

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from heliograph.edge.read_turns import ReadTurns
from heliograph.protocol.codes import CLOSES, CloseCode
from heliograph.service.sockets import Seat

EXTENSION = "heliograph.socket"
"""Key in the ASGI scope's extensions under which the endpoint finds its `ClientSocket`."""

SLICE_BYTES = 16 * 1024
"""Of what came at once that is looked at in one turn of the loop: some 200 small frames."""

MAX_FRAGMENTS = 1_024
"""Of one message: empty ones count no bytes, and take memory all the same."""

NO_HANDSHAKE = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
"""For a request that the WebSocket library has no answer to."""

CLOSE_TIMEOUT_S = 5.0
"""For the peer to answer a close frame: a round trip, generously."""


class SocketOwner(Protocol):
    """What a `ClientSocket` tells its connection, synchronously, on the event loop."""

    def on_text(self, data: bytes) -> None: ...

    def on_binary(self) -> None: ...

    def on_writable(self) -> None:
        """The transport's buffer fell below its low mark."""

    def on_closed(self) -> None:
        """The transport is gone. Called once."""


class ClientSocket(WebSocketsSansIOProtocol):
    """One WebSocket of a client."""

    owner: SocketOwner | None = None
    read_bytes = 0
    seat: Seat | None = None
    """Its place among the service's sockets."""
    _held = b""
    """What came before the handshake was answered."""
    send_buffer_bytes = 128 * 1024
    """Set by `bootstrap` for all."""
    _descriptor = -1
    _turns: ReadTurns
    _unread = b""
    """What came and has to wait for a turn."""
    _by_owner = False
    """Reading is paused by the owner; with `_waits`, until it is its turn."""
    _waits = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        raw: socket.socket | None = transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.send_buffer_bytes)
            self._descriptor = raw.fileno()

    def attach(self, owner: SocketOwner, turns: ReadTurns) -> None:
        """From here on `owner` gets what arrives; what the handshake alone needed is let go."""
        self.owner = owner
        self._turns = turns
        self.scope["headers"] = []
        del self.scope["extensions"][EXTENSION]
        del self.request
        if self.transport.is_closing() or self.disconnected:
            self._tell_closed()

    def read_on(self) -> None:
        """Hand over what the peer sent before its handshake was answered, though it had to wait (RFC 6455, 4.1)."""
        held, self._held = self._held, b""
        if held and self.owner is not None:
            self.data_received(held)

    def data_received(self, data: bytes) -> None:
        if self.owner is None and self.handshake_initiated:
            self._hold(data)
            return
        if self._unread or (len(data) > SLICE_BYTES and self.owner is not None):
            self._unread += data
            if not self._waits and not self._by_owner:
                self._read_slice()
            return
        self.read_bytes += len(data)
        super().data_received(data)
        if not self.handshake_initiated and self.conn.handshake_exc is not None:
            # A request that HTTP allows and a handshake doesn't; uvicorn leaves it unanswered and open.
            self.transport.write(b"".join(self.conn.data_to_send()) or NO_HANDSHAKE)
            self.transport.close()

    def rest(self) -> bool:
        """Let the peer wait for a moment with what it sends; False where it waits already."""
        if self._waits or self.owner is None:
            return False
        self._wait()
        self._turns.rest(self._read_again)
        return True

    def _read_slice(self) -> None:
        data, self._unread = self._unread[:SLICE_BYTES], self._unread[SLICE_BYTES:]
        self.read_bytes += len(data)
        super().data_received(data)
        if self._unread and not self._waits and not self._by_owner:
            self._wait()
            self._turns.next(self._read_again)

    def _wait(self) -> None:
        self._waits = True
        if not self._by_owner and not self.transport.is_closing():
            self.transport.pause_reading()

    def _read_again(self) -> None:
        """Its turn has come."""
        self._waits = False
        if self.transport.is_closing():
            self._unread = b""
        elif self._unread and not self._by_owner:
            self._read_slice()
        if not self._waits and not self._by_owner and not self.transport.is_closing():
            self.transport.resume_reading()

    def _hold(self, data: bytes) -> None:
        if self.close_sent:
            return  # the handshake was refused
        self._held += data
        if len(self._held) > self.config.ws_max_size and not self.transport.is_closing():
            if self.seat is not None:
                self.seat.refused("sent_too_early")
            self.transport.abort()

    def begun(self) -> object | None:
        """What is incomplete of what the peer sends: the same object, or an equal number, as long as it is the same
        message or frame; None where nothing is. Whoever asks now and then finds one that never ends.
        """
        if self.frames:
            return self.frames
        held_bytes = len(self.conn.reader.buffer)
        return self.read_bytes - held_bytes if held_bytes else None

    def handle_cont(self, event: Frame) -> None:
        super().handle_cont(event)
        if len(self.frames) > MAX_FRAGMENTS:
            self.close(CloseCode.TOO_LARGE, CLOSES[CloseCode.TOO_LARGE].name)

    def handle_text(self, event: Frame) -> None:
        owner = self.owner
        if owner is not None and event.fin:
            if not self.close_sent:
                owner.on_text(event.data)  # type: ignore[arg-type]
            return
        super().handle_text(event)

    def send_receive_event_to_app(self) -> None:
        owner = self.owner
        if owner is None:
            super().send_receive_event_to_app()
            return
        data = self.frames[0] if len(self.frames) == 1 else b"".join(self.frames)
        self.frames = []
        if self.close_sent:
            return
        if self.curr_msg_data_type == "text":
            owner.on_text(data)
        else:
            owner.on_binary()

    def handle_close(self, event: Frame) -> None:
        super().handle_close(event)
        self.close_sent = True  # nothing may follow the echo (RFC 6455, 5.5.1)
        if self.transport.get_write_buffer_size():  # else a peer that reads nothing more would keep the socket
            self.close_timer = self.loop.call_later(CLOSE_TIMEOUT_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.owner is not None:
            self.owner.on_writable()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.seat is not None:
            self.seat.leave()
        self._tell_closed()
        # A generator that holds its own `ServerProtocol`: see `heliograph.service.garbage`.
        self.conn.parser.close()

    @property
    def offered_bytes(self) -> int | None:
        """What the kernel holds because the peer's end has not acknowledged it yet (tcp(7), SIOCOUTQ); None where the
        kernel can't tell.
        """
        if self.transport.is_closing():
            return None
        try:
            return int.from_bytes(fcntl.ioctl(self._descriptor, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        except OSError:
            return None

    def pause_reading(self) -> None:
        """Let the peer wait with what it sends, until `resume_reading`."""
        self._by_owner = True
        if not self._waits and not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        self._by_owner = False
        if self._waits or self.transport.is_closing():
            return
        if self._unread:  # not now: this may be called from the midst of a slice
            self._waits = True
            self._turns.next(self._read_again)
        else:
            self.transport.resume_reading()

    def close(self, code: int, reason: str) -> None:
        """Send a close frame, and end the transport when the peer answered or `CLOSE_TIMEOUT_S` passed."""
        if self.close_sent or self.disconnected or self.transport.is_closing():
            return
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.close_timer = self.loop.call_later(CLOSE_TIMEOUT_S, self.transport.abort)

    def abort(self) -> None:
        """End the transport at once: for a peer that reads nothing, a close frame would wait behind the rest."""
        self.transport.abort()

    def _tell_closed(self) -> None:
        owner, self.owner = self.owner, None
        if owner is not None:
            owner.on_closed()

    async def run_asgi(self) -> None:
        extensions: dict[str, Any] = self.scope.setdefault("extensions", {})
        extensions[EXTENSION] = self
        await super().run_asgi()
