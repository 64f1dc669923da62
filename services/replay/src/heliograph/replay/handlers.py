"""`GET /v1/history/{tenant}/{agent_type}/{session_id}`: pages and streams of a session's past."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Path, Query, Request, Response

from heliograph.core.errors import HeliographError
from heliograph.core.history import Gap, Why
from heliograph.core.positions import EPOCH_PATTERN, Position
from heliograph.core.scopes import Operation
from heliograph.core.sessions import SESSION_ID_PATTERN, SessionKey
from heliograph.protocol.codes import CODES
from heliograph.protocol.tenants import Tenant
from heliograph.replay.metrics import ReplayMetrics
from heliograph.replay.openapi import document, responses
from heliograph.replay.parameters import Label, Time, unix_ms
from heliograph.replay.places import RESUME_PATTERN, Locator, Resume
from heliograph.replay.reading import End, Ending, Epoch, Limits, Part, SessionRead
from heliograph.replay.reading import Query as ReadQuery
from heliograph.replay.rendering import JSON, NDJSON, Page, end_line, error_line, lines
from heliograph.replay.scanning import Sources
from heliograph.replay.slots import RETRY_AFTER_MS, BusyError, ReadSlots
from heliograph.replay.streaming import StreamedRead
from heliograph.service.expiries import ExpiryDirectory
from heliograph.service.health import describe_error
from heliograph.service.http import HttpError, bearer, require
from heliograph.service.logs import get_logger
from heliograph.service.tenants import TenantEntry
from heliograph.service.tokens import Identity, TokenVerifier
from heliograph.stores.ports import StoreError

PATH = "/v1/history/{tenant}/{agent_type}/{session_id}"

GIVEN_POSITION = rf"^{EPOCH_PATTERN}-[0-8][0-9]{{15}}$"
"""A position below 9 × 10^15, so that every text of this pattern is one."""

MAX_KEPT = 1_000
"""Expired gaps and epochs at the beginning of a stream that are kept back; each is an epoch of the session."""

log = get_logger(__name__)


class Format(StrEnum):
    """What a read is answered as."""

    JSON = "json"
    NDJSON = "ndjson"


@dataclass(frozen=True, slots=True)
class HistoryLimits:
    """Of one request."""

    page: Limits
    stream: Limits


class History:
    """The route, and what it works with."""

    def __init__(
        self,
        locator: Locator,
        sources: Sources,
        find_tenant: Callable[[str], TenantEntry | None],
        expiries: ExpiryDirectory,
        slots: ReadSlots,
        metrics: ReplayMetrics,
        limits: HistoryLimits,
        stopping: Callable[[], bool],
    ) -> None:
        self._locator = locator
        self._sources = sources
        self._find_tenant = find_tenant
        self._expiries = expiries
        self._slots = slots
        self._metrics = metrics
        self._limits = limits
        self._stopping = stopping

    def install(self, app: FastAPI, verifier: TokenVerifier) -> None:
        """Add the route to the application."""
        router = APIRouter()
        identify = bearer(verifier)
        page_messages, stream_messages = self._limits.page.messages, self._limits.stream.messages

        @router.get(
            PATH, operation_id="history", summary="Read a session's history", responses=responses(), response_model=None
        )
        async def history(
            request: Request,
            identity: Annotated[Identity, Depends(identify)],
            tenant: Label,
            agent_type: Label,
            session_id: Annotated[str, Path(pattern=f"^{SESSION_ID_PATTERN}$")],
            after: Annotated[
                str | None, Query(pattern=GIVEN_POSITION, description="Messages after this position.")
            ] = None,
            from_time: Annotated[
                Time | None, Query(description="Without `after`: from the first message of this time or later.")
            ] = None,
            until: Annotated[
                str | None, Query(pattern=GIVEN_POSITION, description="The last position that is wanted.")
            ] = None,
            until_time: Annotated[
                Time | None, Query(description="Ends before the first message that is later than this.")
            ] = None,
            limit: Annotated[
                int | None,
                Query(ge=1, le=stream_messages, description=f"Messages; a page has at most {page_messages}."),
            ] = None,
            resume: Annotated[
                str | None, Query(pattern=RESUME_PATTERN, description="From an earlier answer, with its `next`.")
            ] = None,
            format_: Annotated[
                Format | None, Query(alias="format", description="Instead of the Accept header.")
            ] = None,
        ) -> Response:
            session = SessionKey.of(tenant, agent_type, session_id)
            require(identity, Operation.HISTORY, session)
            record = self._tenant(identity)
            query = ReadQuery(
                after=Position.parse(after) if after is not None else None,
                from_ms=unix_ms(from_time) if after is None else None,
                until=Position.parse(until) if until is not None else None,
                until_ms=unix_ms(until_time),
                resume=Resume.parse(resume) if resume is not None else None,
            )
            if format_ is Format.NDJSON or (format_ is None and _accepts_ndjson(request)):
                return await self._stream(session, record, query, limit, lambda: verifier.check(identity))
            return await self._page(session, record, query, limit)

        app.include_router(router)
        document(app)

    def _tenant(self, identity: Identity) -> Tenant:
        entry = self._find_tenant(identity.tenant)
        if entry is None:  # deleted since the token was verified
            raise HttpError("forbidden")
        return entry.record

    async def _read(self, session: SessionKey, tenant: Tenant, query: ReadQuery, limits: Limits) -> SessionRead:
        try:
            gone_until_ms = await self._expiries.gone_until(str(session))
        except StoreError:
            raise HttpError("history_unavailable", retry_after_ms=RETRY_AFTER_MS) from None
        return SessionRead(
            self._locator,
            self._sources,
            session,
            tenant,
            query,
            limits,
            gone_until_ms=gone_until_ms,
            stopping=self._stopping,
        )

    async def _page(self, session: SessionKey, tenant: Tenant, query: ReadQuery, limit: int | None) -> Response:
        limits = _limited(self._limits.page, limit)
        read, page = await self._read(session, tenant, query, limits), Page(str(session))
        begin = time.monotonic()
        try:
            async with self._slots.read(session.tenant), aclosing(read.parts()) as parts:
                async for part in parts:
                    page.add(part)
                    self._count(part, "page")
        except BusyError as error:
            raise self._busy(error) from None
        end = read.end
        self._metrics.request_seconds.observe(time.monotonic() - begin)
        if read.all_expired:
            raise self._expired()
        if end.ending in (Ending.TIME, Ending.STOPPED) and end.last == query.after and end.resume is None:
            raise HttpError("history_unavailable", retry_after_ms=RETRY_AFTER_MS)
        return Response(page.body(end), media_type=JSON)

    async def _stream(
        self,
        session: SessionKey,
        tenant: Tenant,
        query: ReadQuery,
        limit: int | None,
        check: Callable[[], None],
    ) -> Response:
        """`check` raises once the token would not be accepted any more: a stream may take minutes."""
        read = await self._read(session, tenant, query, _limited(self._limits.stream, limit))
        return await StreamedRead.begun(self._lines(session, read, check), NDJSON, self._metrics.reader_gone)

    async def _lines(
        self, session: SessionKey, read: SessionRead, check: Callable[[], None]
    ) -> AsyncGenerator[bytes, None]:
        name, begun = str(session), False
        begin = time.monotonic()
        kept: list[Part] = []
        """A beginning that expired: where nothing else comes the answer is an error of its own."""
        try:
            async with self._slots.read(session.tenant), aclosing(read.parts()) as parts:
                async for part in parts:
                    self._count(part, "stream")
                    if not begun and _only_expired(part) and len(kept) < MAX_KEPT:
                        kept += part
                        continue
                    begun = True
                    yield lines(name, [*kept, *part])
                    kept.clear()
                    check()  # between parts: where to go on is behind what was sent
        except BusyError as error:
            raise self._busy(error) from None
        except HeliographError as error:
            if not begun or error.code not in CODES:
                raise
            log.warning("stream_failed", session=name, error=describe_error(error))
            self._metrics.refused.labels(error.code).n += 1
            yield error_line(error.code, CODES[error.code].meaning) + end_line(End(Ending.STOPPED, read.last, None))
        else:
            if read.all_expired and not begun:
                raise self._expired()
            yield lines(name, kept) + end_line(read.end)
        self._metrics.request_seconds.observe(time.monotonic() - begin)

    def _expired(self) -> HttpError:
        self._metrics.refused.labels("expired").n += 1
        return HttpError("expired")

    def _busy(self, error: BusyError) -> HttpError:
        self._metrics.refused.labels(error.code).n += 1
        return HttpError(error.code, error.message, retry_after_ms=RETRY_AFTER_MS)

    def _count(self, parts: list[Part], reader: str) -> None:
        count_parts(self._metrics, parts, reader)


def count_parts(metrics: ReplayMetrics, parts: list[Part], reader: str) -> None:
    """Count what is handed out."""
    frames = [part[1] for part in parts if isinstance(part, tuple)]
    metrics.messages.labels(reader).n += len(frames)
    metrics.bytes.labels(reader).n += sum(map(len, frames))
    if len(frames) != len(parts):
        for part in parts:
            why = getattr(part, "why", None)
            if why is not None:
                metrics.gaps.labels(why.value).n += 1


def _only_expired(parts: list[Part]) -> bool:
    return all(isinstance(part, Epoch) or (isinstance(part, Gap) and part.why is Why.EXPIRED) for part in parts)


def _limited(limits: Limits, messages: int | None) -> Limits:
    return Limits(min(messages or limits.messages, limits.messages), limits.bytes_, limits.seconds)


def _accepts_ndjson(request: Request) -> bool:
    """Whether NDJSON is asked for by name; anything else gets JSON."""
    accepted = request.headers.get("accept", "")
    return any(part.partition(";")[0].strip().lower() == NDJSON for part in accepted.split(","))
