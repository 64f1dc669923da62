"""Who may do what, written down a second time and plainly: roles, what each may reach, and names that are none.

Nothing of heliograph.core.scopes is used here: this is what it is held against.
"""

from dataclasses import dataclass

OWN, FOREIGN, MISSING = "acme", "globex", "nobody"
"""The tenant that roles belong to, another one, and one that does not exist. Of the last two, which are as long as each
other, nothing may tell them apart.
"""

OPERATIONS = ("publish", "subscribe", "history", "presence", "serve", "admin")


@dataclass(frozen=True)
class Role:
    """Somebody of OWN, by the scopes of the token."""

    name: str
    scopes: tuple[str, ...]

    def may(self, operation: str, tenant: str, agent_type: str = "*", session_id: str = "*") -> bool:
        """Whether one of the scopes covers the session; `*`: every one of them."""
        return tenant == OWN and any(_covers(scope, operation, agent_type, session_id) for scope in self.scopes)


def _covers(scope: str, operation: str, agent_type: str, session_id: str) -> bool:
    allowed, types, sessions = scope.split(":")
    if allowed != operation or types not in ("*", agent_type):
        return False
    return session_id.startswith(sessions[:-1]) if sessions.endswith("*") else session_id == sessions


def _all(types: str, sessions: str) -> tuple[str, ...]:
    return tuple(f"{operation}:{types}:{sessions}" for operation in OPERATIONS)


ROLES = (
    Role("no scopes", ()),
    *(Role(f"{operation} only", (f"{operation}:*:*",)) for operation in OPERATIONS),
    Role("owner", _all("*", "*")),
    Role("one session", _all("planner", "trip-42")),
    Role("a prefix", _all("planner", "trip-*")),
    Role("one agent type", _all("planner", "*")),
    Role("another agent type", _all("coder", "*")),
    Role("another session", _all("planner", "trip-4")),
    Role("a longer prefix", _all("planner", "trip-421*")),
    Role("the session of any type", _all("*", "trip-42")),
)
OWNER = next(role for role in ROLES if role.name == "owner")
NO_SCOPES = ROLES[0]


@dataclass(frozen=True)
class Target:
    """A session that somebody asks for."""

    what: str
    tenant: str
    agent_type: str = "planner"
    session_id: str = "trip-42"

    @property
    def session(self) -> str:
        return f"{self.tenant}:{self.agent_type}:{self.session_id}"


OWN_SESSION = Target("own session", OWN)
TARGETS = (
    OWN_SESSION,
    Target("own session that nobody used", OWN, session_id="trip-99"),
    Target("own session of another type", OWN, agent_type="coder"),
    Target("own session spelled otherwise", OWN, session_id="TRIP-42"),
    Target("another tenant's session", FOREIGN),
    Target("another tenant's unused session", FOREIGN, session_id="trip-99"),
    Target("a session of no tenant", MISSING),
)
ALIKE = (
    ("own session", "own session that nobody used"),
    ("another tenant's session", "another tenant's unused session"),
    ("another tenant's session", "a session of no tenant"),
)
"""Pairs of which a refusal must not tell which one it is about."""

NO_SESSIONS = {
    "empty": "",
    "no session id": "acme:planner",
    "empty session id": "acme:planner:",
    "empty agent type": "acme::trip-42",
    "empty tenant": ":planner:trip-42",
    "only colons": "::",
    "four parts": "acme:planner:trip-42:x",
    "colon in front": ":acme:planner:trip-42",
    "two dots": "acme:planner:..",
    "one dot": "acme:planner:.",
    "up and down": "acme:planner:../planner/trip-42",
    "up to another tenant": "acme:planner:../../globex/planner/trip-42",
    "slash": "acme:planner:trip-42/",
    "backslash": "acme:planner:trip\\42",
    "percent-encoded letter": "acme:planner:%74rip-42",
    "percent-encoded colon": "acme%3Aplanner%3Atrip-42",
    "percent-encoded twice": "acme:planner:%2574rip-42",
    "percent-encoded null": "acme:planner:trip-42%00",
    "null": "acme:planner:trip-42\x00",
    "line break": "acme:planner:trip-42\n",
    "space in front": " acme:planner:trip-42",
    "space behind": "acme:planner:trip-42 ",
    "upper case tenant": "ACME:planner:trip-42",
    "upper case agent type": "acme:Planner:trip-42",
    "cyrillic a": "\u0430cme:planner:trip-42",
    "cyrillic r": "acme:planner:t\u0433ip-42",
    "full width letters": "\uff41cme:planner:trip-42",
    "full width colons": "acme\uff1aplanner\uff1atrip-42",
    "another hyphen": "acme:planner:trip\u201042",
    "soft hyphen": "acme:planner:trip-\u00ad42",
    "zero width space": "acme:planner:trip-42\u200b",
    "combining mark": "acme:planner:tri\u0301p-42",
    "other digits": "acme:planner:trip-\u0664\u0662",
    "dotless i": "acme:planner:tr\u0131p-42",
    "any session": "acme:planner:*",
    "any agent type": "acme:*:trip-42",
    "any tenant": "*:planner:trip-42",
    "underscore": "_shared:planner:trip-42",
    "tilde in front": "acme:planner:~trip-42",
    "too long": "acme:planner:" + "x" * 129,
}
"""Texts that name no session; each looks like `acme:planner:trip-42`, or like more than one."""
