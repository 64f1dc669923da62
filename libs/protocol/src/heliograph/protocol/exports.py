"""Records of the log as lines of an export, and back: NDJSON that people can read and Kafka can be filled from.

A line is the frame that subscribers got, with the record's place before it and what only the log has behind it:

    {"type":"record","topic":"acme.log","partition":3,"offset":17,"timestamp":1764000000123,        place
     "position":"…","session":"…","message_id":"…",…,"payload":…,                                     frame
     "incarnation":"…","producer_seq":7}

`topic` is the name without the installation's prefix, `timestamp` Kafka's. The record can be rebuilt from its line
alone, equal byte for byte: what these fields don't give exactly (headers of somebody else, another spelling) is there
once more as `record`, and a record that is no message of ours has nothing but that, and `corrupt` says why.

What this must never do: leave something of a record out, or guess it.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import msgspec
from msgspec import Raw, Struct

from heliograph.core.errors import HeliographError, InvalidValueError
from heliograph.core.messages import MessageClass
from heliograph.protocol.messages import (
    TELEMETRY_START,
    Message,
    RecordError,
    frame,
    message_from_record,
    record_headers,
    record_value,
)

T = TypeVar("T")

LINE_START = b'{"type":"record",'

RecordHeaders = Sequence[tuple[str, bytes | None]]


class Place(NamedTuple):
    """Where a record is in the log."""

    topic: str
    """Without the installation's prefix."""
    partition: int
    offset: int
    timestamp_ms: int


class Verbatim(Struct):
    """A record as Kafka has it. Bytes are base64 in JSON."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


class ExportedRecord(Struct, tag="record", tag_field="type", rename={"class_": "class"}, kw_only=True):
    """A line. Fields are the frame's, absent where they are not given."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    position: str | None = None
    session: str | None = None
    message_id: str | None = None
    time: int | None = None
    traceparent: str | None = None
    producer: str | None = None
    class_: MessageClass | None = None
    event_type: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    reply_to: str | None = None
    content_type: str | None = None
    payload: Raw = msgspec.field(default_factory=Raw)
    """JSON; a string of base64 where `content_type` is not JSON. Empty: there is none."""
    incarnation: str | None = None
    producer_seq: int | None = None
    by_worker: bool = False
    record: Verbatim | None = None
    corrupt: str | None = None
    """Why the record is no message."""


_quote = msgspec.json.encode
_decoder = msgspec.json.Decoder(ExportedRecord)


def exported_message(key: bytes | None, value: bytes | None, headers: RecordHeaders) -> Message | RecordError:
    """The message of a record, or why it is none."""
    try:
        return message_from_record(key, value, headers)
    except RecordError as error:
        return error


def record_line(
    place: Place, key: bytes | None, value: bytes | None, headers: RecordHeaders, message: Message | RecordError
) -> bytes:
    """The line of a record, without a line break; `message` is what `exported_message` gave for it."""
    start = b'%b"topic":%b,"partition":%d,"offset":%d,"timestamp":%d' % (
        LINE_START,
        _quote(place.topic),
        place.partition,
        place.offset,
        place.timestamp_ms,
    )
    if isinstance(message, RecordError):
        return b'%b,%b,"corrupt":%b}' % (start, _verbatim(key, value, headers), _quote(message.reason))
    line = b"%b,%b" % (start, frame(message)[len(TELEMETRY_START) : -1])
    if message.incarnation is not None:
        line += b',"incarnation":%b,"producer_seq":%d' % (_quote(message.incarnation), message.producer_seq or 0)
    if message.by_worker:
        line += b',"by_worker":true'
    if (key, value, headers) != _record(message):
        line += b"," + _verbatim(key, value, headers)
    return line + b"}"


def decode_record_line(line: bytes) -> ExportedRecord:
    """Raise InvalidValueError(`value_invalid`), whatever the file held."""
    try:
        return _decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidValueError("value_invalid", "line", str(error)[:200], "a record of an export") from None


def record_of(line: ExportedRecord) -> Verbatim:
    """The log record of a line, equal byte for byte to the one it was made from.

    Raises InvalidValueError(`value_invalid`) for a line that nobody exported.
    """
    if line.record is not None:
        return line.record
    try:
        message = Message(
            session=_there("session", line.session),
            message_id=_there("message_id", line.message_id),
            time_ms=_there("time", line.time),
            producer=_there("producer", line.producer),
            class_=_there("class", line.class_),
            payload=_there("payload", bytes(line.payload) or None),
            position=line.position,
            traceparent=line.traceparent,
            event_type=line.event_type,
            correlation_id=line.correlation_id,
            causation_id=line.causation_id,
            reply_to=line.reply_to,
            content_type=line.content_type,
            incarnation=line.incarnation,
            producer_seq=line.producer_seq,
            by_worker=line.by_worker,
        )
        key, value, headers = _record(message)
        if message_from_record(key, value, headers) != message:
            raise InvalidValueError("value_invalid", "line", message.message_id, "what a record says")
    except (HeliographError, ValueError, OverflowError) as error:
        where = f"{line.topic}/{line.partition} at {line.offset}: {error}"[:300]
        raise InvalidValueError("value_invalid", "line", where, "a record of an export") from None
    return Verbatim(key, value, headers)


def _record(message: Message) -> tuple[bytes, bytes, list[tuple[str, bytes | None]]]:
    return message.session.encode(), record_value(message), list(record_headers(message))


def _verbatim(key: bytes | None, value: bytes | None, headers: RecordHeaders) -> bytes:
    return b'"record":%b' % _quote(Verbatim(key, value, list(headers)))


def _there(field: str, value: T | None) -> T:
    if value is None:
        raise InvalidValueError("value_invalid", field, None, "there, or `record`")
    return value
