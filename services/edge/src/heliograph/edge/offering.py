"""`serve`: who may offer what."""

from typing import TYPE_CHECKING

from heliograph.core.scopes import Operation
from heliograph.core.sessions import check_label
from heliograph.protocol.codes import CODES
from heliograph.protocol.frames import Serve, Serving

if TYPE_CHECKING:
    from heliograph.edge.connection import Connection
    from heliograph.edge.connections import Connections


def serve(connection: "Connection", connections: "Connections", frame: Serve) -> None:
    """Take an offer to work on sessions of an agent type. Raises InvalidValueError for an agent type that is none."""
    identity, tenant = connection.identity, connection.tenant
    assert identity is not None
    assert tenant is not None
    check_label("agent_type", frame.agent_type)
    if not identity.scopes.allows_every(Operation.SERVE, identity.tenant, frame.agent_type):
        connection.refuse(frame.id, "forbidden", CODES["forbidden"].meaning, operation=Operation.SERVE)
        return
    capacity = min(frame.capacity, tenant.record.limits.subscriptions_per_connection)
    code = connections.serving.offer(connection, frame.agent_type, capacity)
    if code is None:
        connection.send(Serving(frame.agent_type, capacity, frame.id))
    else:
        connection.refuse(frame.id, code, CODES[code].meaning)
