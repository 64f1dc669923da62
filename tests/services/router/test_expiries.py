"""Expiries that the log tells of reach the store that readers ask, and old ones leave it."""

import pytest
from tests.services.router.helpers import World, now_ms, until

from heliograph.core.expiry import Expiry
from heliograph.protocol.expiries import expiry_message
from heliograph.protocol.tenants import AgentTypeSettings, Tenant, TopicSettings, TopicsSettings, encode_tenant
from heliograph.router import expiring
from heliograph.router.expiring import ExpiryKeeper, longest_retention_s
from heliograph.router.metrics import RouterMetrics
from heliograph.service.health import Readiness
from heliograph.service.metrics import Metrics
from heliograph.service.tenants import TenantDirectory
from heliograph.stores.memory.metadata import MemorySessionExpiries, MemoryTenantStore
from heliograph.stores.ports import StoreError

DAY_MS = 24 * 3600 * 1000


async def test_a_store_that_lost_an_expiry_is_told_it_again_by_the_log(world: World) -> None:
    router = await world.router()
    session, begin = world.session(), now_ms()
    first = Expiry(begin + 5, begin)
    second = first.replaced(begin + 9_000_000, begin + 10)
    await world.publish(session, 1)
    for state in (first, second):
        await world.log(expiry_message(session, state, "ops"))
    await world.publish(session, 1, first=2)

    async def told() -> bool:
        return await world.expiries.get([session]) == [second]

    await until(told)
    await world.until_confirmed(session, 2)
    assert router.value("own_records_total", type="dev.heliograph.expiry") == 2
    await world.expiries.put(session, second.replaced(begin + 99, begin + 20))
    await world.log(expiry_message(session, first, "ops"))
    await until(lambda: router.value("own_records_total", type="dev.heliograph.expiry") == 3)
    await until(lambda: router.value("expiries_told_total") >= 2)
    (found,) = await world.expiries.get([session])
    assert found is not None
    assert found.expires_at_ms == begin + 99


class Store(MemorySessionExpiries):
    away = False

    async def put(self, session: str, state: Expiry) -> Expiry:
        if self.away:
            raise StoreError("unavailable", "away")
        return await super().put(session, state)


def directory_of(metrics: Metrics, tenants: MemoryTenantStore) -> TenantDirectory:
    return TenantDirectory(tenants, Readiness().condition("tenants"), metrics)


def keeper_of(metrics: Metrics) -> tuple[ExpiryKeeper, Store]:
    store = Store()
    return ExpiryKeeper(store, directory_of(metrics, MemoryTenantStore()), RouterMetrics(metrics)), store


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("router", process=False)


async def test_while_the_store_is_away_nothing_waits_and_all_is_told_later(metrics: Metrics) -> None:
    keeper, store = keeper_of(metrics)
    store.away = True
    keeper.take([("acme:planner:1", Expiry(5, 1)), ("acme:planner:2", Expiry(6, 1)), ("acme:planner:1", Expiry(7, 2))])
    assert not await keeper.tell()
    store.away = False
    assert await keeper.tell()
    assert await store.get(["acme:planner:1", "acme:planner:2"]) == [Expiry(7, 2), Expiry(6, 1)]
    assert metrics.value("expiries_told_total", {}) == 2


async def test_what_waits_for_the_store_is_bounded(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiring, "MAX_PENDING", 3)
    keeper, store = keeper_of(metrics)
    keeper.take([(f"acme:planner:{number}", Expiry(5, 1)) for number in range(5)])
    assert await keeper.tell()
    assert await store.get(["acme:planner:1", "acme:planner:2"]) == [None, Expiry(5, 1)]
    assert metrics.value("expiries_dropped_total", {}) == 2


async def test_what_is_older_than_the_tenants_longest_log_is_removed(metrics: Metrics) -> None:
    tenants = MemoryTenantStore()
    day, month = TopicSettings(retention_s=86_400), TopicSettings(retention_s=30 * 86_400)
    record = Tenant("acme", topics=TopicsSettings(log=day), agent_types={"planner": AgentTypeSettings(month)})
    assert longest_retention_s(record) == 30 * 86_400
    await tenants.put("acme", encode_tenant(record))
    directory = directory_of(metrics, tenants)
    await directory.start()
    store = Store()
    keeper = ExpiryKeeper(store, directory, RouterMetrics(metrics), now_ms=lambda: 100 * DAY_MS)
    await store.put("acme:tool:old", Expiry(39 * DAY_MS, 1))
    await store.put("acme:tool:young", Expiry(41 * DAY_MS, 1))
    await store.put("gone:tool:old", Expiry(1, 1))
    await keeper.forget()
    found = await store.get(["acme:tool:old", "acme:tool:young", "gone:tool:old"])
    assert found == [None, Expiry(41 * DAY_MS, 1), Expiry(1, 1)]
