"""`hello`: who a connection speaks for, and whether it may be here."""

from typing import TYPE_CHECKING

from heliograph.core.errors import InvalidValueError
from heliograph.edge.access import close_of_refused
from heliograph.edge.admission import retry_after_ms
from heliograph.edge.subscribing import subscribe
from heliograph.protocol.codes import CODES, CloseCode
from heliograph.protocol.frames import Hello, Reconnect, check_name
from heliograph.service.tokens import TokenError

if TYPE_CHECKING:
    from heliograph.edge.connection import Connection
    from heliograph.edge.connections import Connections


def greet(connection: "Connection", connections: "Connections", frame: Hello) -> None:
    """Welcome a connection, and take its first subscriptions; or refuse and close it.

    Raises InvalidValueError for a name that is none, and leaves it as it was.
    """
    for field, value in (("producer", frame.producer), ("consumer", frame.consumer), ("agent", frame.agent)):
        if value is not None:
            check_name(field, value)
    if connection.identity is None:
        try:
            connection.identity = connections.verify(frame.token or "")
        except TokenError as error:
            connection.refuse(frame.id, error.code, error.message)
            connection.close(close_of_refused(error.reason))
            return
    tenant = connections.tenant(connection.identity.tenant)
    if tenant is None or tenant.record.suspended:
        connection.close(CloseCode.TOKEN_REFUSED if tenant is None else CloseCode.TENANT_SUSPENDED)
        return
    if connection.origin is not None and not tenant.origins.allow(connection.origin):
        connection.refuse(frame.id, "origin_refused", CODES["origin_refused"].meaning)
        connection.close(CloseCode.FORBIDDEN)
        return
    if connection.place.tenant is None:  # its token came with this frame
        full = connections.admission.full(tenant, connection.identity.subject)
        if full is not None:
            after_ms = retry_after_ms()
            connection.refuse(frame.id, full.code, CODES[full.code].meaning, retry_after_ms=after_ms)
            connection.send(Reconnect(after_ms, "overloaded"))
            connection.close(CloseCode.OVERLOADED)
            return
        connections.admission.identify(connection.place, tenant, connection.identity.subject)
    connection.begin(tenant, frame)
    for wanted in frame.subscriptions:
        try:
            subscribe(connection, connections, wanted.session, wanted.start, None, presence=wanted.presence)
        except InvalidValueError as error:
            connection.refuse(None, error.code, error.message, wanted.session)
