"""`status`: whether the log has a position."""

from typing import TYPE_CHECKING

from heliograph.core.positions import Position
from heliograph.core.scopes import Operation
from heliograph.core.sessions import SessionKey
from heliograph.protocol.codes import CODES
from heliograph.protocol.frames import Status, StatusAnswer

if TYPE_CHECKING:
    from heliograph.edge.connection import Connection
    from heliograph.edge.connections import Connections


def tell_status(connection: "Connection", connections: "Connections", frame: Status) -> None:
    """Ask the live store, and answer. Raises InvalidValueError for a session or position that is none."""
    assert connection.identity is not None
    key, position = SessionKey.parse(frame.session), Position.parse(frame.position)
    scopes = connection.identity.scopes
    if not (scopes.allows(Operation.PUBLISH, key) or scopes.allows(Operation.SUBSCRIBE, key)):
        code = "forbidden"
        connection.refuse(frame.id, code, CODES[code].meaning, frame.session, operation=Operation.SUBSCRIBE)
        return

    def answer(durable: bool | None) -> None:
        connection.send(StatusAnswer(frame.session, frame.position, durable, frame.id))

    connections.ask_status(frame.session, position, answer)
