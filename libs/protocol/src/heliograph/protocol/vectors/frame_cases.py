"""Vectors of frames: what a client may send, what is refused of it, and what a server sends."""

from typing import Any

import msgspec
from msgspec import Raw

from heliograph.core.messages import AckMode, MessageClass
from heliograph.core.positions import MAX_SEQ
from heliograph.protocol.codes import CODES, GapReason, RevokeReason
from heliograph.protocol.frames import (
    Ack,
    Acked,
    Assigned,
    Confirmed,
    Epoch,
    Error,
    FrameError,
    Gap,
    Hello,
    LeaveReason,
    Notice,
    NoticeKind,
    Ping,
    Pong,
    Presence,
    PresenceEvent,
    Publish,
    Published,
    Reconnect,
    Refresh,
    Refreshed,
    Refused,
    Revoked,
    Serve,
    ServerFrame,
    Serving,
    Status,
    StatusAnswer,
    Subscribe,
    Subscribed,
    Subscription,
    Unsubscribe,
    Unsubscribed,
    Welcome,
    decode_client_frame,
    decode_server_frame,
    encode,
    is_utf8,
)
from heliograph.protocol.vectors.spelling import fields_of, spelled

_SESSION = "acme:planner:trip-42"
_POSITION = "1764000000000-1a2b3c4d-0000000000000042"
_TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

_CLIENT_FRAMES = (
    Hello(),
    Hello(1, "header.claims.signature", "screen", "planner", "4fGh0pQ2xY7a"),
    Hello(id=2, subscriptions=[Subscription(_SESSION), Subscription("acme:planner:trip-43", "earliest")], agent="Zoë"),
    Subscribe(_SESSION),
    Subscribe(_SESSION, 3, "earliest"),
    Subscribe(_SESSION, 4, _POSITION),
    Subscribe(_SESSION, 9, "cursor"),
    Subscribe(_SESSION, 10, presence=True),
    Hello(11, subscriptions=[Subscription(_SESSION, presence=True)]),
    Unsubscribe(_SESSION, 5),
    Publish(_SESSION, Raw(b'{"text":"hi"}')),
    Publish(_SESSION, Raw(b"null"), 6, MessageClass.TELEMETRY),
    Publish(
        session=_SESSION,
        payload=Raw('{"total":12.50,"big":9007199254740993,"name":"Zoë"}'.encode()),
        id=MAX_SEQ,
        class_=MessageClass.CONTROL,
        ack=AckMode.ACCEPTED,
        seq=MAX_SEQ,
        message_id="order-7",
        event_type="com.example.order",
        correlation_id="request-1",
        causation_id="message-0",
        reply_to="acme:planner:replies",
        content_type="application/vnd.example+json",
        traceparent=_TRACEPARENT,
    ),
    Publish(_SESSION, Raw(b'"AP8="'), 7, content_type="application/octet-stream"),
    Ack(_SESSION, _POSITION),
    Ack(_SESSION, _POSITION, 10),
    Ack(_SESSION, _POSITION, 11, lease="17", done=True),
    Status(_SESSION, _POSITION, 8),
    Serve("planner", 8, 9),
    Serve("planner", 0),
    Refresh("header.claims.signature"),
    Refresh("header.claims.signature", 9),
    Pong(),
)

_CLIENT_TEXTS_GOOD = (
    b'{"payload":{"type":"hello"},"session":"acme:planner:trip-42","type":"publish"}',
    b' {"type" : "subscribe" ,\n"session":"acme:planner:trip-42","new_in_2031":[{}],"from":"latest"} ',
    b'{"type":"pong","id":"ignored here"}',
)

