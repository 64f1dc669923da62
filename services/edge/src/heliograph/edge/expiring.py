"""`PUT /v1/sessions/{tenant}/{agent_type}/{session_id}/expiry`: have a session's messages forgotten from a moment on.

The record in the log comes first: it is what an audit reads, and what a router tells the store again. Where the store
can't be told then, whoever asked is told to ask again; asking twice is asking once.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, FastAPI, Request, Response

from heliograph.core.expiry import Expiry
from heliograph.core.scopes import Operation
from heliograph.core.sessions import SessionKey
from heliograph.edge.connections import Connections
from heliograph.edge.http import RETRY_AFTER_MS, ExpirySet, Label, PostedExpiry, SessionId
from heliograph.edge.metrics import EdgeMetrics
from heliograph.edge.requests import TenantRequests
from heliograph.edge.tenants import TenantState
from heliograph.protocol.expiries import expiry_message
from heliograph.protocol.messages import MAX_TIME_MS, record_headers, record_value
from heliograph.service.http import HttpError, bearer, require
from heliograph.service.logs import get_logger
from heliograph.service.tokens import Identity, TokenVerifier
from heliograph.stores.ports import LiveStore, LogWriter, SessionExpiries, StoreError

log = get_logger(__name__)


_decoder = msgspec.json.Decoder(PostedExpiry)


class HttpExpiries:
    """The route."""

    def __init__(
        self,
        connections: Connections,
        live: LiveStore,
        writer: LogWriter,
        expiries: SessionExpiries,
        metrics: EdgeMetrics,
        requests: TenantRequests,
        *,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._connections = connections
        self._live = live
        self._writer = writer
        self._expiries = expiries
        self._metrics = metrics
        self._requests = requests
        self._now_ms = now_ms

    def install(self, app: FastAPI, verifier: TokenVerifier, serving: Callable[[], bool]) -> None:
        """Add the route to the application."""
        router = APIRouter()
        identify = bearer(verifier)

        def served() -> None:
            if not serving():
                code = "draining" if self._connections.draining else "unavailable"
                raise HttpError(code, retry_after_ms=RETRY_AFTER_MS)

        @router.put(
            "/v1/sessions/{tenant}/{agent_type}/{session_id}/expiry",
            operation_id="expire",
            summary="Have a session's messages forgotten from a moment on",
            openapi_extra={
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/PostedExpiry"}}},
                }
            },
            responses={
                200: {
                    "description": "It is set",
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ExpirySet"}}},
                }
            },
            dependencies=[Depends(served)],
        )
        async def expire(
            tenant: Label,
            agent_type: Label,
            session_id: SessionId,
            request: Request,
            who: Annotated[Identity, Depends(identify)],
        ) -> Response:
            key = SessionKey.of(tenant, agent_type, session_id)
            require(who, Operation.ADMIN, key)
            with self._requests.one(who.tenant):
                return await self.expire(key, who, await request.body())

        app.include_router(router)

    async def expire(self, key: SessionKey, who: Identity, body: bytes) -> Response:
        """Set it, and answer what it is."""
        tenant = self._connections.tenant(who.tenant)
        if tenant is None:
            raise HttpError("unauthenticated")
        session, now_ms = str(key), self._now_ms()
        expires_at_ms = _moment(body, now_ms)
        try:
            (known,) = await self._expiries.get([session])
        except StoreError:
            raise self._refused("unavailable", "the store of expiries can't be asked") from None
        state = Expiry(expires_at_ms, now_ms) if known is None else known.replaced(expires_at_ms, now_ms)
        await self._record(key, tenant, state, who)
        try:
            state = await self._expiries.put(session, state)
        except StoreError:
            raise self._refused("unavailable", "it is recorded and not in force yet: ask again") from None
        self._metrics.expiries.n += 1
        log.info(
            "session_expiry_set",
            tenant=key.tenant,
            session=session,
            subject=who.subject,
            expires_at_ms=state.expires_at_ms,
            gone_until_ms=state.gone_until(now_ms),
        )
        answer = ExpirySet(session, state.expires_at_ms, state.gone_until(self._now_ms()))
        return Response(msgspec.json.encode(answer), media_type="application/json")

    async def _record(self, key: SessionKey, tenant: TenantState, state: Expiry, who: Identity) -> None:
        """Returns when the log has the record."""
        session = str(key)
        try:
            partition = await self._live.partition_of(session)
        except StoreError:
            partition = None
        if partition is None:
            partition = tenant.partition(key)
        message = expiry_message(session, state, who.subject)
        written: asyncio.Future[StoreError | None] = asyncio.get_running_loop().create_future()

        def done(error: StoreError | None) -> None:
            if not written.done():
                written.set_result(error)

        try:
            self._writer.write(
                tenant.log_topic(key),
                partition,
                session.encode(),
                record_value(message),
                record_headers(message),
                done,
            )
            error = await written
        except StoreError as refused:
            error = refused
        if error is not None:
            raise self._refused("log_unavailable", "the log did not take the record of it")

    def _refused(self, code: str, message: str) -> HttpError:
        self._metrics.refused.labels(code).n += 1
        return HttpError(code, message, retry_after_ms=RETRY_AFTER_MS)


def _moment(body: bytes, now_ms: int) -> int:
    """Unix ms of what a body asks for."""
    try:
        posted = _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise HttpError("value_invalid", str(error)[:300]) from None
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise HttpError("malformed", str(error)[:300]) from None
    if (posted.expires_at_ms is None) == (posted.expires_in_s is None):
        raise HttpError("value_invalid", "one of `expires_at_ms` and `expires_in_s` must be given")
    if posted.expires_at_ms is not None:
        return posted.expires_at_ms
    return min(MAX_TIME_MS, now_ms + int((posted.expires_in_s or 0) * 1000))
