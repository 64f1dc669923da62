import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.protocol.strategies import json_texts

from heliograph.core.messages import AckMode, MessageClass
from heliograph.core.positions import MAX_SEQ
from heliograph.protocol import frames
from heliograph.protocol.codes import CODES
from heliograph.protocol.frames import (
    CLIENT_TYPES,
    SERVER_TYPES,
    ClientFrame,
    FrameError,
    Hello,
    Pong,
    Publish,
    ServerFrame,
    Subscribe,
    decode_client_frame,
    decode_server_frame,
    encode,
)
from heliograph.protocol.messages import FRAME_START, TELEMETRY_START

SESSION = "acme:planner:trip-42"

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
members = st.dictionaries(
    st.sampled_from(
        ["id", "session", "payload", "class", "ack", "lease", "done", "seq", "from", "position", "message_id",
         "token", "consumer", "producer", "incarnation", "subscriptions", "event_type", "traceparent", "reply_to",
         "presence", "new_in_2031"]
    ),
    json_values | st.sampled_from([SESSION, "event", "control", "durable", "earliest", 0, 1, -1, MAX_SEQ, MAX_SEQ + 1]),
)  # fmt: skip


def error_of(data: bytes) -> FrameError:
    with pytest.raises(FrameError) as raised:
        decode_client_frame(data)
    return raised.value


def decoded(data: bytes) -> ClientFrame | FrameError:
    """What became of `data`; any exception but FrameError fails the test."""
    try:
        frame = decode_client_frame(data)
    except FrameError as raised:
        error = raised
    else:
        return frame
    assert error.code in CODES
    assert len(error.message) <= 300
    return error


def server_frame(data: bytes) -> ServerFrame | FrameError | None:
    try:
        return decode_server_frame(data)
    except FrameError as error:
        return error


# ---- whatever comes in ----------------------------------------------------------------------------------------------


@given(st.binary(max_size=400))
@example(b"")
@example(b"\xff")
@example(b"\xef\xbb\xbf{}")
@example(b"[" * 10_000)
@example(b"[" * 10_000 + b"]" * 10_000)
@example(b'{"a":' * 10_000 + b"1" + b"}" * 10_000)
@example(b'{"type":"publish","session":"a:b:c","payload":' + b"[" * 10_000 + b"]" * 10_000 + b"}")
@example(b'"' + b"x" * 1_000_000)
def test_any_bytes_are_a_frame_or_a_frame_error(data: bytes) -> None:
    decoded(data)
    frame_or_error = server_frame(data)
    assert not isinstance(frame_or_error, FrameError) or frame_or_error.code == "malformed"


@given(st.sampled_from([*CLIENT_TYPES, *SERVER_TYPES, "nope", ""]) | json_values, members)
def test_any_members_of_any_type_are_a_frame_or_a_frame_error(type_: Any, fields: dict[str, Any]) -> None:
    data = json.dumps({"type": type_, **fields}).encode()
    frame = decoded(data)
    if not isinstance(frame, FrameError):
        assert type_ in CLIENT_TYPES
    frame_or_error = server_frame(data)
    assert not isinstance(frame_or_error, FrameError) or frame_or_error.code == "malformed"


