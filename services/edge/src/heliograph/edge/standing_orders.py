"""Doing what this edge is told by who runs the fleet: drain, or shed some clients.

A drain by order is what SIGTERM begins, without its end: not ready, clients moved at a pace, nobody new; and it stays
so, alive, until the edge is stopped. Withdrawn, or run out, the edge is ready again. While the metadata store is away
nothing changes: an edge neither drains nor comes back by not being able to ask.

How far it is stands in the edge's lease (`report`), which is renewed when something of it changes.
"""

import asyncio
from collections.abc import Callable

from heliograph.edge.connections import Connections
from heliograph.edge.metrics import EdgeMetrics
from heliograph.edge.moving import Moving
from heliograph.service.health import Condition
from heliograph.service.logs import RateLimitedLog, get_logger
from heliograph.stores.ports import DrainOrder, EdgeLease, EdgeOrders, ShedOrder, StandingOrders, StoreError

LOOK_S = 0.5
"""Between looks: an order is obeyed within a second, for two small reads a second."""

log = get_logger(__name__)


class OrderTaker:
    """The orders of one edge."""

    def __init__(
        self,
        store: EdgeOrders,
        moving: Moving,
        connections: Connections,
        metrics: EdgeMetrics,
        condition: Condition,
        *,
        edge: str,
        incarnation: str,
        notice_s: float,
        changed: Callable[[], None],
    ) -> None:
        """`condition`: kept waiting while the edge is out of service. `notice_s`: clients are still taken in, once it
        is not ready, while balancers learn of that. `changed`: there is something new to report.
        """
        self._store = store
        self._moving = moving
        self._connections = connections
        self._metrics = metrics
        self._condition = condition
        self._edge = edge
        self._incarnation = incarnation
        self._notice_s = notice_s
        self._changed = changed
        self._limited = RateLimitedLog(log)
        self._drain: DrainOrder | None = None
        self._draining: asyncio.Task[None] | None = None
        self._shed: ShedOrder | None = None
        self._shedding: asyncio.Task[None] | None = None
        self._shed_left = 0
        self._reported = (0, 0)
        self._closed = False
        self.noticing = False
        """Out of service, and clients are still taken in."""
        metrics.metrics.sampled_gauge(
            "drained_by_order", "1 while this edge is out of service by order.", lambda: float(self._drain is not None)
        )
        condition.ok()

    async def run(self) -> None:
        """For ever: do what stands."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """One look."""
        if self._closed:
            return
        try:
            (standing,) = await self._store.standing([self._edge])
        except StoreError as error:
            self._metrics.order_failures.n += 1
            self._limited.warning("orders_not_read", error=str(error))
        else:
            if not self._closed:
                self.obey(standing)
        progress = (len(self._connections), self._shed_left)
        if progress != self._reported and (self._drain is not None or self._shed_left != self._reported[1]):
            self._changed()
        self._reported = progress

    def obey(self, standing: StandingOrders) -> None:
        """Begin, go on with or end what is told."""
        if standing.drain is not None:
            self._obey_drain(standing.drain)
        elif self._drain is not None:
            self._come_back()
        shed = standing.shed
        if shed is not None and shed.incarnation == self._incarnation and self._drain is None:
            self._obey_shed(shed)

    def report(self, lease: EdgeLease) -> None:
        """Put what is obeyed, and how far, into the lease."""
        if self._drain is not None:
            lease.ready, lease.draining, lease.drain_order = False, True, self._drain.id
        if self._shed is not None:
            lease.shed_order, lease.shed_left = self._shed.id, self._shed_left

    async def close(self) -> None:
        """Obey nothing more: the edge stops, which moves its clients at its own pace."""
        self._closed = True
        tasks = [task for task in (self._draining, self._shedding) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.noticing = False

    def _obey_drain(self, order: DrainOrder) -> None:
        before, self._drain = self._drain, order
        if before is not None:
            if before.id != order.id:  # the same by another name: it goes on
                self._changed()
            return
        log.info("drain_ordered", order=order.id, over_s=order.over_s, connections=len(self._connections))
        self._metrics.orders_obeyed.labels("drain").n += 1
        self._condition.waiting(f"drained by order {order.id}")
        if self._shedding is not None:
            self._shedding.cancel()
        self.noticing = self._notice_s > 0
        self._draining = asyncio.create_task(self._leave(order.over_s), name="drain by order")
        self._changed()

    async def _leave(self, over_s: float) -> None:
        notice_s = min(self._notice_s, over_s)
        await asyncio.sleep(notice_s)
        self.noticing = False
        await self._moving.drain(over_s - notice_s)
        log.info("drained", connections=len(self._connections))

    def _come_back(self) -> None:
        assert self._drain is not None
        log.info("drain_withdrawn", order=self._drain.id, connections=len(self._connections))
        self._metrics.orders_obeyed.labels("withdraw").n += 1
        if self._draining is not None:
            self._draining.cancel()
        self._drain, self._draining, self.noticing = None, None, False
        self._moving.resume()
        self._condition.ok()
        self._changed()

    def _obey_shed(self, order: ShedOrder) -> None:
        if self._shed is not None and self._shed.id == order.id:
            return
        log.info("shed_ordered", order=order.id, over_s=order.over_s, shed=order.connections)
        self._metrics.orders_obeyed.labels("shed").n += 1
        if self._shedding is not None:
            self._shedding.cancel()
        self._shed, self._shed_left = order, order.connections

        def told(left: int) -> None:
            self._shed_left = left

        self._shedding = asyncio.create_task(self._moving.shed(order.connections, order.over_s, told), name="shed")
        self._changed()
