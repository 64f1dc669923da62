"""Requests of edges to replay and their pages, in memory."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator

from heliograph.stores.memory.metadata.clock import Clock, now_ms
from heliograph.stores.ports import RehydratedPage, RehydrationRequest, StoreError
from heliograph.stores.rehydration import TOO_MANY, bounded, page_bytes, page_ttl_s, tenant_of

TENANT_BYTES = 64 * 1024 * 1024
"""Pages of a tenant that are kept at once."""


class MemoryRehydration:
    """`heliograph.stores.ports.Rehydration`. Counters are for metrics: they only rise."""

    def __init__(self, clock: Clock = now_ms, *, tenant_bytes: int = TENANT_BYTES) -> None:
        self._clock = clock
        self._tenant_bytes = tenant_bytes
        self._pages: dict[str, tuple[int, str, RehydratedPage]] = {}
        self._asked: dict[str, int] = {}
        self._queue: deque[tuple[RehydrationRequest, int]] = deque()
        self._changed = asyncio.Condition()
        self.stale_requests = 0
        self.corrupt_requests = 0
        self.corrupt_pages = 0
        self.pages_refused = 0

    async def close(self) -> None:
        """Nothing to close."""

    async def ask(self, request: RehydrationRequest, deadline_s: float) -> RehydratedPage:
        ends = time.monotonic() + deadline_s
        try:
            async with asyncio.timeout(deadline_s), self._changed:
                while True:
                    held = self._pages.get(request.name)
                    if held is not None and held[0] > self._clock():
                        return held[2]
                    gives_up_ms = self._clock() + int((ends - time.monotonic()) * 1000)
                    if self._asked.get(request.name, 0) <= self._clock():
                        self._asked[request.name] = gives_up_ms
                        self._queue.append((request, gives_up_ms))
                        self._changed.notify_all()
                    await self._changed.wait()
        except TimeoutError:
            message = f"no history of {request.session} within {deadline_s:g} s"
            raise StoreError("history_unavailable", message) from None

    async def requests(self, worker: str) -> AsyncIterator[RehydrationRequest]:  # noqa: ARG002 - all are one group
        while True:
            async with self._changed:
                while not self._queue:
                    await self._changed.wait()
                request, gives_up_ms = self._queue.popleft()
            if gives_up_ms <= self._clock():
                self.stale_requests += 1
                continue
            yield request

    async def answer(self, request: RehydrationRequest, page: RehydratedPage) -> None:
        page, now, tenant = bounded(page), self._clock(), tenant_of(request)
        self._pages = {name: held for name, held in self._pages.items() if held[0] > now}
        used = sum(page_bytes(kept) for _, owner, kept in self._pages.values() if owner == tenant)
        if page.code is None and used + page_bytes(page) > self._tenant_bytes:
            self.pages_refused += 1
            page = RehydratedPage([], more=False, code=TOO_MANY)
        async with self._changed:
            self._pages[request.name] = (now + int(page_ttl_s(request, page) * 1000), tenant, page)
            self._asked.pop(request.name, None)
            self._changed.notify_all()
