"""`ack`: who may acknowledge what, and what is answered."""

from typing import TYPE_CHECKING

from heliograph.core.positions import BEFORE_ALL, Position
from heliograph.core.scopes import Operation
from heliograph.core.sessions import SessionKey
from heliograph.protocol.codes import CODES
from heliograph.protocol.frames import Ack, Acked
from heliograph.stores import ports
from heliograph.stores.ports import Acknowledged, AckStatus, StoreError

if TYPE_CHECKING:
    from heliograph.edge.connection import Connection
    from heliograph.edge.connections import Connections

REFUSALS = {
    AckStatus.AHEAD: "position_ahead",
    AckStatus.FENCED: "lease_lost",
    AckStatus.FULL: "too_many_consumers",
}
"""What the live store says, as a code."""


def acknowledge(connection: "Connection", connections: "Connections", frame: Ack) -> None:
    """Take an `ack`. Raises InvalidValueError for a session or position that is none."""
    assert connection.identity is not None
    key, position = SessionKey.parse(frame.session), Position.parse(frame.position)
    session, asked = str(key), frame.id is not None

    def refuse(code: str) -> None:
        connection.refuse(frame.id, code, CODES[code].meaning, session)

    def answer(found: Acknowledged | StoreError) -> None:
        if isinstance(found, StoreError):
            refuse(found.code)
        elif found.status is not AckStatus.OK:
            refuse(REFUSALS[found.status])
        elif asked:
            connection.send(Acked(session, str(found.cursor or BEFORE_ALL), frame.id))

    if frame.lease is not None:
        connections.serving.acknowledge(connection, frame, session, position)
    elif frame.done:
        connection.refuse(frame.id, "value_invalid", "`done` is said with a lease", session)
    elif not connection.identity.scopes.allows(Operation.SUBSCRIBE, key):
        connection.refuse(frame.id, "forbidden", CODES["forbidden"].meaning, session, operation=Operation.SUBSCRIBE)
    elif connection.consumer is None:
        refuse("consumer_missing")
    elif not connections.cursors.acknowledge(ports.Ack(session, connection.consumer, position), answer, asked=asked):
        refuse("rate_limited")
