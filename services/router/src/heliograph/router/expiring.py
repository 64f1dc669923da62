"""Expiries that the log tells of: told to the store that readers ask, should it have lost them or never got them.

An edge writes the record and tells the store. It may die in between, and a store may lose its data: whoever reads the
record says it again, which changes nothing where it is known. Confirmations never wait for it: what can't be told now
is kept here, and told when the store is back.

And what is so old that no log holds a message of its time is removed, or the store would grow for ever.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from heliograph.core.expiry import Expiry
from heliograph.protocol.tenants import DAY_S, Tenant
from heliograph.router.metrics import RouterMetrics
from heliograph.service.logs import RateLimitedLog, get_logger
from heliograph.service.tenants import TenantDirectory
from heliograph.stores.ports import CorruptError, SessionExpiries, StoreError

MAX_PENDING = 10_000
"""Sessions kept while the store is away; a few hundred bytes each. Beyond it the oldest are left to the edges."""

RETRY_S = 1.0
"""Between tries while the store is away."""

TIMEOUT_S = 2.0
"""Of one question to the store."""

FORGET_INTERVAL_S = 3_600.0
"""Between looks for what is older than the log: one pass over the tenants' expiries."""

KEPT_LONGER_S = 30 * DAY_S
"""Kafka removes whole segments, which may be a week older than the retention; and a retention may be raised."""


class ExpiryKeeper:
    """Keeps the store of expiries right."""

    def __init__(
        self,
        store: SessionExpiries,
        directory: TenantDirectory,
        metrics: RouterMetrics,
        *,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._store = store
        self._directory = directory
        self._metrics = metrics
        self._now_ms = now_ms
        self._pending: OrderedDict[str, Expiry] = OrderedDict()
        self._wake = asyncio.Event()
        self._log = RateLimitedLog(get_logger(__name__))

    def take(self, states: Sequence[tuple[str, Expiry]]) -> None:
        """What records of a batch said, in the order of the log."""
        for session, state in states:
            known = self._pending.get(session)
            self._pending[session] = state if known is None else known.merged(state)
        while len(self._pending) > MAX_PENDING:
            self._pending.popitem(last=False)
            self._metrics.expiries_dropped.n += 1
        self._wake.set()

    async def run(self) -> None:
        """Tell the store, for as long as the task lives."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not await self.tell():
                await asyncio.sleep(RETRY_S)
                self._wake.set()

    async def tell(self) -> bool:
        """One try; whether all was told."""
        while self._pending:
            session, state = next(iter(self._pending.items()))
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    await self._store.put(session, state)
            except CorruptError as error:
                self._log.warning("expiry_not_told", key=error.key, session=session, error=str(error))
            except (StoreError, OSError, TimeoutError) as error:
                self._metrics.expiry_failures.n += 1
                self._log.warning("expiries_not_told", sessions=len(self._pending), error=str(error))
                return False
            if self._pending.get(session) is state:
                del self._pending[session]
            self._metrics.expiries_told.n += 1
        return True

    async def keep_small(self) -> None:
        """Remove what is older than the log, for as long as the task lives."""
        while True:
            await asyncio.sleep(FORGET_INTERVAL_S)
            await self.forget()

    async def forget(self) -> None:
        """One pass over all tenants. A failure is repeated with the next one."""
        try:
            for tenant in await self._store.versions():
                entry = self._directory.find(tenant)
                if entry is not None:
                    before_ms = self._now_ms() - int((longest_retention_s(entry.record) + KEPT_LONGER_S) * 1000)
                    self._metrics.expiries_forgotten.n += await self._store.forget(tenant, before_ms)
        except (StoreError, OSError) as error:
            self._metrics.expiry_failures.n += 1
            self._log.warning("expiries_not_forgotten", error=str(error))


def longest_retention_s(tenant: Tenant) -> float:
    """Of the tenant's log topics."""
    return max(tenant.topics.log.retention_s, *(one.log.retention_s for one in tenant.agent_types.values()), 0)
