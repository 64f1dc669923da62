"""What the HTTP routes of one session share: who may, whose tenant has room for one more, and that the edge serves.

Bodies are decoded by hand (`msgspec`), so their schemas are put into the OpenAPI document here as well.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Annotated, Any

import msgspec
from fastapi import Depends, FastAPI, Path, Request, Response

from heliograph.core.scopes import Operation
from heliograph.core.sessions import LABEL_PATTERN, SESSION_ID_PATTERN, SessionKey
from heliograph.edge.connections import Connections
from heliograph.edge.requests import TenantRequests
from heliograph.edge.tenants import TenantState
from heliograph.service.http import HttpError, bearer, require
from heliograph.service.tokens import Identity, TokenVerifier

RETRY_AFTER_MS = 1_000
"""Of a request that came while the edge starts or ends: there is another edge, or will be."""

Label = Annotated[str, Path(json_schema_extra={"pattern": f"^{LABEL_PATTERN}$"})]
SessionId = Annotated[str, Path(json_schema_extra={"pattern": f"^{SESSION_ID_PATTERN}$"})]
"""Documented here, judged by `SessionKey`, whose refusal has a code of its own."""

Handle = Callable[[SessionKey, TenantState, Identity, bytes], Awaitable[Response]]


class SessionRoutes:
    """Adds routes below `/v1/sessions/{tenant}/{agent_type}/{session_id}/` to an application."""

    def __init__(
        self,
        app: FastAPI,
        connections: Connections,
        requests: TenantRequests,
        verifier: TokenVerifier,
        serving: Callable[[], bool],
    ) -> None:
        """While not `serving` nothing is judged: tenants may not be known yet."""
        self._app = app
        self._connections = connections
        self._requests = requests
        self._identify = bearer(verifier)
        self._serving = serving
        self._bodies: list[type] = []
        made: Callable[[], dict[str, Any]] = app.openapi

        def openapi() -> dict[str, Any]:
            document = made()
            document.setdefault("components", {}).setdefault("schemas", {}).update(self._components())
            return document

        app.openapi = openapi  # type: ignore[method-assign]

    def add(
        self, method: str, name: str, operation: Operation, handle: Handle, bodies: Iterable[type], **described: Any
    ) -> None:
        """`handle` is given the body of a request whose token allows `operation` on the session. `bodies`: the types
        that `described` refers to.
        """
        self._bodies += bodies
        identify = self._identify

        async def answer(
            tenant: Label,
            agent_type: Label,
            session_id: SessionId,
            request: Request,
            who: Annotated[Identity, Depends(identify)],
        ) -> Response:
            key = SessionKey.of(tenant, agent_type, session_id)
            require(who, operation, key)
            with self._requests.one(who.tenant):
                state = self._connections.tenant(who.tenant)
                if state is None:
                    raise HttpError("unauthenticated")
                return await handle(key, state, who, await request.body())

        self._app.add_api_route(
            f"/v1/sessions/{{tenant}}/{{agent_type}}/{{session_id}}/{name}",
            answer,
            methods=[method],
            dependencies=[Depends(self._served)],
            **described,
        )

    def _served(self) -> None:
        if not self._serving():
            code = "draining" if self._connections.draining else "unavailable"
            raise HttpError(code, retry_after_ms=RETRY_AFTER_MS)

    def _components(self) -> dict[str, Any]:
        return msgspec.json.schema_components(self._bodies, ref_template="#/components/schemas/{name}")[1]


def schema(body: type) -> dict[str, Any]:
    """A reference to a body's schema."""
    return {"$ref": f"#/components/schemas/{body.__name__}"}


def json_content(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
