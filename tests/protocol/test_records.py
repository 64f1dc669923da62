import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocol.strategies import few, messages
from tests.protocol.strict_client import strict_json

from heliograph.core.messages import MessageClass
from heliograph.protocol.messages import (
    DEFAULT_EVENT_TYPE,
    MAX_PAYLOAD_DEPTH,
    Headers,
    Message,
    RecordError,
    frame,
    message_from_record,
    record_headers,
    record_value,
)

KEY = b"acme:planner:trip-42"
MESSAGE = Message(
    session=KEY.decode(),
    message_id="m1",
    time_ms=1_764_000_000_123,
    producer="planner/main",
    class_=MessageClass.EVENT,
    payload=b'{"n":1.0}',
    position="1764000000000-1a2b3c4d-0000000000000042",
    incarnation="4fGh0pQ2xY7a",
    producer_seq=7,
)
HEADERS = dict(record_headers(MESSAGE))
VALUE = record_value(MESSAGE)


def reason(key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]]) -> str:
    """Why the record is none of ours, or `` where it is."""
    try:
        message = message_from_record(key, value, headers)
    except RecordError as raised:
        error = raised
    else:
        # a record that is a message can be spelled as a frame and as a record again
        strict_json(frame(message).decode())
        assert b"\n" not in frame(message)
        assert message_from_record(key, record_value(message), record_headers(message)) == message
        return ""
    assert error.code == "corrupt"
    assert error.reason.replace("_", "").isalnum()
    assert len(error.message) <= 400
    return error.reason


def changed(**headers: bytes | None) -> list[tuple[str, bytes | None]]:
    return list(
        {**HEADERS, **{name.replace("content_type", "content-type"): value for name, value in headers.items()}}.items()
    )


def without(*names: str) -> list[tuple[str, bytes | None]]:
    return [(name, value) for name, value in HEADERS.items() if name not in names]


# ---- poison ---------------------------------------------------------------------------------------------------------

header_names = st.sampled_from([*HEADERS, "ce_correlationid", "ce_replyto", "traceparent"]) | st.text(max_size=10)
header_values = st.none() | st.binary(max_size=40) | st.sampled_from(list(HEADERS.values()))


@given(
    st.none() | st.just(KEY) | st.binary(max_size=20),
    st.none() | st.binary(max_size=60),
    st.lists(st.tuples(header_names, header_values), max_size=20),
)
def test_any_record_is_a_message_or_a_record_error(
    key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]]
) -> None:
    reason(key, value, headers)


@given(st.dictionaries(header_names, header_values, max_size=3), st.just(VALUE) | st.binary(max_size=20))
def test_a_good_record_with_a_few_headers_changed_is_a_message_or_a_record_error(
    headers: dict[str, bytes | None], value: bytes
) -> None:
    reason(KEY, value, list({**HEADERS, **headers}.items()))


@few
@given(messages(), st.data())
def test_a_record_that_lost_a_header_is_a_message_or_a_record_error(message: Message, data: st.DataObject) -> None:
    headers: Headers = record_headers(message)
    lost = data.draw(st.sampled_from(headers))
    reason(message.session.encode(), record_value(message), [header for header in headers if header != lost])


REQUIRED = ("ce_id", "ce_type", "ce_time", "ce_partitionkey", "ce_class", "ce_producer", "content-type")


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_header_is_named(name: str) -> None:
    with pytest.raises(RecordError, match=name) as raised:
        message_from_record(KEY, VALUE, without(name))
    assert raised.value.reason == "header_missing"


@pytest.mark.parametrize(
    ("expected", "key", "value", "headers"),
    [
        ("value_missing", KEY, None, changed()),
        ("key_mismatch", None, VALUE, changed()),
        ("key_mismatch", b"acme:planner:trip-43", VALUE, changed()),
        ("header_empty", KEY, VALUE, changed(ce_id=None)),
        ("header_not_utf8", KEY, VALUE, changed(ce_id=b"\xff")),
        ("session_invalid", b"acme", VALUE, changed(ce_partitionkey=b"acme")),
        ("position_invalid", KEY, VALUE, changed(ce_sequence=b"42")),
        ("position_invalid", KEY, VALUE, changed(ce_sequence=b"1764000000000-1a2b3c4d-0000000000000000")),
        ("header_invalid", KEY, VALUE, changed(ce_class=b"loud")),
        ("header_invalid", KEY, VALUE, changed(ce_time=b"yesterday")),
        ("header_invalid", KEY, VALUE, changed(ce_time=b"0001-01-01T00:00:00+23:59")),
        ("value_invalid", KEY, VALUE, changed(ce_producerseq=b"0")),
        ("value_invalid", KEY, VALUE, changed(ce_producerseq=b"-1")),
        ("value_invalid", KEY, VALUE, changed(ce_producerseq=b" 7 ")),
        ("value_invalid", KEY, VALUE, changed(ce_producerseq=b"9" * 5_000)),
        ("value_invalid", KEY, VALUE, changed(ce_producerseq="٧".encode())),
        ("header_missing", KEY, VALUE, without("ce_producerseq")),
        ("header_missing", KEY, VALUE, without("ce_incarnation")),
        ("payload_not_json", KEY, b"", changed()),
        ("payload_not_json", KEY, b"{", changed()),
        ("payload_not_json", KEY, b'"\xff"', changed()),
        ("payload_not_json", KEY, b"[" * 5_000 + b"]" * 5_000, changed()),
        ("payload_too_deep", KEY, b"[" * (MAX_PAYLOAD_DEPTH + 1) + b"]" * (MAX_PAYLOAD_DEPTH + 1), changed()),
    ],
)
def test_a_poison_record_is_refused_with_a_stable_reason(
    expected: str, key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]]
) -> None:
    assert reason(key, value, headers) == expected


# ---- what others write ----------------------------------------------------------------------------------------------


def test_json_with_line_breaks_is_compacted_so_that_its_frame_is_one_line() -> None:
    message = message_from_record(KEY, b'{\n  "n": 1.0\r\n}\n', changed())
    assert message.payload == b'{"n":1.0}'


def test_a_value_that_is_not_json_comes_as_base64() -> None:
    message = message_from_record(KEY, b"\x00\xff\n", changed(content_type=b"application/octet-stream"))
    assert message.payload == b'"AP8K"'
    assert record_value(message) == b"\x00\xff\n"
    assert message_from_record(KEY, b"", changed(content_type=b"image/png")).payload == b'""'


def test_headers_we_do_not_know_are_ignored_and_the_last_of_a_name_counts() -> None:
    headers = [("ce_id", b"m0"), *HEADERS.items(), ("ce_dataschema", b"urn:x"), ("tracestate", b"a=b")]
    assert message_from_record(KEY, VALUE, headers) == MESSAGE


def test_defaults_are_spelled_out_in_a_record_and_left_out_of_a_frame() -> None:
    assert HEADERS["ce_type"] == DEFAULT_EVENT_TYPE.encode()
    assert HEADERS["content-type"] == b"application/json"
    message = message_from_record(KEY, VALUE, list(HEADERS.items()))
    assert (message.event_type, message.content_type) == (None, None)
