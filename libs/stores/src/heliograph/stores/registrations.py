"""What every connection store must agree on: names, and the scopes that a connection is found under. Pure."""

import re

from heliograph.core.errors import InvalidValueError
from heliograph.core.sessions import SessionKey
from heliograph.stores.ports import Connection

_EDGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}", re.ASCII)


def check_edge(name: str) -> str:
    """`name` if it can be part of keys and member names (a host or pod name is); else InvalidValueError."""
    if not _EDGE_NAME.fullmatch(name):
        raise InvalidValueError("value_invalid", "edge", name, "1 to 253 of A-Z a-z 0-9 . _ -")
    return name


def registered(connection: Connection) -> str:
    """The name of one registration of a connection. A space sorts before all that names hold: so these are in the order
    of the connections' names.
    """
    return f"{connection.connection} {connection.registration}"


def member(edge: str, name: str) -> str:
    """`<edge>/<connection>`; what a scope lists, where `name` is a registration's."""
    return f"{edge}/{name}"


def named(listed: str) -> str:
    """`<edge>/<connection>` of what a scope lists."""
    return listed.partition(" ")[0]


def past(name: str) -> str:
    """What sorts behind every registration of the connection `<edge>/<connection>`, and before every other."""
    return f"{name} ~"


def scopes(connection: Connection) -> set[str]:
    """Its tenant, and of each session it is subscribed to the agent type and the session itself."""
    found = {connection.tenant}
    for session in connection.sessions:
        key = SessionKey.parse(session)
        found.add(f"{key.tenant}:{key.agent_type}")
        found.add(session)
    return found
