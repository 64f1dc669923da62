"""One message and its three spellings: the client frame, the log record, and what the hot window keeps of it.

A frame is spliced, not encoded, so that a payload's bytes are never parsed or copied more often than needed:

    {"type":"message","position":"…","session":"…","message_id":"…","time":…,"traceparent":"…","producer":"…",   head
    "class":"event","event_type":"…",…,"payload":…}                                                              content

The live store puts `{"type":"message","position":"…",` before the rest, in the one place that knows the position.
Content is what duplicates are recognised by; the head differs between a message and its retry. Absent fields are
absent. A frame can be rebuilt from its log record alone, equal byte for byte, and a record from a frame and `extras`.

Record headers follow the CloudEvents Kafka binding 1.0.2 in binary mode, and W3C trace context.
"""

import base64
import binascii
import re
from array import array
from collections.abc import Iterable
from datetime import UTC, datetime
from hashlib import blake2b
from itertools import accumulate

import msgspec
from msgspec import Raw, Struct

from heliograph.core.errors import HeliographError, InvalidValueError
from heliograph.core.messages import MessageClass
from heliograph.core.positions import MAX_SEQ, Position
from heliograph.core.sessions import SessionKey
from heliograph.protocol.frames import FrameError, MessageFrame, decode_server_frame, is_utf8

DEFAULT_EVENT_TYPE = "dev.heliograph.message"
EPOCH_EVENT_TYPE = "dev.heliograph.epoch"
SEAL_EVENT_TYPE = "dev.heliograph.seal"
GAP_EVENT_TYPE = "dev.heliograph.gap"
EXPIRY_EVENT_TYPE = "dev.heliograph.expiry"
OWN_EVENT_TYPES = (EPOCH_EVENT_TYPE, SEAL_EVENT_TYPE, GAP_EVENT_TYPE, EXPIRY_EVENT_TYPE)
"""Records of Heliograph's own in a log topic; publishers may not use the prefix `dev.heliograph.`"""

FRAME_START = b'{"type":"message","position":"'
TELEMETRY_START = b'{"type":"message",'
JSON_CONTENT_TYPE = "application/json"

MAX_PAYLOAD_DEPTH = 63
"""Lists and objects in one another. With the frame around it 64, the strictest default of common JSON parsers (.NET's;
Rust's serde_json 128, Ruby 100). Python's bound depends on the caller's stack: what an edge took, a router could not
read."""

MAX_TIME_MS = 253_402_300_799_999
"""The end of the year 9999, RFC 3339's last."""

Headers = list[tuple[str, bytes]]


class RecordError(HeliographError):
    """A log record that is no message of ours. `reason` is short and stable: a metric label and a header."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__("corrupt", message)
        self.reason = reason


class Message(Struct, kw_only=True):
    """A message, payload as JSON text (a base64 string where `content_type` is not JSON).

    Defaults are None, never spelled out: `event_type` is not DEFAULT_EVENT_TYPE, `content_type` not JSON_CONTENT_TYPE.
    A record spells them out, and a message must come back from it as it was.
    """

    session: str
    message_id: str
    time_ms: int
    producer: str
    """Scoped by the token's subject: `subject` or `subject/name`."""
    class_: MessageClass
    payload: bytes
    position: str | None = None
    traceparent: str | None = None
    event_type: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    reply_to: str | None = None
    content_type: str | None = None
    incarnation: str | None = None
    producer_seq: int | None = None
    by_worker: bool = False
    """Published by a connection that serves the session's agent type: no worker need be found for it."""


_quote = msgspec.json.encode


# ---- frame ----------------------------------------------------------------------------------------------------------


def frame_content(message: Message) -> bytes:
    """The frame's tail from `"class":` on: what a repeat must equal."""
    if (
        message.event_type is None
        and message.correlation_id is None
        and message.causation_id is None
        and message.reply_to is None
        and message.content_type is None
    ):
        return b'"class":"%b","payload":%b}' % (message.class_.encode(), message.payload)
    parts = [b'"class":"%b",' % message.class_.encode()]
    if message.event_type is not None:
        parts.append(b'"event_type":%b,' % _quote(message.event_type))
    if message.correlation_id is not None:
        parts.append(b'"correlation_id":%b,' % _quote(message.correlation_id))
    if message.causation_id is not None:
        parts.append(b'"causation_id":%b,' % _quote(message.causation_id))
    if message.reply_to is not None:
        parts.append(b'"reply_to":%b,' % _quote(message.reply_to))
    if message.content_type is not None:
        parts.append(b'"content_type":%b,' % _quote(message.content_type))
    parts.append(b'"payload":%b}' % message.payload)
    return b"".join(parts)


