"""`PUT /v1/sessions/{tenant}/{agent_type}/{session_id}/expiry`: have a session's messages forgotten from a moment on.

The record in the log comes first: it is what an audit reads, and what a router tells the store again. Where the store
can't be told then, whoever asked is told to ask again; asking twice is asking once.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Annotated

import msgspec
from fastapi import Response
from msgspec import Meta, Struct

from heliograph.core.expiry import Expiry
from heliograph.core.scopes import Operation
from heliograph.core.sessions import SessionKey
from heliograph.edge.metrics import EdgeMetrics
from heliograph.edge.session_routes import RETRY_AFTER_MS, SessionRoutes, json_content, schema
from heliograph.edge.tenants import TenantState
from heliograph.protocol.expiries import expiry_message
from heliograph.protocol.messages import MAX_TIME_MS, record_headers, record_value
from heliograph.service.http import HttpError
from heliograph.service.logs import get_logger
from heliograph.service.tokens import Identity
from heliograph.stores.ports import LiveStore, LogWriter, SessionExpiries, StoreError

log = get_logger(__name__)


class PostedExpiry(Struct, forbid_unknown_fields=True):
    """When. Exactly one of the two."""

    expires_at_ms: Annotated[int, Meta(ge=0, le=MAX_TIME_MS)] | None = None
    """Unix ms; a moment that has passed is in force at once."""
    expires_in_s: Annotated[float, Meta(ge=0, le=MAX_TIME_MS / 1000)] | None = None


class ExpirySet(Struct):
    """The session's expiry as it is now."""

    session: str
    expires_at_ms: int
    gone_until_ms: int
    """Messages of this time and before are gone by now; 0: none."""


_decoder = msgspec.json.Decoder(PostedExpiry)


class HttpExpiries:
    """The route."""

    def __init__(
        self,
        live: LiveStore,
        writer: LogWriter,
        expiries: SessionExpiries,
        metrics: EdgeMetrics,
        *,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._live = live
        self._writer = writer
        self._expiries = expiries
        self._metrics = metrics
        self._now_ms = now_ms

    def install(self, routes: SessionRoutes) -> None:
        """Add the route."""
        routes.add(
            "PUT",
            "expiry",
            Operation.ADMIN,
            self.expire,
            [PostedExpiry, ExpirySet],
            operation_id="expire",
            summary="Have a session's messages forgotten from a moment on",
            openapi_extra={"requestBody": {"required": True, "content": json_content(schema(PostedExpiry))}},
            responses={200: {"description": "It is set", "content": json_content(schema(ExpirySet))}},
        )

    async def expire(self, key: SessionKey, tenant: TenantState, who: Identity, body: bytes) -> Response:
        """Set it, and answer what it is."""
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
