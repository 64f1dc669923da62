"""What every position index promises."""

import asyncio
import time

import pytest

from heliograph.core.positions import Position
from heliograph.stores import keys
from heliograph.stores.ports import CorruptError, IndexEntry, PositionIndex
from heliograph.stores.redis.metadata import MetadataClient, RedisPositionIndex

OLD = "1764000000000-1a2b3c4d"
NEW = "1764000001000-00000001"
SESSION = "acme:planner:trip-42"


def entry(seq: int, offset: int, *, epoch: str = OLD, partition: int = 3) -> IndexEntry:
    return IndexEntry(str(Position(epoch, seq)), "AAAA_topic-id", partition, offset)


async def test_the_entry_at_or_below_a_position(index: PositionIndex) -> None:
    await index.add([(SESSION, entry(100, 1_000)), (SESSION, entry(200, 2_000))], 60)
    assert await index.at_or_before(SESSION, str(Position(OLD, 99))) is None
    assert await index.at_or_before(SESSION, str(Position(OLD, 100))) == entry(100, 1_000)
    assert await index.at_or_before(SESSION, str(Position(OLD, 199))) == entry(100, 1_000)
    assert await index.at_or_before(SESSION, str(Position(OLD, 10**15))) == entry(200, 2_000)


async def test_an_older_epoch_is_below_a_newer_one(index: PositionIndex) -> None:
    await index.add([(SESSION, entry(900, 1_000)), (SESSION, entry(5, 2_000, epoch=NEW))], 60)
    assert await index.at_or_before(SESSION, str(Position(NEW, 4))) == entry(900, 1_000)
    assert await index.at_or_before(SESSION, str(Position(NEW, 5))) == entry(5, 2_000, epoch=NEW)


async def test_first_and_last(index: PositionIndex) -> None:
    assert await index.first(SESSION) is None
    assert await index.last(SESSION) is None
    await index.add([(SESSION, entry(seq, seq * 10)) for seq in (300, 100, 200)], 60)
    assert await index.first(SESSION) == entry(100, 1_000)
    assert await index.last(SESSION) == entry(300, 3_000)


async def test_of_two_places_of_a_position_the_earlier_serves(index: PositionIndex) -> None:
    await index.add([(SESSION, entry(100, 9_000)), (SESSION, entry(100, 10_000)), (SESSION, entry(200, 11_000))], 60)
    assert await index.at_or_before(SESSION, str(Position(OLD, 150))) == entry(100, 9_000)
    assert await index.first(SESSION) == entry(100, 9_000)


async def test_sessions_are_apart(index: PositionIndex) -> None:
    await index.add([(SESSION, entry(100, 1_000)), (SESSION + "1", entry(7, 70))], 60)
    assert await index.last(SESSION + "1") == entry(7, 70)
    assert await index.last(SESSION) == entry(100, 1_000)


async def test_of_a_long_session_the_first_and_the_newest_entries_are_kept(index: PositionIndex) -> None:
    await index.add([(SESSION, entry(seq, seq)) for seq in range(1, 151)], 60)
    assert await index.first(SESSION) == entry(1, 1)
    assert await index.last(SESSION) == entry(150, 150)
    assert await index.at_or_before(SESSION, str(Position(OLD, 51))) == entry(1, 1)
    assert await index.at_or_before(SESSION, str(Position(OLD, 52))) == entry(52, 52)


async def test_entries_expire(index: PositionIndex) -> None:
    await index.add([(SESSION, entry(100, 1_000))], 0.05)
    deadline = time.monotonic() + 5
    while await index.last(SESSION) is not None:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_adding_keeps_older_entries_alive(index: PositionIndex) -> None:
    other = SESSION + "-other"
    await index.add([(SESSION, entry(100, 1_000)), (other, entry(100, 1_000))], 0.2)
    await index.add([(SESSION, entry(200, 2_000))], 60)
    deadline = time.monotonic() + 5
    while await index.last(other) is not None:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    assert await index.first(SESSION) == entry(100, 1_000)


async def test_the_time_to_live_is_the_last_one_given(client: MetadataClient) -> None:
    index = RedisPositionIndex(client)
    await index.add([(SESSION, entry(100, 1_000))], 5)
    await index.add([(SESSION, entry(200, 2_000))], 500)
    assert await client.redis.pttl(keys.index(SESSION)) > 400_000
    assert await index.first(SESSION) == entry(100, 1_000)


async def test_adding_nothing_is_nothing(index: PositionIndex) -> None:
    await index.add([], 60)
    assert await index.first(SESSION) is None


@pytest.mark.parametrize("member", [b"\xff\xfe", b"hello", b"1764000000000-1a2b3c4d-0000000000000042 x y z"])
async def test_a_corrupt_member_is_told(client: MetadataClient, member: bytes) -> None:
    index = RedisPositionIndex(client)
    await client.redis.zadd(keys.index(SESSION), {member: 0})
    with pytest.raises(CorruptError) as caught:
        await index.last(SESSION)
    assert caught.value.key == keys.index(SESSION)


async def test_a_redis_that_lost_its_scripts_is_given_them_again(client: MetadataClient) -> None:
    index = RedisPositionIndex(client)
    sessions = [f"{SESSION}-{number}" for number in range(50)]
    for round_number in (1, 2):
        await client.redis.script_flush()
        await index.add([(session, entry(round_number, round_number)) for session in sessions], 60)
    for session in sessions:
        assert await index.last(session) == entry(2, 2)


async def test_a_key_of_another_type_fails_alone_and_is_told(client: MetadataClient) -> None:
    index = RedisPositionIndex(client)
    await client.redis.set(keys.index(SESSION), "not ours")
    with pytest.raises(CorruptError):
        await index.add([(SESSION, entry(1, 1)), (f"{SESSION}-2", entry(1, 1))], 60)
    assert await index.last(f"{SESSION}-2") == entry(1, 1)