@given(st.data())
def test_a_damaged_frame_is_a_frame_or_a_frame_error(data: st.DataObject) -> None:
    good = bytearray(
        b'{"type":"publish","id":7,"session":"acme:planner:42","class":"event","ack":"durable","seq":3,'
        b'"message_id":"m-\xc3\xa9\\u00e9","payload":{"a":[1,2.5e3,"\\n"],"b":null}}'
    )
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(good)))
        good[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    decoded(bytes(good))


# ---- what is said of a bad frame ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "code", "request_id"),
    [
        (b'{"type":"publish","id":7}', "malformed", 7),
        (b'{"id":7,"session":1,"type":"subscribe"}', "malformed", 7),
        (b'{"type":"publish","session":"a:b:c","payload":1,"class":"loud","id":7}', "malformed", 7),
        (b'{"type":"publish","session":"a:b:c","payload":1,"event_type":"\xff","id":7}', "malformed", 7),
        (b'{"type":"nope","id":7}', "unknown_type", 7),
        (b'{"type":"message","id":7}', "unknown_type", 7),
        (b'{"id":7}', "malformed", 7),
        (b'{"type":null,"id":7}', "malformed", 7),
        (b'{"type":["publish"],"id":7}', "malformed", 7),
        # an id that is none can't be repeated
        (b'{"type":"nope","id":"7"}', "unknown_type", None),
        (b'{"type":"nope","id":-1}', "unknown_type", None),
        (b'{"type":"nope","id":true}', "unknown_type", None),
        (b'{"type":"nope","id":9007199254740992}', "unknown_type", None),
        (b'{"type":"publish","id":7.5,"session":"a:b:c","payload":1}', "malformed", None),
        # what can't be read to its end is read up to where it can
        (b'{"type":"publish","id":7,"session":"a:b:c","payload":nope}', "malformed", 7),
        (b'{"type":"publish","session":"a\\"b","id":7,"payload":[1', "malformed", 7),
        (b' {"a":true, "id" : 7 ,"payload":' + b"[" * 5_000 + b"]" * 5_000 + b"}", "malformed", 7),
        (b'{"x":{"id":7},"type":"publish","payload":nope}', "malformed", None),
        (b'{"x":"\\"id\\":7,","type":"publish","payload":nope}', "malformed", None),
        (b'{"id":99999999999999999999,"payload":nope}', "malformed", None),
        (b'{"id":9007199254740992,"payload":nope}', "malformed", None),
        (b'{"id":"7","payload":nope}', "malformed", None),
        (b'["id",7]', "malformed", None),
        (b"", "malformed", None),
    ],
)
def test_an_error_has_a_code_and_repeats_the_id_where_it_can_be_read(
    data: bytes, code: str, request_id: int | None
) -> None:
    error = error_of(data)
    assert (error.code, error.request_id) == (code, request_id)


def test_an_error_names_the_field_and_what_it_should_be() -> None:
    message = error_of(b'{"type":"publish","session":"a:b:c","payload":1,"seq":0}').message
    assert "publish" in message
    assert "$.seq" in message
    assert ">= 1" in message


def test_an_unknown_type_is_told_the_types_there_are() -> None:
    assert all(name in error_of(b'{"type":"nope"}').message for name in CLIENT_TYPES)


@pytest.mark.parametrize("size", [10, 72 * 1024, 1024 * 1024])
def test_an_error_stays_small_however_large_the_frame(size: int) -> None:
    for data in (b'{"type":"' + b"x" * size + b'"}', b'{"type":"hello","token":' + b"1" * size + b"}", b"x" * size):
        assert len(error_of(data).message) <= 300


# ---- what a frame may hold ------------------------------------------------------------------------------------------


def test_unknown_fields_are_ignored() -> None:
    frame = decode_client_frame(b'{"type":"subscribe","session":"a:b:c","since_2031":{"deep":[1,2]},"from":"earliest"}')
    assert frame == Subscribe(session="a:b:c", start="earliest")


def test_the_type_may_stand_anywhere() -> None:
    frame = decode_client_frame(b'{"payload":{"type":"hello"},"session":"a:b:c","type":"publish"}')
    assert isinstance(frame, Publish)
    assert bytes(frame.payload) == b'{"type":"hello"}'


def test_an_unknown_server_type_is_none_so_that_old_clients_meet_newer_servers() -> None:
    assert decode_server_frame(b'{"type":"weather","sunny":true}') is None
    assert decode_server_frame('{"type":"ping","new":1}') == frames.Ping()


