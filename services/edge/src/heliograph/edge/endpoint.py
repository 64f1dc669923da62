"""The WebSocket endpoint: an ASGI callable that decides about the handshake, then sleeps until the connection is gone.

Deliberately not a FastAPI route: that costs 250 µs and 11 KB more a connection.
"""

import json
import random
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Any

from starlette.types import Receive, Scope, Send

from heliograph.core.pacing import Admit, HandshakeAdmission, RefuseHandshake
from heliograph.edge.connection import Connection, ConnectionLimits
from heliograph.edge.connections import Connections
from heliograph.edge.metrics import EdgeMetrics
from heliograph.edge.origins import Origins
from heliograph.edge.publishing import PublishPath
from heliograph.edge.sessions import Sessions
from heliograph.edge.websocket import EXTENSION, ClientSocket, TickWriter
from heliograph.protocol.codes import CODES, CloseCode
from heliograph.protocol.frames import SUBPROTOCOL, Reconnect
from heliograph.service.http import PROBLEM, problem
from heliograph.service.tokens import Identity, TokenError

OVERLOADED_AFTER_S = (2, 10)
"""When a client may come back to an edge that can take no more: another one has room sooner."""


class Endpoint:
    """`/v1/connect`."""

    def __init__(
        self,
        connections: Connections,
        sessions: Sessions,
        path: PublishPath,
        writer: TickWriter,
        metrics: EdgeMetrics,
        limits: ConnectionLimits,
        admission: HandshakeAdmission,
        allowed_origins: Iterable[str],
        ready: Callable[[], bool],
        overloaded: Callable[[], bool] = lambda: False,
    ) -> None:
        """`overloaded`: whether the edge itself can take no more (`heliograph.edge.pressure`)."""
        self._connections = connections
        self._sessions = sessions
        self._path = path
        self._writer = writer
        self._metrics = metrics
        self._limits = limits
        self._admission = admission
        self._origins = Origins(allowed_origins)
        self._ready = ready
        self._overloaded = overloaded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        admission = self._admission.judge(time.monotonic())
        if isinstance(admission, RefuseHandshake):
            await self._refuse(scope, send, "unavailable", retry_after_s=admission.retry_after_s)
            return
        if self._overloaded():
            after_s = random.randint(*OVERLOADED_AFTER_S)  # noqa: S311 - a pace
            await self._refuse(scope, send, "overloaded", retry_after_s=after_s)
            return
        if not self._ready():
            await self._refuse(scope, send, "unavailable", retry_after_s=random.randint(1, 3))  # noqa: S311 - a pace
            return
        identity: Identity | None = None
        token = _bearer(headers.get(b"authorization"))
        if token is not None:
            try:
                identity = self._connections.verify(token)
            except TokenError as error:
                await self._refuse(scope, send, error.code, tenant=error.tenant)
                return
        origin = headers[b"origin"].decode("latin-1") if b"origin" in headers else None
        if origin is not None and self._origins.allow(origin):
            origin = None
        if origin is not None and not self._may_be_allowed(origin, identity):
            await self._refuse(scope, send, "origin_refused", tenant=identity.tenant if identity else None)
            return
        offered = scope["subprotocols"]
        await send({"type": "websocket.accept", "subprotocol": SUBPROTOCOL if SUBPROTOCOL in offered else None})
        socket: ClientSocket = scope["extensions"][EXTENSION]
        connection = self._open(socket, identity)
        connection.origin = origin
        if offered and SUBPROTOCOL not in offered:
            connection.close(CloseCode.SUBPROTOCOL)
        elif not isinstance(admission, Admit):
            self._metrics.handshakes_refused.labels("told_to_reconnect").n += 1
            connection.send(Reconnect(admission.after_ms, "overloaded"))
            connection.close(CloseCode.OVERLOADED)
        socket.read_on()
        del headers, scope, token, origin, offered, admission, send, socket
        while (await receive())["type"] != "websocket.disconnect":
            pass

    def refused(self, code: str, tenant: str | None = None) -> None:
        """Count a refused handshake, or what never became one, and say so in the log."""
        self._metrics.handshakes_refused.labels(code).n += 1
        self._connections.refusals.say("handshake_refused", code, tenant)

    def _open(self, socket: ClientSocket, identity: Identity | None) -> Connection:
        connection = Connection(
            secrets.token_urlsafe(9),
            socket,
            self._connections,
            self._sessions,
            self._path,
            self._writer,
            self._metrics,
            self._limits,
            identity,
            time.monotonic(),
        )
        self._connections.add(connection)
        socket.attach(connection)
        return connection

    def _may_be_allowed(self, origin: str, identity: Identity | None) -> bool:
        """Whether the tenant allows an origin, or some tenant: a page can't send its token before `hello`, which then
        decides.
        """
        if identity is None:
            return self._connections.origins.allow(origin)
        tenant = self._connections.tenant(identity.tenant)
        return tenant is not None and tenant.origins.allow(origin)

    async def _refuse(
        self, scope: Scope, send: Send, code: str, retry_after_s: int | None = None, tenant: str | None = None
    ) -> None:
        self.refused(code, tenant)
        known = CODES[code]
        body: dict[str, Any] = problem(known.http, code, known.meaning)
        headers = [(b"content-type", PROBLEM.encode())]
        if retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % retry_after_s))
        if known.http == 401:
            headers.append((b"www-authenticate", b'Bearer realm="heliograph"'))
        await send({"type": "websocket.http.response.start", "status": known.http, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": json.dumps(body).encode()})
        # uvicorn would log a refusal as an application that forgot to answer.
        scope["extensions"][EXTENSION].handshake_complete = True


def _bearer(header: bytes | None) -> str | None:
    """The token of an Authorization header (RFC 6750, 2.1); None where there is no such header."""
    if header is None:
        return None
    scheme, _, token = header.decode("latin-1").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
