from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.client.messages import decode_payload, encode_payload
from heliograph.core.errors import InvalidValueError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)  # fmt: skip


@given(JSON)
def test_json_comes_back_as_it_was(data: Any) -> None:
    payload, content_type = encode_payload(data, None)
    assert content_type is None
    assert decode_payload(payload, content_type) == data


@given(st.binary())
def test_bytes_come_back_as_they_were(data: bytes) -> None:
    payload, content_type = encode_payload(data, None)
    assert content_type == "application/octet-stream"
    assert decode_payload(payload, content_type) == data


def test_bytes_that_are_json_go_as_they_are() -> None:
    assert encode_payload(b'{"a":1}', "application/json") == (b'{"a":1}', "application/json")
    assert encode_payload(bytearray(b"[]"), "application/vnd.acme+json") == (b"[]", "application/vnd.acme+json")


@pytest.mark.parametrize("text", [b"{", b"", b'"\xff"', b"[" * 10_000])
def test_bytes_that_are_not_the_json_they_claim_are_refused(text: bytes) -> None:
    with pytest.raises(InvalidValueError, match="JSON"):
        encode_payload(text, "application/json")


def test_text_of_another_type_goes_as_its_bytes() -> None:
    payload, content_type = encode_payload("grüße", "text/plain")
    assert decode_payload(payload, content_type) == "grüße".encode()


def test_a_value_with_a_type_that_can_not_hold_it_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="text/plain"):
        encode_payload({"a": 1}, "text/plain")


def test_structures_are_json_too() -> None:
    class Step(msgspec.Struct):
        name: str

    assert encode_payload(Step("go"), None) == (b'{"name":"go"}', None)


def test_what_json_can_not_say_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        encode_payload(object(), None)
