"""Gap records: the log's own word that a position will not come.

A record like any other of its session (same key, partition, CloudEvents headers), of type `dev.heliograph.gap`. Its
`ce_sequence` is the position that is missing, so that whoever orders a session by position finds the gap in its place;
the payload says it again for readers that know nothing of Heliograph:

    {"position":"1764000000000-1a2b3c4d-0000000000000042","reason":"never_written"}
"""

import msgspec

from heliograph.core.messages import MessageClass
from heliograph.core.positions import Position
from heliograph.protocol.codes import GapReason
from heliograph.protocol.messages import GAP_EVENT_TYPE, Message

GAP_PRODUCER = "heliograph/router"


class _Body(msgspec.Struct):
    position: str
    reason: str


def gap_message(session: str, position: Position, reason: str, time_ms: int) -> Message:
    """The gap record to write with `record_headers` and `record_value`. The same gap always has the same message id."""
    text = str(position)
    return Message(
        session=session,
        message_id=f"gap-{text}",
        time_ms=time_ms,
        producer=GAP_PRODUCER,
        class_=MessageClass.EVENT,
        payload=msgspec.json.encode(_Body(text, reason)),
        position=text,
        event_type=GAP_EVENT_TYPE,
    )


def gap_reason(message: Message) -> str | None:
    """Why the position of a record will not come; None for a record that is a message."""
    if message.event_type != GAP_EVENT_TYPE:
        return None
    try:
        return msgspec.json.decode(message.payload, type=_Body).reason
    except msgspec.MsgspecError:
        return GapReason.CORRUPT
