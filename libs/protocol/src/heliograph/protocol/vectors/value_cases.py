"""Vectors of single values: sessions, positions, names, shards and partitions, codes, WebSocket framing."""

from typing import Any
from zlib import crc32

from heliograph.core.errors import InvalidValueError
from heliograph.core.limits import VIRTUAL_SHARDS
from heliograph.core.messages import MessageClass
from heliograph.core.partitions import murmur2, partition_of, virtual_shard_of
from heliograph.core.positions import MAX_SEQ, Position
from heliograph.core.sessions import SessionKey
from heliograph.protocol.codes import CLOSES, CODES, GapReason
from heliograph.protocol.frames import check_name
from heliograph.protocol.message_ids import derived_message_id
from heliograph.protocol.websocket import close_frame, ping_frame, pong_frame, text_frame

_SESSIONS_GOOD = (
    "acme:planner:trip-42",
    "a:b:c",
    "0:1:2",
    f"{'t' * 63}:{'a' * 63}:{'S' * 128}",
    "acme:tool-runner:A.b_c~d-e",
    "acme:planner:0195f3a2-7c11-7d5e-9f0a-3b1c2d4e5f60",
)
_SESSIONS_BAD = (
    "", "acme", "acme:planner", "acme:planner:", ":planner:x", "acme::x", "acme:planner:a:b", "Acme:planner:x",
    "acme:plan_ner:x", "-acme:planner:x", "acme-:planner:x", "acme.eu:planner:x", "acme:planner:.x", "acme:planner:-x",
    "acme:planner:a/b", "acme:planner:a b", "acme:planner:é", "acme:planner:x\n", " acme:planner:x", "acme:planner:٤٢",
    f"{'t' * 64}:a:x", f"acme:planner:{'s' * 129}",
)  # fmt: skip

_POSITIONS_GOOD = (
    "0000000000000-00000000-0000000000000000",
    "1764000000000-1a2b3c4d-0000000000000001",
    "1764000000000-1a2b3c4d-0000000000000042",
    "1764000000000-1a2b3c4e-0000000000000001",
    "1764000000001-00000000-0000000000000001",
    f"9999999999999-ffffffff-{MAX_SEQ:016d}",
)
_POSITIONS_BAD = (
    "", "earliest", "42", "1764000000000-1a2b3c4d", "1764000000000-1a2b3c4d-42",
    "1764000000000-1A2B3C4D-0000000000000042", "176400000000-1a2b3c4d-0000000000000042",
    "1764000000000-1a2b3c4d-00000000000000042",
    "1764000000000-1a2b3c4d-0000000000000042\n", "1764000000000-1a2b3c4g-0000000000000042",
    f"1764000000000-1a2b3c4d-{MAX_SEQ + 1:016d}", "1764000000000-1a2b3c4d-000000000000004٢",
)  # fmt: skip

_NAMES_GOOD = ("planner", "user/Zoë", "日本語", "a b", "😀", "'\"\\{}[]", "com.example.order", "\u00ad")
_NAMES_BAD = (
    "",
    " ",
    "\u3000",
    "a\u0000",
    "a\nb",
    "\u001b[31m",
    "\u007f",
    "\u0085",
    "\u009f",
    "\ufdd0",
    "\uffff",
    "\U0010ffff",
)
_RESERVED_BAD = ("dev.heliograph.message", "dev.heliograph.gap", "dev.heliograph.")

_PARTITION_COUNTS = (1, 6, 12, 100)


def documents() -> dict[str, dict[str, Any]]:
    return {
        "sessions": _sessions(),
        "positions": _positions(),
        "names": _names(),
        "shards-and-partitions": _shards_and_partitions(),
        "message-ids": _message_ids(),
        "codes": _codes(),
        "websocket": _websocket(),
    }


def _refused_code(check: Any, *arguments: str) -> str:
    try:
        check(*arguments)
    except InvalidValueError as error:
        return error.code
    raise AssertionError(f"{arguments!r} is accepted")


def _sessions() -> dict[str, Any]:
    keys = [SessionKey.parse(text) for text in _SESSIONS_GOOD]
    return {
        "about": "Session keys: `tenant:agent-type:session-id`. One spelling each: nothing is folded or trimmed.",
        "good": [
            {"text": str(key), "tenant": key.tenant, "agent_type": key.agent_type, "session_id": key.session_id}
            for key in keys
        ],
        "bad": [{"text": text, "code": _refused_code(SessionKey.parse, text)} for text in _SESSIONS_BAD],
    }


