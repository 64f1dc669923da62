"""What every tenant store promises."""

import asyncio

import pytest

from heliograph.core.errors import InvalidValueError
from heliograph.protocol.tenants import Tenant, encode_tenant
from heliograph.stores.keys import TENANT_OWNERS, TENANTS, TENANTS_VERSION
from heliograph.stores.ports import CorruptError, Owner, TenantStore
from heliograph.stores.redis.metadata import MetadataClient, RedisTenantStore


def record(tenant: str, *, suspended: bool = False) -> bytes:
    return encode_tenant(Tenant(tenant=tenant, suspended=suspended))


async def test_a_record_is_got_as_it_was_put(tenants: TenantStore) -> None:
    assert await tenants.get("acme") is None
    await tenants.put("acme", record("acme"))
    assert await tenants.get("acme") == record("acme")


async def test_every_change_raises_the_version(tenants: TenantStore) -> None:
    assert await tenants.version() == 0
    first = await tenants.put("acme", record("acme"))
    second = await tenants.put("acme", record("acme", suspended=True))
    assert second > first > 0
    await tenants.delete("acme")
    assert await tenants.version() > second


async def test_a_record_is_replaced_only_where_nobody_else_changed_it(tenants: TenantStore) -> None:
    assert not await tenants.replace("acme", record("acme"), record("acme"))
    assert await tenants.replace("acme", None, record("acme"))
    assert not await tenants.replace("acme", None, record("acme", suspended=True))
    version = await tenants.version()
    assert await tenants.replace("acme", record("acme"), record("acme", suspended=True))
    assert await tenants.get("acme") == record("acme", suspended=True)
    assert await tenants.changes(version) == (await tenants.version(), {"acme": record("acme", suspended=True)})
    version = await tenants.version()
    assert not await tenants.replace("acme", record("acme"), record("acme"))
    assert await tenants.version() == version


async def test_changes_are_those_after_a_version(tenants: TenantStore) -> None:
    first = await tenants.put("acme", record("acme"))
    second = await tenants.put("beta", record("beta"))
    assert await tenants.changes(0) == (second, {"acme": record("acme"), "beta": record("beta")})
    assert await tenants.changes(first) == (second, {"beta": record("beta")})
    assert await tenants.changes(second) == (second, {})


async def test_a_deleted_tenant_is_a_change(tenants: TenantStore) -> None:
    version = await tenants.put("acme", record("acme"))
    await tenants.delete("acme")
    assert await tenants.get("acme") is None
    now, changed = await tenants.changes(version)
    assert now > version
    assert changed == {"acme": None}


async def test_following_changes_misses_none_while_many_write(tenants: TenantStore) -> None:
    async def write(writer: int) -> None:
        for number in range(20):
            await tenants.put(f"t{writer}-{number}", record(f"t{writer}-{number}"))

    writers = asyncio.gather(*(write(writer) for writer in range(5)))
    seen: set[str] = set()
    version = 0
    while not writers.done():
        version, changed = await tenants.changes(version)
        seen.update(changed)
        await asyncio.sleep(0)
    await writers
    _, changed = await tenants.changes(version)
    assert len(seen | changed.keys()) == 100


async def test_a_version_above_the_stores_gets_everything(tenants: TenantStore) -> None:
    version = await tenants.put("acme", record("acme"))
    assert await tenants.changes(version + 1_000_000) == (version, {"acme": record("acme")})


async def test_a_corrupt_record_is_an_error_of_its_tenant_only(tenants: TenantStore) -> None:
    await tenants.put("acme", b'{"tenant":')
    await tenants.put("beta", record("beta"))
    with pytest.raises(CorruptError, match="acme") as caught:
        await tenants.get("acme")
    assert "tenant:" not in caught.value.message
    assert await tenants.get("beta") == record("beta")
    _, changed = await tenants.changes(0)
    assert changed["beta"] == record("beta")


async def test_another_tenants_record_is_corrupt(tenants: TenantStore) -> None:
    await tenants.put("acme", record("beta"))
    with pytest.raises(CorruptError):
        await tenants.get("acme")


async def test_only_labels_are_tenants(tenants: TenantStore) -> None:
    with pytest.raises(InvalidValueError):
        await tenants.put("Acme/../x", b"{}")


async def test_a_store_that_lost_its_data_goes_on_above_what_services_remember(client: MetadataClient) -> None:
    tenants = RedisTenantStore(client)
    await tenants.put("gone", record("gone"))
    remembered = await tenants.put("acme", record("acme"))
    await client.redis.flushdb()
    while await tenants.put("acme", record("acme", suspended=True)) <= remembered:
        pass
    _, changed = await tenants.changes(remembered)
    assert changed == {"acme": record("acme", suspended=True)}


async def test_a_key_of_another_type_is_corrupt_not_unavailable(client: MetadataClient) -> None:
    tenants = RedisTenantStore(client)
    await client.redis.set(TENANTS, b"x")
    with pytest.raises(CorruptError):
        await tenants.get("acme")
    await client.redis.set(TENANTS_VERSION, b"x")
    with pytest.raises(CorruptError):
        await tenants.version()


async def test_services_that_run_and_do_not_obey_a_version_yet_are_behind(tenants: TenantStore) -> None:
    first = await tenants.put("acme", record("acme"))
    await tenants.taken_up("edge-1", first, 60)
    await tenants.taken_up("edge-2", first, 60)
    second = await tenants.put("acme", record("acme", suspended=True))
    await tenants.taken_up("edge-2", second, 60)
    assert await tenants.behind(first) == []
    assert await tenants.behind(second) == ["edge-1"]
    await tenants.taken_up("edge-1", second, 60)
    assert await tenants.behind(second) == []


async def test_a_service_that_no_longer_runs_is_not_behind(tenants: TenantStore) -> None:
    version = await tenants.put("acme", record("acme"))
    await tenants.taken_up("dead", version - 1, 0.001)
    async with asyncio.timeout(5):
        while await tenants.behind(version):
            await asyncio.sleep(0.001)


OURS, THEIRS = Owner("ours", "acme", "uid-1"), Owner("theirs", "acme", "uid-2")


async def test_a_tenant_has_one_owner_and_who_comes_second_is_told(tenants: TenantStore) -> None:
    assert await tenants.owner("acme") is None
    assert await tenants.own("acme", None, OURS)
    assert not await tenants.own("acme", None, THEIRS)
    assert await tenants.owner("acme") == OURS
    assert not await tenants.own("acme", THEIRS, None)
    kept = Owner("ours", "acme", "uid-1", retained=True)
    assert await tenants.own("acme", OURS, kept)
    assert await tenants.owner("acme") == kept
    assert await tenants.own("acme", kept, None)
    assert await tenants.owner("acme") is None


async def test_owners_are_no_change_of_a_record(tenants: TenantStore) -> None:
    await tenants.own("acme", None, OURS)
    assert await tenants.version() == 0
    assert await tenants.changes(0) == (0, {})


async def test_an_owner_that_can_not_be_read_is_corrupt(client: MetadataClient) -> None:
    await client.redis.hset(TENANT_OWNERS, "acme", b"{")
    with pytest.raises(CorruptError):
        await RedisTenantStore(client).owner("acme")
