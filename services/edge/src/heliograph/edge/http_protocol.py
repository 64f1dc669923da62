"""uvicorn's HTTP protocol with what a port that is open to everybody needs.

A request's head is bounded, in bytes and in time: whoever sends it byte by byte, or for ever, is cut off. And what a
client sent right behind its WebSocket handshake, in the same segment, is handed on; uvicorn drops it.
"""

import asyncio
from collections.abc import Callable

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 64 * 1024
"""Four times what common proxies let through, cookies and a token of the largest size included."""

HEAD_TIMEOUT_S = 10.0
"""From the connection, or the first byte of a further request, to the end of its head; slow mobile networks need
seconds."""

_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_TOO_LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class EdgeHttpProtocol(HttpToolsProtocol):
    """One connection until it ends or becomes a WebSocket."""

    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None
    """Set while a request's head is awaited."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            self._await_head()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._head_came()
            if self._should_upgrade():
                self.handle_websocket_upgrade()
                behind = data[upgrade.args[0] :]
                if behind:
                    protocol = self.transport.get_protocol()
                    assert isinstance(protocol, asyncio.Protocol)
                    protocol.data_received(behind)
            else:
                self._unsupported_upgrade_warning()
            return
        except httptools.HttpParserError:
            self._head_came()
            self._say_refused("no_http")
            self.send_400_response("Invalid HTTP request received.")
            return
        if self._head_timer is not None:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._refuse(_TOO_LARGE, "head_too_large")

    def on_headers_complete(self) -> None:
        self._head_came()
        super().on_headers_complete()

    def _await_head(self) -> None:
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._refuse, _TOO_LATE, "head_too_late")

    def _head_came(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, response: bytes, code: str) -> None:
        self._head_came()
        self._say_refused(code)
        if not self.transport.is_closing():
            self.transport.write(response)
            self.transport.close()

    def _say_refused(self, code: str) -> None:
        """There is no request that could say so; the application knows whom to tell."""
        refused: Callable[[str], None] = self.config.app.refused  # type: ignore[union-attr] # EdgeApp's
        refused(code)