def _positions() -> dict[str, Any]:
    positions = [Position.parse(text) for text in _POSITIONS_GOOD]
    assert positions == sorted(positions)
    return {
        "about": "Positions: opaque to clients, sorted as text. `good` is in rising order. seq 0: before the first.",
        "good": [
            {"text": str(position), "epoch": position.epoch, "epoch_ms": position.epoch_ms, "seq": position.seq}
            for position in positions
        ],
        "bad": [{"text": text, "code": _refused_code(Position.parse, text)} for text in _POSITIONS_BAD],
    }


def _names() -> dict[str, Any]:
    return {
        "about": "Names (ids that callers choose, producers, event types, …): a line of text, not blank, 1 to 128"
        " characters. No C0, DEL or C1 controls, surrogates or noncharacters. Event types are not ours.",
        "good": [check_name("consumer", name) for name in _NAMES_GOOD],
        "bad": [{"text": name, "code": _refused_code(check_name, "consumer", name)} for name in _NAMES_BAD],
        "bad_event_types": [
            {"text": name, "code": _refused_code(check_name, "event_type", name)} for name in _RESERVED_BAD
        ],
    }


def _shards_and_partitions() -> dict[str, Any]:
    return {
        "about": "Where a session lives, from the UTF-8 of its key. `crc32` is zlib's, unsigned; the virtual shard is"
        " crc32 mod the number of virtual shards. `murmur2` is Kafka's, signed; the partition is"
        " (murmur2 & 0x7fffffff) mod the number of partitions.",
        "virtual_shards": VIRTUAL_SHARDS,
        "cases": [
            {
                "session": session,
                "crc32": crc32(session.encode()),
                "virtual_shard": virtual_shard_of(session, VIRTUAL_SHARDS),
                "murmur2": murmur2(session.encode()),
                "partitions": {str(count): partition_of(session.encode(), count) for count in _PARTITION_COUNTS},
            }
            for session in (*_SESSIONS_GOOD, *(f"acme:planner:s{number}" for number in range(10)))
        ],
    }


def _message_ids() -> dict[str, Any]:
    return {
        "about": "The id of a message whose publisher chose none but counts: `<incarnation>.<class's letter><seq>`.",
        "cases": [
            {
                "incarnation": incarnation,
                "class": class_,
                "seq": seq,
                "id": derived_message_id(incarnation, class_, seq),
            }
            for incarnation in ("4fGh0pQ2xY7a", "A-_9" * 16)
            for class_ in MessageClass
            for seq in (1, MAX_SEQ)
        ],
    }


def _codes() -> dict[str, Any]:
    return {
        "about": "Codes are added, never renamed or reused. `come_back`: reconnect with backoff after this close code,"
        " also after 1005 and 1006, which are never sent. An unknown close code: 4000 to 4499 come back, 4500 to 4999"
        " do not.",
        "close": [{"code": close.code, "name": close.name, "come_back": close.come_back} for close in CLOSES.values()],
        "codes": [{"code": code.code, "http": code.http, "retry": code.retry} for code in CODES.values()],
        "gap_reasons": list(GapReason.ALL),
    }


def _websocket() -> dict[str, Any]:
    return {
        "about": "RFC 6455 frames from server to client, as hexadecimal. `text_headers`: what comes before a text of"
        " so many bytes.",
        "text_headers": [
            {"length": length, "header": text_frame(b"x" * length)[: -length or None].hex()}
            for length in (0, 1, 125, 126, 65_535, 65_536, 524_288)
        ],
        "frames": [
            {"what": "text `{}`", "bytes": text_frame(b"{}").hex()},
            {"what": "ping", "bytes": ping_frame(b"hi").hex()},
            {"what": "pong", "bytes": pong_frame(b"hi").hex()},
            {"what": "close without a code", "bytes": close_frame().hex()},
            *(
                {"what": f"close {close.code} {close.name}", "bytes": close_frame(close.code, close.name).hex()}
                for close in CLOSES.values()
            ),
        ],
    }
