"""The directory of expiries: seen within a second, few questions, and nothing comes back because a store is away."""

from collections.abc import Sequence

import pytest

from heliograph.core.expiry import Expiry
from heliograph.service.expiries import REMEMBERED_S, ExpiryDirectory
from heliograph.service.health import Condition, Readiness, State
from heliograph.service.metrics import Metrics
from heliograph.stores.memory.metadata import MemorySessionExpiries
from heliograph.stores.ports import StoreError

SESSION, OTHER = "acme:planner:1", "acme:planner:2"
NOW = 1_764_000_000_000


class Store(MemorySessionExpiries):
    """The memory store, which can be away, and counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.asked: list[str] = []

    async def get(self, sessions: Sequence[str]) -> list[Expiry | None]:
        self.asked += sessions
        self._answer()
        return await super().get(sessions)

    async def versions(self) -> dict[str, int]:
        self._answer()
        return await super().versions()

    def lose_everything(self) -> None:
        self._states.clear()
        self._versions.clear()

    def _answer(self) -> None:
        if self.away:
            raise StoreError("unavailable", "away")


class World:
    def __init__(self, metrics: Metrics, remembered: int = 1_000) -> None:
        self.store = Store()
        self.now_s = 0.0
        self.condition: Condition = Readiness().condition("expiries")
        self.directory = ExpiryDirectory(
            self.store,
            self.condition,
            metrics,
            remembered=remembered,
            clock=lambda: self.now_s,
            now_ms=lambda: NOW + int(self.now_s * 1_000),
        )


@pytest.fixture
def world(metrics: Metrics) -> World:
    return World(metrics)


async def test_a_tenant_without_expiries_costs_no_question(world: World) -> None:
    await world.directory.start()
    assert await world.directory.gone_until(SESSION) == 0
    assert world.store.asked == []


async def test_a_change_is_seen_with_the_next_refresh(world: World) -> None:
    await world.directory.start()
    await world.store.put(SESSION, Expiry(NOW, NOW))
    assert await world.directory.gone_until(SESSION) == 0
    await world.directory.refresh()
    assert await world.directory.gone_until(SESSION) == NOW
    await world.store.put(SESSION, Expiry(NOW - 5, NOW + 1, NOW + 1))
    await world.directory.refresh()
    assert await world.directory.gone_until(SESSION) == NOW + 1
    assert await world.directory.gone_until("globex:planner:1") == 0


async def test_a_moment_comes_without_another_question(world: World) -> None:
    await world.store.put(SESSION, Expiry(NOW + 3_000, NOW))
    await world.directory.start()
    assert await world.directory.gone_until(SESSION) == 0
    world.now_s = 2.999
    assert await world.directory.gone_until(SESSION) == 0
    world.now_s = 3.0
    assert await world.directory.gone_until(SESSION) == NOW + 3_000
    assert world.store.asked == [SESSION]


async def test_what_was_asked_is_remembered_until_its_tenant_changes_or_it_is_old(world: World) -> None:
    await world.store.put(SESSION, Expiry(NOW, NOW))
    await world.directory.start()
    for _ in range(3):
        await world.directory.find(SESSION)
        await world.directory.find(OTHER)
    assert world.store.asked == [SESSION, OTHER]
    await world.store.put(SESSION, Expiry(NOW, NOW))
    await world.directory.refresh()
    await world.directory.find(OTHER)
    assert world.store.asked == [SESSION, OTHER, OTHER]
    world.now_s = REMEMBERED_S
    await world.directory.find(OTHER)
    assert world.store.asked == [SESSION, OTHER, OTHER, OTHER]


async def test_what_is_remembered_is_bounded(metrics: Metrics) -> None:
    world = World(metrics, remembered=10)
    await world.store.put(SESSION, Expiry(NOW, NOW))
    await world.directory.start()
    for number in range(50):
        await world.directory.find(f"acme:planner:{number}")
    world.store.asked.clear()
    for number in range(40, 50):
        await world.directory.find(f"acme:planner:{number}")
    assert world.store.asked == []
    await world.directory.find("acme:planner:39")
    assert world.store.asked == ["acme:planner:39"]


async def test_while_the_store_is_away_the_last_known_stays_in_force_and_the_unknown_is_not_read(
    world: World,
) -> None:
    await world.store.put(SESSION, Expiry(NOW, NOW))
    await world.directory.start()
    assert await world.directory.gone_until(SESSION) == NOW
    world.store.away = True
    world.now_s = REMEMBERED_S + 1
    with pytest.raises(StoreError):
        await world.directory.refresh()
    assert world.condition.state is State.DEGRADED
    assert await world.directory.gone_until(SESSION) == NOW
    with pytest.raises(StoreError, match="not known"):
        await world.directory.gone_until(OTHER)
    assert await world.directory.gone_until("globex:planner:1") == 0


async def test_a_store_that_lost_its_data_brings_nothing_back(world: World) -> None:
    await world.store.put(SESSION, Expiry(NOW, NOW))
    await world.directory.start()
    await world.directory.find(SESSION)
    world.store.lose_everything()
    await world.directory.refresh()
    world.now_s = REMEMBERED_S + 1
    assert await world.directory.gone_until(SESSION) == NOW


async def test_without_a_first_answer_it_is_not_ready(world: World) -> None:
    world.store.away = True
    with pytest.raises(StoreError):
        await world.directory.start()
    assert world.condition.state is State.WAITING
