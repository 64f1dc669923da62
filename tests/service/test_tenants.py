"""The directory of tenants: fresh within a second, and in force while the store is away."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from heliograph.protocol.tenants import Tenant, encode_tenant
from heliograph.service.applying import wait_in_force
from heliograph.service.health import Condition, Readiness, State
from heliograph.service.metrics import Metrics
from heliograph.service.tenants import TenantDirectory, TenantEntry
from heliograph.stores.memory.metadata.tenants import MemoryTenantStore
from heliograph.stores.ports import StoreError

Eventually = Callable[[Callable[[], bool]], Awaitable[None]]


class Store(MemoryTenantStore):
    """The memory store, which can be away, hang, and counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.error: Exception | None = None
        self.hangs = False
        self.asked: list[str] = []

    async def version(self) -> int:
        await self._answer("version")
        return await super().version()

    async def changes(self, since: int) -> tuple[int, dict[str, bytes | None]]:
        await self._answer(f"changes {'all' if since == 0 else 'since'}")
        return await super().changes(since)

    async def _answer(self, what: str) -> None:
        self.asked.append(what)
        if self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def condition() -> Condition:
    return Readiness().condition("tenants")


@pytest.fixture
def directory(store: Store, condition: Condition, metrics: Metrics) -> TenantDirectory:
    return TenantDirectory(store, condition, metrics, poll_s=0.01)


@pytest.fixture
async def running(directory: TenantDirectory) -> AsyncIterator[TenantDirectory]:
    await directory.start()
    task = asyncio.create_task(directory.run())
    yield directory
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def state(condition: Condition) -> State:
    return condition.state


def record(name: str, **fields: Any) -> bytes:
    return encode_tenant(Tenant(name, **fields))


async def test_start_loads_every_record(store: Store, directory: TenantDirectory, condition: Condition) -> None:
    await store.put("acme", record("acme"))
    await store.put("other", record("other", suspended=True))
    assert state(condition) is State.WAITING
    await directory.start()
    assert state(condition) is State.OK
    found = directory.find("other")
    assert found is not None
    assert found.record.suspended
    assert set(directory.all()) == {"acme", "other"}


async def test_an_unknown_tenant_is_none(directory: TenantDirectory) -> None:
    await directory.start()
    assert directory.find("nobody") is None


async def test_a_change_is_noticed_within_a_second_at_the_default_pace(
    store: Store, condition: Condition, metrics: Metrics, eventually: Eventually
) -> None:
    directory = TenantDirectory(store, condition, metrics)
    await directory.start()
    task = asyncio.create_task(directory.run())
    try:
        await store.put("acme", record("acme"))
        begin = time.monotonic()
        await eventually(lambda: directory.find("acme") is not None)
        assert time.monotonic() - begin < 1.0
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_changes_and_deletions_reach_the_listeners(
    store: Store, running: TenantDirectory, eventually: Eventually
) -> None:
    told: list[tuple[str, bool | None]] = []

    def listener(tenant: str, entry: TenantEntry | None) -> None:
        told.append((tenant, entry.record.suspended if entry else None))

    stop = running.listen(listener)
    await store.put("acme", record("acme"))
    await eventually(lambda: len(told) == 1)
    await store.put("acme", record("acme", suspended=True))
    await eventually(lambda: len(told) == 2)
    await store.delete("acme")
    await eventually(lambda: len(told) == 3)
    assert told == [("acme", False), ("acme", True), ("acme", None)]
    assert running.find("acme") is None
    stop()
    await store.put("acme", record("acme"))
    await eventually(lambda: running.find("acme") is not None)
    assert len(told) == 3


async def test_a_record_that_did_not_change_is_no_change(
    store: Store, directory: TenantDirectory, metrics: Metrics
) -> None:
    await store.put("acme", record("acme"))
    await directory.start()
    before = directory.find("acme")
    await store.put("acme", record("acme"))
    await directory.refresh()
    assert directory.find("acme") is before
    assert metrics.value("tenant_changes_total") == 1


async def test_each_change_is_a_new_generation_also_after_a_deletion(store: Store, directory: TenantDirectory) -> None:
    generations = []
    for _ in range(2):
        await store.put("acme", record("acme"))
        await directory.refresh()
        found = directory.find("acme")
        assert found is not None
        generations.append(found.generation)
        await store.delete("acme")
        await directory.refresh()
    assert generations[0] != generations[1]


async def test_without_changes_a_poll_reads_one_number(store: Store, directory: TenantDirectory) -> None:
    await store.put("acme", record("acme"))
    await directory.start()
    store.asked.clear()
    for _ in range(3):
        await directory.refresh()
    assert store.asked == ["version"] * 3


async def test_a_start_without_a_store_fails_and_is_waited_for(
    store: Store, directory: TenantDirectory, condition: Condition, metrics: Metrics
) -> None:
    store.error = StoreError("unavailable", "refused")
    with pytest.raises(StoreError):
        await directory.start()
    assert state(condition) is State.WAITING
    assert condition.last_error is not None
    assert "refused" in condition.last_error.text
    assert metrics.value("tenant_refresh_failures_total") == 1


@pytest.mark.parametrize("error", [StoreError("unavailable", "refused"), ConnectionResetError("gone")])
async def test_while_the_store_is_away_the_last_records_stay_and_readiness_says_stale(
    store: Store,
    running: TenantDirectory,
    condition: Condition,
    metrics: Metrics,
    eventually: Eventually,
    error: Exception,
) -> None:
    await store.put("acme", record("acme"))
    await eventually(lambda: running.find("acme") is not None)
    store.error = error
    await eventually(lambda: metrics.value("tenant_refresh_failures_total") >= 2)
    assert running.find("acme") is not None
    assert state(condition) is State.DEGRADED
    assert condition.last_error is not None
    assert "stale" in condition.last_error.text
    assert metrics.value("tenants_age_seconds") > 0
    store.error = None
    await store.put("new", record("new"))
    await eventually(lambda: running.find("new") is not None)
    assert state(condition) is State.OK


