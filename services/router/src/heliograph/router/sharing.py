"""Which virtual shards this router reconciles: one router at a time has a shard, by leases in the metadata store.

Shards are shared about evenly. How many routers there are is told by leases too: each holds the lowest numbered slot
that was free, and counts the slots that others hold. A count may be off for a round while somebody looks or leaves, so
the smallest of the last few decides, and a wrong one costs evenness, never correctness.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Sequence

from heliograph.router.metrics import RouterMetrics
from heliograph.service.logs import RateLimitedLog, get_logger
from heliograph.stores.ports import Leases, StoreError

MAX_SLOTS = 64
"""Routers that are counted; more share as if they were so many."""

PROBE_AHEAD = 2
"""Free slots looked at behind the last one taken: a router whose lower neighbour died is still counted."""

COUNTS = 3
"""Of which the smallest is believed."""

AT_ONCE = 16
"""Lease calls under way together."""


class ShardShares:
    """The shards that this router has."""

    def __init__(
        self,
        leases: Leases,
        metrics: RouterMetrics,
        *,
        holder: str,
        shards: int,
        ttl_s: float,
        clock: Callable[[], float] = time.monotonic,
        shuffle: Callable[[list[int]], None] = random.shuffle,
    ) -> None:
        self._leases = leases
        self._metrics = metrics
        self._holder = holder
        self._shards = shards
        self._ttl_s = ttl_s
        self._clock = clock
        self._shuffle = shuffle
        self._until: dict[int, float] = {}
        self._slot: int | None = None
        self._counts: deque[int] = deque(maxlen=COUNTS)
        self._log = RateLimitedLog(get_logger(__name__))
        metrics.metrics.sampled_gauge(
            "virtual_shards_held", "Virtual shards this router reconciles.", lambda: len(self.held())
        )

    def held(self) -> list[int]:
        """Shards whose lease holds for sure, by our clock."""
        now = self._clock()
        return [shard for shard, until in self._until.items() if until > now]

    def has(self, shard: int) -> bool:
        return self._until.get(shard, 0.0) > self._clock()

    @property
    def interval_s(self) -> float:
        """How often `round` is to be called: two may fail before a lease ends."""
        return self._ttl_s / 3

    async def round(self) -> None:
        """Renew what is held, count routers, take or give back. A store that is away costs the leases, in time."""
        try:
            self._counts.append(await self._count())
            await self._acquire(list(self._until))
            fair = -(-self._shards // min(self._counts))
            if len(self._until) < fair:
                await self._take(fair - len(self._until))
            elif len(self._until) > fair:
                await self._give(len(self._until) - fair)
        except StoreError as error:
            self._metrics.lease_failures.n += 1
            self._log.warning("leases_failed", error=str(error))

    async def release(self) -> None:
        """Give everything back, so that others need not wait."""
        shards, slot = list(self._until), self._slot
        self._until, self._slot = {}, None
        try:
            if slot is not None:
                await self._leases.release(f"router/{slot}", self._holder)
            await self._each(shards, self._release_one)
        except StoreError as error:
            self._log.warning("leases_not_released", error=str(error))

    async def _count(self) -> int:
        """Routers that hold a slot, this one among them; takes a slot where it has none."""
        others, beyond, slot = 0, 0, 0
        mine = self._slot
        if mine is not None and not await self._leases.acquire(f"router/{mine}", self._holder, self._ttl_s):
            mine = None
        while slot < MAX_SLOTS and beyond <= PROBE_AHEAD:
            if slot == mine:
                pass
            elif not await self._leases.acquire(f"router/{slot}", self._holder, self._ttl_s):
                others, beyond = others + 1, 0
            elif mine is None:
                mine = slot
            else:
                await self._leases.release(f"router/{slot}", self._holder)
                beyond += slot > mine
            slot += 1
        self._slot = mine
        return others + 1

    async def _take(self, wanted: int) -> None:
        """Try shards that are not held, in random order, until `wanted` were had."""
        free = [shard for shard in range(self._shards) if shard not in self._until]
        self._shuffle(free)
        target = len(self._until) + wanted
        while free and len(self._until) < target:
            count = min(AT_ONCE, target - len(self._until))
            some, free = free[:count], free[count:]
            await self._acquire(some)

    async def _give(self, count: int) -> None:
        shards = list(self._until)
        self._shuffle(shards)
        for shard in shards[:count]:
            del self._until[shard]
        await self._each(shards[:count], self._release_one)

    async def _acquire(self, shards: Sequence[int]) -> None:
        await self._each(shards, self._acquire_one)

    async def _acquire_one(self, shard: int) -> None:
        until = self._clock() + self._ttl_s  # from before the call: the store's lease ends later than this
        if await self._leases.acquire(f"reconcile/{shard}", self._holder, self._ttl_s):
            self._until[shard] = until
        else:
            self._until.pop(shard, None)

    async def _release_one(self, shard: int) -> None:
        await self._leases.release(f"reconcile/{shard}", self._holder)

    async def _each(self, shards: Sequence[int], call: Callable[[int], object]) -> None:
        for at in range(0, len(shards), AT_ONCE):
            results = await asyncio.gather(
                *(call(shard) for shard in shards[at : at + AT_ONCE]),  # type: ignore[call-overload]
                return_exceptions=True,
            )
            for result in results:
                if isinstance(result, BaseException):
                    raise result
