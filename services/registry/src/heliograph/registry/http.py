"""`GET /v1/presence/{tenant}[/{agent_type}[/{session_id}]]`."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, FastAPI, Path, Query, Request, Response

from heliograph.core.scopes import Operation
from heliograph.core.sessions import LABEL_PATTERN, SESSION_ID_PATTERN, SessionKey, check_label
from heliograph.registry.handlers import PresencePage, presence
from heliograph.service.http import HttpError, bearer, require, require_every
from heliograph.service.metrics import Metrics
from heliograph.service.tokens import Identity, TokenVerifier
from heliograph.stores.ports import ConnectionStore

Label = Annotated[str, Path(pattern=f"^{LABEL_PATTERN}$")]
SessionId = Annotated[str, Path(pattern=f"^{SESSION_ID_PATTERN}$")]


def install(app: FastAPI, store: ConnectionStore, verifier: TokenVerifier, metrics: Metrics, max_page: int) -> None:
    """Add the routes to the application."""
    router = APIRouter()
    answers = metrics.tick_family("answers_total", "Questions answered, by what was asked about.", ["scope"])
    who: Callable[[Request], Awaitable[Identity]] = bearer(verifier)
    documented: dict[int | str, dict[str, Any]] = {
        200: {
            "description": "Connections on live edges",
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/PresencePage"}}},
        }
    }
    limit_of = Query(ge=1, le=max_page, description="Connections of one page.")
    after_of = Query(description="`next` of the page before.", max_length=400)

    async def answer(scope: str, kind: str, limit: int, after: str) -> Response:
        page = await presence(store, scope, limit, after)
        answers.labels(kind).n += 1
        return Response(msgspec.json.encode(page), media_type="application/json")

    def own(identity: Identity, tenant: str) -> None:
        if identity.tenant != tenant:  # the same, whether it exists or not
            raise HttpError("forbidden")

    @router.get("/v1/presence/{tenant}", responses=documented, operation_id="presence_of_tenant")
    async def of_tenant(
        tenant: Label,
        identity: Annotated[Identity, Depends(who)],
        limit: Annotated[int, limit_of] = min(100, max_page),
        after: Annotated[str, after_of] = "",
    ) -> Response:
        own(identity, check_label("tenant", tenant))
        require_every(identity, Operation.PRESENCE, tenant)
        return await answer(tenant, "tenant", limit, after)

    @router.get("/v1/presence/{tenant}/{agent_type}", responses=documented, operation_id="presence_of_agent_type")
    async def of_agent_type(
        tenant: Label,
        agent_type: Label,
        identity: Annotated[Identity, Depends(who)],
        limit: Annotated[int, limit_of] = min(100, max_page),
        after: Annotated[str, after_of] = "",
    ) -> Response:
        own(identity, check_label("tenant", tenant))
        require_every(identity, Operation.PRESENCE, tenant, check_label("agent_type", agent_type))
        return await answer(f"{tenant}:{agent_type}", "agent_type", limit, after)

    @router.get(
        "/v1/presence/{tenant}/{agent_type}/{session_id}", responses=documented, operation_id="presence_of_session"
    )
    async def of_session(
        tenant: Label,
        agent_type: Label,
        session_id: SessionId,
        identity: Annotated[Identity, Depends(who)],
        limit: Annotated[int, limit_of] = min(100, max_page),
        after: Annotated[str, after_of] = "",
    ) -> Response:
        key = SessionKey.of(tenant, agent_type, session_id)
        own(identity, tenant)
        require(identity, Operation.PRESENCE, key)
        return await answer(str(key), "session", limit, after)

    app.include_router(router)
    _document(app)


def _document(app: FastAPI) -> None:
    """Put the schemas of hand-encoded answers into the OpenAPI document."""
    made: Callable[[], dict[str, Any]] = app.openapi
    components = msgspec.json.schema_components([PresencePage], ref_template="#/components/schemas/{name}")[1]

    def openapi() -> dict[str, Any]:
        document = made()
        document.setdefault("components", {}).setdefault("schemas", {}).update(components)
        return document

    app.openapi = openapi  # type: ignore[method-assign]
