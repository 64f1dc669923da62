"""Lines of an export: every record comes back from its line, byte for byte."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocol.strategies import few, messages
from tests.protocol.strict_client import strict_json

from heliograph.core.errors import InvalidValueError
from heliograph.core.positions import Position
from heliograph.protocol.exports import (
    ExportedRecord,
    Place,
    Verbatim,
    decode_record_line,
    exported_message,
    record_line,
    record_of,
)
from heliograph.protocol.gaps import gap_message
from heliograph.protocol.messages import Message, RecordError, frame, record_headers, record_value

PLACE = Place("acme.log", 3, 17, 1_764_000_000_123)
SESSION = "acme:planner:trip-42"


def line_of(record: Verbatim) -> bytes:
    message = exported_message(record.key, record.value, record.headers)
    return record_line(PLACE, record.key, record.value, record.headers, message)


def record(message: Message) -> Verbatim:
    return Verbatim(message.session.encode(), record_value(message), list(record_headers(message)))


@few
@given(messages())
def test_a_message_is_its_frame_with_its_place_and_comes_back_byte_for_byte(message: Message) -> None:
    line = line_of(record(message))
    strict_json(line.decode())
    assert b"\n" not in line
    found = decode_record_line(line)
    assert (found.topic, found.partition, found.offset, found.timestamp) == PLACE
    assert found.record is None
    assert found.corrupt is None
    assert record_of(found) == record(message)
    shown = json.loads(line)
    for name in ("topic", "partition", "offset", "timestamp"):
        del shown[name]
    incarnation, producer_seq = shown.pop("incarnation", None), shown.pop("producer_seq", None)
    assert (incarnation, producer_seq) == (message.incarnation, message.producer_seq)
    assert shown.pop("by_worker", False) is message.by_worker
    assert shown | {"type": "message"} == json.loads(frame(message))


keys = st.none() | st.binary(max_size=12) | st.just(SESSION.encode())
headers = st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"])), st.none() | st.binary(max_size=8)))


@few
@given(keys, st.none() | st.binary(max_size=40), headers)
def test_what_is_no_message_comes_back_byte_for_byte_and_says_why_it_is_none(
    key: bytes | None, value: bytes | None, found: list[tuple[str, bytes | None]]
) -> None:
    sent = Verbatim(key, value, found)
    line = decode_record_line(line_of(sent))
    assert line.corrupt
    assert line.session is None
    assert record_of(line) == sent


@few
@given(messages(), st.sampled_from(["other header", "other order", "header twice", "other value", "other time"]))
def test_a_message_that_is_spelled_otherwise_is_readable_and_comes_back_byte_for_byte(
    message: Message, change: str
) -> None:
    sent = record(message)
    match change:
        case "other header":
            sent.headers.append(("x-mine", b"1"))
        case "other order":
            sent.headers.reverse()
        case "header twice":
            sent.headers.insert(0, ("ce_id", b"first"))
        case "other value":
            message.content_type, message.payload = None, b'{"n": [1,\r\n 2]}'
            sent = Verbatim(sent.key, message.payload, list(record_headers(message)))
        case "other time":
            sent.headers = [(name, value if name != "ce_time" else b"2025-11-24T17:00:00+01:00") for name, value in
                            sent.headers]  # fmt: skip
    line = line_of(sent)
    assert b"\n" not in line
    found = decode_record_line(line)
    assert found.corrupt is None
    assert (found.session, found.message_id) == (message.session, message.message_id)
    assert found.record == sent
    assert record_of(found) == sent


def test_records_of_our_own_are_exported_as_they_are() -> None:
    sent = record(gap_message(SESSION, Position("1764000000000-1a2b3c4d", 7), "never_written", 1_764_000_000_000))
    found = decode_record_line(line_of(sent))
    assert found.event_type == "dev.heliograph.gap"
    assert record_of(found) == sent


def test_a_line_has_a_field_for_everything_that_a_message_has() -> None:
    renamed = {"time_ms": "time"}
    fields = {renamed.get(field.name, field.name) for field in msgspec.structs.fields(Message)}
    assert fields <= {field.name for field in msgspec.structs.fields(ExportedRecord)}


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b'{"type":"mark"}',
        b'{"type":"record","topic":"acme.log","partition":0,"offset":0}',
        b'{"type":"record","topic":"acme.log","partition":0,"offset":0,"timestamp":0,"record":{"key":"%"}}',
        b'{"type":"record","topic":"\xff","partition":0,"offset":0,"timestamp":0}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_line_is_refused(line: bytes) -> None:
    with pytest.raises(InvalidValueError):
        decode_record_line(line)


@pytest.mark.parametrize(
    "changes",
    [
        {"message_id": None},
        {"session": "acme"},
        {"payload": None},
        {"time": -1},
        {"time": 10**18},
        {"position": "7"},
        {"content_type": "image/png"},
        {"producer_seq": None},
        {"producer_seq": 2**60},
    ],
)
def test_a_line_that_nobody_exported_makes_no_record(changes: dict[str, object]) -> None:
    message = Message(
        session=SESSION,
        message_id="m1",
        time_ms=1_764_000_000_123,
        producer="planner/main",
        class_="event",  # type: ignore[arg-type] # as the frame spells it
        payload=b'{"n":1}',
        position="1764000000000-1a2b3c4d-0000000000000042",
        incarnation="4fGh0pQ2xY7a",
        producer_seq=7,
    )
    assert not isinstance(exported_message(*msgspec.structs.astuple(record(message))), RecordError)
    shown = {
        name: value for name, value in (json.loads(line_of(record(message))) | changes).items() if value is not None
    }
    with pytest.raises(InvalidValueError):
        record_of(decode_record_line(json.dumps(shown).encode()))
