"""What must never be shown is not shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.service.redaction import MAX_TEXT_CHARS, REDACTED, is_secret_name, redact, redact_text

JWT = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"


@pytest.mark.parametrize(
    "name",
    ["token", "Authorization", "password", "sasl.password", "access_token", "accessToken", "clientSecret", "api_key",
     "HELIOGRAPH_TOKEN", "set-cookie", "secret_name", "refresh-token", "private_key", "jwt"],
)  # fmt: skip
def test_a_field_that_holds_a_secret_is_known_by_its_name(name: str) -> None:
    assert is_secret_name(name)
    assert redact(name, "anything") == REDACTED


@pytest.mark.parametrize(
    "name", ["tenant", "tokens_cached", "token_error", "kid", "session", "position", "key", "tokenizer", "", "reason"]
)
def test_other_fields_are_shown(name: str) -> None:
    assert not is_secret_name(name)
    assert redact(name, "anything") == "anything"


@pytest.mark.parametrize(
    "text",
    [
        f"bad token {JWT} given",
        f"GET /v1/connect?token={JWT}&x=1",
        f"{{'authorization': 'Bearer {JWT}'}}",
        JWT.rsplit(".", 1)[0],
        JWT.rsplit(".", 1)[0] + ".",
    ],
)
def test_a_jwt_is_found_anywhere_in_a_text(text: str) -> None:
    assert "eyJ" not in redact_text(text)


@given(st.text(LETTERS, min_size=8), st.text(LETTERS), st.text(LETTERS), st.text(), st.text())
def test_no_part_of_a_jwt_survives(head: str, claims: str, signature: str, before: str, after: str) -> None:
    shown = redact_text(f"{before} eyJ{head}.{claims}.{signature} {after}")
    assert f"eyJ{head}" not in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://user:hunter2@host:6379/0 refused", f"redis://user:{REDACTED}@host:6379/0 refused"),
        ("redis://:hunter2@host", f"redis://:{REDACTED}@host"),
        ("redis://:hun@ter2@host", f"redis://:{REDACTED}@host"),
        ("redis://:hun/ter2@host", f"redis://:{REDACTED}@host"),
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("Authorization: Basic aHVudGVyMjpodW50ZXIy", f"Authorization: Basic {REDACTED}"),
        ("sasl.password=hunter2,x=1", f"sasl.password={REDACTED},x=1"),
        ('{"password": "hunter2"}', f'{{"password={REDACTED}"}}'),
        ("{'access_token':'hunter2', 'x': 1}", f"{{'access_token={REDACTED}', 'x': 1}}"),
        ("token_expired: the token ran out", "token_expired: the token ran out"),
        ("client_secret: hunter2", f"client_secret={REDACTED}"),
        ("-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\nx", f"{REDACTED}\nx"),
        ("-----BEGIN EC PRIVATE KEY-----\nhunter2", REDACTED),
        ("tenant acme session acme:planner:42", "tenant acme session acme:planner:42"),
    ],
)
def test_secrets_in_texts(text: str, shown: str) -> None:
    assert redact_text(text) == shown


def test_secrets_are_found_at_any_depth() -> None:
    value = {"a": [{"token": "x"}, (JWT,)], "b": {"c": {"password": "x"}}}
    assert redact("fields", value) == {"a": [{"token": REDACTED}, [REDACTED]], "b": {"c": {"password": REDACTED}}}


def test_a_value_that_holds_itself_ends() -> None:
    value: dict[str, object] = {}
    value["self"] = value
    assert "too deep" in str(redact("x", value))


def test_bytes_and_payloads_are_shown_as_their_size() -> None:
    assert redact("data", b"abc") == "[3 bytes]"
    assert redact("payload", "customer's") == "[10 chars]"
    assert redact("body", {"a": 1}) == "[1 items]"


def test_numbers_and_none_are_kept() -> None:
    assert [redact("n", value) for value in (1, 1.5, True, None)] == [1, 1.5, True, None]


def test_an_object_is_shown_by_its_text_without_secrets() -> None:
    assert redact("error", ValueError(f"bad {JWT}")) == f"bad {REDACTED}"


def test_a_huge_text_is_cut_before_it_is_searched() -> None:
    assert len(redact_text("x" * 10_000_000)) <= MAX_TEXT_CHARS + 1


@pytest.mark.timeout(5)
@pytest.mark.parametrize("text", ["a.b-" * 50_000, "eyJ" * 50_000, "token" * 50_000, "a://" * 50_000, "://a:" * 50_000])
def test_no_text_makes_the_search_slow(text: str) -> None:
    assert redact_text(text)
