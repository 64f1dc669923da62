"""Vectors of messages: frame, log record, extras, content hash; and payloads: what is stored, what is refused."""

from dataclasses import asdict
from typing import Any

import msgspec

from heliograph.core.errors import InvalidValueError
from heliograph.core.expiry import Expiry
from heliograph.core.messages import MessageClass
from heliograph.core.positions import Position
from heliograph.protocol.codes import GapReason
from heliograph.protocol.expiries import expiry_message
from heliograph.protocol.gaps import gap_message
from heliograph.protocol.messages import (
    MAX_PAYLOAD_DEPTH,
    Message,
    canonical_payload,
    content_hash,
    extras,
    frame,
    frame_content,
    message_from_frame,
    message_from_record,
    record_headers,
    record_value,
)
from heliograph.protocol.vectors.spelling import fields_of, spelled

_PLAIN = Message(
    session="acme:planner:trip-42",
    message_id="m-1",
    time_ms=1_764_000_000_123,
    producer="planner/main",
    class_=MessageClass.EVENT,
    payload=b'{"text":"hi"}',
    position="1764000000000-1a2b3c4d-0000000000000042",
)
_COUNTED = msgspec.structs.replace(_PLAIN, incarnation="4fGh0pQ2xY7a", producer_seq=7)
_EVERYTHING = msgspec.structs.replace(
    _COUNTED,
    message_id='quote " backslash \\ slash / é 😀',
    producer="Zoë/日本語",
    class_=MessageClass.CONTROL,
    payload='{"total":12.50,"big":9007199254740993,"name":"Zoë","a":1,"a":2}'.encode(),
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    event_type="com.example.order",
    correlation_id="request-1",
    causation_id="message-0",
    reply_to="acme:planner:replies",
    content_type="application/vnd.example+json",
)

_MESSAGES = {
    "as small as can be": msgspec.structs.replace(_PLAIN, payload=b"0"),
    "with a producer seq": _COUNTED,
    "its retry by a new start of the producer: same content": msgspec.structs.replace(
        _COUNTED, message_id="m-2", time_ms=1_764_000_009_999, incarnation="another-start", producer_seq=1
    ),
    "by a worker of the session's agent type": msgspec.structs.replace(_PLAIN, payload=b'"done"', by_worker=True),
    "by a worker, with a producer seq": msgspec.structs.replace(_COUNTED, payload=b'"doing"', by_worker=True),
    "every field": _EVERYTHING,
    "deferred: no position yet": msgspec.structs.replace(_COUNTED, class_=MessageClass.CONTROL, position=None),
    "telemetry: never a position": msgspec.structs.replace(_PLAIN, class_=MessageClass.TELEMETRY, position=None),
    "bytes": msgspec.structs.replace(_PLAIN, payload=b'"AP8K+/8="', content_type="application/octet-stream"),
    "no bytes": msgspec.structs.replace(_PLAIN, payload=b'""', content_type="image/png"),
    "text that is not JSON": msgspec.structs.replace(_PLAIN, payload=b'"aMOp"', content_type="text/plain"),
    "at the first moment": msgspec.structs.replace(_PLAIN, time_ms=0),
}

_DEEPEST = b"[" * MAX_PAYLOAD_DEPTH + b"]" * MAX_PAYLOAD_DEPTH

_PAYLOADS: tuple[tuple[str | None, bytes], ...] = (
    (None, b"null"),
    (None, b'{ "a" : 1.0 }'),
    (None, b'{\n  "a": 1.0,\r\n  "b": [1e5, 9007199254740993]\n}\n'),
    (None, b'"\\u00e9\\/\\u0000"'),
    (None, b"[\n1180591620717411303424,\n-0.0,\n1E+5]"),
    (None, _DEEPEST),
    (None, b"[" + _DEEPEST + b"]"),
    ("application/json; charset=utf-8", b"{}"),
    ("application/cloudevents+json", b"[]"),
    ("application/octet-stream", b'""'),
    ("application/octet-stream", b'"AP8="'),
    ("application/octet-stream", b'"\\/\\/8="'),
    ("application/octet-stream", b'"AP8"'),
    ("application/octet-stream", b'"AP9="'),
    ("application/octet-stream", b'"_-8="'),
    ("application/octet-stream", b'" AP8="'),
    ("text/plain", b"{}"),
)


def documents() -> dict[str, dict[str, Any]]:
    return {
        "messages": {
            "about": "One message in each spelling. `frame` is exact, byte for byte, and can be rebuilt from `record`"
            " alone. `content` is the frame's tail that `content_hash` (BLAKE2b, 8 bytes, hexadecimal) is made from:"
            " equal hashes are a repeat. `extras` is what the hot window keeps besides the frame.",
            "cases": [_message(what, message) for what, message in _MESSAGES.items()],
        },
        "gap-records": {
            "about": "The log's own word that a position will not come: a record of its session whose `ce_type` is"
            " `dev.heliograph.gap`. Readers show it as a `gap` frame, never as a message.",
            "cases": [_gap(reason) for reason in GapReason.ALL],
        },
        "expiry-records": {
            "about": "That a session's messages of a time and before were made to be forgotten: a record of its session"
            " whose `ce_type` is `dev.heliograph.expiry`, without a position. Once `expires_at_ms` has come readers"
            " show no message with a time up to it; what is up to `floor_ms` was gone already.",
            "cases": [_expiry(Expiry(_PLAIN.time_ms + 60_000, _PLAIN.time_ms, floor)) for floor in (0, 17)],
        },
        "payloads": {
            "about": "A payload as it was published (JSON text, by content type; null: JSON) and as it is stored and"
            " delivered, or the code with which it is refused. Payloads are the JSON of a decoded frame already.",
            "cases": [_payload(content_type, payload) for content_type, payload in _PAYLOADS],
        },
    }


def _gap(reason: str) -> dict[str, Any]:
    position = Position.parse(str(_PLAIN.position))
    message = gap_message(_PLAIN.session, position, reason, _PLAIN.time_ms)
    return {"position": str(position), "reason": reason, "record": _record(message)}


def _expiry(state: Expiry) -> dict[str, Any]:
    return {**asdict(state), "record": _record(expiry_message(_PLAIN.session, state, "ops/anna"))}


def _record(message: Message) -> dict[str, Any]:
    key, headers, value = message.session.encode(), record_headers(message), record_value(message)
    assert message_from_record(key, value, headers) == message
    return {
        "key": spelled(key),
        "headers": [{"name": name, **spelled(raw)} for name, raw in headers],
        "value": spelled(value),
    }


def _message(what: str, message: Message) -> dict[str, Any]:
    data = frame(message)
    assert message_from_frame(data, extras(message)) == message
    return {
        "what": what,
        "message": {name.rstrip("_"): field for name, field in fields_of(message).items()},
        "frame": spelled(data),
        "content": spelled(frame_content(message)),
        "content_hash": content_hash(frame_content(message)).hex(),
        "extras": spelled(extras(message)),
        "record": _record(message),
    }


def _payload(content_type: str | None, payload: bytes) -> dict[str, Any]:
    try:
        outcome = {"stored": canonical_payload(payload, content_type).decode()}
    except InvalidValueError as error:
        outcome = {"refused": error.code}
    return {"content_type": content_type, "published": payload.decode(), **outcome}
