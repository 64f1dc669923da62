"""What every store of shared counts promises, in memory and on a real Redis."""

import asyncio
from collections.abc import AsyncIterator
from random import Random

import pytest
from tests.stores.metadata.helpers import keys_in

from heliograph.stores.memory.metadata import MemoryUsageStore
from heliograph.stores.ports import StoreError
from heliograph.stores.redis.metadata import MetadataClient, RedisUsageStore
from heliograph.stores.redis.metadata.usage import CHUNK
from heliograph.stores.usage import Told, Totals, UsageStore

LONG_S = 60.0
LIFE_S = 0.3
DEADLINE_S = 20.0


@pytest.fixture
def usage(client_if_redis: MetadataClient | None) -> UsageStore:
    return MemoryUsageStore() if client_if_redis is None else RedisUsageStore(client_if_redis)


@pytest.fixture
async def unreachable() -> AsyncIterator[UsageStore]:
    client = MetadataClient("redis://127.0.0.1:1/0", timeout_s=0.5)
    yield RedisUsageStore(client)
    await client.close()


def told(holder: str, counts: dict[str, int] | None = None, *asked: str, begins: bool = False) -> Told:
    return Told(holder, begins, counts or {}, asked)


async def totals(usage: UsageStore, *names: str) -> list[int]:
    """What all use, as an edge without anything sees it."""
    answer = await usage.tell(told("looker", {}, *names, begins=True), LONG_S)
    assert answer is not None
    return list(answer.counts)


async def test_what_edges_have_is_added_up(usage: UsageStore) -> None:
    assert await usage.tell(told("a", {"c:acme": 3}, "c:acme", begins=True), LONG_S) == Totals(1, [3])
    assert await usage.tell(told("b", {"c:acme": 4, "c:other": 1}, "c:acme", begins=True), LONG_S) == Totals(2, [7])
    assert await usage.tell(told("a", {}, "c:other", "c:nobody", "c:acme"), LONG_S) == Totals(2, [1, 0, 7])


async def test_telling_the_same_again_changes_nothing(usage: UsageStore) -> None:
    for _ in range(3):
        assert await usage.tell(told("a", {"c:acme": 3, "s:acme\0one": 1}, begins=True), LONG_S) is not None
    assert await totals(usage, "c:acme", "s:acme") == [3, 1]


async def test_a_count_takes_the_place_of_the_one_before(usage: UsageStore) -> None:
    await usage.tell(told("a", {"c:acme": 30}, begins=True), LONG_S)
    assert await usage.tell(told("a", {"c:acme": 2}, "c:acme"), LONG_S) == Totals(1, [2])
    assert await usage.tell(told("a", {"c:acme": 0}, "c:acme"), LONG_S) == Totals(1, [0])


async def test_a_member_that_two_have_counts_once(usage: UsageStore) -> None:
    await usage.tell(told("a", {"s:acme\0one": 1, "s:acme\0two": 1}, begins=True), LONG_S)
    await usage.tell(told("b", {"s:acme\0two": 1, "s:acme\0three": 1, "s:acmes\0x": 1}, begins=True), LONG_S)
    assert await totals(usage, "s:acme", "s:acme\0two", "s:acme\0one", "s:acmes") == [3, 2, 1, 1]
    await usage.tell(told("a", {"s:acme\0two": 0}), LONG_S)
    assert await totals(usage, "s:acme") == [3]
    await usage.tell(told("b", {"s:acme\0two": 0}), LONG_S)
    assert await totals(usage, "s:acme") == [2]


async def test_who_did_not_begin_is_not_known(usage: UsageStore) -> None:
    assert await usage.tell(told("a", {"c:acme": 3}), LONG_S) is None
    assert await totals(usage, "c:acme") == [0]


