"""Tenants' quotas on this edge: tokens leased from the token store for whoever runs short, in one call a round.

Nothing waits for the store: a publish spends what is leased, or a little on credit (`heliograph.core.quotas`). While
the store is away each edge spends its share by the number of edges there were last, so that neither a tenant is cut off
nor its quota lost.
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial

from heliograph.core.buckets import Rate, SenderLimits
from heliograph.core.messages import MessageClass
from heliograph.core.quotas import LeasedQuota
from heliograph.edge.metrics import EdgeMetrics
from heliograph.protocol.tenants import Quota, QuotaSettings
from heliograph.service.health import Condition
from heliograph.service.logs import RateLimitedLog, get_logger
from heliograph.stores.ports import ConnectionStore, QuotaRequest, QuotaStore, StoreError

BURST_S = 2.0
"""Of a quota's rate, at once: agents are not evenly busy, and a second's pause of an edge must not cost a quota."""

LEASE_TIMEOUT_S = 0.25
"""Past it the store counts as away: longer than its round trip under load, shorter than people notice."""

RETRY_S = 0.5
"""Between tries while the store is away."""

COUNT_EDGES_S = 5.0
"""Between looks at how many edges there are."""

Quotas = dict[MessageClass, LeasedQuota]


class QuotaLeases:
    """All quotas of an edge."""

    def __init__(
        self,
        store: QuotaStore,
        edges: ConnectionStore,
        metrics: EdgeMetrics,
        condition: Condition,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._edge_store = edges
        self._metrics = metrics
        self._condition = condition
        self._clock = clock
        self._edges = 1
        self._wanting: dict[str, LeasedQuota] = {}
        self._asking: dict[str, LeasedQuota] = {}
        """Those for which the store is being asked."""
        self._wake = asyncio.Event()
        self._log = RateLimitedLog(get_logger(__name__))
        condition.ok()  # nothing was asked yet; an edge serves without the token store
        metrics.metrics.sampled_gauge(
            "quotas_on_share",
            "Quotas of which this edge spends its share because the token store is away.",
            lambda: float(sum(quota.on_share for quota in {**self._asking, **self._wanting}.values())),
        )

        metrics.metrics.sampled_gauge(
            "known_edges", "Edges there are, as this one counted last.", lambda: float(self._edges)
        )

    def make(self, tenant: str, settings: QuotaSettings) -> Quotas:
        """A tenant's quotas, nothing leased yet."""
        return {
            class_: LeasedQuota(limits, partial(self._want, f"{tenant}:{class_}"))
            for class_, limits in _limits(settings).items()
        }

    def renew(self, quotas: Quotas, settings: QuotaSettings) -> None:
        """Other settings of the same tenant."""
        for class_, limits in _limits(settings).items():
            quotas[class_].renew(limits)

    async def run(self) -> None:
        """For ever: lease what is wanted, as soon as it is."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not await self.round():
                await asyncio.sleep(RETRY_S)
                self._wake.set()

    async def count_edges(self) -> None:
        """For ever: keep in mind how many edges there are, for the time in which nobody can be asked."""
        while True:
            try:
                self._edges = max(1, len(await self._edge_store.edges()))
            except StoreError as error:
                self._metrics.edges_not_counted.n += 1
                self._log.warning("edges_not_counted", error=str(error))
            await asyncio.sleep(COUNT_EDGES_S)

    async def round(self) -> bool:
        """One call for all that is wanted; False where the store is away."""
        wanting, self._wanting = self._wanting, {}
        self._asking = wanting
        requests = []
        for bucket, quota in wanting.items():
            messages, bytes_ = quota.ask(self._clock())
            requests.append(QuotaRequest(bucket, quota.limits, messages, bytes_))
        grants = None
        try:
            async with asyncio.timeout(LEASE_TIMEOUT_S):
                grants = await self._store.lease(requests)
        except (StoreError, TimeoutError) as error:
            self._condition.degraded(error)
            self._log.warning("quotas_on_share", error=str(error), edges=self._edges)
        finally:
            self._asking = {}
            if grants is None:  # whatever it was: who asked and is never answered would be refused for ever
                self._metrics.quota_store_failures.n += 1
                for quota in wanting.values():
                    quota.fall_back(self._edges)
                self._wanting = {**wanting, **self._wanting}
                self._wake.set()
        if grants is None:
            return False
        self._condition.ok()
        self._metrics.quota_leases.n += len(grants)
        now = self._clock()
        for quota, grant in zip(wanting.values(), grants, strict=True):
            quota.granted(now, grant.messages, grant.bytes, grant.wait_s)
        return True

    def _want(self, bucket: str, quota: LeasedQuota) -> None:
        self._wanting[bucket] = quota
        self._wake.set()


def _limits(settings: QuotaSettings) -> dict[MessageClass, SenderLimits]:
    return {
        MessageClass.CONTROL: _sender_limits(settings.control),
        MessageClass.EVENT: _sender_limits(settings.event),
        MessageClass.TELEMETRY: _sender_limits(settings.telemetry),
    }


def _sender_limits(quota: Quota) -> SenderLimits:
    messages, bytes_ = quota.messages_per_s, quota.bytes_per_s
    return SenderLimits(Rate(messages, max(1.0, messages * BURST_S)), Rate(bytes_, max(1.0, bytes_ * BURST_S)))
