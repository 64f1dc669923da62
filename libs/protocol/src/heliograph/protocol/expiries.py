"""Expiry records: that somebody had a session's messages forgotten, kept in the log for audits.

A record of the session (same key, partition, CloudEvents headers) of type `dev.heliograph.expiry`, without a position.
Its producer is the subject of the token that asked. The payload holds the whole state, so that a store that lost it can
be told again by whoever reads the log:

    {"expires_at_ms":1764000000000,"set_at_ms":1763990000000,"floor_ms":0}
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from heliograph.core.expiry import Expiry
from heliograph.core.messages import MessageClass
from heliograph.protocol.messages import EXPIRY_EVENT_TYPE, MAX_TIME_MS, Message

_TimeMs = Annotated[int, Meta(ge=0, le=MAX_TIME_MS)]


class _Body(msgspec.Struct):
    expires_at_ms: _TimeMs
    set_at_ms: _TimeMs
    floor_ms: _TimeMs = 0


def expiry_message(session: str, state: Expiry, subject: str) -> Message:
    """The record to write with `record_headers` and `record_value`. The same change always has the same message id."""
    return Message(
        session=session,
        message_id=f"expiry-{state.set_at_ms}-{state.expires_at_ms}",
        time_ms=state.set_at_ms,
        producer=subject,
        class_=MessageClass.CONTROL,
        payload=msgspec.json.encode(_Body(state.expires_at_ms, state.set_at_ms, state.floor_ms)),
        event_type=EXPIRY_EVENT_TYPE,
    )


class _Time(msgspec.Struct):
    time: int


_time_decoder = msgspec.json.Decoder(_Time)


def frame_time_ms(frame: bytes) -> int:
    """When the message of a frame was published (Unix ms): what an expiry goes by."""
    return _time_decoder.decode(frame).time


def expiry_of(message: Message) -> Expiry | None:
    """The state that a record tells; None for any other record, and for one that can't be read."""
    if message.event_type != EXPIRY_EVENT_TYPE:
        return None
    try:
        body = msgspec.json.decode(message.payload, type=_Body)
    except msgspec.MsgspecError:
        return None
    return Expiry(body.expires_at_ms, body.set_at_ms, body.floor_ms)
