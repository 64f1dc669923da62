"""Edges whose lease ran out: their connections are told as lost to the sessions concerned, then forgotten.

Any number of registries do this at once, each for itself: what they tell has ids that count once, and of what they
remove one of them is told that it did. It must never reap an edge that could not renew because the store was away, nor
tell of a loss while edges can't hear it.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

from heliograph.core.reaping import StoreAnswers
from heliograph.service.health import Condition
from heliograph.service.logs import get_logger
from heliograph.service.metrics import Metrics
from heliograph.service.presence import SETTLE_S, Lost, tell_lost
from heliograph.stores.ports import ConnectionStore, EdgeLease, LiveStore, StoreError

UNKNOWN_LEASE_S = 60.0
"""For a lease that can't be read: longer than any is, as nobody waits for this one."""

LOST_BUCKETS_S = (1.0, 2.0, 4.0, 6.0, 7.0, 8.0, 10.0, 15.0, 30.0, 60.0, 300.0)
"""Around the default lease, 6 s; far above it a store was away."""

log = get_logger(__name__)


class Reaper:
    """One registry's."""

    def __init__(
        self,
        store: ConnectionStore,
        live: LiveStore,
        metrics: Metrics,
        condition: Condition,
        *,
        interval_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._live = live
        self._condition = condition
        self._interval_s = interval_s
        self._clock = clock
        self._answers = StoreAnswers()
        self._heard_from = clock()
        """From when on edges hear what is told."""
        self._lapsed = 0
        self._seen: dict[tuple[str, int], float] = {}
        """Leases that ran out, by edge and end: when that was first seen."""
        self._edges = metrics.ticks("reaped_edges_total", "Edges buried: over all registries each counts once.")
        self._lost = Lost()
        """By this registry, of all edges: shown as it grows, as an edge may have had thousands."""
        metrics.sampled_counter(
            "lost_connections_total",
            "Connections lost with their edge, counted alike.",
            lambda: {(): self._lost.connections},
            (),
        )
        metrics.sampled_counter(
            "lost_announced_total",
            "Leaves told with reason `lost`, counted alike.",
            lambda: {(): self._lost.announced},
            (),
        )
        metrics.sampled_counter(
            "lost_suppressed_total",
            "Leaves not told: the agent was back elsewhere. Counted alike.",
            lambda: {(): self._lost.suppressed},
            (),
        )
        self._failures = metrics.tick_family("reap_failures_total", "Looks or reapings that failed.", ["code"])
        self._lost_s = metrics.tick_histogram(
            "lost_after_seconds",
            "From an edge's last renewal until all whom it had are told as lost, by the registry that buried it.",
            LOST_BUCKETS_S,
        )
        metrics.sampled_gauge("lapsed_edges", "Edges whose lease ran out, not buried yet.", lambda: float(self._lapsed))

    async def run(self) -> None:
        """For ever."""
        while True:
            await self.look()
            await asyncio.sleep(self._interval_s)

    async def look(self) -> None:
        """Once. Stores that are away are shown as degraded, and what was to be reaped waits for them."""
        try:
            lapsed = await self._store.lapsed()
        except StoreError as error:
            self._answers.failed()
            self._failed(error)
            return
        self._answered()
        self._lapsed = len(lapsed)
        now = self._clock()
        self._seen = {key: self._seen.get(key, now) for key in ((lease.edge, lease.ends_ms) for lease in lapsed)}
        if not self._live.available:
            self._heard_from = now + SETTLE_S
        elif now < self._heard_from:
            return
        for lease in lapsed:
            lease_s = lease.lease_ms / 1000 or UNKNOWN_LEASE_S
            if self._answers.may_reap(lease_s, self._clock()) and not await self._reap(lease):
                return
        self._condition.ok()

    async def _reap(self, lease: EdgeLease) -> bool:
        before = replace(self._lost)
        try:
            await tell_lost(self._store, self._live, lease, int(time.time() * 1000), self._lost, self._answered)
            buried = await self._store.bury(lease)
        except StoreError as error:
            if error.code == "unavailable":
                self._answers.failed()
            elif error.code == "live_unavailable":
                self._heard_from = self._clock() + SETTLE_S
            self._failed(error)
            return False
        if buried:
            self._edges.n += 1
            self._lapsed -= 1
            lost_s = lease.lease_ms / 1000 + self._clock() - self._seen[lease.edge, lease.ends_ms]
            self._lost_s.observe(lost_s)
            log.warning(
                "edge_lost",
                edge=lease.edge,
                incarnation=lease.incarnation,
                address=lease.address,
                connections=self._lost.connections - before.connections,
                announced=self._lost.announced - before.announced,
                suppressed=self._lost.suppressed - before.suppressed,
                lost_s=round(lost_s, 1),
            )
        return True

    def _answered(self) -> None:
        self._answers.answered(self._clock())

    def _failed(self, error: StoreError) -> None:
        self._failures.labels(error.code).n += 1
        self._condition.degraded(error)
