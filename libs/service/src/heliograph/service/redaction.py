"""What must never reach a log, an error body or a probe's answer: tokens, passwords, keys, payloads.

Two rules, both applied to everything: a field whose name says that it holds a secret, and text that looks like one
wherever it stands (an exception's message, a URL, a header echoed by a library). Over-redaction is the cheaper mistake.
"""

import re
from collections.abc import Mapping
from typing import Any

REDACTED = "[redacted]"
MAX_DEPTH = 8
"""Of nested values in one log event; what lies deeper is replaced, so that no value can recurse without end."""
MAX_TEXT_CHARS = 16_384
"""Of one text in a log event; more is cut, which also bounds what the patterns have to search."""

SECRET_WORDS = frozenset(
    {
        "token",
        "jwt",
        "authorization",
        "authorisation",
        "password",
        "passwd",
        "passphrase",
        "secret",
        "cookie",
        "credential",
        "credentials",
        "bearer",
        "apikey",
    }
)
SECRET_ENDINGS = ("api_key", "private_key", "access_key", "signing_key")
PAYLOAD_NAMES = frozenset({"payload", "body", "frame"})
"""Fields whose value belongs to a customer: only its size is shown."""

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")

_PATTERNS = (
    # A JWT: base64url of `{"` begins with eyJ. Cut-off ones (no signature, or only a header and a dot) count too.
    (re.compile(r"eyJ[A-Za-z0-9_-]{6,}(?:\.[A-Za-z0-9_-]*){1,4}"), REDACTED),
    (re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE), r"\1 " + REDACTED),
    # user:password@ of a URL, up to the last @: a password that isn't percent-encoded may hold @ and slashes.
    (re.compile(r"(\b[a-z][a-z0-9+.-]{0,20}://[^\s/:@]{0,200}):[^\s]{1,500}@", re.IGNORECASE), rf"\1:{REDACTED}@"),
    (
        re.compile(
            r"\b([a-z0-9_.-]{0,40}(?:token|password|passwd|secret|api_key|apikey))['\"]?\s?[=:]\s?['\"]?(?!\s)[^\s&,;'\"}\])]{1,2000}",
            re.IGNORECASE,
        ),
        rf"\1={REDACTED}",
    ),
    (
        re.compile(
            r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----|\Z)", re.DOTALL
        ),
        REDACTED,
    ),
)


def is_secret_name(name: str) -> bool:
    """Whether a field of this name holds a secret: `token`, `accessToken`, `redis_password`, but not `tokens_cached`.

    The last word decides (`token_error` is a code, `token_kid` an id), apart from words that leave no doubt.
    """
    words = [word.lower() for word in _WORDS.findall(name)]
    if not words:
        return False
    if words[-1] in SECRET_WORDS or "_".join(words).endswith(SECRET_ENDINGS):
        return True
    return any(word in ("password", "passwd", "secret", "authorization") for word in words)


def redact_text(text: str) -> str:
    """`text` with whatever looks like a secret replaced."""
    if len(text) > MAX_TEXT_CHARS:
        text = text[:MAX_TEXT_CHARS] + "…"
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def redact(name: str, value: Any, depth: int = 0) -> Any:
    """`value` of the field `name`, safe to show: plain JSON types, no secrets, bytes and payloads as their size."""
    if value is None or isinstance(value, bool):
        return value
    if is_secret_name(name):
        return REDACTED
    if isinstance(value, bytes | bytearray | memoryview):
        return f"[{len(value)} bytes]"
    if name.lower() in PAYLOAD_NAMES and isinstance(value, str | Mapping | list | tuple):
        return f"[{len(value)} {'chars' if isinstance(value, str) else 'items'}]"
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, int | float):
        return value
    if depth >= MAX_DEPTH:
        return "[too deep]"
    if isinstance(value, Mapping):
        return {str(key): redact(str(key), inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redact("", inner, depth + 1) for inner in value]
    return redact_text(str(value))
