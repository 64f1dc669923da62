"""The WebSocket endpoint: an ASGI callable that decides about the handshake, then sleeps until the connection is gone.

Deliberately not a FastAPI route: that costs 250 µs and 11 KB more a connection.
"""

import json
import secrets
import time
from collections.abc import Iterable
from typing import Any

from starlette.types import Receive, Scope, Send

from heliograph.core.pacing import TellToReconnect
from heliograph.edge.admission import Admission, Place, Refusal
from heliograph.edge.connection import Connection, ConnectionLimits
from heliograph.edge.connections import Connections
from heliograph.edge.metrics import EdgeMetrics
from heliograph.edge.origins import Origins
from heliograph.edge.publishing import PublishPath
from heliograph.edge.sessions import Sessions
from heliograph.edge.tick_writer import TickWriter
from heliograph.edge.websocket import EXTENSION, ClientSocket
from heliograph.protocol.codes import CODES, CloseCode
from heliograph.protocol.frames import CONNECT_PATH, SUBPROTOCOL, Reconnect
from heliograph.service.http import PROBLEM, problem
from heliograph.service.tokens import Identity, TokenError


class Endpoint:
    """`/v1/connect`; at any other path there is no WebSocket, and whoever wants one is told so."""

    def __init__(
        self,
        connections: Connections,
        sessions: Sessions,
        path: PublishPath,
        writer: TickWriter,
        metrics: EdgeMetrics,
        limits: ConnectionLimits,
        admission: Admission,
        allowed_origins: Iterable[str],
    ) -> None:
        self._connections = connections
        self._sessions = sessions
        self._path = path
        self._writer = writer
        self._metrics = metrics
        self._limits = limits
        self._admission = admission
        self._origins = Origins(allowed_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if scope["path"] != CONNECT_PATH:
            await self._refuse(scope, send, "not_found")
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        answer = self._admission.judge(time.monotonic())
        if isinstance(answer, Refusal):
            await self._refuse_full(scope, send, answer)
            return
        place = self._admission.place(scope["client"], scope["headers"])
        if isinstance(place, Refusal):
            await self._refuse_full(scope, send, place)
            return
        identity: Identity | None = None
        token = _bearer(headers.get(b"authorization"))
        if token is not None:
            try:
                identity = self._connections.verify(token)
            except TokenError as error:
                await self._refuse(scope, send, error.code, tenant=error.tenant)
                return
            full = self._full(identity)
            if full is not None:
                await self._refuse_full(scope, send, full, identity.tenant)
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
        connection = self._open(socket, identity, place)
        connection.origin = origin
        if offered and SUBPROTOCOL not in offered:
            connection.close(CloseCode.SUBPROTOCOL)
        elif isinstance(answer, TellToReconnect):
            self._metrics.handshakes_refused.labels("told_to_reconnect").n += 1
            self._metrics.admission.labels(answer.cause).n += 1
            if socket.seat is not None:
                socket.seat.known()  # while it takes its leave it must not keep others out
            connection.send(Reconnect(answer.after_ms, "overloaded"))
            connection.close(CloseCode.OVERLOADED)
        socket.read_on()
        del headers, scope, token, origin, offered, answer, place, send, socket
        while (await receive())["type"] != "websocket.disconnect":
            pass

    def refused(self, code: str, tenant: str | None = None) -> None:
        """Count a refused handshake, or what never became one, and say so in the log."""
        self._metrics.handshakes_refused.labels(code).n += 1
        self._connections.refusals.say("handshake_refused", code, tenant)

    def _full(self, identity: Identity) -> Refusal | None:
        """Whether one more of an identity would be too many; its tenant is judged at `hello`."""
        tenant = self._connections.tenant(identity.tenant)
        return self._admission.full(tenant, identity.subject) if tenant is not None else None

    def _open(self, socket: ClientSocket, identity: Identity | None, place: Place) -> Connection:
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
        self._connections.add(connection, place)
        socket.attach(connection, self._connections.read_turns)
        return connection

    def _may_be_allowed(self, origin: str, identity: Identity | None) -> bool:
        """Whether the tenant allows an origin, or some tenant: a page can't send its token before `hello`, which then
        decides.
        """
        if identity is None:
            return self._connections.origins.allow(origin)
        tenant = self._connections.tenant(identity.tenant)
        return tenant is not None and tenant.origins.allow(origin)

    async def _refuse_full(self, scope: Scope, send: Send, refusal: Refusal, tenant: str | None = None) -> None:
        self._metrics.admission.labels(refusal.cause).n += 1
        await self._refuse(scope, send, refusal.code, retry_after_s=refusal.retry_after_s, tenant=tenant)

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
