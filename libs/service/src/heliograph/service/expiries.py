"""Until when each session's messages are gone, at most a second old.

Every read asks, so most answers must not cost a round trip. One small table is polled, tenant by tenant the version of
its last change: a tenant that never had an expiry needs no question at all, and what was asked once is remembered until
its tenant's version changes. What is remembered is bounded; anything else is asked for again.

While the store is away what was last known stays in force. A session of which nothing is known is then not read: who
had messages forgotten must not find them shown because a store was down.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

from heliograph.core.errors import HeliographError
from heliograph.core.expiry import Expiry
from heliograph.service.health import Condition, describe_error
from heliograph.service.logs import RateLimitedLog, get_logger
from heliograph.service.metrics import Metrics
from heliograph.stores.ports import SessionExpiries, StoreError

POLL_S = 0.4
"""Twice within the second in which a change must be noticed, the time of the answers included."""

REMEMBERED = 100_000
"""Sessions remembered, some 250 bytes each; those asked for longest ago are forgotten."""

REMEMBERED_S = 30.0
"""How long an answer is good where no change is told: a change whose second half was lost is seen by then."""

CALL_TIMEOUT_S = 2.0
"""Of one question to the store."""


class ExpiryDirectory:
    """`start` loads the versions (or raises), `run` keeps them fresh, `gone_until` answers."""

    def __init__(
        self,
        store: SessionExpiries,
        condition: Condition,
        metrics: Metrics,
        *,
        poll_s: float = POLL_S,
        remembered: int = REMEMBERED,
        clock: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._store = store
        self._condition = condition
        self._poll_s = poll_s
        self._remembered = remembered
        self._clock = clock
        self._now_ms = now_ms
        self._versions: dict[str, int] = {}
        self._known: OrderedDict[str, tuple[int, float, Expiry | None]] = OrderedDict()
        """Session → version of its tenant before it was asked for, until when that is good, and the answer."""
        self._fresh_at: float | None = None
        self._log = RateLimitedLog(get_logger(__name__))
        self._failures = metrics.ticks("expiry_refresh_failures_total", "Polls of sessions' expiries that failed.")
        self._refreshes = metrics.ticks("expiry_refreshes_total", "Polls of sessions' expiries that were answered.")
        self._unanswered = metrics.ticks("expiry_unanswered_total", "Sessions not read: their expiry is not known.")
        metrics.sampled_gauge(
            "expiries_age_seconds", "Since changes of expiries were last known to be seen.", self._age_s
        )

    async def gone_until(self, session: str) -> int:
        """Messages of this time (Unix ms) and before are gone; 0: none is. Raises StoreError(`unavailable`)."""
        state = await self.find(session)
        return 0 if state is None else state.gone_until(self._now_ms())

    async def find(self, session: str) -> Expiry | None:
        """The session's state; None where it has none. Raises StoreError(`unavailable`)."""
        version = self._versions.get(session.partition(":")[0])
        if version is None:
            return None
        known = self._known.get(session)
        if known is not None and known[0] == version and self._clock() < known[1]:
            self._known.move_to_end(session)
            return known[2]
        before = None if known is None else known[2]
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                (state,) = await self._store.get([session])
        except (HeliographError, OSError, TimeoutError) as error:
            self._log.warning("expiry_not_found_out", error=describe_error(error), session=session)
            if known is not None:
                return before
            self._unanswered.n += 1
            raise StoreError("unavailable", "whether the session has expired is not known now") from error
        if before is not None:  # a store that lost it must not bring back what is gone
            state = before if state is None else before.merged(state)
        self._known[session] = (version, self._clock() + REMEMBERED_S, state)
        self._known.move_to_end(session)
        while len(self._known) > self._remembered:
            self._known.popitem(last=False)
        return state

    async def start(self) -> None:
        """Load the versions. Raises what the store raises; a service starts this again until it works."""
        await self.refresh()

    async def run(self) -> None:
        """See changes, for as long as the task lives."""
        while True:
            await asyncio.sleep(self._poll_s)
            try:
                await self.refresh()
            except (HeliographError, OSError, TimeoutError) as error:
                self._log.warning("expiries_stale", error=describe_error(error), age_s=round(self._age_s(), 1))

    async def refresh(self) -> None:
        """Take up what changed. On an error all stays as it is; it is counted, told readiness, and raised."""
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                versions = await self._store.versions()
        except Exception as error:
            self._failures.n += 1
            if self._fresh_at is None:
                self._condition.waiting(error)
            else:
                self._condition.degraded(f"stale for {self._age_s():.0f} s: {describe_error(error)}")
            raise
        self._versions |= versions  # one that is missing was lost, not taken back: its sessions are asked for still
        self._fresh_at = self._clock()
        self._refreshes.n += 1
        self._condition.ok()

    def _age_s(self) -> float:
        return self._clock() - self._fresh_at if self._fresh_at is not None else 0.0
