"""What the registry is told: this edge's lease, and its connections, in batches.

Presence is never waited for: while the metadata store is away, clients are served all the same, and what changed is
told when it is back. A lease that ran out meanwhile is taken anew, and every connection registered again.
"""

import asyncio
import secrets
import time
from collections.abc import Callable

from heliograph.edge.connection import Connection
from heliograph.edge.connections import Connections
from heliograph.edge.metrics import EdgeMetrics
from heliograph.service.health import Condition
from heliograph.service.logs import get_logger
from heliograph.stores import ports
from heliograph.stores.ports import ConnectionStore, EdgeLease, StoreError

BATCH_S = 0.25
"""Changes are gathered for this long: presence is known within a third of a second."""

BATCH_MOST = 1_000
"""Connections of one update."""

log = get_logger(__name__)


class Registration:
    """This edge in the registry."""

    def __init__(
        self,
        store: ConnectionStore,
        connections: Connections,
        metrics: EdgeMetrics,
        condition: Condition,
        *,
        edge: str,
        address: Callable[[], str],
        lease_s: float,
        incarnation: str | None = None,
    ) -> None:
        self._store = store
        self._connections = connections
        self._metrics = metrics
        self._condition = condition
        self._edge = edge
        self._address = address
        self._lease_s = lease_s
        self._incarnation = incarnation or secrets.token_urlsafe(9)
        self._started_ms = int(time.time() * 1000)
        self._changed: dict[str, Connection] = {}
        self._gone: dict[str, ports.Connection] = {}
        self._renew_at = 0.0
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

    async def tell(self, now: float) -> None:
        """One round. Raises StoreError; what was not told stays to be told."""
        async with self._telling:
            if not self._released:
                await self._tell(now)

    async def _tell(self, now: float) -> None:
        if now >= self._renew_at:
            known = await self._store.renew(
                EdgeLease(
                    self._edge,
                    self._incarnation,
                    self._address(),
                    len(self._connections),
                    self._started_ms,
                    draining=self._connections.draining,
                ),
                self._lease_s,
            )
            self._renew_at = now + self._lease_s / 3
            if not known:
                log.info("registered", edge=self._edge, connections=len(self._connections))
                self._gone.clear()
                for connection in self._connections:
                    self._on_changed(connection)
        while self._changed or self._gone:
            changed = {id_: self._changed[id_] for id_ in list(self._changed)[:BATCH_MOST]}
            gone = {id_: self._gone[id_] for id_ in list(self._gone)[:BATCH_MOST]}
            records = [_record(connection) for connection in changed.values()]
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
        """Leave the registry for good; its lease ends by itself where that can't be said."""
        async with self._telling:
            self._released = True
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
            self._gone[connection.id] = _record(connection)


def _record(connection: Connection) -> ports.Connection:
    identity = connection.identity
    assert identity is not None
    return ports.Connection(
        connection.id,
        identity.tenant,
        identity.subject,
        connection.agent,
        connection.since_ms,
        list(connection.subscriptions),
    )
