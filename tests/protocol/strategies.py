"""What the tests of heliograph.protocol draw from: JSON texts as others write them, names, whole messages."""

import base64
import json
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from heliograph.core.limits import MAX_NAME_LENGTH
from heliograph.core.messages import MessageClass
from heliograph.core.positions import MAX_SEQ, Position
from heliograph.protocol.messages import JSON_CONTENT_TYPE, MAX_TIME_MS, Message, canonical_payload, is_json

NONCHARACTERS = "".join(map(chr, range(0xFDD0, 0xFDF0))) + "".join(
    chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF)
)

texts = st.text(st.characters(exclude_categories=["Cs"]))
"""Any Unicode text that can be UTF-8, control characters and all."""

names = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters=NONCHARACTERS),
    min_size=1,
    max_size=MAX_NAME_LENGTH,
).filter(lambda name: not name.isspace())

labels = st.from_regex(r"[a-z0-9](?:[a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
sessions = st.builds(
    "{}:{}:{}".format, labels, labels, st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,30}", fullmatch=True)
)
epochs = st.builds("{:013d}-{:08x}".format, st.integers(0, 9_999_999_999_999), st.integers(0, 0xFFFFFFFF))
positions = st.builds(Position, epochs, st.integers(1, MAX_SEQ)).map(str)
traceparents = st.from_regex(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]", fullmatch=True)
incarnations = st.from_regex(r"[A-Za-z0-9_-]{8,64}", fullmatch=True)
times_ms = st.integers(0, MAX_TIME_MS)
classes = st.sampled_from(MessageClass)

number_texts = st.one_of(
    st.integers().map(str),
    st.sampled_from(
        [
            "0",
            "-0",
            "1.0",
            "1.10",
            "1e5",
            "1E+5",
            "-0.0e-00",
            "9007199254740993",
            str(2**70),
            "1" * 400,
            "1e999",
            "-1e999",
        ]
    ),
    st.from_regex(r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?", fullmatch=True),
)
spaces = st.sampled_from(["", "", "", " ", "\n", "\r\n", "\t", "  \n "])


def _string_text(value: str, ascii_only: bool) -> str:
    return json.dumps(value, ensure_ascii=ascii_only)


string_texts = st.one_of(
    st.builds(_string_text, texts, st.booleans()), st.sampled_from([r'"\/"', r'"\u0000"', r'"\ud83d\ude00"', '"[{]}"'])
)


@st.composite
def _json_texts(draw: DrawFn, leaves: SearchStrategy[str], inner: SearchStrategy[str]) -> str:
    def space() -> str:
        return draw(spaces)

    items = draw(st.lists(inner, max_size=4))
    if draw(st.booleans()):
        body = ",".join(f"{space()}{item}{space()}" for item in items)
        return f"[{body}]"
    body = ",".join(f"{space()}{draw(string_texts)}{space()}:{space()}{item}{space()}" for item in items)
    return f"{{{body}}}"


_leaf_texts = st.one_of(number_texts, string_texts, st.sampled_from(["true", "false", "null"]))
json_texts = st.recursive(_leaf_texts, lambda inner: _json_texts(_leaf_texts, inner), max_leaves=6).map(str.encode)
"""JSON as anybody may spell it: escapes or not, big numbers, duplicate keys, white space and line breaks."""

binary_content_types = st.sampled_from(["application/octet-stream", "image/png", "text/plain; charset=utf-8"]) | (
    names.filter(lambda name: not is_json(name))
)
json_content_types = st.sampled_from(["application/json; charset=utf-8", "application/cloudevents+json", "text/json"])


few = settings(max_examples=40)
"""For tests that draw whole messages: a message has a dozen fields, and is drawn slowly."""


def optional(strategy: SearchStrategy[Any]) -> SearchStrategy[Any]:
    return st.none() | strategy


@st.composite
def messages(draw: DrawFn) -> Message:
    """A message as an edge accepts one: payload canonical, defaults left out."""
    content_type = draw(st.none() | json_content_types | binary_content_types)
    octets = st.binary(max_size=40).map(lambda value: b'"%b"' % base64.b64encode(value))
    payload = draw(json_texts if is_json(content_type) else octets)
    counted = draw(st.booleans())
    class_ = draw(classes)
    return Message(
        session=draw(sessions),
        message_id=draw(names),
        time_ms=draw(times_ms),
        producer=draw(names),
        class_=class_,
        payload=canonical_payload(payload, content_type),
        position=None if class_ is MessageClass.TELEMETRY else draw(optional(positions)),
        traceparent=draw(optional(traceparents)),
        event_type=draw(optional(names.filter(lambda name: not name.startswith("dev.heliograph.")))),
        correlation_id=draw(optional(names)),
        causation_id=draw(optional(names)),
        reply_to=draw(optional(names)),
        content_type=None if content_type == JSON_CONTENT_TYPE else content_type,
        incarnation=draw(incarnations) if counted else None,
        producer_seq=draw(st.integers(1, MAX_SEQ)) if counted else None,
        by_worker=draw(st.booleans()),
    )
