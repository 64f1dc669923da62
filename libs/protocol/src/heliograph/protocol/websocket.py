"""RFC 6455 frames from server to client, as bytes: what the raw write path puts around a frame of ours.

A message goes to many connections, so its WebSocket frame is built once and written as it is to each. That works
because servers don't mask (RFC 6455, 5.1) and because nothing here is per connection: no compression
(permessage-deflate keeps state), no fragments. Reading, masking and the handshake are the WebSocket library's.

What this must never do: check or change what it wraps. `data` is UTF-8 already (`heliograph.protocol.frames.is_utf8`),
or a strict client ends the connection with 1007.
"""

import struct

MAX_CONTROL_BYTES = 125
"""RFC 6455, 5.5: the payload of a control frame."""
MAX_HEADER_BYTES = 10
"""2, and 8 for a length above 65,535. What a frame may cost besides its text, where buffers are bounded."""

_FIN_TEXT = 0x81
_FIN_CLOSE = 0x88
_FIN_PING = 0x89
_FIN_PONG = 0x8A

_pack_16 = struct.Struct("!BBH").pack
_pack_64 = struct.Struct("!BBQ").pack


def text_frame(data: bytes) -> bytes:
    """One whole, unmasked text message (RFC 6455, 5.2). The length takes the fewest bytes, as a strict reader asks."""
    length = len(data)
    if length < 126:
        return b"\x81%c%b" % (length, data)
    if length < 65_536:
        return _pack_16(_FIN_TEXT, 126, length) + data
    return _pack_64(_FIN_TEXT, 127, length) + data


def ping_frame(data: bytes = b"") -> bytes:
    """A ping (5.5.2). Raises ValueError above MAX_CONTROL_BYTES."""
    return _control_frame(_FIN_PING, data)


def pong_frame(data: bytes = b"") -> bytes:
    """A pong (5.5.3): `data` is the ping's. Raises ValueError above MAX_CONTROL_BYTES."""
    return _control_frame(_FIN_PONG, data)


def close_frame(code: int | None = None, reason: str = "") -> bytes:
    """A close frame (5.5.1); without a code it is empty. A reason too long is cut between characters.

    Raises ValueError for a code that must not be sent (7.4): a strict client answers it with 1002.
    """
    if code is None:
        if reason:
            raise ValueError("a close reason needs a code")
        return _control_frame(_FIN_CLOSE, b"")
    if not may_be_sent(code):
        raise ValueError(f"close code is {code!r}; it must be one of RFC 6455, 7.4, or 3000 to 4999")
    text = reason.encode()[: MAX_CONTROL_BYTES - 2].decode(errors="ignore").encode()
    return _control_frame(_FIN_CLOSE, code.to_bytes(2) + text)


def may_be_sent(code: int) -> bool:
    """Whether a close frame may carry `code`: 1004 to 1006 and 1015 say what happened without one (7.4.1)."""
    return (1000 <= code <= 1014 and code not in (1004, 1005, 1006)) or 3000 <= code <= 4999


def _control_frame(first_byte: int, data: bytes) -> bytes:
    if len(data) > MAX_CONTROL_BYTES:
        raise ValueError(f"a control frame of {len(data)} bytes; it must be at most {MAX_CONTROL_BYTES}")
    return b"%c%c%b" % (first_byte, len(data), data)