def frame_rest(message: Message, content: bytes) -> bytes:
    """The frame from `"session":` on: head and content."""
    if message.traceparent is None:
        return b'"session":"%b","message_id":%b,"time":%d,"producer":%b,%b' % (
            message.session.encode(),
            _quote(message.message_id),
            message.time_ms,
            _quote(message.producer),
            content,
        )
    return b'"session":"%b","message_id":%b,"time":%d,"traceparent":%b,"producer":%b,%b' % (
        message.session.encode(),
        _quote(message.message_id),
        message.time_ms,
        _quote(message.traceparent),
        _quote(message.producer),
        content,
    )


def frame(message: Message) -> bytes:
    """The whole client frame."""
    rest = frame_rest(message, frame_content(message))
    if message.position is None:
        return TELEMETRY_START + rest
    return b'%b%b",%b' % (FRAME_START, message.position.encode(), rest)


def content_hash(content: bytes) -> bytes:
    """8 bytes that tell a repeat from another message under the same producer seq or message id."""
    return blake2b(content, digest_size=8).digest()


def frame_position(data: bytes) -> bytes | None:
    """The position in a message frame, without decoding it; None for telemetry. Shape is not checked."""
    return data[30:69] if data.startswith(FRAME_START) else None


def message_from_frame(data: bytes, extras: bytes = b"") -> Message:
    """The message of a client frame and its `extras`. Raises FrameError, whatever the store held."""
    decoded = decode_server_frame(data)
    if not isinstance(decoded, MessageFrame):
        raise FrameError("malformed", "not a message frame")
    message = Message(
        session=decoded.session,
        message_id=decoded.message_id,
        time_ms=decoded.time,
        producer=decoded.producer,
        class_=decoded.class_,
        payload=bytes(decoded.payload),
        position=decoded.position,
        traceparent=decoded.traceparent,
        event_type=decoded.event_type,
        correlation_id=decoded.correlation_id,
        causation_id=decoded.causation_id,
        reply_to=decoded.reply_to,
        content_type=decoded.content_type,
    )
    try:
        SessionKey.parse(message.session)
        if message.position is not None:
            _check_position(message.position)
        if extras:
            message.by_worker = is_by_worker(extras)
            counted = extras[: -len(_BY_WORKER)].rstrip() if message.by_worker else extras
            if counted:
                incarnation, _, seq = counted.partition(b" ")
                message.incarnation, message.producer_seq = incarnation.decode(), _producer_seq(seq.decode())
    except ValueError as error:
        raise FrameError("malformed", str(error)[:300]) from None
    if not 0 <= message.time_ms <= MAX_TIME_MS:
        raise FrameError("malformed", "the frame's time is no time")
    if not is_utf8(message.payload):
        raise FrameError("malformed", "the payload is not UTF-8")
    return message


def _check_position(text: str) -> None:
    if Position.parse(text).seq == 0:
        raise InvalidValueError("position_invalid", "position", text, "a message's: seq is 1 or more")


_PRODUCER_SEQ = re.compile(r"[1-9][0-9]{0,15}")


def _producer_seq(text: str) -> int:
    if not _PRODUCER_SEQ.fullmatch(text) or int(text) > MAX_SEQ:
        raise InvalidValueError("value_invalid", "producer seq", text, f"1 to {MAX_SEQ}")
    return int(text)


def extras(message: Message) -> bytes:
    """What the log has of a message and its frame has not; kept beside the frame in the hot window:
    `<incarnation> <producer seq>`, `w` for a worker's own, or both with a space between.
    """
    if message.incarnation is None or message.producer_seq is None:
        return _BY_WORKER if message.by_worker else b""
    if message.by_worker:
        return b"%b %d %b" % (message.incarnation.encode(), message.producer_seq, _BY_WORKER)
    return b"%b %d" % (message.incarnation.encode(), message.producer_seq)


_BY_WORKER = b"w"
"""No incarnation is so short, no producer seq a letter."""


def is_by_worker(extras: bytes) -> bool:
    """Whether the message of these extras was published by a worker of the session's agent type."""
    return extras.endswith(_BY_WORKER) and (len(extras) == 1 or extras[-2:-1] == b" ")


# ---- payload --------------------------------------------------------------------------------------------------------


