"""Answers edges: pages of the log for subscribers whose position the hot window no longer reaches."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from heliograph.core.errors import HeliographError
from heliograph.core.history import Gap, Why
from heliograph.core.limits import PAGE_BYTES
from heliograph.core.positions import Position
from heliograph.core.sessions import SessionKey
from heliograph.replay.handlers import count_parts
from heliograph.replay.metrics import ReplayMetrics
from heliograph.replay.places import Locator
from heliograph.replay.reading import Ending, Limits, Part, Query, SessionRead, Unread
from heliograph.replay.scanning import Sources
from heliograph.replay.slots import BusyError, ReadSlots
from heliograph.service.expiries import ExpiryDirectory
from heliograph.service.logs import RateLimitedLog, get_logger
from heliograph.service.tenants import TenantEntry
from heliograph.stores.ports import RehydratedPage, Rehydration, RehydrationRequest, StoreError

MAX_MESSAGES = 10_000
"""Of one page: messages are some 300 bytes with their frame, so bytes bound it first."""

TASKS_PER_READER = 16
"""Requests taken from the stream per reader: more would be held here while other workers are free."""

_log = RateLimitedLog(get_logger(__name__))


class Rehydrator:
    """Takes requests and answers them, so many at once. Equal ones come once: the store collapses them."""

    def __init__(
        self,
        store: Rehydration,
        locator: Locator,
        sources: Sources,
        find_tenant: Callable[[str], TenantEntry | None],
        expiries: ExpiryDirectory,
        metrics: ReplayMetrics,
        *,
        worker: str,
        readers: int,
        readers_per_tenant: int,
        seconds: float,
    ) -> None:
        self._store = store
        self._locator = locator
        self._sources = sources
        self._find_tenant = find_tenant
        self._expiries = expiries
        self._metrics = metrics
        self._worker = worker
        self._limits = Limits(MAX_MESSAGES, PAGE_BYTES, seconds)
        tasks = readers * TASKS_PER_READER
        self._slots = ReadSlots(total=readers, per_tenant=readers_per_tenant, waiting=tasks, wait_s=seconds)
        self._room = asyncio.Semaphore(tasks)
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve for as long as the task lives. Raises StoreError where the store can't be reached."""
        requests = self._store.requests(self._worker)
        try:
            async with aclosing(requests):  # type: ignore[type-var] # every implementation is a generator
                async for request in requests:
                    await self._room.acquire()
                    task = asyncio.create_task(self._answer(request), name="rehydrate")
                    self._tasks.add(task)
                    task.add_done_callback(self._done)
        finally:
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._room.release()

    async def _answer(self, request: RehydrationRequest) -> None:
        begin = time.monotonic()
        try:
            page = await self._page(request)
        except BusyError as error:
            page = RehydratedPage([], more=False, code=error.code)
        except (HeliographError, OSError, TimeoutError) as error:
            _log.warning(
                "rehydration_failed", key=type(error).__name__, session=request.session, error=str(error)[:200]
            )
            page = RehydratedPage([], more=False, code="history_unavailable")
        self._metrics.rehydration_seconds.observe(time.monotonic() - begin)
        self._metrics.rehydrations.labels(page.code or "page").n += 1
        try:
            await self._store.answer(request, page)
        except StoreError as error:
            self._metrics.store_failures.labels("metadata").n += 1
            _log.warning("rehydration_not_answered", key="answer", session=request.session, error=str(error)[:200])

    async def _page(self, request: RehydrationRequest) -> RehydratedPage:
        session = SessionKey.parse(request.session)
        tenant = self._find_tenant(session.tenant)
        if tenant is None:
            return RehydratedPage([], more=False, code="history_unavailable")
        query = Query(
            after=Position.parse(request.after) if request.after is not None else None,
            until=Position.parse(request.until) if request.until is not None else None,
            to_window=True,
        )
        async with self._slots.read(session.tenant):
            gone_until_ms = await self._expiries.gone_until(request.session)
            read = SessionRead(
                self._locator,
                self._sources,
                session,
                tenant.record,
                query,
                self._limits,
                gone_until_ms=gone_until_ms,
            )
            async with aclosing(read.parts()) as parts:
                return await self._collect(read, parts, from_the_first=query.after is None)

    async def _collect(
        self, read: SessionRead, parts: AsyncGenerator[list[Part], None], *, from_the_first: bool
    ) -> RehydratedPage:
        page = RehydratedPage([], more=True)
        async for some in parts:
            count_parts(self._metrics, some, "edge")
            for part in some:
                if isinstance(part, tuple):
                    page.frames.append(part[1])
                elif isinstance(part, Gap):
                    if from_the_first and part.why is Why.EXPIRED and not page.frames:
                        continue  # the first message that still exists is what is asked for
                    if page.frames or page.gap_before is not None:
                        return page  # a page has one gap, before its first frame: this one begins the next page
                    hole = part.hole
                    first, last = Position(hole.epoch, hole.from_seq), Position(hole.epoch, hole.to_seq)
                    page.gap_before = [str(first), str(last), part.why.value]
                elif isinstance(part, Unread):
                    return RehydratedPage([], more=False, code="history_unavailable")
        ending = read.end.ending
        page.more = ending in (Ending.LIMIT, Ending.TIME)
        if ending is Ending.TIME and not page.frames and page.gap_before is None:
            return RehydratedPage([], more=False, code="history_unavailable")
        return page