async def test_a_store_that_hangs_is_a_store_that_is_away(
    store: Store, directory: TenantDirectory, condition: Condition, monkeypatch: pytest.MonkeyPatch
) -> None:
    await directory.start()
    monkeypatch.setattr("heliograph.service.tenants.CALL_TIMEOUT_S", 0.01)
    store.hangs = True
    with pytest.raises(TimeoutError):
        await directory.refresh()
    assert state(condition) is State.DEGRADED


@pytest.mark.parametrize("broken", [b"", b"{", b"[]", b'{"tenant": 5}', b"\xff", b"[" * 100_000])
async def test_a_broken_record_leaves_the_last_good_one_in_force(
    store: Store, directory: TenantDirectory, metrics: Metrics, broken: bytes
) -> None:
    await store.put("acme", record("acme", suspended=True))
    await directory.start()
    store.error = None
    await _put_raw(store, "acme", broken)
    await _put_raw(store, "fresh", broken)
    await store.put("other", record("other"))
    await directory.refresh()
    found = directory.find("acme")
    assert found is not None
    assert found.record.suspended
    assert directory.find("fresh") is None
    assert directory.find("other") is not None
    assert metrics.value("tenant_records_invalid_total") == 2


async def test_a_record_under_another_name_is_broken(
    store: Store, directory: TenantDirectory, metrics: Metrics
) -> None:
    await _put_raw(store, "acme", record("other"))
    await directory.start()
    assert directory.find("acme") is None
    assert directory.find("other") is None
    assert metrics.value("tenant_records_invalid_total") == 1


async def test_a_store_that_lost_its_data_ends_no_tenant(condition: Condition, metrics: Metrics) -> None:
    first, second = Store(), Store()
    for name in ("a", "b", "c"):
        await first.put(name, record(name))
    directory = TenantDirectory(first, condition, metrics)
    await directory.start()
    await second.put("b", record("b", suspended=True))
    directory._store = second
    directory._version = 2**60
    await directory.refresh()
    assert set(directory.all()) == {"a", "b", "c"}
    found = directory.find("b")
    assert found is not None
    assert found.record.suspended
    assert condition.state is State.DEGRADED
    assert metrics.value("tenants_kept") == 2


async def test_a_lost_record_that_is_written_again_or_deleted_is_lost_no_more(
    condition: Condition, metrics: Metrics
) -> None:
    first, second = Store(), Store()
    for name in ("a", "b"):
        await first.put(name, record(name))
    directory = TenantDirectory(first, condition, metrics)
    await directory.start()
    directory._store = second
    directory._version = 2**60
    await directory.refresh()
    assert metrics.value("tenants_kept") == 2
    await second.put("a", record("a"))
    await second.delete("b")
    await directory.refresh()
    assert set(directory.all()) == {"a"}
    assert metrics.value("tenants_kept") == 0
    assert condition.state is State.OK


async def test_everything_is_read_now_and_then(store: Store, condition: Condition, metrics: Metrics) -> None:
    now = 0.0
    directory = TenantDirectory(store, condition, metrics, reload_s=60, clock=lambda: now)
    await directory.start()
    store.asked.clear()
    now = 59.0
    await directory.refresh()
    now = 60.0
    await directory.refresh()
    assert store.asked == ["version", "changes all"]


async def test_a_listener_that_fails_does_not_keep_the_change_from_others(
    store: Store, directory: TenantDirectory, metrics: Metrics
) -> None:
    told: list[str] = []

    def broken(_tenant: str, _entry: TenantEntry | None) -> None:
        raise ValueError

    directory.listen(broken)
    directory.listen(lambda tenant, _entry: told.append(tenant))
    await store.put("acme", record("acme"))
    await directory.start()
    assert told == ["acme"]
    assert metrics.value("tenant_listener_errors_total") == 1


async def _put_raw(store: Store, tenant: str, raw: bytes) -> None:
    await store.put(tenant, raw)


async def test_the_store_is_told_what_is_obeyed_once_listeners_have_been(
    store: Store, condition: Condition, metrics: Metrics, eventually: Eventually
) -> None:
    """Whoever wrote a record can wait until it is in force everywhere."""
    directory = TenantDirectory(store, condition, metrics, service="edge/a", poll_s=0.01)
    behind_when_told: list[list[str]] = []

    def listener(_tenant: str, _entry: TenantEntry | None) -> None:
        behind_when_told.append([service for service, (version, _) in store._taken.items() if version < store._version])

    directory.listen(listener)
    await store.put("acme", record("acme"))
    await directory.start()
    assert await store.behind(await store.version()) == []
    task = asyncio.create_task(directory.run())
    version = await store.put("acme", record("acme", suspended=True))
    assert await store.behind(version) == ["edge/a"]
    assert await wait_in_force(store) == []
    assert behind_when_told == [["edge/a"], ["edge/a"]]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_who_does_not_take_a_change_up_is_named(store: Store, directory: TenantDirectory) -> None:
    version = await store.put("acme", record("acme"))
    await store.taken_up("edge/stuck", version - 1, 60)
    await store.taken_up("edge/well", version, 60)
    assert await wait_in_force(store, timeout_s=0.1) == ["edge/stuck"]
