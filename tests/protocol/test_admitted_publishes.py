"""What an edge admits, every client can read: a publish of any bytes, spliced into a frame, held to a strict client."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocol.strategies import json_texts, names, texts
from tests.protocol.strict_client import received_text, strict_json

from heliograph.core.errors import InvalidValueError
from heliograph.protocol.frames import FrameError, Publish, check_name, decode_client_frame, is_utf8
from heliograph.protocol.messages import (
    Message,
    RecordError,
    canonical_payload,
    frame,
    message_from_record,
    record_headers,
    record_value,
)
from heliograph.protocol.websocket import text_frame

SESSION = "acme:planner:trip-42"
NAMED = ("message_id", "event_type", "correlation_id", "causation_id", "reply_to", "content_type")


def admitted(data: bytes) -> Message | None:
    """The message of a publish frame by the rules for edges; None where it is refused."""
    if not is_utf8(data):
        return None
    try:
        publish = decode_client_frame(data)
        assert isinstance(publish, Publish)
        named: dict[str, Any] = {name: getattr(publish, name) for name in NAMED}
        for name, value in named.items():
            if value is not None:
                check_name(name, value)
        payload = canonical_payload(bytes(publish.payload), publish.content_type)
    except (FrameError, InvalidValueError):
        return None
    named["message_id"] = named["message_id"] or "given"
    return Message(
        session=SESSION,
        time_ms=1_764_000_000_123,
        producer="planner/main",
        class_=publish.class_,
        payload=payload,
        position="1764000000000-1a2b3c4d-0000000000000042",
        traceparent=publish.traceparent,
        **named,
    )


def held_to_a_strict_client(message: Message) -> Any:
    """The fields that a strict client gets; the same from the frame that is rebuilt from the log."""
    data = frame(message)
    assert b"\n" not in data
    text = received_text(text_frame(data))
    record = message_from_record(SESSION.encode(), record_value(message), record_headers(message))
    if message.content_type != "application/json":
        assert frame(record) == data
    fields = strict_json(text)
    assert json.loads(text, parse_int=str, parse_float=str)["position"] == message.position
    return fields


def publish(payload: bytes, **fields: str) -> bytes:
    named = "".join(f',"{name}":{json.dumps(value, ensure_ascii=False)}' for name, value in fields.items())
    return b'{"type":"publish","session":"%b"%b,"payload":%b}' % (
        SESSION.encode(),
        named.encode("utf-8", "surrogatepass"),
        payload,
    )


@given(json_texts, st.dictionaries(st.sampled_from([name for name in NAMED if name != "content_type"]), names))
def test_a_good_publish_is_admitted_and_read_as_it_was_meant(payload: bytes, fields: dict[str, str]) -> None:
    if fields.get("event_type", "").startswith("dev.heliograph."):
        del fields["event_type"]
    message = admitted(publish(payload, **fields))
    assert message is not None
    got = held_to_a_strict_client(message)
    assert got["payload"] == strict_json(payload.decode())
    assert {name: got[name] for name in fields} == fields


@given(st.binary(max_size=60), st.dictionaries(st.sampled_from(NAMED), texts | st.text()))
def test_any_payload_bytes_and_any_text_are_refused_or_read_by_a_strict_client(
    payload: bytes, fields: dict[str, str]
) -> None:
    message = admitted(publish(payload, **fields))
    if message is not None:
        held_to_a_strict_client(message)


@given(json_texts, st.data())
def test_a_damaged_payload_is_refused_or_read_by_a_strict_client(payload: bytes, data: st.DataObject) -> None:
    damaged = bytearray(payload)
    at = data.draw(st.integers(0, len(damaged)))
    damaged[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    message = admitted(publish(bytes(damaged)))
    if message is not None:
        held_to_a_strict_client(message)


REFUSED = {
    "not UTF-8": b'"\xff"',
    "overlong": b'"\xc0\x80"',
    "a surrogate in UTF-8": b'"\xed\xa0\x80"',
    "a lone surrogate escaped": rb'{"a":"\ud800"}',
    "NaN": b"NaN",
    "Infinity": b'{"a":-Infinity}',
    "a NUL byte": b'"a\x00b"',
    "a control character": b'"a\x1fb"',
    "an unfinished word": b'{"a":tru}',
    "a leading zero": b"01",
    "nested 10,000 deep": b"[" * 10_000 + b"]" * 10_000,
    "nested 500 deep": b'{"a":' * 500 + b"1" + b"}" * 500,
    "more than one value": b"1 2",
    "an end of its own": b'1},{"payload":2',
    "nothing": b"",
    "a byte order mark": b"\xef\xbb\xbf1",
}


@pytest.mark.parametrize("payload", REFUSED.values(), ids=list(REFUSED))
def test_what_some_client_could_not_read_is_refused(payload: bytes) -> None:
    assert admitted(publish(payload)) is None


ADMITTED = {
    "a number beyond 2^53": b"9007199254740993",
    "a number beyond 64 bits": str(2**70).encode(),
    "a number of 400 digits": b"-" + b"7" * 400,
    "a number beyond doubles": b"1e999",
    "a trailing zero": b"1.0",
    "an escaped NUL": rb'"\u0000"',
    "an escaped pair": rb'"\ud83d\ude00"',
    "line separators": '"\u2028\u2029\u0085"'.encode(),
    "duplicate keys": b'{"a":1,"a":2}',
    "512 KiB": b'"' + b"x" * (512 * 1024) + b'"',
    "many brackets": b"[" + b",".join([b"[]"] * 20_000) + b"]",
    "nested as deep as may be": b"[" * 63 + b"]" * 63,
}


@pytest.mark.parametrize("payload", ADMITTED.values(), ids=list(ADMITTED))
def test_unusual_but_good_payloads_arrive_byte_for_byte(payload: bytes) -> None:
    message = admitted(publish(payload))
    assert message is not None
    assert held_to_a_strict_client(message)["type"] == "message"
    assert frame(message).endswith(b'"payload":' + payload + b"}")


def test_the_simpler_rule_lets_a_frame_through_that_a_strict_client_rejects() -> None:
    """Without the check of UTF-8 the decoder takes it, the log refuses it, every subscriber is cut off."""
    data = publish(b'"\xff"')
    taken = decode_client_frame(data)
    assert isinstance(taken, Publish)
    with pytest.raises(RecordError):
        message_from_record(SESSION.encode(), bytes(taken.payload), record_headers(an_example()))
    assert not is_utf8(data)


def an_example() -> Message:
    message = admitted(publish(b"1"))
    assert message is not None
    return message
