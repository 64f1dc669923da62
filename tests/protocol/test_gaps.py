"""Gap records."""

from heliograph.core.positions import Position
from heliograph.protocol.codes import GapReason
from heliograph.protocol.gaps import gap_message, gap_reason
from heliograph.protocol.messages import message_from_record, record_headers, record_value

POSITION = Position("1764000000000-1a2b3c4d", 42)


def test_a_gap_record_is_read_as_it_was_written() -> None:
    gap = gap_message("acme:planner:trip-42", POSITION, GapReason.NEVER_WRITTEN, 1_764_000_000_123)
    read = message_from_record(b"acme:planner:trip-42", record_value(gap), record_headers(gap))
    assert read == gap
    assert (read.position, gap_reason(read)) == (str(POSITION), GapReason.NEVER_WRITTEN)


def test_the_same_gap_has_the_same_id() -> None:
    first, again = (gap_message("acme:planner:trip-42", POSITION, GapReason.CORRUPT, time_ms) for time_ms in (1, 2))
    assert first.message_id == again.message_id


def test_a_message_is_no_gap() -> None:
    gap = gap_message("acme:planner:trip-42", POSITION, GapReason.NEVER_WRITTEN, 1)
    gap.event_type = None
    assert gap_reason(gap) is None


def test_a_gap_that_does_not_say_why_is_a_gap_still() -> None:
    gap = gap_message("acme:planner:trip-42", POSITION, GapReason.NEVER_WRITTEN, 1)
    gap.payload = b"[]"
    assert gap_reason(gap) == GapReason.CORRUPT
