"""A WebSocket client that costs little: handshake, masked text frames out, whole frames in (RFC 6455), no more.

For load only. It trusts the server: fragments and compression, which ours doesn't send, are errors.
"""

import asyncio
import base64
import hashlib
import os
import re
from collections.abc import Callable
from typing import cast
from urllib.parse import urlsplit

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_NO_MASK = b"\0\0\0\0"
"""A masking key of zeros leaves the text as it is. Real clients must not (5.3); a server must not care."""
_TEXT, _CLOSE, _PING, _PONG = 0x81, 0x88, 0x89, 0x8A

_RETRY_AFTER = re.compile(rb"\r\nretry-after: *(\d+)", re.IGNORECASE)

OnText = Callable[["LoadClient", bytes], None]
OnLost = Callable[[], None]


class HandshakeError(Exception):
    """The server did not switch protocols; carries its first line, and when to come back where it said so."""

    def __init__(self, line: str, retry_after_s: float | None = None) -> None:
        super().__init__(line)
        self.retry_after_s = retry_after_s


class LoadClient(asyncio.Protocol):
    """One connection. `on_text` gets every text frame; it must not keep the loop long. `on_lost`: it ended."""

    def __init__(self, on_text: OnText, request: bytes, accept: bytes, on_lost: OnLost = lambda: None) -> None:
        self.open: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lost = False
        self.number = 0
        self._on_text = on_text
        self._on_lost = on_lost
        self._request = request
        self._accept = accept
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        if not self.open.done():
            self.open.set_exception(error or HandshakeError("the connection was closed"))
        self._on_lost()

    def data_received(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
        if not self.open.done():
            head, end, data = data.partition(b"\r\n\r\n")
            if not end:
                self._buffer = head
                return
            if not head.startswith(b"HTTP/1.1 101") or self._accept not in head:
                found = _RETRY_AFTER.search(head)
                line = head.split(b"\r\n", 1)[0].decode("latin-1")
                self.open.set_exception(HandshakeError(line, float(found[1]) if found else None))
                self.close()
                return
            self.open.set_result(None)
        at, size = 0, len(data)
        while size - at >= 2:
            length, start = data[at + 1], at + 2
            if length == 126:
                start = at + 4
                length = int.from_bytes(data[at + 2 : start])
            elif length == 127:
                start = at + 10
                length = int.from_bytes(data[at + 2 : start])
            if size < start or size < start + length:
                break
            opcode, at = data[at], start + length
            if opcode == _TEXT:
                self._on_text(self, data[start:at])
            elif opcode == _PING:
                self._send(_PONG, data[start:at])
            elif opcode == _CLOSE and self._transport is not None:
                self._transport.close()
        self._buffer = data[at:] if at < size else b""

    def send(self, text: bytes) -> None:
        """One text frame."""
        self._send(_TEXT, text)

    def send_raw(self, opcode: int, data: bytes) -> None:
        """One frame of any kind, the first byte as it stands: for what no client should send."""
        self._send(opcode, data)

    @property
    def unsent_bytes(self) -> int:
        """Written and not taken by the kernel yet."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _send(self, opcode: int, data: bytes) -> None:
        """Nothing where the connection has ended and nobody has been told yet: who resends, resends."""
        assert self._transport is not None
        if self._transport.is_closing():
            return
        length = len(data)
        if length < 126:
            head = bytes((opcode, 0x80 | length))
        elif length < 65_536:
            head = bytes((opcode, 0x80 | 126)) + length.to_bytes(2)
        else:
            head = bytes((opcode, 0x80 | 127)) + length.to_bytes(8)
        self._transport.write(head + _NO_MASK + data)


async def connect(url: str, header: str, on_text: OnText, on_lost: OnLost = lambda: None) -> LoadClient:
    """Open one connection. Raises HandshakeError or OSError."""
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    key = base64.b64encode(os.urandom(16)).decode()
    accept = base64.b64encode(hashlib.sha1((key + _GUID).encode()).digest())
    lines = [
        f"GET {parts.path or '/'} HTTP/1.1",
        f"Host: {host}:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
        *([header] if header else []),
    ]
    request = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
    _, client = await asyncio.get_running_loop().create_connection(
        lambda: LoadClient(on_text, request, accept, on_lost), host, port
    )
    try:
        await client.open
    except BaseException:
        client.close()  # whoever gave up waiting must not stay connected
        raise
    return client
