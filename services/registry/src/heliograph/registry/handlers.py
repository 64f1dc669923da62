"""Who is connected where: questions to the registry, as functions of its port."""

from msgspec import Struct

from heliograph.core.errors import InvalidValueError
from heliograph.stores.ports import ConnectionStore

MAX_AFTER_LENGTH = 400
"""Characters of a page's cursor: an edge's and a connection's name."""


class ConnectionShown(Struct, omit_defaults=True):
    """One connection, as whoever may see presence is told."""

    connection: str
    subject: str
    since_ms: int
    """Unix time in ms at which it was accepted."""
    sessions: list[str]
    """Sessions it is subscribed to, of those that were asked about."""
    edge: str
    agent: str | None = None
    draining: bool = False
    """Its edge is being drained: it will come back elsewhere soon."""


class PresencePage(Struct, omit_defaults=True):
    """Connections in the order of edge and connection name."""

    connections: list[ConnectionShown]
    next: str | None = None
    """Pass it as `after` for the next page; absent on the last."""


async def presence(store: ConnectionStore, scope: str, limit: int, after: str) -> PresencePage:
    """Connections of a tenant, `tenant:agent-type` or session, on edges that are alive. Raises StoreError."""
    if len(after) > MAX_AFTER_LENGTH:
        raise InvalidValueError("value_invalid", "after", after, "what `next` of the page before said")
    found = await store.connections(scope, limit + 1, after)
    shown = [
        ConnectionShown(
            connection=connection.connection,
            subject=connection.subject,
            since_ms=connection.since_ms,
            sessions=[session for session in connection.sessions if _within(session, scope)],
            edge=lease.edge,
            agent=connection.agent,
            draining=lease.draining,
        )
        for lease, connection in found[:limit]
    ]
    if len(found) <= limit:
        return PresencePage(shown)
    return PresencePage(shown, f"{shown[-1].edge}/{shown[-1].connection}")


def _within(session: str, scope: str) -> bool:
    return session == scope or session.startswith(scope + ":")
