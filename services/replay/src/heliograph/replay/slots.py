"""Who may read the log now: so many at once, so many of them for one tenant, so many waiting."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from heliograph.core.errors import HeliographError

RETRY_AFTER_MS = 1_000
"""Told where reads are busy: pages take less."""


class BusyError(HeliographError):
    """No place came free in time, or too many wait already."""

    def __init__(self, message: str) -> None:
        super().__init__("too_many_requests", message)


class ReadSlots:
    """Places for reads. First come, first served among those whose tenant has room."""

    def __init__(self, *, total: int, per_tenant: int, waiting: int, wait_s: float) -> None:
        self._total = total
        self._per_tenant = min(per_tenant, total)
        self._max_waiting = waiting
        self._wait_s = wait_s
        self._held: Counter[str] = Counter()
        self._waiters: list[tuple[str, asyncio.Future[None]]] = []

    @property
    def held(self) -> int:
        return self._held.total()

    @property
    def waiting(self) -> int:
        return len(self._waiters)

    @asynccontextmanager
    async def read(self, tenant: str) -> AsyncIterator[None]:
        """Hold a place. Raises BusyError."""
        if self._has_room(tenant):
            self._held[tenant] += 1
        else:
            await self._wait(tenant)
        try:
            yield
        finally:
            self._leave(tenant)

    async def _wait(self, tenant: str) -> None:
        if len(self._waiters) >= self._max_waiting:
            raise BusyError(f"{len(self._waiters)} requests wait for a reader already")
        waiter = (tenant, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(self._wait_s):
                await waiter[1]
        except BaseException as error:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            elif not waiter[1].cancelled():  # it was given a place, and can't take it any more
                self._leave(tenant)
            if isinstance(error, TimeoutError):
                raise BusyError(f"no reader came free within {self._wait_s:g} s") from None
            raise

    def _has_room(self, tenant: str) -> bool:
        return self._held.total() < self._total and self._held[tenant] < self._per_tenant

    def _leave(self, tenant: str) -> None:
        self._held[tenant] -= 1
        self._held += Counter()  # forgets tenants without a place
        for waiter in list(self._waiters):
            name, future = waiter
            if not future.done() and self._has_room(name):
                self._waiters.remove(waiter)
                self._held[name] += 1
                future.set_result(None)
