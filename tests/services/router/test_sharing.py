"""Virtual shards are shared: one router each, about evenly, and taken over from who is gone."""

from heliograph.router.metrics import RouterMetrics
from heliograph.router.sharing import ShardShares
from heliograph.service.metrics import Metrics
from heliograph.stores.memory.metadata import MemoryLeases
from heliograph.stores.ports import Leases, StoreError

SHARDS = 64
TTL_S = 15.0


class World:
    """Leases and routers on one clock."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.leases = MemoryLeases(lambda: int(self.now * 1000))

    def shares(self, name: str, leases: Leases | None = None) -> ShardShares:
        metrics = RouterMetrics(Metrics("router", process=False))
        return ShardShares(
            leases or self.leases, metrics, holder=name, shards=SHARDS, ttl_s=TTL_S, clock=lambda: self.now
        )

    async def rounds(self, *routers: ShardShares, count: int = 6) -> None:
        for _ in range(count):
            for router in routers:
                await router.round()
            self.now += TTL_S / 3


async def test_a_lone_router_has_every_shard_after_its_first_round() -> None:
    world = World()
    router = world.shares("a")
    await router.round()
    assert sorted(router.held()) == list(range(SHARDS))
    assert router.has(17)


async def test_a_router_that_joins_gets_its_share_and_no_shard_has_two() -> None:
    world = World()
    first, second, third = (world.shares(name) for name in "abc")
    await world.rounds(first)
    await world.rounds(first, second)
    assert not set(first.held()) & set(second.held())
    assert (len(first.held()), len(second.held())) == (32, 32)
    await world.rounds(first, second, third)
    held = [set(router.held()) for router in (first, second, third)]
    assert len(set.union(*held)) == SHARDS == sum(map(len, held))
    assert max(map(len, held)) == 22


async def test_what_a_dead_router_had_is_taken_over_when_its_leases_end() -> None:
    world = World()
    first, second = world.shares("a"), world.shares("b")
    await world.rounds(first, second)
    world.now += TTL_S
    assert first.held() == []
    await world.rounds(second)
    assert len(second.held()) == SHARDS


async def test_what_a_leaving_router_had_is_free_at_once() -> None:
    world = World()
    first, second = world.shares("a"), world.shares("b")
    await world.rounds(first, second)
    await first.release()
    await world.rounds(second, count=4)
    assert len(second.held()) == SHARDS


class Away:
    """Leases whose store is away."""

    async def acquire(self, name: str, holder: str, ttl_s: float) -> bool:
        raise StoreError("unavailable", "away")

    async def release(self, name: str, holder: str) -> None:
        raise StoreError("unavailable", "away")


async def test_while_the_store_is_away_leases_run_out_and_come_back() -> None:
    world = World()
    router = world.shares("a")
    await router.round()
    leases, router._leases = router._leases, Away()
    await router.round()
    assert len(router.held()) == SHARDS
    world.now += TTL_S
    await router.round()
    assert router.held() == []
    assert router._metrics.lease_failures.n == 2
    router._leases = leases
    await router.round()
    assert len(router.held()) == SHARDS


async def test_a_slot_that_became_free_is_no_router() -> None:
    world = World()
    first, second, third = (world.shares(name) for name in "abc")
    await world.rounds(first, second, third)
    await first.release()
    await second.release()
    await world.rounds(third)
    assert len(third.held()) == SHARDS
