"""Session keys: `tenant:agent-type:session-id`, the unit of order.

A key is the Kafka record key, the source of the Redis hash tag and the thing a client subscribes to, so its text has
exactly one spelling: nothing here folds case, decodes or normalises. What is not already canonical is refused.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from heliograph.core.errors import InvalidValueError

MAX_LABEL_LENGTH = 63
"""RFC 1123 label: tenants and agent types become parts of topic, Kubernetes and host names."""

MAX_SESSION_ID_LENGTH = 128
"""Room for a UUID with a readable prefix; keys are in every frame, record and Redis key, so it stays small."""

LABEL_PATTERN = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
SESSION_ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._~-]{0,127}"
"""RFC 3986 unreserved characters, so an id is the same text in a URL; the first is alphanumeric, so `..` is none."""
SESSION_PATTERN = rf"{LABEL_PATTERN}:{LABEL_PATTERN}:{SESSION_ID_PATTERN}"

_LABEL = re.compile(LABEL_PATTERN, re.ASCII)
_SESSION_ID = re.compile(SESSION_ID_PATTERN, re.ASCII)


@dataclass(frozen=True, slots=True)
class SessionKey:
    """A checked session key. `str(key)` is its one spelling.

    >>> SessionKey.parse("acme:planner:trip-42").agent_type
    'planner'
    """

    tenant: str
    agent_type: str
    session_id: str

    @classmethod
    def parse(cls, text: str) -> "SessionKey":
        """Raise InvalidValueError(code=`session_invalid`) unless `text` is a canonical session key."""
        return _parse(text)

    @classmethod
    def of(cls, tenant: str, agent_type: str, session_id: str) -> "SessionKey":
        """The key made of three parts, each checked by itself (a `:` in a part is refused, not reinterpreted)."""
        check_label("tenant", tenant)
        check_label("agent_type", agent_type)
        if not _SESSION_ID.fullmatch(session_id):
            raise InvalidValueError(
                "session_invalid",
                "session_id",
                session_id,
                f"1 to {MAX_SESSION_ID_LENGTH} of A-Z a-z 0-9 . _ ~ - that begin with a letter or digit",
            )
        return cls(tenant, agent_type, session_id)

    def __str__(self) -> str:
        return f"{self.tenant}:{self.agent_type}:{self.session_id}"


def check_label(name: str, value: str) -> str:
    """`value` if it is a DNS label (RFC 1123); else InvalidValueError(code=`session_invalid`) that names `name`."""
    if not _LABEL.fullmatch(value):
        raise InvalidValueError(
            "session_invalid", name, value, f"a DNS label: 1 to {MAX_LABEL_LENGTH} of a-z 0-9 -, no - at its ends"
        )
    return value


@lru_cache(maxsize=65_536)
def _parse(text: str) -> SessionKey:
    parts = text.split(":")
    if len(parts) != 3:
        raise InvalidValueError("session_invalid", "session", text, "tenant:agent-type:session-id")
    return SessionKey.of(*parts)
