"""Scopes: what a token may do, and to which sessions.

A scope is `<operation>:<agent type>:<session>`; the agent type is a label or `*`, the session an id, a prefix followed
by `*`, or `*`:

    publish:planner:42      publish to acme:planner:42
    subscribe:planner:trip-*  subscribe to every planner session that begins with trip-
    history:*:*             read the history of every session of the tenant

The tenant is never part of a scope: it is the one whose key signed the token. No operation implies another, so that a
reader of a token sees all that it allows.

A token is compiled once and asked per publish, so the answer for a session is remembered, within a bound.

What this must never do: reach across tenants, take a malformed scope for a narrower or wider one (the whole token is
refused and the scope named), or let a name spelled differently pass (session keys have one spelling; see `sessions`).
"""

import re
from collections.abc import Iterable
from enum import StrEnum

from heliograph.core.errors import InvalidValueError
from heliograph.core.sessions import LABEL_PATTERN, SESSION_ID_PATTERN, SessionKey

MAX_SCOPES = 256
"""Scopes of one token. A token that needs more wants a prefix: an answer not remembered looks at all prefixes."""

REMEMBERED_ANSWERS = 1_024
"""Answers kept per operation and token; then they are forgotten together, which costs one look at the scopes each."""

_ANY = "*"
_SCOPE = re.compile(
    rf"(?P<operation>[a-z]+):(?P<agent_type>\*|{LABEL_PATTERN}):(?P<session>\*|{SESSION_ID_PATTERN})(?P<prefix>\*?)",
    re.ASCII,
)


class Operation(StrEnum):
    """What can be allowed."""

    PUBLISH = "publish"
    SUBSCRIBE = "subscribe"
    HISTORY = "history"
    PRESENCE = "presence"
    SERVE = "serve"
    """Be a worker of an agent type: asked for the whole type (`serve:planner:*`)."""
    ADMIN = "admin"


class Scopes:
    """The compiled scopes of one token.

    >>> scopes = Scopes("acme", ["publish:planner:trip-*"])
    >>> scopes.allows(Operation.PUBLISH, SessionKey.parse("acme:planner:trip-42"))
    True
    """

    __slots__ = ("_answers", "_rules", "tenant")

    def __init__(self, tenant: str, scopes: Iterable[str]) -> None:
        """Raise InvalidValueError(code=`scope_invalid`) that names the first malformed scope."""
        self.tenant = tenant
        self._rules: dict[Operation, _Rules] = {}
        self._answers: dict[Operation, dict[SessionKey, bool]] = {operation: {} for operation in Operation}
        for count, scope in enumerate(scopes, 1):
            if count > MAX_SCOPES:
                raise InvalidValueError("scope_invalid", "number of scopes", f"over {MAX_SCOPES}", "smaller")
            operation, agent_type, session, prefix = _parse(scope)
            self._rules.setdefault(operation, _Rules()).add(agent_type, session, prefix=prefix)

    @classmethod
    def parse(cls, tenant: str, claim: object) -> "Scopes":
        """From a token's claim: a list of scopes, or one string with spaces between (RFC 8693, 4.2)."""
        if isinstance(claim, str):
            return cls(tenant, claim.split())
        if isinstance(claim, list | tuple):
            return cls(tenant, claim)
        raise InvalidValueError("scope_invalid", "scope", claim, "a list of scopes, or one string with spaces between")

    def allows(self, operation: Operation, session: SessionKey) -> bool:
        """Whether the token may do `operation` with `session`. A session of another tenant: never."""
        answers = self._answers[operation]
        answer = answers.get(session)
        if answer is None:
            rules = self._rules.get(operation)
            answer = (
                session.tenant == self.tenant
                and rules is not None
                and rules.allow(session.agent_type, session.session_id)
            )
            if len(answers) >= REMEMBERED_ANSWERS:
                answers.clear()
            answers[session] = answer
        return answer

    def allows_every(self, operation: Operation, tenant: str, agent_type: str | None = None) -> bool:
        """Whether the token may do `operation` with every session of an agent type, or (None) of the tenant."""
        rules = self._rules.get(operation)
        return tenant == self.tenant and rules is not None and rules.allow_every(agent_type)


class _Rules:
    """The scopes of one operation."""

    __slots__ = ("_exact", "_prefixes")

    def __init__(self) -> None:
        self._exact: set[tuple[str, str]] = set()
        self._prefixes: dict[str, tuple[str, ...]] = {}

    def add(self, agent_type: str, session: str, *, prefix: bool) -> None:
        if prefix:
            self._prefixes[agent_type] = (*self._prefixes.get(agent_type, ()), session)
        else:
            self._exact.add((agent_type, session))

    def allow(self, agent_type: str, session_id: str) -> bool:
        if (agent_type, session_id) in self._exact or (_ANY, session_id) in self._exact:
            return True
        return session_id.startswith(self._prefixes.get(agent_type, ()) + self._prefixes.get(_ANY, ()))

    def allow_every(self, agent_type: str | None) -> bool:
        if "" in self._prefixes.get(_ANY, ()):
            return True
        return agent_type is not None and agent_type != _ANY and "" in self._prefixes.get(agent_type, ())


def _parse(scope: object) -> tuple[Operation, str, str, bool]:
    """(operation, agent type or `*`, session id or prefix, whether it is a prefix); the prefix of `*` is empty."""
    match = _SCOPE.fullmatch(scope) if isinstance(scope, str) else None
    if match is None or match["operation"] not in _OPERATIONS or (match["session"] == _ANY and match["prefix"]):
        raise InvalidValueError(
            "scope_invalid",
            "scope",
            scope,
            f"<operation>:<agent type or *>:<session id, prefix* or *>, the operation one of {', '.join(Operation)}",
        )
    session = match["session"]
    if session == _ANY:
        return Operation(match["operation"]), match["agent_type"], "", True
    return Operation(match["operation"]), match["agent_type"], session, bool(match["prefix"])


_OPERATIONS = frozenset(operation.value for operation in Operation)
