"""`GET /v1/export/{tenant}`: everything that the log has of a tenant, for who may read all of it."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Response

from heliograph.core.errors import HeliographError
from heliograph.core.scopes import Operation
from heliograph.protocol.codes import CODES
from heliograph.protocol.frames import encode
from heliograph.protocol.tenants import Tenant
from heliograph.replay.exporting import RESUME_PATTERN, ExportEnding, Exporter, ExportQuery, ExportRead
from heliograph.replay.openapi import export_responses, span_responses
from heliograph.replay.parameters import Label, Time, unix_ms
from heliograph.replay.reading import Limits
from heliograph.replay.rendering import JSON, NDJSON, error_line
from heliograph.replay.slots import RETRY_AFTER_MS, BusyError, ReadSlots
from heliograph.replay.streaming import StreamedRead
from heliograph.service.health import describe_error
from heliograph.service.http import HttpError, bearer, require_every
from heliograph.service.logs import get_logger
from heliograph.service.tenants import TenantEntry
from heliograph.service.tokens import Identity, TokenVerifier

PATH = "/v1/export/{tenant}"
PARTITIONS_PATH = "/v1/export/{tenant}/partitions"

log = get_logger(__name__)

FromTime = Annotated[Time | None, Query(description="Only messages of this time or later.")]


@dataclass(frozen=True, slots=True)
class _Asked:
    """Who reads what."""

    identity: Identity
    tenant: Tenant
    read: ExportRead
    check: Callable[[], None]
    """Raises once the token would not be accepted any more: an export may take minutes."""


class Export:
    """The routes, and what they work with."""

    def __init__(
        self,
        exporter: Exporter,
        find_tenant: Callable[[str], TenantEntry | None],
        slots: ReadSlots,
        limits: Limits,
        stopping: Callable[[], bool],
    ) -> None:
        self._exporter = exporter
        self._metrics = exporter.metrics
        self._find_tenant = find_tenant
        self._slots = slots
        self._limits = limits
        self._stopping = stopping

    def install(self, app: FastAPI, verifier: TokenVerifier) -> None:
        """Add the routes to the application."""
        router = APIRouter()
        identify = bearer(verifier)
        most = self._limits.messages

        @router.get(
            PATH, operation_id="export", summary="Export a tenant", responses=export_responses(), response_model=None
        )
        async def export(
            identity: Annotated[Identity, Depends(identify)],
            tenant: Label,
            resume: Annotated[
                str | None, Query(pattern=RESUME_PATTERN, description="From an earlier answer: goes on behind it.")
            ] = None,
            alone: Annotated[
                bool, Query(description="Only the partition that `resume` names, not those behind it.")
            ] = False,
            from_time: FromTime = None,
            until_time: Annotated[Time | None, Query(description="Only messages of this time or earlier.")] = None,
            limit: Annotated[int | None, Query(ge=1, le=most, description="Records of this answer.")] = None,
        ) -> Response:
            record = self._tenant(identity, tenant)
            query = ExportQuery(resume, alone, unix_ms(from_time), unix_ms(until_time))
            limits = Limits(limit or most, self._limits.bytes_, self._limits.seconds)
            read = ExportRead(self._exporter, record, query, limits, stopping=self._stopping)
            return await self._stream(_Asked(identity, record, read, lambda: verifier.check(identity)))

        @router.get(
            PARTITIONS_PATH,
            operation_id="exportPartitions",
            summary="What an export consists of",
            responses=span_responses(),
            response_model=None,
        )
        async def partitions(
            identity: Annotated[Identity, Depends(identify)], tenant: Label, from_time: FromTime = None
        ) -> Response:
            record = self._tenant(identity, tenant)
            spans = await self._exporter.spans(record, unix_ms(from_time))
            shown: list[dict[str, Any]] = [
                {
                    "topic": span.source.name,
                    "partition": span.partition,
                    "start": span.start,
                    "end": span.end,
                    "resume": span.resume,
                }
                for span in spans
            ]
            return Response(encode({"tenant": tenant, "partitions": shown}), media_type=JSON)

        app.include_router(router)

    def _tenant(self, identity: Identity, tenant: str) -> Tenant:
        """The tenant's record, for who may read all of it. Of other tenants nobody learns whether they exist."""
        require_every(identity, Operation.HISTORY, tenant)
        entry = self._find_tenant(tenant)
        if entry is None:  # deleted since the token was verified
            raise HttpError("forbidden")
        return entry.record

    async def _stream(self, asked: _Asked) -> Response:
        return await StreamedRead.begun(self._lines(asked), NDJSON, self._metrics.reader_gone)

    async def _lines(self, asked: _Asked) -> AsyncGenerator[bytes, None]:
        read, begun = asked.read, False
        begin = time.monotonic()
        try:
            async with self._slots.read(asked.tenant.tenant), aclosing(read.chunks()) as chunks:
                async for chunk in chunks:
                    begun = True
                    yield chunk
                    asked.check()
            yield read.end_line()
        except BusyError as error:
            self._metrics.refused.labels(error.code).n += 1
            raise HttpError(error.code, error.message, retry_after_ms=RETRY_AFTER_MS) from None
        except HeliographError as error:
            if not begun or error.code not in CODES:
                raise
            read.ending = ExportEnding.FAILED
            log.warning("export_failed", tenant=asked.tenant.tenant, error=describe_error(error))
            self._metrics.refused.labels(error.code).n += 1
            known = CODES[error.code]
            # What a store says about itself is for us; what it means is for the caller.
            yield error_line(error.code, error.message if known.http < 500 else known.meaning) + read.end_line()
        finally:
            if begun:
                self._answered(asked, time.monotonic() - begin)

    def _answered(self, asked: _Asked, seconds: float) -> None:
        """Who took how much of a tenant's data is a line of the audit, however the answer ended."""
        read = asked.read
        ending = read.ending or ExportEnding.GONE
        self._metrics.exports.labels(ending.value).n += 1
        self._metrics.messages.labels("export").n += read.records
        self._metrics.bytes.labels("export").n += read.bytes
        self._metrics.request_seconds.observe(seconds)
        log.info(
            "export_answered",
            tenant=asked.tenant.tenant,
            subject=asked.identity.subject,
            ending=ending.value,
            records=read.records,
            bytes=read.bytes,
            removed=read.removed,
            expired=read.expired,
        )
