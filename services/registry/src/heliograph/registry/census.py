"""Edges and their connections, counted now and then for metrics."""

import asyncio
import heapq
from collections.abc import Callable, Iterable

from heliograph.service.health import Condition
from heliograph.service.metrics import Metrics
from heliograph.stores.ports import ConnectionStore, EdgeLease, StoreError

OTHERS = "_others"
"""No tenant is called so: a DNS label has no underscore."""


class Census:
    """What the last count found. One series an edge, those of living edges only; so many tenants, then the others."""

    def __init__(
        self,
        store: ConnectionStore,
        metrics: Metrics,
        condition: Condition,
        interval_s: float,
        *,
        tenants: Callable[[], Iterable[str]],
        tenants_shown: int,
    ) -> None:
        self._store = store
        self._tenants = tenants
        self._tenants_shown = tenants_shown
        self._by_tenant: dict[str, float] = {}
        self._condition = condition
        self._interval_s = interval_s
        self._edges: list[EdgeLease] = []
        self._failures = metrics.ticks("census_failures_total", "Counts that the store did not answer.")
        metrics.sampled_gauge("edges", "Edges whose lease holds.", lambda: float(len(self._edges)))
        metrics.sampled_gauge(
            "edge_connections",
            "Connections of each edge, as it said last.",
            lambda: {lease.edge: float(lease.connections) for lease in self._edges},
            label="edge",
        )
        self._load(metrics, "edge_messages_in", "Messages a second from publishers.", lambda of: of.messages_in_per_s)
        self._load(metrics, "edge_messages_out", "Messages a second to subscribers.", lambda of: of.messages_out_per_s)
        self._load(
            metrics,
            "edge_outbound_bytes",
            "Written for readers that did not take it yet.",
            lambda of: of.outbound_bytes,
        )
        metrics.sampled_gauge(
            "tenant_connections",
            "Registered connections of the tenants with the most of them, and of all others.",
            lambda: self._by_tenant,
            label="tenant",
        )
        metrics.sampled_gauge(
            "draining_edges", "Edges being drained.", lambda: float(sum(lease.draining for lease in self._edges))
        )

    def _load(self, metrics: Metrics, name: str, meaning: str, value: Callable[[EdgeLease], float]) -> None:
        """What each edge says of itself with its lease: for who scales edges."""
        metrics.sampled_gauge(
            name, meaning, lambda: {lease.edge: float(value(lease)) for lease in self._edges}, label="edge"
        )

    async def run(self) -> None:
        """For ever."""
        while True:
            await self.count()
            await asyncio.sleep(self._interval_s)

    async def count(self) -> None:
        """Once. A store that is away leaves the last count, and is shown as degraded."""
        try:
            self._edges = await self._store.edges()
            await self._count_tenants()
        except StoreError as error:
            self._failures.n += 1
            self._condition.degraded(error)
        else:
            self._condition.ok()

    async def _count_tenants(self) -> None:
        tenants = list(self._tenants())
        counts = dict(zip(tenants, await self._store.counts(tenants), strict=True))
        most = heapq.nlargest(self._tenants_shown, counts, key=counts.__getitem__)
        others = sum(counts.values()) - sum(counts[tenant] for tenant in most)
        self._by_tenant = {**{tenant: float(counts[tenant]) for tenant in most}, OTHERS: float(others)}