_CLIENT_TEXTS_BAD = (
    b"",
    b"nonsense",
    b"[]",
    b"{}",
    b'{"type":7,"id":1}',
    b'{"type":"nope","id":1}',
    b'{"type":"message","id":1}',
    b'{"type":"publish","id":1,"payload":1}',
    b'{"type":"publish","id":1,"session":"acme:planner:trip-42"}',
    b'{"type":"publish","id":1,"session":"acme:planner:trip-42","payload":NaN}',
    b'{"type":"publish","id":1,"session":"acme:planner:trip-42","payload":{"a":tru}}',
    b'{"type":"publish","id":1,"session":"acme:planner:trip-42","payload":"\\ud800"}',
    b'{"type":"publish","id":1,"session":"acme:planner:trip-42","payload":1,"class":"loud"}',
    b'{"type":"publish","id":1,"session":"acme:planner:trip-42","payload":1,"seq":0}',
    b'{"type":"publish","id":1,"session":"acme:planner:trip-42","payload":1,"seq":9007199254740992}',
    b'{"type":"publish","id":1,"session":"acme:planner:trip-42","payload":1,"message_id":""}',
    b'{"type":"publish","id":1,"session":"acme:planner:trip-42","payload":1,"message_id":"%b"}' % (b"x" * 129),
    b'{"type":"publish","id":1,"session":"acme:planner:trip-42","payload":1,"traceparent":"00-zz"}',
    b'{"type":"publish","id":1,"session":"acme:planner:trip-42","payload":1,"event_type":"\xff"}',
    b'{"type":"publish","id":-1,"session":"acme:planner:trip-42","payload":1}',
    b'{"type":"hello","id":1,"incarnation":"short"}',
    b'{"type":"ack","id":1,"session":"acme:planner:trip-42"}',
    b'{"type":"ack","id":1,"session":"acme:planner:trip-42","position":42}',
    b'{"type":"ack","id":1,"session":"acme:planner:trip-42","position":"latest","lease":""}',
    b'{"type":"ack","id":1,"session":"acme:planner:trip-42","position":"latest","lease":"17 "}',
    b'{"type":"ack","id":1,"session":"acme:planner:trip-42","position":"latest","done":1}',
    b'{"type":"serve","id":1,"agent_type":"planner"}',
    b'{"type":"serve","id":1,"agent_type":"planner","capacity":-1}',
    b'{"type":"serve","id":1,"agent_type":"planner","capacity":10001}',
    b'{"type":"serve","id":1,"agent_type":"","capacity":1}',
    b'{"type":"refresh","id":1}',
    b'{"type":"subscribe","id":1,"session":"acme:planner:trip-42"',
    b'{"type":"subscribe","id":1,"session":"acme:planner:trip-42","presence":"yes"}',
)

