"""Leases in memory."""

from heliograph.stores.memory.metadata.clock import Clock, now_ms


class MemoryLeases:
    """`heliograph.stores.ports.Leases`."""

    def __init__(self, clock: Clock = now_ms) -> None:
        self._clock = clock
        self._held: dict[str, tuple[str, int]] = {}

    async def acquire(self, name: str, holder: str, ttl_s: float) -> bool:
        now = self._clock()
        held = self._held.get(name)
        if held is not None and held[0] != holder and held[1] > now:
            return False
        self._held[name] = (holder, now + max(1, int(ttl_s * 1000)))
        return True

    async def release(self, name: str, holder: str) -> None:
        held = self._held.get(name)
        if held is not None and held[0] == holder:
            del self._held[name]
