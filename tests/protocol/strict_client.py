"""A strict WebSocket client and a strict JSON reader: what everything an edge sends is held to."""

import json
from typing import Any, NoReturn

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri


class RejectedError(Exception):
    """The client would end the connection."""


def received(data: bytes) -> list[Frame]:
    """The frames of `data` as an open client connection sees them. Raises RejectedError where it would fail it.

    The library leaves two rules to its user, and they are kept here: text is UTF-8 (RFC 6455, 8.1), and a length takes
    the fewest bytes possible (5.2).
    """
    client = ClientProtocol(parse_uri("ws://127.0.0.1/"), state=State.OPEN, max_size=None)
    client.receive_data(data)
    if client.parser_exc is not None:
        raise RejectedError(str(client.parser_exc))
    frames = [event for event in client.events_received() if isinstance(event, Frame)]
    if b"".join(frame.serialize(mask=False) for frame in frames) != data:
        raise RejectedError("not the one way to write these frames")
    for frame in frames:
        if frame.opcode is Opcode.TEXT:
            try:
                bytes(frame.data).decode()
            except UnicodeDecodeError as error:
                raise RejectedError("text is not UTF-8") from error
    return frames


def received_text(data: bytes) -> str:
    """The one text message that `data` is."""
    (frame,) = received(data)
    assert frame.opcode is Opcode.TEXT
    assert frame.fin
    return bytes(frame.data).decode()


def strict_json(text: str) -> Any:
    """RFC 8259 to the letter; numbers stay the text they are written as. Raises ValueError."""
    return json.loads(text, parse_constant=_refuse, parse_int=_Number, parse_float=_Number)


class _Number(str):
    """A number as it was written: equal to another only where both are spelled alike."""

    __slots__ = ()


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
