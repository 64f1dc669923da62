"""What every store of leases promises, and that an unreachable store is told as such."""

import asyncio
import time

import pytest

from heliograph.stores.ports import Leases, StoreError
from heliograph.stores.redis.metadata import MetadataClient, RedisLeases


async def test_one_holder_at_a_time(leases: Leases) -> None:
    assert await leases.acquire("shard-7", "a", 30)
    assert not await leases.acquire("shard-7", "b", 30)
    assert await leases.acquire("shard-8", "b", 30)


async def test_the_holder_renews(leases: Leases) -> None:
    assert await leases.acquire("shard-7", "a", 30)
    assert await leases.acquire("shard-7", "a", 30)
    assert not await leases.acquire("shard-7", "b", 30)


async def test_of_many_who_ask_at_once_one_gets_it(leases: Leases) -> None:
    got = await asyncio.gather(*(leases.acquire("shard-7", f"router-{n}", 30) for n in range(20)))
    assert sum(got) == 1


async def test_only_the_holder_releases(leases: Leases) -> None:
    await leases.acquire("shard-7", "a", 30)
    await leases.release("shard-7", "b")
    assert not await leases.acquire("shard-7", "b", 30)
    await leases.release("shard-7", "a")
    assert await leases.acquire("shard-7", "b", 30)


async def test_a_lease_runs_out(leases: Leases) -> None:
    await leases.acquire("shard-7", "a", 0.05)
    deadline = time.monotonic() + 5
    while not await leases.acquire("shard-7", "b", 30):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    assert not await leases.acquire("shard-7", "a", 30)


async def test_an_unreachable_store_is_unavailable() -> None:
    client = MetadataClient("redis://127.0.0.1:1/0", timeout_s=0.5)
    with pytest.raises(StoreError) as caught:
        await RedisLeases(client).acquire("shard-7", "a", 1)
    assert caught.value.code == "unavailable"
    with pytest.raises(StoreError):
        await client.start()
    await client.close()