def is_json(content_type: str | None) -> bool:
    """Whether a payload of this media type is spliced as JSON (RFC 8259, RFC 6839 for `+json`)."""
    if content_type is None:
        return True
    media = content_type.partition(";")[0].strip().lower()
    return media in (JSON_CONTENT_TYPE, "text/json") or media.endswith("+json")


def check_payload(payload: bytes) -> None:
    """Refuse what the decoder of frames lets pass and some reader of the message would choke on: InvalidValueError.

    `payload` is one that `decode_client_frame` gave, so it is JSON (RFC 8259: the decoder reads what it skips as
    strictly as what it keeps, lone surrogates are errors), and its frame is UTF-8 (`is_utf8`). What is left is depth.
    Costs 0.3 µs for a small payload; 0.1 to 0.4 ms for 64 KiB of small objects, 1 ms for 64 KiB of brackets.
    """
    if len(payload.translate(None, _NO_OPENING)) > MAX_PAYLOAD_DEPTH and _depth(payload) > MAX_PAYLOAD_DEPTH:
        raise InvalidValueError("value_invalid", "payload", "nested deeper", f"nested at most {MAX_PAYLOAD_DEPTH} deep")


_NO_OPENING = bytes(set(range(256)) - set(b"[{"))
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_MARK = bytes(set(range(256)) - set(b'[]{}"'))


def _depth(payload: bytes) -> int:
    """How deep lists and objects of `payload` (JSON) are nested. No recursion, no step in Python per byte."""
    if b"\\" in payload:
        payload = payload.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Quotes and brackets only, as +1 and -1. A quote next to a quote closes or opens a string without brackets:
    # taking both away leaves every bracket inside or outside strings as it was.
    marks = payload.translate(_STEPS, _NO_MARK).replace(b'""', b"")
    if b'"' in marks:
        marks = b"".join(marks.split(b'"')[::2])
    return max(accumulate(array("b", marks)), default=0)


def canonical_payload(payload: bytes, content_type: str | None) -> bytes:
    """The payload as it is stored: verbatim, but for what would break a reader.

    Line breaks end a line of NDJSON: a payload that holds some is compacted (numbers and strings stay as they are
    spelled). A base64 string that escapes its slashes gets its one spelling, so that it can be rebuilt from the bytes.
    Raises InvalidValueError: `value_invalid` (`check_payload`), or `payload_not_base64` for a payload that is not JSON
    by its media type and not base64.
    """
    check_payload(payload)
    if b"\n" in payload or b"\r" in payload:
        payload = msgspec.json.format(payload, indent=-1)
    if content_type is not None and not is_json(content_type):
        if payload[:1] == b'"' and b"\\" in payload:
            payload = _quote(msgspec.json.decode(payload, type=str))
        _decoded(payload)
    return payload


def _decoded(payload: bytes) -> bytes:
    """The bytes behind a base64 payload; only the one canonical spelling (RFC 4648, 3.5) is taken."""
    try:
        text = payload[1:-1] if payload[:1] == b'"' else None
        if text is not None:
            value = base64.b64decode(text, validate=True)
            if base64.b64encode(value) == text:
                return value
    except binascii.Error:
        pass
    raise InvalidValueError(
        "payload_not_base64", "payload", f"{len(payload)} bytes", "a JSON string of canonical base64 (RFC 4648)"
    )


# ---- log record -----------------------------------------------------------------------------------------------------

_SECOND_CACHE: tuple[int, str] = (-1, "")


def rfc3339(time_ms: int) -> str:
    """`time_ms` (Unix, ms) as RFC 3339 UTC with milliseconds."""
    global _SECOND_CACHE  # noqa: PLW0603 - one entry, replaced whole: formatting a second costs 2 µs, and it is the same
    second, ms = divmod(time_ms, 1000)
    cached, text = _SECOND_CACHE
    if cached != second:
        text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        _SECOND_CACHE = (second, text)
    return f"{text}.{ms:03d}Z"


def parse_rfc3339_ms(text: str) -> int:
    """Unix ms of an RFC 3339 time. Raises ValueError or OverflowError."""
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("a time without an offset")
    time_ms = int(at.replace(microsecond=0).timestamp()) * 1000 + at.microsecond // 1000
    if not 0 <= time_ms <= MAX_TIME_MS:
        raise ValueError("a time before 1970 or after 9999")
    return time_ms


