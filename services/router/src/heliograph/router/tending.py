"""What keeps dispatching true over time: workers that are lost are removed, what nobody took up is given out again,
what nobody wants any more is forgotten, and sessions whose mark was lost are found by a scan.

All of it is level-triggered and may be done twice. What this must never do: take workers for lost because the metadata
store was away, and with it everybody's leases.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from heliograph.router.dispatching import Dispatcher
from heliograph.router.metrics import RouterMetrics
from heliograph.service.logs import RateLimitedLog, get_logger
from heliograph.service.serving import FOLLOW_S
from heliograph.stores.keys import serving_consumer
from heliograph.stores.ports import (
    Ack,
    Acknowledged,
    ConnectionStore,
    LiveStore,
    Served,
    ServeStore,
    ServeView,
    StoreError,
)

SWEEP_S = 1.0
"""Between looks at every worker and session of what this router dispatches."""

MISSED_S = 2.5 * SWEEP_S
"""A store that didn't answer for so long was away: edges renew within less than a lease less this."""

DONE_KEPT_MS = 600_000
"""What is known of a session that was done with: marks that come late would make it due again."""

SCAN_AT_ONCE = 200

KNOWN_S = 4 * FOLLOW_S
"""After the first worker of an agent type comes, every edge and router knows of it by then, and marks what it sees."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TendingLimits:
    """When."""

    grace_s: float
    """The metadata store must have answered for so long before an edge without a lease counts as lost."""
    take_up_s: float
    """An edge has this long to take up an order."""
    unserved_keep_s: float
    """An agent type without a worker for so long is served no more."""
    rescan_s: float


class Tending:
    """Looks after the agent types that `dispatcher` has."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        store: ServeStore,
        connections: ConnectionStore,
        live: LiveStore,
        metrics: RouterMetrics,
        limits: TendingLimits,
        *,
        shards: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dispatcher = dispatcher
        self._store = store
        self._connections = connections
        self._live = live
        self._metrics = metrics
        self._limits = limits
        self._shards = shards
        self._clock = clock
        self._answered = float("-inf")
        self._reachable_since = clock()
        self._scan_at: dict[str, float] = {}
        self._new: set[str] = set()
        """Agent types that others may not know of yet: what they take in before they do, only another scan finds."""
        self._workers: dict[str, set[str]] = {}
        """Names of each agent type's workers at the last look."""
        self._scan_soon = asyncio.Event()
        self._limited = RateLimitedLog(log)
        dispatcher.on_taken = self._taken

    def _taken(self, kind: str) -> None:
        self._scan_at[kind] = self._clock()
        self._new.add(kind)
        self._scan_soon.set()

    # ---- sweeping ---------------------------------------------------------------------------------------------------

    async def sweep(self) -> None:
        """For ever: one look at everything a second."""
        while True:
            try:
                await self.sweep_round()
            except StoreError as error:
                self._reachable_since = self._clock()
                self._failed("sweep", error)
            await asyncio.sleep(SWEEP_S)

    async def sweep_round(self) -> None:
        """One look. Raises StoreError."""
        edges = {lease.edge: lease.incarnation for lease in await self._connections.edges()}
        now = self._clock()
        if now - self._answered > MISSED_S:
            self._reachable_since = now
        self._answered = now
        kinds = await self._store.kinds()
        for kind in self._dispatcher.held():
            await self._sweep_kind(kind, kinds.get(kind, 0), edges)

    async def _sweep_kind(self, kind: str, served_ms: int, edges: dict[str, str]) -> None:
        view = await self._store.view(kind, 1)
        lost = self._lost(view, edges)
        if lost:
            await self._store.leave(kind, lost)
            self._metrics.workers_lost.n += len(lost)
            log.info("workers_lost", kind=kind, workers=len(lost))
        again = bool(lost)
        cursor = 0
        while True:
            cursor, found = await self._store.sessions(kind, cursor)
            # Workers are looked at after sessions: one that isn't there now was gone before, names are used once.
            view = await self._store.view(kind, 1)
            again = await self._release_lost(kind, view, found) or again
            done = [one.session for one in found if one.worker is None]
            if done:
                await self._store.prune(kind, done, view.now_ms - DONE_KEPT_MS)
            if cursor == 0:
                break
        self._look_for_loss(kind, {worker.name for worker, _ in view.workers})
        if view.workers:
            await self._store.keep(kind)
        elif view.now_ms - served_ms > self._limits.unserved_keep_s * 1000:
            await self._store.forget(kind)
            log.info("served_no_more", kind=kind)
        if again:
            await self._dispatcher.dispatch(kind)

    def _look_for_loss(self, kind: str, now: set[str]) -> None:
        """Names are used once: where none is left of those before, the store may have lost its data, marks and all."""
        before = self._workers.get(kind, set())
        self._workers[kind] = now
        if now and before and not before & now:
            self._taken(kind)

    def _lost(self, view: ServeView, edges: dict[str, str]) -> list[str]:
        """Workers of edges that are gone: another incarnation is there, or none that holds a lease."""
        reachable = self._clock() - self._reachable_since >= self._limits.grace_s
        young_ms = view.now_ms - self._limits.grace_s * 1000  # its edge may not have registered yet
        return [
            worker.name
            for worker, _ in view.workers
            if edges.get(worker.edge) != worker.incarnation
            and (worker.edge in edges or (reachable and worker.offered_ms < young_ms))
        ]

    async def _release_lost(self, kind: str, view: ServeView, found: list[Served]) -> bool:
        """Release what is held by nobody, or was not taken up; whether there was any."""
        workers = {worker.name for worker, _ in view.workers}
        late_ms = view.now_ms - self._limits.take_up_s * 1000
        leases = []
        for one in found:
            if one.worker is None:
                continue
            if one.worker not in workers:
                self._metrics.released.labels("worker_lost").n += 1
            elif not one.taken and one.since_ms < late_ms:
                self._metrics.released.labels("not_taken").n += 1
            else:
                continue
            leases.append((one.session, one.fence, ""))
        if leases:
            await self._store.release(kind, leases)
        return bool(leases)

    # ---- scanning ---------------------------------------------------------------------------------------------------

    async def scan(self) -> None:
        """For ever: find sessions that were never marked, twice at the beginning and now and then."""
        while True:
            self._scan_soon.clear()
            now = self._clock()
            held = self._dispatcher.held()
            self._scan_at = {kind: at for kind, at in self._scan_at.items() if kind in held}
            self._new.intersection_update(held)
            for kind in held:
                if self._scan_at.get(kind, now) <= now:
                    self._scan_at[kind] = self._clock() + (KNOWN_S if kind in self._new else self._limits.rescan_s)
                    self._new.discard(kind)  # before the scan: whoever has it begin anew meanwhile is heard
                    await self.scan_kind(kind)
            try:
                async with asyncio.timeout(SWEEP_S):
                    await self._scan_soon.wait()
            except TimeoutError:
                continue

    async def scan_kind(self, kind: str) -> None:
        """Mark every session of a kind that has a message behind the workers' cursor."""
        for shard in range(self._shards):
            cursor = 0
            while self._dispatcher.has(kind):
                try:
                    cursor, sessions = await self._live.sessions(shard, f"{kind}:", cursor)
                    for start in range(0, len(sessions), SCAN_AT_ONCE):
                        await self._mark_unserved(kind, sessions[start : start + SCAN_AT_ONCE])
                except StoreError as error:
                    self._failed("scan", error)
                    await asyncio.sleep(SWEEP_S)
                    continue
                if cursor == 0:
                    break

    async def _mark_unserved(self, kind: str, sessions: list[str]) -> None:
        consumer = serving_consumer(kind.partition(":")[2])
        looks = await self._live.acknowledge([Ack(session, consumer, None) for session in sessions])
        heads = await self._live.heads(sessions)
        marks: dict[str, str] = {}
        for session, look, head in zip(sessions, looks, heads, strict=True):
            if not isinstance(look, Acknowledged) or not head.seq:
                continue
            if look.cursor is not None and look.cursor >= (head.epoch, head.seq):
                continue
            position = await self._live.unserved(session, look.cursor)
            if position is not None:
                marks[session] = str(position)
        if marks:
            self._metrics.scanned.n += len(marks)
            await self._store.mark(kind, marks)

    def _failed(self, step: str, error: StoreError) -> None:
        self._metrics.dispatch_failures.labels(step).n += 1
        self._limited.warning("dispatch_failed", key=step, step=step, error=str(error))
