"""`subscribe` and `unsubscribe`: who may follow what, and from where."""

import time
from typing import TYPE_CHECKING

from heliograph.core.scopes import Operation
from heliograph.core.sessions import SessionKey
from heliograph.edge.assignment import Assignment
from heliograph.edge.joiner import Cursor
from heliograph.edge.subscription import parse_start
from heliograph.edge.usage import session_retry_ms
from heliograph.protocol.codes import CODES
from heliograph.protocol.frames import CURSOR, Unsubscribe, Unsubscribed
from heliograph.service.tokens import Identity

if TYPE_CHECKING:
    from heliograph.edge.connection import Connection
    from heliograph.edge.connections import Connections


def subscribe(
    connection: "Connection",
    connections: "Connections",
    session: str,
    start: str,
    request_id: int | None,
    *,
    presence: bool,
) -> None:
    """Let a connection follow a session. Raises InvalidValueError for a session or a start that is none."""
    assert connection.identity is not None
    assert connection.tenant is not None

    def refuse(code: str, message: str = "", retry_after_ms: int | None = None) -> None:
        connection.refuse(request_id, code, message or CODES[code].meaning, session, retry_after_ms=retry_after_ms)

    key = SessionKey.parse(session)
    begin = Cursor(connection.consumer or "") if start == CURSOR else parse_start(start)
    needed = forbidden(connection.identity, key, presence=presence)
    if needed is not None:
        connection.refuse(request_id, "forbidden", CODES["forbidden"].meaning, session, operation=needed)
    elif start == CURSOR and connection.consumer is None:
        refuse("consumer_missing")
    elif session in connection.subscriptions:
        refuse("value_invalid", "the session is already subscribed to")
    elif len(connection.subscriptions) >= connection.tenant.record.limits.subscriptions_per_connection:
        refuse("too_many_subscriptions")
    elif not connections.usage.may_use(connection.tenant, session):
        refuse("too_many_sessions", retry_after_ms=session_retry_ms())
    else:
        connection.follow(str(key), begin, request_id, presence=presence)


def forbidden(identity: Identity, key: SessionKey, *, presence: bool) -> Operation | None:
    """What such a subscription needs and the token does not allow; None where it allows all."""
    if not identity.scopes.allows(Operation.SUBSCRIBE, key):
        return Operation.SUBSCRIBE
    if presence and not identity.scopes.allows(Operation.PRESENCE, key):
        return Operation.PRESENCE
    return None


def unsubscribe(connection: "Connection", frame: Unsubscribe) -> None:
    """Have nothing of a session follow any more; one that is not followed is answered all the same."""
    subscription = connection.subscriptions.get(frame.session)
    if type(subscription) is Assignment:
        connection.refuse(frame.id, "value_invalid", "a session to work on is given back by `ack` with `done`")
        return
    if subscription is not None:
        connection.drop(subscription)
        connection.last_active_s = time.monotonic()
    connection.send(Unsubscribed(frame.session, frame.id))
