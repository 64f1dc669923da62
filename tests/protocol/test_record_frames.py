"""Frames straight from records: the same bytes and errors as the long way gives."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocol.strategies import messages

from heliograph.core.history import Why
from heliograph.core.messages import MessageClass
from heliograph.core.positions import Position
from heliograph.protocol.codes import GapReason
from heliograph.protocol.gaps import gap_message
from heliograph.protocol.messages import (
    EPOCH_EVENT_TYPE,
    Message,
    RecordError,
    frame,
    message_from_record,
    record_headers,
    record_value,
)
from heliograph.protocol.record_frames import Nothing, RecordFrames, RecordHeaders, position_of

SESSION = "acme:planner:trip-42"
EPOCH = "1764000000000-1a2b3c4d"


def message(seq: int, **changes: object) -> Message:
    fields: dict[str, object] = {
        "session": SESSION,
        "message_id": f"m{seq}",
        "time_ms": 1_764_000_000_000 + 137 * seq,
        "producer": "planner/main",
        "class_": MessageClass.EVENT,
        "payload": b'{"n":1.0}',
        "position": str(Position(EPOCH, seq)),
        "incarnation": "4fGh0pQ2xY7a",
        "producer_seq": seq,
    }
    return Message(**{**fields, **changes})  # type: ignore[arg-type]


def headers(of: Message) -> RecordHeaders:
    return list(record_headers(of))


def long_way(value: bytes | None, found: RecordHeaders) -> tuple[str | None, bytes] | str:
    """Position and frame, or why the record is none of ours."""
    try:
        read = message_from_record(SESSION.encode(), value, found)
    except RecordError as error:
        return error.reason
    return read.position, frame(read)


def short_way(frames: RecordFrames, value: bytes | None, found: RecordHeaders) -> tuple[str | None, bytes] | str:
    try:
        read = frames.read(value, found)
    except RecordError as error:
        return error.reason
    assert not isinstance(read, Nothing)
    position, data = read
    assert isinstance(data, bytes)
    return str(position), data


@given(st.lists(messages(), min_size=1, max_size=4))
def test_a_frame_is_equal_byte_for_byte(drawn: list[Message]) -> None:
    frames = RecordFrames(SESSION)
    for one in drawn:
        one.session = SESSION
        one.position = one.position or str(Position(EPOCH, 1))
        value, found = record_value(one), headers(one)
        for _ in range(2):  # the second time everything about it is known
            assert short_way(frames, value, found) == long_way(value, found) == (one.position, frame(one))


@pytest.mark.parametrize("name", ["ce_incarnation", "ce_producerseq"])
def test_an_incarnation_and_a_producer_seq_belong_together_also_the_short_way(name: str) -> None:
    frames = RecordFrames(SESSION)
    frames.read(b"1", headers(message(1)))
    found = [header for header in headers(message(2)) if header[0] != name]
    assert short_way(frames, b"1", found) == long_way(b"1", found) == "header_missing"


@given(
    st.data(),
    st.one_of(st.none(), st.binary(max_size=30), st.sampled_from([b"[[[", b"{}", b"\xff", b'{"a":\n1}', b"[" * 70])),
)
def test_a_broken_record_is_refused_for_the_same_reason(data: st.DataObject, value: bytes | None) -> None:
    frames = RecordFrames(SESSION)
    frames.read(b"1", headers(message(1)))
    found = headers(message(2))
    for _ in range(data.draw(st.integers(0, 2))):
        number = data.draw(st.integers(0, len(found) - 1))
        name = found[number][0]
        broken = st.one_of(
            st.none(),
            st.binary(max_size=40),
            st.sampled_from(
                [
                    b"2025-02-30T00:00:00.000Z", b"2025-11-24T16:00:00.123Z", b"2025-11-24T16:00:00+01:00", b"00",
                    b"07", b"9007199254740991", b"9007199254740992", str(Position(EPOCH, 0)).encode(),
                    str(Position(EPOCH, 7)).encode(), EPOCH.encode() + b"-9999999999999999", b"control", b"text/json",
                    b"application/json; charset=utf-8", b"image/png", b"dev.heliograph.message",
                ]
            ),
        )  # fmt: skip
        match data.draw(st.sampled_from(["change", "remove", "repeat"])):
            case "change":
                found[number] = (name, data.draw(broken))
            case "remove":
                del found[number]
            case "repeat":
                found.append((name, data.draw(broken)))
    if (read := long_way(value, found))[0] is not None:
        assert short_way(frames, value, found) == read


def test_a_record_of_another_session_is_refused() -> None:
    with pytest.raises(RecordError) as caught:
        RecordFrames("acme:planner:other").read(b"1", headers(message(1)))
    assert caught.value.reason == "key_mismatch"


def test_a_gap_record_is_a_gap_with_its_reason() -> None:
    gap = gap_message(SESSION, Position(EPOCH, 7), GapReason.CORRUPT, 1)
    assert RecordFrames(SESSION).read(record_value(gap), headers(gap)) == (Position(EPOCH, 7), Why.CORRUPT)
    gap = gap_message(SESSION, Position(EPOCH, 7), "a reason of tomorrow", 1)
    assert RecordFrames(SESSION).read(record_value(gap), headers(gap)) == (Position(EPOCH, 7), Why.NEVER_WRITTEN)


def test_what_is_no_part_of_the_sequence_is_nothing() -> None:
    frames = RecordFrames(SESSION)
    for own in (message(1, event_type=EPOCH_EVENT_TYPE), message(1, position=None)):
        assert frames.read(record_value(own), headers(own)) is Nothing.NOTHING


def test_the_position_of_a_broken_record_is_found() -> None:
    found = headers(message(7))
    assert position_of([("ce_id", None), *found]) == Position(EPOCH, 7)
    assert position_of([(name, value) for name, value in found if name != "ce_sequence"]) is None
    for bad in (b"\xff", b"", b"7", str(Position(EPOCH, 0)).encode()):
        assert position_of([("ce_sequence", bad)]) is None
    assert position_of([("ce_sequence", None)]) is None
