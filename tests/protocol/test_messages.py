import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocol.strategies import few, incarnations, messages, names, positions, times_ms, traceparents
from tests.protocol.strict_client import strict_json

from heliograph.core.messages import MessageClass
from heliograph.protocol.frames import FrameError, MessageFrame, decode_server_frame, encode
from heliograph.protocol.messages import (
    MAX_TIME_MS,
    Message,
    content_hash,
    extras,
    frame,
    frame_content,
    frame_position,
    frame_rest,
    message_from_frame,
    message_from_record,
    parse_rfc3339_ms,
    record_headers,
    record_value,
    rfc3339,
)

MESSAGE = Message(
    session="acme:planner:trip-42",
    message_id="m1",
    time_ms=1_764_000_000_123,
    producer="planner/main",
    class_=MessageClass.EVENT,
    payload=b'{"n":1.0}',
    position="1764000000000-1a2b3c4d-0000000000000042",
    incarnation="4fGh0pQ2xY7a",
    producer_seq=7,
)


# ---- one message, three spellings -----------------------------------------------------------------------------------


@few
@given(messages())
def test_a_message_comes_back_from_its_frame(message: Message) -> None:
    assert message_from_frame(frame(message), extras(message)) == message


@few
@given(messages())
def test_a_message_comes_back_from_its_record(message: Message) -> None:
    key = message.session.encode()
    assert message_from_record(key, record_value(message), record_headers(message)) == message


@few
@given(messages())
def test_a_frame_is_rebuilt_from_its_record_byte_for_byte(message: Message) -> None:
    sent = frame(message)
    record = record_headers(message), record_value(message)
    again = message_from_record(message.session.encode(), record[1], record[0])
    assert frame(again) == sent


@few
@given(messages())
def test_a_record_is_rebuilt_from_the_frame_and_extras_of_the_hot_window(message: Message) -> None:
    again = message_from_frame(frame(message), extras(message))
    assert record_headers(again) == record_headers(message)
    assert record_value(again) == record_value(message)


@few
@given(messages())
def test_a_frame_is_strict_json_on_one_line(message: Message) -> None:
    data = frame(message)
    assert b"\n" not in data
    assert b"\r" not in data
    fields = strict_json(data.decode())
    assert fields["type"] == "message"
    assert fields["session"] == message.session
    assert fields["message_id"] == message.message_id
    assert fields["producer"] == message.producer
    assert fields["class"] == message.class_
    assert fields["payload"] == strict_json(message.payload.decode())


@few
@given(messages())
def test_absent_fields_are_absent(message: Message) -> None:
    fields = strict_json(frame(message).decode())
    optional = ("position", "traceparent", "event_type", "correlation_id", "causation_id", "reply_to", "content_type")
    for name in optional:
        assert (name in fields) == (getattr(message, name) is not None)
        assert fields.get(name) == getattr(message, name)


@few
@given(messages())
def test_a_spliced_frame_is_what_an_encoder_would_mean(message: Message) -> None:
    decoded = decode_server_frame(frame(message))
    assert isinstance(decoded, MessageFrame)
    assert decode_server_frame(encode(decoded)) == decoded


def test_the_parts_of_a_frame_are_the_frame() -> None:
    content = frame_content(MESSAGE)
    rest = frame_rest(MESSAGE, content)
    assert frame(MESSAGE) == b'{"type":"message","position":"1764000000000-1a2b3c4d-0000000000000042",' + rest
    assert rest.endswith(content)


@few
@given(positions, messages())
def test_the_position_is_read_without_decoding(position: str, message: Message) -> None:
    message.position = position
    assert frame_position(frame(message)) == position.encode()
    message.position = None
    assert frame_position(frame(message)) is None


# ---- content hash ---------------------------------------------------------------------------------------------------


@few
@given(messages(), names, times_ms, positions, traceparents, incarnations, st.integers(1, 1_000))
def test_a_retry_has_the_same_content_hash(
    message: Message, message_id: str, time_ms: int, position: str, traceparent: str, incarnation: str, seq: int
) -> None:
    retry = msgspec.structs.replace(
        message,
        message_id=message_id,
        time_ms=time_ms,
        position=position,
        traceparent=traceparent,
        incarnation=incarnation,
        producer_seq=seq,
    )
    assert content_hash(frame_content(retry)) == content_hash(frame_content(message))


CHANGES: dict[str, object] = {
    "class_": MessageClass.CONTROL,
    "payload": b'{"n":2}',
    "event_type": "com.example.order",
    "correlation_id": "c1",
    "causation_id": "c1",
    "reply_to": "acme:planner:replies",
    "content_type": "application/cloudevents+json",
}


