"""Gives sessions that wait to workers that have room: carries out what `heliograph.core.dispatching` decides.

One router at a time does this for an agent type, by a lease; two at once would harm nothing, since the store gives a
session once and a worker no more than it offered. The order of steps is what keeps a session with one worker:

1. the store assigns it, with a fence above all before;
2. the fence claims the workers' cursor in the live store: from here on acknowledgements of whoever had the session
   before are refused, and the cursor that this answers is where the new worker begins;
3. the worker's edge is told by an order.

A step that fails leaves a session assigned that nobody has: what isn't taken up in time is released, and due again.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from heliograph.core.dispatching import Room, Waiting, plan
from heliograph.core.positions import Position
from heliograph.router.metrics import RouterMetrics
from heliograph.service.logs import RateLimitedLog, get_logger
from heliograph.stores.keys import serving_consumer
from heliograph.stores.ports import (
    Ack,
    Acknowledged,
    AckStatus,
    DueSession,
    Leases,
    LiveStore,
    Order,
    ServeStore,
    ServeView,
    StoreError,
)

AT_ONCE = 500
"""Sessions given out in one step."""

LOOK_S = 1.0
"""How often all is looked at, whatever was announced."""

HOLD_OFF_S = 0.5
"""After a step that failed: a store that is away need not be asked in a loop."""


@dataclass(slots=True)
class Held:
    """An agent type that this router dispatches."""

    until: float
    not_before: float = 0.0
    above: int = 0
    """The highest fence met."""


class Dispatcher:
    """The agent types that this router dispatches."""

    def __init__(
        self,
        store: ServeStore,
        live: LiveStore,
        leases: Leases,
        metrics: RouterMetrics,
        *,
        holder: str,
        ttl_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._live = live
        self._leases = leases
        self._metrics = metrics
        self._holder = holder
        self._ttl_s = ttl_s
        self._clock = clock
        self._held: dict[str, Held] = {}
        self._known: set[str] = set()
        """Agent types that were served at the last round of leases."""
        self._log = RateLimitedLog(get_logger(__name__))
        self.on_taken: Callable[[str], None] = lambda _kind: None
        """Told of each agent type that this router begins to dispatch."""
        metrics.metrics.sampled_gauge(
            "dispatched_kinds", "Agent types whose sessions this router gives out.", lambda: float(len(self.held()))
        )

    def held(self) -> list[str]:
        """Agent types whose lease holds for sure, by our clock."""
        now = self._clock()
        return [kind for kind, held in self._held.items() if held.until > now]

    def has(self, kind: str) -> bool:
        held = self._held.get(kind)
        return held is not None and held.until > self._clock()

    # ---- leases -----------------------------------------------------------------------------------------------------

    async def keep(self) -> None:
        """For ever: renew leases, take those that are free."""
        while True:
            try:
                await self.lease_round()
            except StoreError as error:
                self._failed("leases", error)
            await asyncio.sleep(self._ttl_s / 3)

    async def lease_round(self) -> None:
        """One round. Raises StoreError."""
        kinds = await self._store.kinds()
        self._known = set(kinds)
        self._metrics.serving_only(self._held.keys() & kinds.keys())
        for kind in self._held.keys() - kinds.keys():
            del self._held[kind]
            await self._leases.release(_lease(kind), self._holder)
        for kind in kinds:
            until = self._clock() + self._ttl_s  # from before the call: the store's lease ends later than this
            if await self._leases.acquire(_lease(kind), self._holder, self._ttl_s):
                known = self._held.get(kind)
                if known is not None and known.until > self._clock():
                    known.until = until
                    continue
                self._held[kind] = Held(until)
                self.on_taken(kind)
            else:
                self._held.pop(kind, None)

    async def release(self) -> None:
        """Give everything back, so that others need not wait."""
        kinds, self._held = list(self._held), {}
        try:
            for kind in kinds:
                await self._leases.release(_lease(kind), self._holder)
        except StoreError as error:
            self._failed("leases", error)

    # ---- giving out -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """For ever: give out what becomes due, and look at everything now and then."""
        looked = 0.0
        while True:
            kinds = await self._store.changed(LOOK_S)
            now = self._clock()
            if now - looked >= LOOK_S:
                looked, kinds = now, set(self.held())
            if kinds - self._known:
                await self._meet()
            for kind in kinds:
                await self.dispatch(kind)

    async def _meet(self) -> None:
        """Something is due of an agent type that nobody served until now: its first worker need not wait."""
        try:
            await self.lease_round()
        except StoreError as error:
            self._failed("leases", error)

    async def dispatch(self, kind: str) -> None:
        """Give out all that can be given out now. A failure is repeated by a later look."""
        held = self._held.get(kind)
        try:
            while held is not None and self.has(kind) and held.not_before <= self._clock():
                if not await self._step(kind, held):
                    return
        except StoreError as error:
            self._failed("dispatch", error)
            if held is not None:
                held.not_before = self._clock() + HOLD_OFF_S

    async def _step(self, kind: str, held: Held) -> bool:
        """Whether there may be more to give out."""
        view = await self._store.view(kind, AT_ONCE)
        self._metrics.serving_is(kind, view)
        rooms = [Room(worker.name, worker.capacity, count) for worker, count in view.workers]
        pairs = plan(rooms, [Waiting(one.session, one.previous) for one in view.due])
        if not pairs:
            return False
        fences = await self._store.assign(kind, pairs, held.above)
        given = [(session, worker, fence) for (session, worker), fence in zip(pairs, fences, strict=True) if fence]
        await self._hand_over(kind, held, view, given)
        return bool(given)

    async def _hand_over(self, kind: str, held: Held, view: ServeView, given: list[tuple[str, str, int]]) -> None:
        """Claim the cursors of assigned sessions, and tell the edges."""
        consumer = serving_consumer(kind.partition(":")[2])
        due = {one.session: one for one in view.due}
        claims = await self._claim([Ack(session, consumer, None, fence) for session, _, fence in given])
        edges = {worker.name: worker.edge for worker, _ in view.workers}
        begins = await self._beginnings(due, [
            session
            for (session, _, _), claim in zip(given, claims, strict=True)
            if isinstance(claim, Acknowledged) and _start(claim, due[session]) is None
        ])  # fmt: skip
        orders: defaultdict[str, list[Order]] = defaultdict(list)
        back: list[tuple[str, int, str]] = []
        for (session, worker, fence), claim in zip(given, claims, strict=True):
            held.above = max(held.above, fence)
            if isinstance(claim, StoreError):
                self._failed("claim", claim)
                held.not_before = self._clock() + HOLD_OFF_S
                back.append((session, fence, ""))
            elif claim.status is AckStatus.FENCED:
                held.above = max(held.above, claim.fence)
                back.append((session, fence, ""))
            else:
                start = _start(claim, due[session]) or begins.get(session)
                if start is not None and start >= due[session].last:
                    self._metrics.nothing_to_serve.n += 1
                    back.append((session, fence, start))
                    continue
                self._metrics.assigned.n += 1
                self._metrics.serve_wait_s.observe(max(0.0, (view.now_ms - due[session].since_ms) / 1000))
                orders[edges[worker]].append(Order(kind, session, worker, fence, start))
        for edge, some in orders.items():
            await self._store.order(edge, some)
        if back:
            await self._store.release(kind, back)

    async def _beginnings(self, due: dict[str, DueSession], sessions: list[str]) -> dict[str, str]:
        """Where sessions without a cursor begin, of those whose window has the first message of their life in the live
        store, and all that is known to wait: the log need not be asked. (What a session was before it expired, was
        another life, and its workers had that. What waited when a live store was lost is in the log alone.)
        """
        if not sessions:
            return {}
        try:
            found = await self._live.beginnings(sessions)
        except StoreError as error:
            self._failed("beginnings", error)
            return {}
        pairs = zip(sessions, found, strict=True)
        return {
            session: str(Position(first.epoch, 0))
            for session, first in pairs
            if first is not None and first.seq == 1 and str(first) <= due[session].first
        }

    async def _claim(self, acks: list[Ack]) -> list[Acknowledged | StoreError]:
        if not acks:
            return []
        try:
            return await self._live.acknowledge(acks)
        except StoreError as error:
            return [error] * len(acks)

    def _failed(self, step: str, error: StoreError) -> None:
        self._metrics.dispatch_failures.labels(step).n += 1
        self._log.warning("dispatch_failed", key=step, step=step, error=str(error))


def _start(claim: Acknowledged, due: DueSession) -> str | None:
    """Where the worker begins: the cursor, or what the store was told of it where the live store has forgotten it."""
    known = str(claim.cursor) if claim.cursor is not None else ""
    return max(known, due.cursor) or None


def _lease(kind: str) -> str:
    return f"dispatch/{kind}"
