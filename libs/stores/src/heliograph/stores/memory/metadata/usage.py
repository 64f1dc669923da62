"""What edges use of what is limited over all of them, in memory."""

from heliograph.stores.memory.metadata.clock import Clock, now_ms
from heliograph.stores.usage import Told, Totals


class MemoryUsageStore:
    """`heliograph.stores.usage.UsageStore`."""

    def __init__(self, clock: Clock = now_ms) -> None:
        self._clock = clock
        self._ends_ms: dict[str, float] = {}
        self._of: dict[str, dict[str, int]] = {}

    async def tell(self, told: Told, ttl_s: float) -> Totals | None:
        now = self._clock()
        for holder in [holder for holder, ends in self._ends_ms.items() if ends <= now]:
            await self.leave(holder)
        if told.holder not in self._ends_ms and not told.begins:
            return None
        self._ends_ms[told.holder] = now + ttl_s * 1000
        mine = self._of.setdefault(told.holder, {})
        for name, count in told.counts.items():
            mine[name] = count
            if count == 0:
                del mine[name]
        return Totals(len(self._ends_ms), [self._total(name) for name in told.asked])

    async def leave(self, holder: str) -> None:
        self._ends_ms.pop(holder, None)
        self._of.pop(holder, None)

    def _total(self, name: str) -> int:
        members = {key for of in self._of.values() for key in of if key.startswith(name + "\0")}
        return sum(of.get(name, 0) for of in self._of.values()) + len(members)