async def test_what_an_edge_told_ends_with_its_life(usage: UsageStore) -> None:
    await usage.tell(told("dead", {"c:acme": 3, "s:acme\0one": 1, "s:acme\0both": 1}, begins=True), LIFE_S)
    await usage.tell(told("alive", {"c:acme": 4, "s:acme\0both": 1}, begins=True), LONG_S)
    async with asyncio.timeout(DEADLINE_S):
        while await totals(usage, "c:acme", "s:acme") != [4, 1]:
            await asyncio.sleep(0.02)
    assert await usage.tell(told("dead", {"c:acme": 3}, "c:acme"), LONG_S) is None, "it begins by another name"
    assert await usage.tell(told("dead.2", {"c:acme": 3}, "c:acme", begins=True), LONG_S) == Totals(3, [7])


async def test_who_tells_in_time_is_kept(usage: UsageStore) -> None:
    await usage.tell(told("a", {"c:acme": 3}, begins=True), LIFE_S)
    loop = asyncio.get_running_loop()
    end = loop.time() + 2 * LIFE_S
    while loop.time() < end:
        assert await usage.tell(told("a", {}, "c:acme"), 10.0) == Totals(1, [3])
        await asyncio.sleep(0.02)


async def test_who_leaves_counts_no_longer(usage: UsageStore) -> None:
    await usage.tell(told("a", {"c:acme": 3}, begins=True), LONG_S)
    await usage.tell(told("b", {"c:acme": 1}, begins=True), LONG_S)
    await usage.leave("a")
    await usage.leave("nobody")
    assert await usage.tell(told("b", {}, "c:acme"), LONG_S) == Totals(1, [1])


async def test_an_edge_with_many_names_is_taken_off_in_parts(usage: UsageStore) -> None:
    many = {f"i:acme:{number}": 1 for number in range(3 * CHUNK + 7)}
    answer = await usage.tell(told("large", many, *many, begins=True), LONG_S)
    assert answer == Totals(1, [1] * len(many))
    await usage.leave("large")
    async with asyncio.timeout(DEADLINE_S):
        while sum(await totals(usage, *many)):
            pass


async def test_totals_are_what_is_left_of_any_history(usage: UsageStore) -> None:
    random, model = Random(5), dict[str, dict[str, int]]()
    names = ["c:acme", "i:acme:bot", *(f"s:acme\0{number}" for number in range(4))]
    for step in range(150):
        holder = random.choice("abc")
        if random.random() < 0.1:
            await usage.leave(holder)
            model.pop(holder, None)
            continue
        counts = {
            name: random.randint(0, 1 if "\0" in name else 5) for name in random.sample(names, random.randint(0, 4))
        }
        if holder not in model:
            assert await usage.tell(told(holder, counts), LONG_S) is None, step
            await totals(usage)  # what it told by this name before is taken off by now
        await usage.tell(told(holder, counts, begins=holder not in model), LONG_S)
        model.setdefault(holder, {}).update(counts)
    sums = [sum(of.get(name, 0) for of in model.values()) for name in names]
    assert await totals(usage, *names) == sums
    assert await totals(usage, "s:acme") == [sum(count > 0 for count in sums[2:])]


async def test_redis_keeps_nothing_of_who_is_gone(client: MetadataClient) -> None:
    usage = RedisUsageStore(client)
    await usage.tell(told("a", {"c:acme": 3, "i:acme:x": 3, "s:acme\0one": 1}, begins=True), LONG_S)
    await usage.leave("a")
    await usage.tell(told("b", begins=True), LONG_S)
    assert await keys_in(client, "hg:{use}:*") == [b"hg:{use}:holders"]


async def test_a_redis_that_lost_its_data_knows_nobody(client: MetadataClient) -> None:
    usage = RedisUsageStore(client)
    await usage.tell(told("a", {"c:acme": 3}, begins=True), LONG_S)
    await client.redis.flushdb()
    assert await usage.tell(told("a", {}, "c:acme"), LONG_S) is None


async def test_a_store_that_is_away_is_said_to_be(unreachable: UsageStore) -> None:
    with pytest.raises(StoreError, match="metadata store"):
        await unreachable.tell(told("a", begins=True), LONG_S)
    with pytest.raises(StoreError, match="metadata store"):
        await unreachable.leave("a")
