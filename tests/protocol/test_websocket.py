import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocol.strict_client import RejectedError, received, received_text
from websockets.frames import Close, Frame, Opcode

from heliograph.protocol.codes import CLOSES
from heliograph.protocol.websocket import (
    MAX_CONTROL_BYTES,
    MAX_HEADER_BYTES,
    close_frame,
    may_be_sent,
    ping_frame,
    pong_frame,
    text_frame,
)


@pytest.mark.parametrize("length", [0, 1, 124, 125, 126, 127, 65_534, 65_535, 65_536, 65_537, 600_000])
def test_a_strict_client_reads_the_text_at_every_length_border(length: int) -> None:
    data = b"x" * length
    frame = text_frame(data)
    assert received_text(frame) == data.decode()
    assert frame == Frame(Opcode.TEXT, data).serialize(mask=False)
    assert len(frame) <= length + MAX_HEADER_BYTES


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=200), max_size=5))
def test_frames_one_after_the_other_are_read_one_by_one(texts: list[str]) -> None:
    frames = received(b"".join(text_frame(text.encode()) for text in texts))
    assert [bytes(frame.data).decode() for frame in frames] == texts


def test_the_strict_client_rejects_what_the_tests_rely_on_it_to_reject() -> None:
    for bad in (b"\x81\x02\xff\xfe", b"\x81\x7e\x00\x02ab", b"\x81\x80abcd", b"\x88\x02\x03\xed", b"\xc1\x02ab"):
        with pytest.raises(RejectedError):
            received(bad)


@given(st.binary(max_size=MAX_CONTROL_BYTES))
def test_pings_and_pongs_carry_what_they_were_given(data: bytes) -> None:
    ping, pong = received(ping_frame(data) + pong_frame(data))
    assert (ping.opcode, bytes(ping.data)) == (Opcode.PING, data)
    assert (pong.opcode, bytes(pong.data)) == (Opcode.PONG, data)


def test_a_control_frame_above_125_bytes_is_refused() -> None:
    for make in (ping_frame, pong_frame):
        with pytest.raises(ValueError, match="126 bytes"):
            make(b"x" * 126)


@pytest.mark.parametrize("code", sorted(code for code in CLOSES))
def test_every_close_code_of_the_table_can_be_sent(code: int) -> None:
    (frame,) = received(close_frame(code, CLOSES[code].name))
    assert frame.opcode is Opcode.CLOSE
    assert Close.parse(frame.data) == Close(code, CLOSES[code].name)


def test_a_close_frame_without_a_code_is_empty() -> None:
    (frame,) = received(close_frame())
    assert (frame.opcode, bytes(frame.data)) == (Opcode.CLOSE, b"")
    with pytest.raises(ValueError, match="needs a code"):
        close_frame(None, "why")


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=30, max_size=200))
def test_a_close_reason_too_long_is_cut_between_characters(reason: str) -> None:
    (frame,) = received(close_frame(4000, reason))
    told = Close.parse(frame.data).reason
    assert reason.startswith(told)
    rest = reason[len(told) : len(told) + 1]
    assert not rest or len((told + rest).encode()) > MAX_CONTROL_BYTES - 2


@given(st.integers(-1, 70_000))
def test_codes_that_a_client_would_reject_are_never_sent(code: int) -> None:
    if may_be_sent(code):
        (frame,) = received(close_frame(code))
        assert Close.parse(frame.data).code == code
    else:
        with pytest.raises(ValueError, match="close code"):
            close_frame(code)


def test_codes_that_say_what_happened_without_a_close_frame_are_not_sent() -> None:
    assert not any(may_be_sent(code) for code in (999, 1004, 1005, 1006, 1015, 2999, 5000))
