"""Workers of this edge: what they offer, the sessions they were given, and what they acknowledge under a lease.

What the store has to know is told in rounds and told again until it went through; a client never waits for it. What
this must never do: let a worker go on with a session whose lease is another's. Three things see to that: the fence that
goes with each of its acknowledgements, the store's word when an order is taken up, and a look every few seconds at
whether the store still knows the workers (an edge that was stopped for long, or cut off, finds that it does not).
"""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from heliograph.core.positions import BEFORE_ALL, Position
from heliograph.edge.assignment import NOTHING, Assignment, Offer
from heliograph.edge.cursors import Cursors
from heliograph.edge.metrics import EdgeMetrics
from heliograph.protocol.codes import CODES, RevokeReason
from heliograph.protocol.frames import Ack, Acked, Assigned, Revoked
from heliograph.service.logs import RateLimitedLog, get_logger
from heliograph.service.serving import ServeMarks
from heliograph.stores import ports
from heliograph.stores.keys import serving_consumer
from heliograph.stores.ports import Acknowledged, AckStatus, Order, ServeStore, StoreError, Worker

if TYPE_CHECKING:
    from heliograph.edge.connection import Connection
    from heliograph.edge.sessions import Sessions

GATHER_S = 0.01
"""Of offers and of what is given back: the next worker of a session waits for it."""

ORDERS_WAIT_S = 1.0
RETRY_S = 0.25

KINDS_MOST = 64
"""Agent types that one connection may serve: a process that serves more is several agents."""

log = get_logger(__name__)

Lease = tuple[str, int, str]
"""Session, fence, and the cursor as far as it is known."""


