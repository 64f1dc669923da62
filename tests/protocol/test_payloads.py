import json
import sys
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.protocol.strategies import json_texts
from tests.protocol.strict_client import strict_json

from heliograph.core.errors import InvalidValueError
from heliograph.protocol.frames import FrameError, Publish, decode_client_frame, is_utf8
from heliograph.protocol.messages import MAX_PAYLOAD_DEPTH, canonical_payload, check_payload, is_json


def spliced(payload: bytes) -> bytes | None:
    """The payload as an edge takes it out of a publish frame, before `check_payload`; None where it is refused."""
    data = b'{"type":"publish","session":"a:b:c","payload":' + payload + b"}"
    try:
        frame = decode_client_frame(data)
    except FrameError:
        return None
    assert isinstance(frame, Publish)
    return bytes(frame.payload) if is_utf8(data) else None


def verdict(payload: bytes) -> Any:
    """What Python's own parser says, strictly; None where it is no JSON."""
    try:
        return (strict_json(payload.decode()),)
    except (ValueError, RecursionError):
        return None


def has_lone_surrogate(value: Any) -> bool:
    if isinstance(value, str):
        return any("\ud800" <= char <= "\udfff" for char in value)
    if isinstance(value, list | tuple):
        return any(map(has_lone_surrogate, value))
    if isinstance(value, dict):
        return any(has_lone_surrogate(key) or has_lone_surrogate(item) for key, item in value.items())
    return False


def depth_of(value: Any) -> int:
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    return 0


# ---- what the decoder skips, it reads -------------------------------------------------------------------------------

FRAGMENTS = [
    rb"\ud800", rb"\udc00", rb"\u", b"\xff", b"\x00", b'"', b"\\", b"[", b"]", b"{", b"}", b",", b":", b"0", b".", b"e",
    b"+", b"-", b"NaN", b"Infinity", b"tru", b"null", b"\n", b"\x0c", b"\x7f", b"\x1f", b"\xed\xa0\x80",
    b"\xef\xbb\xbf", b"\xc2\xa0", b"//", b"'", b'\\"', b'""', b"1e999", b"00",
]  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    text = bytearray(draw(json_texts))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(text)))
        text[at : at + draw(st.integers(0, 2))] = draw(st.sampled_from(FRAGMENTS) | st.binary(max_size=2))
    return bytes(text)


@settings(max_examples=300)
@given(damaged())
@example(b'{"a":tru}')
@example(b'"a\x01b"')
@example(rb'"\x"')
@example(b"01")
@example(b"1.")
@example(b"1e")
@example(b"[1,]")
@example(b"NaN")
@example(b"-Infinity")
@example(b"\xef\xbb\xbf1")
@example(b"1}{")
@example(b'1,"payload":2')
def test_no_invalid_json_gets_through_a_raw_splice(payload: bytes) -> None:
    taken = spliced(payload)
    if taken is None:
        return
    data = b'{"type":"publish","session":"a:b:c","payload":' + payload + b"}"
    assert verdict(data) is not None
    assert verdict(taken) is not None
    assert not has_lone_surrogate(verdict(taken))


@given(json_texts)
def test_no_valid_json_is_refused(payload: bytes) -> None:
    assert spliced(payload) == payload


@pytest.mark.parametrize(
    "payload",
    [rb'"\ud800"', rb'"\udc00"', rb'"\ud800\ud800"', rb'"\ud800x\udc00"', rb'{"\ud800":1}', rb'["ok",{"a":"\udfff"}]'],
)
def test_lone_surrogates_are_refused_because_no_utf8_can_hold_them(payload: bytes) -> None:
    assert verdict(payload) is not None
    assert spliced(payload) is None


@pytest.mark.parametrize("payload", [b'"\xff"', b'"\xc0\x80"', b'"\xed\xa0\x80"', b'"\xf4\x90\x80\x80"', b'{"\xfe":1}'])
def test_the_decoder_alone_lets_invalid_utf8_pass_and_is_utf8_does_not(payload: bytes) -> None:
    data = b'{"type":"publish","session":"a:b:c","payload":' + payload + b"}"
    assert isinstance(decode_client_frame(data), Publish)
    assert not is_utf8(data)


