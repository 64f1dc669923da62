"""What the registry is told: this edge's lease, and its connections, in batches.

Presence is never waited for: while the metadata store is away, clients are served all the same, and what changed is
told when it is back. A lease that ran out meanwhile is taken anew, and every connection registered again. What the
registry knows is told to the sessions concerned (`announcing`), behind the batch that brought it.
"""

import asyncio
import secrets
import time
from collections.abc import Callable

from heliograph.core.reaping import RENEWALS_PER_LEASE
from heliograph.edge.announcing import Announcer
from heliograph.edge.connection import Connection
from heliograph.edge.connections import Connections
from heliograph.edge.metrics import EdgeMetrics
from heliograph.service.health import Condition
from heliograph.service.logs import get_logger
from heliograph.stores import ports
from heliograph.stores.ports import ConnectionStore, EdgeLease, StoreError

BATCH_S = 0.25
"""Changes are gathered for this long: presence is known within a third of a second."""

BATCH_MOST = 50
"""Connections of one update: some 2 ms in which nobody else is served."""

MEASURED_S = 0.3
"""Of a second: the least time that a rate is measured over."""

LAST_WORDS_S = 2.0
"""At the end, for the live store to take what is still to be told."""

log = get_logger(__name__)


class Registration:
    """This edge in the registry."""

    def __init__(
        self,
        store: ConnectionStore,
        connections: Connections,
        announcer: Announcer,
        metrics: EdgeMetrics,
        condition: Condition,
        *,
        edge: str,
        address: Callable[[], str],
        lease_s: float,
        incarnation: str | None = None,
        ready: Callable[[], bool] = lambda: True,
    ) -> None:
        self._store = store
        self._connections = connections
        self._announcer = announcer
        self._metrics = metrics
        self._condition = condition
        self._edge = edge
        self._address = address
        self._ready = ready
        self._lease_s = lease_s
        self._incarnation = incarnation or secrets.token_urlsafe(9)
        self._started_ms = int(time.time() * 1000)
        self._changed: dict[str, Connection] = {}
        self._gone: dict[str, ports.Connection] = {}
        self._renew_at = 0.0
        self._load = Load(metrics)
        self.report: Callable[[EdgeLease], None] = lambda _lease: None
        """Puts into the lease what else there is to say."""
        self._telling = asyncio.Lock()
        self._released = False
        connections.on_changed = self._on_changed
        connections.on_gone = self._on_gone

    async def run(self) -> None:
        """For ever: renew the lease, tell changes."""
        while True:
            try:
                await self.tell(time.monotonic())
                self._condition.ok()
            except StoreError as error:
                self._metrics.registry_failures.n += 1
                self._condition.degraded(error)
            await asyncio.sleep(BATCH_S)

    def hurry(self) -> None:
        """Renew the lease with the next round: what it says has changed."""
        self._renew_at = 0.0

    async def tell(self, now: float) -> None:
        """One round. Raises StoreError; what was not told stays to be told."""
        async with self._telling:
            if not self._released:
                await self._tell(now)

    async def _tell(self, now: float) -> None:
        if now >= self._renew_at:
            await self._renew(now)
        events = self._announcer.take()
        try:
            await self._update()
        except StoreError:
            self._announcer.give_back(events)
            raise
        self._announcer.tell(events)

    async def _renew(self, now: float) -> None:
        if not self._announcer.registration:
            await self._announcer.tell_former_lost(self._store, self._incarnation)
        lease = EdgeLease(
            self._edge,
            self._incarnation,
            self._address(),
            len(self._connections),
            self._started_ms,
            draining=self._connections.draining,
            ready=self._ready(),
            outbound_bytes=sum(connection.outbound_bytes for connection in self._connections),
        )
        self.report(lease)
        self._load.measure(lease, now)
        known = await self._store.renew(lease, self._lease_s)
        self._renew_at = now + self._lease_s / RENEWALS_PER_LEASE
        if not known:
            log.info("registered", edge=self._edge, connections=len(self._connections))
            self._gone.clear()
            for connection in self._connections:
                self._on_changed(connection)
            self._announcer.registering_anew(
                subscription for connection in self._connections for subscription in connection.subscriptions.values()
            )

    async def _update(self) -> None:
        while self._changed or self._gone:
            changed = {id_: self._changed[id_] for id_ in list(self._changed)[:BATCH_MOST]}
            gone = {id_: self._gone[id_] for id_ in list(self._gone)[:BATCH_MOST]}
            records = [self._record(connection) for connection in changed.values()]
            for id_ in changed:
                self._changed.pop(id_)
            for id_ in gone:
                self._gone.pop(id_)
            try:
                await self._store.update(self._edge, records, list(gone.values()))
            except StoreError:
                for id_, connection in changed.items():
                    if id_ not in self._gone:  # it may have gone meanwhile
                        self._changed.setdefault(id_, connection)
                self._gone.update(gone)
                raise

    async def release(self) -> None:
        """Leave the registry for good; its lease ends by itself where that can't be said.

        The last leaves are told first: what stays registered without having been told, a registry tells as lost.
        """
        async with self._telling:
            self._released = True
            for connection in self._connections:  # the server ends them after this
                for subscription in connection.subscriptions.values():
                    self._announcer.left(subscription)
            self._announcer.tell(self._announcer.take())
            if not await self._announcer.told(LAST_WORDS_S):
                log.warning("leaves_not_told", edge=self._edge)
                return
            try:
                await self._store.release(self._edge)
            except StoreError as error:
                log.warning("not_released", error=str(error))

    def _on_changed(self, connection: Connection) -> None:
        if connection.hello_done:
            self._changed[connection.id] = connection

    def _on_gone(self, connection: Connection) -> None:
        self._changed.pop(connection.id, None)
        if connection.hello_done:
            self._gone[connection.id] = self._record(connection)

    def _record(self, connection: Connection) -> ports.Connection:
        identity = connection.identity
        assert identity is not None
        subscriptions = connection.subscriptions
        return ports.Connection(
            connection.id,
            identity.tenant,
            identity.subject,
            connection.agent,
            connection.since_ms,
            list(subscriptions),
            self._announcer.registration,
            [subscription.number for subscription in subscriptions.values()],
        )


class Load:
    """What this edge carries, from one renewal of its lease to the next."""

    def __init__(self, metrics: EdgeMetrics) -> None:
        self._metrics = metrics
        self._rates: tuple[float, float, float | None] = (0.0, 0.0, None)
        self._in, self._out, self._cpu_s, self._at = 0, 0, 0.0, 0.0

    def measure(self, lease: EdgeLease, now: float) -> None:
        """Put it into the lease. The first time there is nothing to compare with."""
        came = int(sum(ticks.n for ticks in self._metrics.published.values()))
        went = int(self._metrics.deliveries.n)
        cpu_s = time.process_time()
        if self._at:
            past_s = now - self._at
            if past_s < MEASURED_S:  # a renewal out of turn: over so little, rates would say what chance does
                lease.messages_in_per_s, lease.messages_out_per_s, lease.cpu = self._rates
                return
            lease.messages_in_per_s = round((came - self._in) / past_s, 1)
            lease.messages_out_per_s = round((went - self._out) / past_s, 1)
            lease.cpu = round((cpu_s - self._cpu_s) / past_s, 3)
            self._rates = (lease.messages_in_per_s, lease.messages_out_per_s, lease.cpu)
        self._in, self._out, self._cpu_s, self._at = came, went, cpu_s, now
