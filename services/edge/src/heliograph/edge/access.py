"""Whether a connection may go on: what becomes of it when its token is replaced, runs out, or is taken back.

A new token must speak for the same tenant and subject: producers, cursors and presence carry that name. What the token
allows is asked at each request and may change; who it speaks for may not.
"""

import time
from typing import TYPE_CHECKING

from heliograph.protocol.codes import CODES, CloseCode
from heliograph.protocol.frames import Refresh, Refreshed
from heliograph.service.tokens import TokenError, TokenReason

if TYPE_CHECKING:
    from heliograph.edge.connection import Connection
    from heliograph.edge.connections import Connections

_CLOSES = {
    TokenReason.EXPIRED: CloseCode.TOKEN_EXPIRED,
    TokenReason.REVOKED: CloseCode.TOKEN_REVOKED,
    TokenReason.TENANT_SUSPENDED: CloseCode.TENANT_SUSPENDED,
}


def close_of_refused(reason: TokenReason) -> CloseCode:
    """How a connection ends whose `hello` brought a token that is not accepted."""
    return _CLOSES.get(reason, CloseCode.TOKEN_REFUSED)


def close_of_invalid(reason: TokenReason) -> CloseCode:
    """How one ends whose token was accepted and is no longer. A key that is gone may have a successor: come back."""
    return CloseCode.KEYS_CHANGED if reason is TokenReason.KEY_UNKNOWN else close_of_refused(reason)


def refresh(connection: "Connection", connections: "Connections", frame: Refresh) -> None:
    """Put a new token in the place of the old one. One that is refused changes nothing, and closes nothing."""
    wait_ms = connection.take_refresh(time.monotonic())
    if wait_ms:
        connection.refuse(frame.id, "rate_limited", CODES["rate_limited"].meaning, retry_after_ms=wait_ms)
        return
    before = connection.identity
    assert before is not None
    try:
        identity = connections.verify(frame.token)
    except TokenError as error:
        connection.refuse(frame.id, error.code, error.message)
        return
    if identity.expires_at <= time.time():  # the leeway is for clocks that differ, not to close what is open
        connection.refuse(frame.id, "token_expired", CODES["token_expired"].meaning)
        return
    if (identity.tenant, identity.subject) != (before.tenant, before.subject):
        connection.refuse(frame.id, "identity_changed", CODES["identity_changed"].meaning)
        return
    connection.send(Refreshed(int(identity.expires_at * 1000), frame.id))
    connection.renew_identity(identity)
