"""Orders to edges, in memory."""

from collections.abc import Sequence

from msgspec.structs import replace

from heliograph.stores.memory.metadata.clock import Clock, now_ms
from heliograph.stores.ports import DrainOrder, ShedOrder, StandingOrders
from heliograph.stores.registrations import check_edge


class MemoryEdgeOrders:
    """`heliograph.stores.ports.EdgeOrders`."""

    def __init__(self, clock: Clock = now_ms) -> None:
        self._clock = clock
        self._drains: dict[str, tuple[DrainOrder, int, int]] = {}
        """By edge: the order, when it was given, when it ends."""
        self._sheds: dict[str, tuple[ShedOrder, int]] = {}

    async def drain(self, edge: str, order: DrainOrder, ttl_s: float) -> DrainOrder:
        now = self._clock()
        stands = self._drains.get(check_edge(edge))
        given, since = (stands[0], stands[1]) if stands is not None and stands[2] > now else (order, now)
        self._drains[edge] = (given, since, now + _ms(ttl_s))
        return replace(given, age_s=(now - since) / 1000)

    async def shed(self, edge: str, order: ShedOrder, ttl_s: float) -> ShedOrder:
        now = self._clock()
        stands = self._sheds.get(check_edge(edge))
        if stands is None or stands[1] <= now:
            stands = self._sheds[edge] = (order, now + _ms(ttl_s))
        return stands[0]

    async def withdraw(self, edge: str, order_id: str) -> bool:
        stands = self._drains.get(check_edge(edge))
        if stands is None or stands[0].id != order_id:
            return False
        del self._drains[edge]
        return stands[2] > self._clock()

    async def standing(self, edges: Sequence[str]) -> list[StandingOrders]:
        return [self._standing(check_edge(edge)) for edge in edges]

    def _standing(self, edge: str) -> StandingOrders:
        now = self._clock()
        drain, shed = self._drains.get(edge), self._sheds.get(edge)
        return StandingOrders(
            replace(drain[0], age_s=(now - drain[1]) / 1000) if drain is not None and drain[2] > now else None,
            shed[0] if shed is not None and shed[1] > now else None,
        )


def _ms(ttl_s: float) -> int:
    return max(1, int(ttl_s * 1000))
