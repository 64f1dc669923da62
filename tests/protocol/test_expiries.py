"""Expiry records."""

from heliograph.core.expiry import Expiry
from heliograph.protocol.expiries import expiry_message, expiry_of
from heliograph.protocol.messages import message_from_record, record_headers, record_value
from heliograph.protocol.record_frames import Nothing, RecordFrames

SESSION = "acme:planner:trip-42"
STATE = Expiry(1_764_000_000_000, 1_763_990_000_000, 5)


def test_an_expiry_record_is_read_as_it_was_written_and_says_who_asked() -> None:
    written = expiry_message(SESSION, STATE, "ops/anna")
    read = message_from_record(SESSION.encode(), record_value(written), record_headers(written))
    assert read == written
    assert (expiry_of(read), read.producer, read.position) == (STATE, "ops/anna", None)


def test_it_is_no_part_of_the_sessions_sequence() -> None:
    written = expiry_message(SESSION, STATE, "ops")
    assert RecordFrames(SESSION).read(record_value(written), [*record_headers(written)]) is Nothing.NOTHING


def test_what_says_no_state_or_is_no_expiry_gives_none() -> None:
    written = expiry_message(SESSION, STATE, "ops")
    for payload in (b"[]", b"{}", b'{"expires_at_ms":-1,"set_at_ms":1}', b'{"expires_at_ms":1,"set_at_ms":1e99}'):
        written.payload = payload
        assert expiry_of(written) is None
    written = expiry_message(SESSION, STATE, "ops")
    written.event_type = None
    assert expiry_of(written) is None