_CLIENT_TEXTS_NOT_UTF8 = tuple(
    b'{"type":"publish","session":"acme:planner:trip-42","payload":"%b"}' % bad
    for bad in (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82")
)

_SERVER_FRAMES: tuple[ServerFrame, ...] = (
    Welcome("c-1", "edge-1", 10_000, 65_536, 64, 1, 1_764_003_600_000),
    Subscribed(_SESSION, _POSITION, id=2),
    Subscribed(_SESSION, _POSITION, recovered=False),
    Subscribed(_SESSION, "0000000000000-00000000-0000000000000000", id=9, cursor_missing=True),
    Unsubscribed(_SESSION, 3),
    *(Gap(_SESSION, reason, _POSITION, _POSITION) for reason in GapReason.ALL),
    Gap(_SESSION, GapReason.TOO_FAR_BEHIND, _POSITION),
    Epoch(_SESSION, "1764000000001-00000000", certain=True, last=_POSITION),
    Epoch(_SESSION, "1764000000001-00000000", certain=False, last=_POSITION, gaps=[[_POSITION, _POSITION]]),
    Epoch(_SESSION, "1764000000001-00000000", certain=False),
    Presence(_SESSION, PresenceEvent.JOIN, "c-1", "robot", 1_764_000_000_000, "edge-1/c-1/1/7/join", "planner-7"),
    *(
        Presence(
            _SESSION, PresenceEvent.LEAVE, "c-1", "robot", 1_764_000_000_500, "edge-1/c-1/1/7/leave", reason=reason
        )
        for reason in (LeaveReason.CLOSED, LeaveReason.DRAINED, LeaveReason.LOST)
    ),
    Published(True, 6, _POSITION, "order-7"),
    Published(True, 6, _POSITION, "order-7", duplicate=True),
    Published(False, 6, _POSITION, "order-7", pending=True),
    Published(True, 6, message_id="order-7", deferred=True),
    Published(False, 6, message_id="4fGh0pQ2xY7a.t1"),
    Confirmed(_SESSION, _POSITION),
    Refused("out_of_order", CODES["out_of_order"].meaning, 6, _SESSION, expected=41),
    Refused("rate_limited", CODES["rate_limited"].meaning, 6, _SESSION, retry_after_ms=250),
    Refused("position_ahead", CODES["position_ahead"].meaning, 10, _SESSION),
    Acked(_SESSION, _POSITION, 10),
    StatusAnswer(_SESSION, _POSITION, True, 8),
    StatusAnswer(_SESSION, _POSITION, None, 8),
    Serving("planner", 8, 9),
    Serving("planner", 0),
    Assigned(_SESSION, _POSITION, "1764000000042"),
    *(Revoked(_SESSION, "1764000000042", reason) for reason in RevokeReason.ALL),
    Refreshed(1_764_007_200_000),
    Refreshed(1_764_007_200_000, 9),
    Notice(NoticeKind.PRESSURE, "critical", ["live", "edge"], 1_500),
    Notice(NoticeKind.PRESSURE, "elevated", ["log"]),
    Notice(NoticeKind.PRESSURE, "normal"),
    Notice("weather"),
    Reconnect(1_500, "draining"),
    Ping(),
    Error("unknown_type", CODES["unknown_type"].meaning, 9),
)


def documents() -> dict[str, dict[str, Any]]:
    return {
        "client-frames": {
            "about": "Frames from client to server. `text` is one spelling of `frame`, the one the Python SDK sends;"
            " the order of members is free. `frame` has every field with its default; `payload` is its JSON text."
            " Unknown fields are ignored. `bad`: the code of the answer, and the id that it repeats. `not_utf8`: no"
            " answer, the connection is closed with 1007.",
            "good": [_client_good(encode(frame)) for frame in _CLIENT_FRAMES]
            + [_client_good(text) for text in _CLIENT_TEXTS_GOOD],
            "bad": [_client_bad(text) for text in _CLIENT_TEXTS_BAD],
            "not_utf8": [_not_utf8(text) for text in _CLIENT_TEXTS_NOT_UTF8],
        },
        "server-frames": {
            "about": "Frames from server to client, without `message` (see messages.json). `frame` has every field with"
            " its default. Fields and types that a client does not know are to be ignored.",
            "good": [_server_good(frame) for frame in _SERVER_FRAMES],
            "ignored": [_server_ignored(text) for text in ('{"type":"weather","sunny":true}', '{"type":"forecast"}')],
        },
    }


def _client_good(text: bytes) -> dict[str, Any]:
    frame = decode_client_frame(text)
    return {**spelled(text), "type": _type_of(frame), "frame": fields_of(frame)}


def _client_bad(text: bytes) -> dict[str, Any]:
    try:
        decode_client_frame(text)
    except FrameError as error:
        return {**spelled(text), "code": error.code, "id": error.request_id}
    raise AssertionError(f"{text!r} is accepted")


def _not_utf8(text: bytes) -> dict[str, str]:
    assert not is_utf8(text)
    return spelled(text)


def _server_good(frame: ServerFrame) -> dict[str, Any]:
    text = encode(frame)
    assert decode_server_frame(text) == frame
    return {**spelled(text), "type": _type_of(frame), "frame": fields_of(frame)}


def _server_ignored(text: str) -> dict[str, str]:
    assert decode_server_frame(text) is None
    return {"text": text}


def _type_of(frame: msgspec.Struct) -> str:
    return str(frame.__struct_config__.tag)
