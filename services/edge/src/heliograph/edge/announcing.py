"""Joins and leaves of this edge's subscribers, told to their sessions.

Subscribing, unsubscribing and closing only note what changed. With the next round of registration, once the registry
knows it, the notes become announcements, which a task of their own publishes: a live store that hangs must not keep the
edge from renewing its lease. Until then what cancels out is not told at all: a subscription that came and went, or one
that was taken up again (as by a reader that was parked for a moment).

What this must never do: tell a join that the registry does not know of, as it could not be told as lost; or grow
without bound while a store is away: what is noted is at most what the edge holds, and what it held when it last told.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count

from msgspec import Struct

from heliograph.edge.metrics import EdgeMetrics
from heliograph.edge.subscription import Subscription
from heliograph.protocol.frames import LeaveReason, PresenceEvent
from heliograph.service.logs import get_logger
from heliograph.service.presence import SETTLE_S, Lost, Subscriber, announcement, tell_lost
from heliograph.stores.ports import ConnectionStore, LiveStore, StoreError

BATCH = 100
"""Announcements of one write: some 30 KB, and 2 ms in which nobody else is served."""

UNTOLD_MOST = 20_000
"""Events to be published; above, more wait as notes, where they still may cancel out."""

AGAIN_S = 0.25
"""After a failure."""

log = get_logger(__name__)

Key = tuple[str, str]
"""A connection and a session: one subscription at a time."""


class Event(Struct, frozen=True, gc=False):
    """Somebody came, or is gone."""

    who: Subscriber
    event: str
    time_ms: int
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Round:
    """The notes that one round of registration covers."""

    joins: dict[Key, tuple[Subscription, int]]
    leaves: dict[Key, Event]


class Announcer:
    """One edge's."""

    def __init__(
        self,
        live: LiveStore,
        metrics: EdgeMetrics,
        *,
        edge: str,
        subscribers_most: int,
        draining: Callable[[], bool],
        now_ms: Callable[[], int] = lambda: int(time.time() * 1000),
    ) -> None:
        """`subscribers_most`: of a session here; who comes to one that has more is not announced."""
        self._live = live
        self._metrics = metrics
        self._edge = edge
        self._subscribers_most = subscribers_most
        self._draining = draining
        self._now_ms = now_ms
        self._numbers = count(1)
        self._joins: dict[Key, tuple[Subscription, int]] = {}
        self._leaves: dict[Key, Event] = {}
        self._untold: deque[Event] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.registration = 0
        """How often this edge registered all that it has."""
        metrics.metrics.sampled_gauge(
            "presence_waiting",
            "Joins and leaves not told yet.",
            lambda: float(len(self._joins) + len(self._leaves) + len(self._untold)),
        )

    # ---- what changes -----------------------------------------------------------------------------------------------

    def joined(self, subscription: Subscription) -> None:
        """A subscription begins; its hub does not count it yet."""
        if subscription.hub.subscribers >= self._subscribers_most:
            self._metrics.presence_unannounced.n += 1
            return
        key = (subscription.connection.id, subscription.session)
        left = self._leaves.get(key)
        if left is not None and left.who.registration == self.registration:
            del self._leaves[key]
            subscription.number, subscription.told = left.who.number, left.who.registration
            return
        subscription.number = next(self._numbers)
        self._joins[key] = subscription, self._now_ms()

    def left(self, subscription: Subscription) -> None:
        """It ended."""
        if not subscription.number:
            return
        key = (subscription.connection.id, subscription.session)
        self._joins.pop(key, None)
        if subscription.told:
            reason = LeaveReason.DRAINED if self._draining() else LeaveReason.CLOSED
            who = self._subscriber(subscription, subscription.told)
            self._leaves[key] = Event(who, PresenceEvent.LEAVE, self._now_ms(), reason)

    def registering_anew(self, subscriptions: Iterable[Subscription]) -> None:
        """The registry knows nothing of this edge, and may have told that all are lost: they join anew."""
        self.registration += 1
        now_ms = self._now_ms()
        for subscription in subscriptions:
            if subscription.number:
                key = (subscription.connection.id, subscription.session)
                self._joins.setdefault(key, (subscription, now_ms))

    # ---- rounds -----------------------------------------------------------------------------------------------------

    def take(self) -> Round:
        """The notes until now; to be told once the registry knows what they say."""
        if len(self._untold) >= UNTOLD_MOST:
            return Round({}, {})
        taken = Round(self._joins, self._leaves)
        self._joins, self._leaves = {}, {}
        for subscription, _ in taken.joins.values():
            subscription.told = self.registration
        return taken

    def give_back(self, taken: Round) -> None:
        """The registry could not be told."""
        for key, leave in taken.leaves.items():
            self._leaves.setdefault(key, leave)
        for key, (subscription, joined_ms) in taken.joins.items():
            if subscription.connection.subscriptions.get(subscription.session) is subscription:
                self._joins.setdefault(key, (subscription, joined_ms))

    def tell(self, taken: Round) -> None:
        """The registry knows: leaves first, as one may be of who joins anew."""
        self._untold.extend(taken.leaves.values())
        for subscription, joined_ms in taken.joins.values():
            who = self._subscriber(subscription, self.registration)
            self._untold.append(Event(who, PresenceEvent.JOIN, joined_ms))
        if self._untold:
            self._idle.clear()
            self._wake.set()

    def _subscriber(self, subscription: Subscription, registration: int) -> Subscriber:
        connection = subscription.connection
        assert connection.identity is not None
        return Subscriber(
            self._edge,
            connection.id,
            registration,
            subscription.number,
            subscription.session,
            connection.identity.subject,
            connection.agent,
        )

    # ---- publishing -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """For ever: publish what is to be told, in order."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._untold:
                try:
                    await self._publish()
                except StoreError as error:
                    self._metrics.presence_failures.labels(error.code).n += 1
                    await self._until_heard()
            self._idle.set()

    async def _until_heard(self) -> None:
        away = not self._live.available
        await asyncio.sleep(AGAIN_S)
        while not self._live.available:
            away = True
            await asyncio.sleep(AGAIN_S)
        if away:
            await asyncio.sleep(SETTLE_S)

    async def _publish(self) -> None:
        events = [self._untold[at] for at in range(min(BATCH, len(self._untold)))]
        batch = [announcement(one.who, one.event, one.time_ms, one.reason) for one in events]
        for said in await self._live.announce_many(batch):
            if isinstance(said, StoreError):
                raise said  # those before it are told: their ids say so when they come again
            self._untold.popleft()
            self._metrics.presence_announced.n += said

    async def told(self, within_s: float) -> bool:
        """Wait until all is published; whether it was."""
        try:
            async with asyncio.timeout(within_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    # ---- a former process -------------------------------------------------------------------------------------------

    async def tell_former_lost(self, store: ConnectionStore, incarnation: str) -> None:
        """Tell what an earlier process of this edge's name left behind: to register would forget it. Raises StoreError.

        A registry that has seen its lease run out may do so at the same time.
        """
        lease = await store.lease(self._edge)
        if lease is None or lease.incarnation == incarnation:
            return
        lost = Lost()
        await tell_lost(store, self._live, lease, self._now_ms(), lost)
        if lost.connections:
            log.warning("former_process_lost", edge=self._edge, connections=lost.connections, announced=lost.announced)