@given(json_texts)
def test_a_payload_keeps_its_bytes(payload: bytes) -> None:
    frame = decode_client_frame(b'{"type":"publish","session":"a:b:c","payload": %b ,"id":1}' % payload)
    assert isinstance(frame, Publish)
    assert bytes(frame.payload) == payload


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("id", ["0", str(MAX_SEQ)], ["-1", str(MAX_SEQ + 1), "1.5", '"1"']),
        ("seq", ["1", str(MAX_SEQ)], ["0", str(MAX_SEQ + 1), "1.0", '"1"']),
        ("class", ['"control"', '"telemetry"'], ['"Control"', '""', "1"]),
        ("ack", ['"none"', '"accepted"', '"durable"', "null"], ['"maybe"', "true"]),
        ("message_id", ['"m"', '"' + "x" * 128 + '"'], ['""', '"' + "x" * 129 + '"', "7"]),
        ("reply_to", ['"a:b:c"', '"' + "x" * 256 + '"'], ['""', '"' + "x" * 257 + '"']),
        (
            "traceparent",
            ['"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"'],
            ['""', '"00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01"', '"' + "0" * 70 + '"',
             '"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\\n"'],
        ),
    ],
)  # fmt: skip
def test_each_field_of_a_publish_is_bounded(field: str, good: list[str], bad: list[str]) -> None:
    template = '{"type":"publish","session":"a:b:c","payload":1,"%s":%s}'
    for value in good:
        assert isinstance(decode_client_frame((template % (field, value)).encode()), Publish)
    for value in bad:
        assert error_of((template % (field, value)).encode()).code == "malformed"


def test_a_reply_address_can_be_any_session() -> None:
    longest = f"{'t' * 63}:{'a' * 63}:{'s' * 128}"
    data = b'{"type":"publish","session":"a:b:c","payload":1,"reply_to":"%b"}' % longest.encode()
    frame = decode_client_frame(data)
    assert isinstance(frame, Publish)
    assert frame.reply_to == longest


def test_an_incarnation_is_8_to_64_url_safe_characters() -> None:
    for good in ("abcdefgh", "A-_9" * 16):
        assert decode_client_frame(b'{"type":"hello","incarnation":"%b"}' % good.encode()) == Hello(incarnation=good)
    for bad in ("abcdefg", "a" * 65, "abcdefg h", "abcdefgh\\n"):
        assert error_of(b'{"type":"hello","incarnation":"%b"}' % bad.encode()).code == "malformed"


def test_a_lease_is_1_to_64_plain_characters() -> None:
    for good in ("0", "17", "A-z_9.0", "x" * 64):
        frame = decode_client_frame(b'{"type":"ack","session":"a:b:c","position":"p","lease":"%b"}' % good.encode())
        assert frame == frames.Ack("a:b:c", "p", lease=good)
    for bad in ("", "x" * 65, "a b", "a/b", "17\\n", "\u0661"):
        frame_text = f'{{"type":"ack","session":"a:b:c","position":"p","lease":"{bad}"}}'
        assert error_of(frame_text.encode()).code == "malformed"


def test_defaults_are_what_the_documents_say() -> None:
    frame = decode_client_frame(b'{"type":"publish","session":"a:b:c","payload":null}')
    assert isinstance(frame, Publish)
    assert (frame.class_, frame.ack, frame.id, frame.seq) == (MessageClass.EVENT, None, None, None)
    assert decode_client_frame(b'{"type":"subscribe","session":"a:b:c"}') == Subscribe("a:b:c", None, "latest")


# ---- both directions ------------------------------------------------------------------------------------------------