class Serving:
    """All workers of an edge."""

    def __init__(
        self,
        store: ServeStore,
        marks: ServeMarks,
        cursors: Cursors,
        sessions: "Sessions",
        metrics: EdgeMetrics,
        *,
        edge: str,
        incarnation: str,
        check_s: float,
    ) -> None:
        self._store = store
        self._marks = marks
        self._cursors = cursors
        self._sessions = sessions
        self._metrics = metrics
        self._edge = edge
        self._incarnation = incarnation
        self._check_s = check_s
        self._numbers = itertools.count(1)
        self._offers: dict[str, Offer] = {}
        """By the worker's name."""
        self._untold: dict[str, Offer] = {}
        self._gone: defaultdict[str, list[str]] = defaultdict(list)
        self._back: defaultdict[str, list[Lease]] = defaultdict(list)
        self._draining = False
        self._wake = asyncio.Event()
        self._telling = asyncio.Lock()
        self._limited = RateLimitedLog(log)
        gauge = metrics.metrics.sampled_gauge
        gauge("workers", "Offers of connections to serve an agent type.", lambda: float(len(self._offers)))
        gauge("assignments", "Sessions that workers of this edge have.", lambda: float(self._count()))

    def _count(self) -> int:
        return sum(len(offer.held) for offer in self._offers.values())

    # ---- asked by connections ---------------------------------------------------------------------------------------

    def offer(self, connection: "Connection", agent_type: str, capacity: int) -> str | None:
        """Take or change an offer; the code of its refusal, or None."""
        if self._draining:
            return "draining"
        offer = connection.serves.get(agent_type)
        if offer is None:
            if len(connection.serves) >= KINDS_MOST:
                return "too_many_subscriptions"
            assert connection.identity is not None
            kind = f"{connection.identity.tenant}:{agent_type}"
            offer = Offer(self._name(connection), connection, agent_type, kind, capacity)
            connection.serves = {**connection.serves, agent_type: offer}
            self._offers[offer.name] = offer
            self._marks.serve(kind)
        offer.capacity = capacity
        self._untold[offer.name] = offer
        self._wake.set()
        return None

    def end(self, connection: "Connection", reason: str | None, agent_type: str | None = None) -> None:
        """It serves no more (None: no agent type); it is told why, unless it is gone anyway."""
        if not connection.serves:
            return
        left = {name: offer for name, offer in connection.serves.items() if agent_type not in (None, name)}
        for name, offer in connection.serves.items():
            if name in left:
                continue
            self._forget(offer)
            self._lose(offer, reason)
        connection.serves = left or NOTHING
        self._wake.set()

    def acknowledge(self, connection: "Connection", frame: Ack, session: str, position: Position) -> None:
        """Take an `ack` that carries a lease."""
        assignment = connection.subscriptions.get(session)
        if not isinstance(assignment, Assignment) or str(assignment.fence) != frame.lease:
            connection.refuse(frame.id, "lease_lost", CODES["lease_lost"].meaning, session)
            return
        held = assignment  # for the type checker, inside the function below
        handed_on: Position | None = None
        if frame.done:
            handed_on = assignment.hub.last
            connection.drop(assignment)

        def answer(found: Acknowledged | StoreError) -> None:
            self._acknowledged(held, frame, position, handed_on, found)

        consumer = serving_consumer(assignment.offer.agent_type)
        ack = ports.Ack(session, consumer, position, assignment.fence)
        if not self._cursors.acknowledge(ack, answer, asked=frame.done or frame.id is not None):
            answer(StoreError("rate_limited", CODES["rate_limited"].meaning))

    def _acknowledged(
        self,
        held: Assignment,
        frame: Ack,
        position: Position,
        handed_on: Position | None,
        found: Acknowledged | StoreError,
    ) -> None:
        connection, session = held.connection, held.session
        current = held.offer.held.get(session) is held
        code, cursor = _judged(found, position, handed_on)
        if frame.done and current:
            self._metrics.done.n += 1
            self._drop(held)
            self._give_back(held, cursor)
        if code is not None:
            connection.refuse(frame.id, code, CODES[code].meaning, session)
        elif frame.id is not None:
            connection.send(Acked(session, cursor or str(BEFORE_ALL), frame.id))
        if code == "lease_lost" and current and not frame.done:
            self._drop(held)
            self._tell_revoked(held, RevokeReason.REASSIGNED)

    # ---- sessions come and go ---------------------------------------------------------------------------------------

    async def take_orders(self) -> None:
        """For ever: take up what this edge's workers were given."""
        while True:
            try:
                orders = await self._store.orders(self._edge, ORDERS_WAIT_S)
                if orders:
                    await self.take(orders)
            except StoreError as error:  # what was given and not taken up is given to others
                self._failed(error)
                await asyncio.sleep(RETRY_S)

    async def take(self, orders: Sequence[Order]) -> None:
        """Take up orders. Raises StoreError."""
        by_kind: defaultdict[str, list[Order]] = defaultdict(list)
        for order in orders:
            by_kind[order.kind].append(order)
        for kind, some in by_kind.items():
            wanted = [order for order in some if self._takes(order)]
            held = await self._store.take(kind, [(order.session, order.fence) for order in wanted])
            for order, holds in zip(wanted, held, strict=True):
                if not holds:
                    self._metrics.orders_void.n += 1
                elif self._takes(order):  # the connection may have gone meanwhile
                    self._assign(order)

    def _takes(self, order: Order) -> bool:
        offer = self._offers.get(order.worker)
        if offer is not None and self._capacity(offer) > 0:
            return True
        self._metrics.orders_void.n += 1
        self._back[order.kind].append((order.session, order.fence, ""))
        self._wake.set()
        return False

    def _assign(self, order: Order) -> None:
        offer = self._offers[order.worker]
        connection = offer.connection
        before = connection.subscriptions.get(order.session)
        if isinstance(before, Assignment):
            self._drop(before)
            self._tell_revoked(before, RevokeReason.REASSIGNED)
        self._metrics.assigned.n += 1
        assignment = offer.held[order.session] = Assignment(order, offer, self._sessions)
        connection.send(Assigned(order.session, order.start or str(BEFORE_ALL), str(order.fence)))
        connection.take(assignment)

    def _drop(self, held: Assignment) -> None:
        held.offer.held.pop(held.session, None)
        held.connection.drop(held)

    def _give_back(self, held: Assignment, cursor: str) -> None:
        self._back[held.offer.kind].append((held.session, held.fence, cursor))
        self._wake.set()

    def _tell_revoked(self, held: Assignment, reason: str) -> None:
        self._metrics.revoked.labels(reason).n += 1
        held.connection.send(Revoked(held.session, str(held.fence), reason))

    def _lose(self, offer: Offer, reason: str | None) -> None:
        """Give back all that an offer's worker has."""
        for held in tuple(offer.held.values()):
            self._give_back(held, "")
            self._drop(held)
            if reason is not None:
                self._tell_revoked(held, reason)

    def _forget(self, offer: Offer) -> None:
        del self._offers[offer.name]
        self._untold.pop(offer.name, None)
        self._gone[offer.kind].append(offer.name)
        if all(other.kind != offer.kind for other in self._offers.values()):
            self._marks.unserve(offer.kind)

    def _name(self, connection: "Connection") -> str:
        return f"{self._edge}/{self._incarnation}/{connection.id}/{next(self._numbers)}"

    # ---- telling the store ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """For ever: tell the store what changed."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self.tell()
            except StoreError as error:
                self._failed(error)
                self._wake.set()
                await asyncio.sleep(RETRY_S)
            else:
                await asyncio.sleep(GATHER_S)

    async def tell(self) -> None:
        """One round. Raises StoreError; what was not told stays to be told."""
        async with self._telling:
            # First who is gone, so that nothing is given to them again.
            for kind in tuple(self._gone):
                names = self._gone.pop(kind)
                try:
                    await self._store.leave(kind, names)
                except BaseException:
                    self._gone[kind] += names
                    raise
            if self._back:
                await self._cursors.flush()  # before the next worker's fence, that shuts these out
            for kind in tuple(self._back):
                leases = self._back.pop(kind)
                try:
                    await self._store.release(kind, leases)
                except BaseException:
                    self._back[kind] += leases
                    raise
            while self._untold:
                by_kind: defaultdict[str, list[Offer]] = defaultdict(list)
                for offer in self._untold.values():
                    by_kind[offer.kind].append(offer)
                for kind, offers in by_kind.items():
                    told = {offer.name: self._capacity(offer) for offer in offers}
                    await self._store.offer(kind, [self._worker(offer) for offer in offers])
                    for offer in offers:
                        if self._capacity(offer) == told.get(offer.name):
                            self._untold.pop(offer.name, None)

    def _worker(self, offer: Offer) -> Worker:
        connection = offer.connection
        assert connection.identity is not None
        subject = connection.identity.subject
        return Worker(
            offer.name, self._edge, self._incarnation, connection.id, subject, self._capacity(offer), connection.agent
        )

    async def look_after(self) -> None:
        """For ever: make sure that the store knows the workers."""
        while True:
            await asyncio.sleep(self._check_s)
            try:
                await self.check()
            except StoreError as error:
                self._failed(error)

    async def check(self) -> None:
        """One look. Workers that the store has lost lose their sessions, and offer anew. Raises StoreError."""
        by_kind: defaultdict[str, list[Offer]] = defaultdict(list)
        for offer in self._offers.values():
            if offer.name not in self._untold:
                by_kind[offer.kind].append(offer)
        for kind, offers in by_kind.items():
            known = await self._store.known(kind, [offer.name for offer in offers])
            for offer, is_known in zip(offers, known, strict=True):
                if not is_known and offer.name in self._offers:
                    self._offer_anew(offer)

    def _offer_anew(self, offer: Offer) -> None:
        self._limited.warning("worker_was_lost", kind=offer.kind, connection=offer.connection.id, held=len(offer.held))
        self._lose(offer, RevokeReason.LOST)
        del self._offers[offer.name]
        offer.name = self._name(offer.connection)
        self._offers[offer.name] = self._untold[offer.name] = offer
        self._wake.set()

    def drain(self) -> None:
        """Take no more sessions; each worker keeps its own until it is told to move."""
        self._draining = True
        self._tell_all()

    def resume(self) -> None:
        """Take sessions again: those workers that are still there, as many as each offered."""
        self._draining = False
        self._tell_all()

    def _tell_all(self) -> None:
        self._untold.update(self._offers)
        self._wake.set()

    def _capacity(self, offer: Offer) -> int:
        return 0 if self._draining else offer.capacity

    async def close(self) -> None:
        """Tell the store the last; what can't be told is found by the routers."""
        try:
            await self.tell()
        except StoreError as error:
            self._failed(error)

    def _failed(self, error: StoreError) -> None:
        self._metrics.serve_failures.n += 1
        self._limited.warning("serve_store_failed", error=str(error))


def _judged(found: Acknowledged | StoreError, position: Position, handed_on: Position | None) -> tuple[str | None, str]:
    """The code of the refusal, if it is one, and what the cursor is known to be.

    Where the live store could not take it (away, or it has forgotten the session) the worker is believed as far as
    this edge had handed the session on: its next worker begins there.
    """
    believed = str(position) if handed_on is not None and position <= handed_on else ""
    if isinstance(found, StoreError):
        return found.code, believed
    if found.status is AckStatus.OK:
        return None, str(found.cursor) if found.cursor is not None else ""
    if found.status is AckStatus.FENCED:
        return "lease_lost", ""
    return "position_ahead" if found.status is AckStatus.AHEAD else "too_many_consumers", believed