@given(st.binary(max_size=30) | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_is_utf8_is_what_python_says(data: bytes) -> None:
    try:
        data.decode("utf-8", "strict")
        expected = True
    except UnicodeDecodeError:
        expected = False
    assert is_utf8(data) == expected


# ---- depth ----------------------------------------------------------------------------------------------------------


def nested(depth: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    return opening * depth + b"1" + closing * depth


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"]":[', b"]}]")])
def test_a_payload_is_nested_at_most_so_deep(opening: bytes, closing: bytes) -> None:
    levels = (opening.count(b"[") + opening.count(b"{")) or 1
    check_payload(nested(MAX_PAYLOAD_DEPTH // levels, opening, closing))
    for depth in (MAX_PAYLOAD_DEPTH // levels + 1, 200):
        with pytest.raises(InvalidValueError) as raised:
            check_payload(nested(depth, opening, closing))
        assert (raised.value.code, raised.value.field) == ("value_invalid", "payload")


def test_many_brackets_side_by_side_are_not_deep() -> None:
    check_payload(b"[" + b",".join([b'{"a":[]}'] * 10_000) + b"]")
    check_payload(b'"' + b"[" * 10_000 + b'"')
    check_payload(json.dumps({'\\"[{' * 300: ['"]' * 300, "[" * 300]}).encode())


def test_brackets_in_strings_hide_no_depth() -> None:
    for filler in (b'"]"', b'"]]"', b'"\\"]"', b'"\\\\","]"', b'"","]",""', b'"[","]"'):
        payload = (b"[" + filler + b",") * 100 + b"1" + b"]" * 100
        assert verdict(payload) is not None
        with pytest.raises(InvalidValueError, match="nested"):
            check_payload(payload)


@given(json_texts, st.integers(0, MAX_PAYLOAD_DEPTH + 5))
def test_depth_is_what_the_parsed_value_has(text: bytes, around: int) -> None:
    payload = b"[" * around + text + b"]" * around
    if depth_of(strict_json(payload.decode())) > MAX_PAYLOAD_DEPTH:
        with pytest.raises(InvalidValueError):
            check_payload(payload)
    else:
        check_payload(payload)


def test_an_accepted_payload_can_be_read_however_deep_the_reader_is_in_its_own_calls() -> None:
    payload = nested(MAX_PAYLOAD_DEPTH)

    def reader(calls: int) -> Any:
        return reader(calls - 1) if calls else msgspec.json.decode(payload)

    frame = sys._getframe()
    used = 0
    while frame.f_back is not None:
        frame, used = frame.f_back, used + 1
    assert depth_of(reader(sys.getrecursionlimit() - used - MAX_PAYLOAD_DEPTH - 20)) == MAX_PAYLOAD_DEPTH


# ---- the canonical payload ------------------------------------------------------------------------------------------


@given(json_texts)
def test_a_canonical_payload_is_one_line_and_means_the_same(payload: bytes) -> None:
    canonical = canonical_payload(payload, None)
    assert b"\n" not in canonical
    assert b"\r" not in canonical
    # pairs, not dicts: duplicate keys and their order stay too; numbers are compared as they are written
    pairs: Any = {"object_pairs_hook": list, "parse_int": str, "parse_float": str}
    assert json.loads(canonical.decode(), **pairs) == json.loads(payload.decode(), **pairs)
    assert canonical_payload(canonical, None) == canonical


@given(json_texts.filter(lambda text: b"\n" not in text and b"\r" not in text))
def test_a_payload_on_one_line_stays_as_it_is(payload: bytes) -> None:
    assert canonical_payload(payload, None) == payload


@pytest.mark.parametrize(
    "number",
    [
        "1.0",
        "1.10",
        "-0",
        "-0.0",
        "1e5",
        "1E+05",
        "9007199254740993",
        str(2**70),
        "0." + "123456789" * 5,
        "1e999",
        "9" * 400,
    ],
)
def test_numbers_keep_their_spelling_also_when_compacted(number: str) -> None:
    assert canonical_payload(f'[\n{number},\r\n {{"a": {number}}}]'.encode(), None) == (
        f'[{number},{{"a":{number}}}]'.encode()
    )


@pytest.mark.parametrize("text", [r'"\u00e9"', r'"\/"', r'"\u2028"', '"é"', r'"\n"', r'"\ud83d\ude00"', '"\x7f"'])
def test_strings_keep_their_spelling_also_when_compacted(text: str) -> None:
    assert canonical_payload(f"[\n{text}\n]".encode(), None) == f"[{text}]".encode()


def test_a_canonical_payload_is_not_nested_too_deep() -> None:
    with pytest.raises(InvalidValueError, match="nested"):
        canonical_payload(b"\n" + nested(MAX_PAYLOAD_DEPTH + 1), None)


# ---- media types and base64 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "application/json",
        "Application/JSON; charset=utf-8",
        "text/json",
        "application/cloudevents+json",
        "a/b+JSON ;x",
    ],
)
def test_json_media_types_are_spliced(content_type: str | None) -> None:
    assert is_json(content_type)
    assert canonical_payload(b"{}", content_type) == b"{}"


@pytest.mark.parametrize(
    "content_type", ["application/octet-stream", "text/plain", "image/png", "json", "application/json5"]
)
def test_any_other_media_type_needs_canonical_base64(content_type: str) -> None:
    assert not is_json(content_type)
    for good in (b'""', b'"aGk="', b'"AAEC/w=="', b'"+/+/"'):
        assert canonical_payload(good, content_type) == good
    for bad in (b"{}", b"1", b"null", b'"aGk"', b'"aGl="', b'"aGk= "', b'"a-_="', b'"\xc3\xa9"', b'"aG\\nk="', b"[]"):
        with pytest.raises(InvalidValueError) as raised:
            canonical_payload(bad, content_type)
        assert raised.value.code == "payload_not_base64"


def test_a_refused_payload_is_not_shown() -> None:
    with pytest.raises(InvalidValueError) as raised:
        canonical_payload(b'"my-secret-words"', "text/plain")
    assert "secret" not in raised.value.message


def test_base64_with_escaped_slashes_gets_its_one_spelling() -> None:
    assert canonical_payload(rb'"\/\/8="', "application/octet-stream") == b'"//8="'
    assert canonical_payload(rb'"\u0061Gk\u003d"', "application/octet-stream") == b'"aGk="'
