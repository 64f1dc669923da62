"""The port for orders to edges: let all your clients go, or some of them.

An order is a state that stands, not a message: an edge looks at its own once or twice a second and does what stands.
Giving the same order again only prolongs it, so that whoever gives orders may be restarted, or be two; an edge that
missed nothing but a moment has missed nothing. Each order runs out by itself: an edge that was told to drain by
somebody who is gone for good comes back to service.

The other port of this kind, `ServeStore.orders`, hands sessions to workers: those are taken once each.
"""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct


class DrainOrder(Struct, frozen=True):
    """Take no new clients, be not ready, and move those that are there over `over_s`; then stay so until stopped, or
    until the order is withdrawn or has run out.

    It is for the edge of that name whatever its incarnation: a container that is restarted meanwhile stays drained.
    """

    id: str
    over_s: float
    age_s: float = 0.0
    """Since it was first given, by the store's clock; set by the store."""


class ShedOrder(Struct, frozen=True):
    """Ask so many clients to come back elsewhere, over `over_s`; nobody is closed, and the edge stays in service."""

    id: str
    incarnation: str
    """Of the edge that had too many: another one has other connections, and doesn't obey."""
    connections: int
    over_s: float


class StandingOrders(Struct, frozen=True):
    """What one edge is told now."""

    drain: DrainOrder | None = None
    shed: ShedOrder | None = None


class EdgeOrders(Protocol):
    """Orders to edges, by the edge's name in the registry. Every call may raise StoreError(`unavailable`)."""

    async def drain(self, edge: str, order: DrainOrder, ttl_s: float) -> DrainOrder:
        """Give the order, or prolong it where one stands already, whoever gave that. The order that stands now."""

    async def shed(self, edge: str, order: ShedOrder, ttl_s: float) -> ShedOrder:
        """Give the order, unless one stands already: that goes on as it was. The order that stands now."""

    async def withdraw(self, edge: str, order_id: str) -> bool:
        """The drain order of this id stands no longer. Whether it stood: another one is left alone."""

    async def standing(self, edges: Sequence[str]) -> list[StandingOrders]:
        """What each is told now, in the order asked, in one round trip."""