@pytest.mark.parametrize("field", CHANGES)
def test_another_content_has_another_hash(field: str) -> None:
    other = msgspec.structs.replace(MESSAGE, **{field: CHANGES[field]})
    assert content_hash(frame_content(other)) != content_hash(frame_content(MESSAGE))


def test_the_same_value_in_another_field_is_another_content() -> None:
    hashes = {
        content_hash(frame_content(msgspec.structs.replace(MESSAGE, **{field: "acme:a:b"})))
        for field in ("event_type", "correlation_id", "causation_id", "reply_to")
    }
    assert len(hashes) == 4


@few
@given(messages(), messages())
def test_contents_are_equal_where_hashes_are(one: Message, other: Message) -> None:
    contents = frame_content(one), frame_content(other)
    assert (contents[0] == contents[1]) == (content_hash(contents[0]) == content_hash(contents[1]))
    assert len(content_hash(contents[0])) == 8


# ---- frames and extras out of a store -------------------------------------------------------------------------------


@given(st.binary(max_size=200), st.binary(max_size=40))
def test_any_stored_bytes_are_a_message_or_a_frame_error(data: bytes, kept: bytes) -> None:
    for stored in (data, frame(MESSAGE)):
        try:
            message = message_from_frame(stored, kept)
        except FrameError:
            continue
        assert frame(message) == stored
        assert extras(message) == kept


@given(st.integers(0, 400), st.binary(max_size=3), st.integers(0, 4))
def test_a_damaged_frame_is_a_message_that_can_be_spelled_again_or_a_frame_error(
    at: int, put: bytes, taken: int
) -> None:
    data = frame(MESSAGE)
    damaged = data[:at] + put + data[at + taken :]
    try:
        message = message_from_frame(damaged)
    except FrameError:
        return
    strict_json(frame(message).decode())
    record_headers(message)


@pytest.mark.parametrize(
    ("found", "put"),
    [
        (b"acme:planner:trip-42", b"acme:planner"),
        (b"1764000000000-1a2b3c4d-0000000000000042", b"1764000000000-1a2b3c4d-0000000000000000"),
        (b"1764000000000-1a2b3c4d-0000000000000042", b'x\\"y'),
        (b'"time":1764000000123', b'"time":-1'),
        (b'"time":1764000000123', b'"time":%d' % (MAX_TIME_MS + 1)),
        (b'"time":1764000000123', b'"time":1e400'),
        (b'"n":1.0', b'"n":"\xff"'),
        (b'"n":1.0', b'"n":' + b"[" * 5_000 + b"]" * 5_000),
        (b'"message"', b'"ping"'),
        (b'"message"', b'"weather"'),
    ],
)
def test_what_can_be_no_message_is_a_frame_error(found: bytes, put: bytes) -> None:
    assert found in frame(MESSAGE)
    with pytest.raises(FrameError):
        message_from_frame(frame(MESSAGE).replace(found, put))


@pytest.mark.parametrize(
    "kept", [b"x", b"abcdefgh", b"abcdefgh x", b"abcdefgh 0", b"abcdefgh 007", b"\xff 1", b"a \xd9\xa1"]
)
def test_damaged_extras_are_a_frame_error(kept: bytes) -> None:
    with pytest.raises(FrameError):
        message_from_frame(frame(MESSAGE), kept)


# ---- times ----------------------------------------------------------------------------------------------------------


@given(times_ms)
def test_a_time_comes_back_from_its_text(time_ms: int) -> None:
    assert parse_rfc3339_ms(rfc3339(time_ms)) == time_ms


def test_times_are_rfc3339_with_milliseconds() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"
    assert rfc3339(1_764_000_000_007) == "2025-11-24T16:00:00.007Z"
    assert rfc3339(MAX_TIME_MS) == "9999-12-31T23:59:59.999Z"


def test_other_spellings_of_a_time_are_read() -> None:
    for text in ("2025-11-24T16:00:00Z", "2025-11-24T17:00:00+01:00", "2025-11-24T16:00:00.000999+00:00"):
        assert parse_rfc3339_ms(text) == 1_764_000_000_000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2025-11-24T16:00:00",
        "1969-12-31T23:59:59Z",
        "0001-01-01T00:00:00+23:59",
        "2025-13-01T00:00:00Z",
    ],
)
def test_a_time_without_an_offset_or_out_of_range_is_none(text: str) -> None:
    with pytest.raises((ValueError, OverflowError)):
        parse_rfc3339_ms(text)
