"""Requests of edges to replay and their pages, in memory: one object is what all edges and workers share."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass

from heliograph.stores.memory.metadata.clock import Clock, now_ms
from heliograph.stores.ports import RehydratedPage, RehydrationRequest, StoreError
from heliograph.stores.rehydration import (
    CLAIM_IDLE_S,
    FULL_S,
    TENANT_BYTES,
    TOO_MANY,
    TOTAL_BYTES,
    bounded,
    page_bytes,
    page_ttl_s,
    tenant_of,
)

ALL = "*"
"""In the place of a tenant: all of them."""


@dataclass(slots=True)
class _Asked:
    """A request that somebody waits for."""

    request: RehydrationRequest
    gives_up_ms: int
    taken_by: object | None = None
    taken_ms: int = 0


class MemoryRehydration:
    """`heliograph.stores.ports.Rehydration`. Counters are for metrics: they only rise."""

    def __init__(
        self,
        clock: Clock = now_ms,
        *,
        tenant_bytes: int = TENANT_BYTES,
        total_bytes: int = TOTAL_BYTES,
        claim_idle_s: float = CLAIM_IDLE_S,
    ) -> None:
        self._clock = clock
        self._tenant_bytes = tenant_bytes
        self._total_bytes = total_bytes
        self._claim_idle_s = claim_idle_s
        self._pages: dict[str, tuple[int, RehydratedPage]] = {}
        self._asked: dict[str, _Asked] = {}
        """By name, in the order of asking."""
        self._used: Counter[tuple[str, int]] = Counter()
        """Bytes of pages by owner and minute."""
        self._full: dict[str, int] = {}
        """Owners that are left alone, and until when."""
        self._changed = asyncio.Condition()
        self.stale_requests = 0
        self.corrupt_requests = 0
        self.corrupt_pages = 0
        self.pages_refused = 0

    async def close(self) -> None:
        """Nothing to close."""

    # ---- edges ----

    async def ask(self, request: RehydrationRequest, deadline_s: float) -> RehydratedPage:
        ends = time.monotonic() + deadline_s
        try:
            async with asyncio.timeout(deadline_s), self._changed:
                while True:
                    now = self._clock()
                    held = self._pages.get(request.name)
                    if held is not None and held[0] > now:
                        return held[1]
                    if any(self._full.get(owner, 0) > now for owner in (tenant_of(request), ALL)):
                        return RehydratedPage([], more=False, code=TOO_MANY)
                    asked = self._asked.get(request.name)
                    if asked is None or asked.gives_up_ms <= now:
                        if self._asked.pop(request.name, None) is not None:
                            self.stale_requests += 1
                        gives_up_ms = now + int((ends - time.monotonic()) * 1000)
                        self._asked[request.name] = _Asked(request, gives_up_ms)
                        self._changed.notify_all()
                    await self._changed.wait()
        except TimeoutError:
            message = f"no history of {request.session} within {deadline_s:g} s"
            raise StoreError("history_unavailable", message) from None

    # ---- replay ----

    async def requests(self, worker: str) -> AsyncIterator[RehydrationRequest]:  # noqa: ARG002 - all are one group
        taker = object()
        while True:
            async with self._changed:
                while (asked := self._next(taker)) is None:
                    await self._wait()
                asked.taken_by, asked.taken_ms = taker, self._clock()
            yield asked.request

    def _next(self, taker: object) -> _Asked | None:
        """What this worker should answer next: the oldest that nobody has, or had for too long."""
        now = self._clock()
        for name, asked in list(self._asked.items()):
            if asked.taken_by is taker:
                continue
            if asked.gives_up_ms <= now:
                self.stale_requests += 1
                del self._asked[name]
            elif asked.taken_by is None or now - asked.taken_ms >= self._claim_idle_s * 1000:
                return asked
        return None

    async def _wait(self) -> None:
        """Until something is asked, or a worker that has a request may have died."""
        claimable = any(asked.taken_by is not None for asked in self._asked.values())
        with suppress(TimeoutError):
            async with asyncio.timeout(self._claim_idle_s if claimable else None):
                await self._changed.wait()

    async def answer(self, request: RehydrationRequest, page: RehydratedPage) -> None:
        page, now, tenant = bounded(page), self._clock(), tenant_of(request)
        self._pages = {name: held for name, held in self._pages.items() if held[0] > now}
        if page.code is None and not self._has_room(tenant, page_bytes(page)):
            self.pages_refused += 1
            page = RehydratedPage([], more=False, code=TOO_MANY)
        async with self._changed:
            self._pages[request.name] = (now + int(page_ttl_s(request, page) * 1000), page)
            self._asked.pop(request.name, None)
            self._changed.notify_all()

    def _has_room(self, tenant: str, size_bytes: int) -> bool:
        """Count `size_bytes` for the tenant, unless that is past its bound or that of all, in this minute and the
        last."""
        now = self._clock()
        minute = now // 60_000
        for owner, counted in list(self._used):
            if counted < minute - 1:
                del self._used[owner, counted]
        over = [
            owner
            for owner, bound in ((tenant, self._tenant_bytes), (ALL, self._total_bytes))
            if self._used[owner, minute] + self._used[owner, minute - 1] + size_bytes > bound
        ]
        for owner in over:
            self._full[owner] = now + int(FULL_S * 1000)
        if not over:
            self._used[tenant, minute] += size_bytes
            self._used[ALL, minute] += size_bytes
        return not over