CLIENT_FRAMES: list[ClientFrame] = [
    Hello(id=1, token="t", consumer="c", producer="p", incarnation="abcdefgh", agent="planner-7"),
    Hello(subscriptions=[frames.Subscription("a:b:c"), frames.Subscription("a:b:d", "earliest")]),
    Subscribe("a:b:c", 2, "1764000000000-1a2b3c4d-0000000000000042", presence=True),
    frames.Unsubscribe("a:b:c", 3),
    Publish("a:b:c", msgspec.Raw(b'{"x":1}'), 4, MessageClass.CONTROL, AckMode.DURABLE, 9, "m", "t", "c", "d", "a:b:d"),
    frames.Ack("a:b:c", "1764000000000-1a2b3c4d-0000000000000042", 6, "17", True),
    frames.Status("a:b:c", "1764000000000-1a2b3c4d-0000000000000042", 5),
    frames.Serve("planner", 8, 6),
    frames.Refresh("t", 6),
    Pong(),
]


@pytest.mark.parametrize("frame", CLIENT_FRAMES, ids=lambda frame: type(frame).__name__)
def test_what_a_client_encodes_a_server_decodes(frame: ClientFrame) -> None:
    assert decode_client_frame(encode(frame)) == frame


SERVER_FRAMES: list[ServerFrame] = [
    frames.Welcome("c1", "e1", 10_000, 65_536, 64, 1, 1_764_000_000_000),
    frames.Subscribed("a:b:c", "1764000000000-1a2b3c4d-0000000000000042", False, 2),
    frames.Subscribed("a:b:c", "1764000000000-1a2b3c4d-0000000000000042", id=2, cursor_missing=True),
    frames.Unsubscribed("a:b:c", 3),
    frames.Gap("a:b:c", "retention", "1764000000000-1a2b3c4d-0000000000000001"),
    frames.Epoch("a:b:c", "1764000000000-1a2b3c4d", True, None, [["x", "y"]]),
    frames.Presence("a:b:c", "leave", "c1", "robot", 1_764_000_000_000, "e1/c1/1/7/leave", "planner-7", "lost"),
    frames.Published(True, 4, "1764000000000-1a2b3c4d-0000000000000042", "m", True, True, True),
    frames.Confirmed("a:b:c", "1764000000000-1a2b3c4d-0000000000000042"),
    frames.Refused("out_of_order", "resend", 4, "a:b:c", 250, 7),
    frames.Acked("a:b:c", "1764000000000-1a2b3c4d-0000000000000042", 6),
    frames.StatusAnswer("a:b:c", "1764000000000-1a2b3c4d-0000000000000042", None, 5),
    frames.Serving("planner", 8, 6),
    frames.Assigned("a:b:c", "1764000000000-1a2b3c4d-0000000000000042", "1764000000042"),
    frames.Revoked("a:b:c", "1764000000042", "lost"),
    frames.Refreshed(1_764_000_000_000, 6),
    frames.Notice("pressure", "critical", ["live"], 1_500),
    frames.Reconnect(1_000, "draining"),
    frames.Ping(),
    frames.Error("unknown_type", "no", 6),
]


@pytest.mark.parametrize("frame", SERVER_FRAMES, ids=lambda frame: type(frame).__name__)
def test_what_a_server_encodes_a_client_decodes(frame: ServerFrame) -> None:
    assert decode_server_frame(encode(frame)) == frame
    assert decode_server_frame(encode(frame).decode()) == frame


def test_presence_is_told_from_messages_by_its_first_bytes() -> None:
    shown = encode(frames.Presence("a:b:c", "join", "c1", "robot", 1, "e1/c1/1/7/join"))
    assert shown.startswith(frames.PRESENCE_START)
    assert not shown.startswith((FRAME_START, TELEMETRY_START))


def test_the_lists_of_types_name_every_frame() -> None:
    assert sorted(CLIENT_TYPES) == sorted({msgspec.inspect.type_info(type(frame)).tag for frame in CLIENT_FRAMES})  # type: ignore[attr-defined]
    assert sorted(SERVER_TYPES) == sorted(
        {msgspec.inspect.type_info(type(frame)).tag for frame in SERVER_FRAMES} | {"message"}  # type: ignore[attr-defined]
    )