def record_headers(message: Message) -> Headers:
    """The log record's headers for `message`, CloudEvents first."""
    session = message.session
    headers: Headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", message.message_id.encode()),
        ("ce_source", b"/" + session.replace(":", "/").encode()),
        ("ce_type", (message.event_type or DEFAULT_EVENT_TYPE).encode()),
        ("ce_time", rfc3339(message.time_ms).encode()),
        ("ce_partitionkey", session.encode()),
        ("ce_class", message.class_.encode()),
        ("ce_producer", message.producer.encode()),
        ("content-type", (message.content_type or JSON_CONTENT_TYPE).encode()),
    ]
    if message.position is not None:
        headers.append(("ce_sequence", message.position.encode()))
    if message.incarnation is not None:
        headers.append(("ce_incarnation", message.incarnation.encode()))
        headers.append(("ce_producerseq", b"%d" % (message.producer_seq or 0)))
    if message.by_worker:
        headers.append(("ce_byworker", b"1"))
    if message.correlation_id is not None:
        headers.append(("ce_correlationid", message.correlation_id.encode()))
    if message.causation_id is not None:
        headers.append(("ce_causationid", message.causation_id.encode()))
    if message.reply_to is not None:
        headers.append(("ce_replyto", message.reply_to.encode()))
    if message.traceparent is not None:
        headers.append(("traceparent", message.traceparent.encode()))
    return headers


def record_value(message: Message) -> bytes:
    """The log record's value: the payload; decoded where it is not JSON, as CloudEvents' binary mode wants it."""
    if message.content_type is None or is_json(message.content_type):
        return message.payload
    return _decoded(message.payload)


def message_from_record(key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes | None]]) -> Message:
    """The message of a log record. Raises RecordError(reason) where it is none; never anything else.

    `event_type` is None for the default, `content_type` None for plain JSON, as a publisher leaves them out.
    """
    found: dict[str, str] = {}
    try:
        for name, raw in headers:
            if raw is None:
                raise RecordError("header_empty", f"header {name} has no value")
            found[name] = raw.decode()
    except UnicodeDecodeError:
        raise RecordError("header_not_utf8", "a header is not UTF-8") from None
    if value is None:
        raise RecordError("value_missing", "the record has no value")
    try:
        session = found["ce_partitionkey"]
        SessionKey.parse(session)
        if key != session.encode():
            raise RecordError("key_mismatch", "the record's key is not its session")
        position = found.get("ce_sequence")
        if position is not None:
            _check_position(position)
        incarnation, producer_seq = found.get("ce_incarnation"), found.get("ce_producerseq")
        if (incarnation is None) != (producer_seq is None):
            raise RecordError("header_missing", "ce_incarnation and ce_producerseq belong together")
        event_type = found["ce_type"]
        content_type = found["content-type"]
        if not event_type or not content_type:
            raise RecordError("header_empty", "ce_type or content-type is empty")
        message = Message(
            session=session,
            message_id=found["ce_id"],
            time_ms=parse_rfc3339_ms(found["ce_time"]),
            producer=found["ce_producer"],
            class_=MessageClass(found["ce_class"]),
            payload=value if is_json(content_type) else b'"%b"' % base64.b64encode(value),
            position=position,
            traceparent=found.get("traceparent"),
            event_type=None if event_type == DEFAULT_EVENT_TYPE else event_type,
            correlation_id=found.get("ce_correlationid"),
            causation_id=found.get("ce_causationid"),
            reply_to=found.get("ce_replyto"),
            content_type=None if content_type == JSON_CONTENT_TYPE else content_type,
            incarnation=incarnation,
            producer_seq=None if producer_seq is None else _producer_seq(producer_seq),
            by_worker=found.get("ce_byworker") == "1",
        )
    except KeyError as missing:
        raise RecordError("header_missing", f"header {missing.args[0]} is missing") from None
    except InvalidValueError as error:
        raise RecordError(error.code, str(error)) from None
    except (ValueError, OverflowError) as error:
        raise RecordError("header_invalid", str(error)[:200]) from None
    if is_json(message.content_type):
        message.payload = _json_payload(message.payload)
    return message


_raw_decoder = msgspec.json.Decoder(Raw)


def _json_payload(value: bytes) -> bytes:
    try:
        _raw_decoder.decode(value)
        if is_utf8(value):
            return canonical_payload(value, None)
    except (msgspec.MsgspecError, RecursionError):
        pass
    except InvalidValueError:
        raise RecordError("payload_too_deep", "the value is nested deeper than a payload may be") from None
    raise RecordError("payload_not_json", "the value is not the JSON its content type says")
