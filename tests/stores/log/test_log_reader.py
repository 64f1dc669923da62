"""What every reader of ranges promises."""

from contextlib import aclosing

import pytest
from tests.stores.log.helpers import Stores, until, write, write_all

from heliograph.stores.ports import LogReader, StoreError

VALUES = [b"%d" % number for number in range(100)]


async def read(reader: LogReader, topic: str, start: int, end: int, batch: int = 500) -> list[bytes | None]:
    found: list[bytes | None] = []
    async for records in reader.read(topic, 0, start, end, batch):
        assert 0 < len(records) <= batch
        found += [record.value for record in records]
    return found


async def test_a_range_is_read_from_its_start_to_before_its_end(stores: Stores) -> None:
    topic = await stores.topic()
    await write_all(await stores.writer(), topic, VALUES)
    reader = await stores.reader()
    assert await read(reader, topic, 0, 100) == VALUES
    assert await read(reader, topic, 10, 20) == VALUES[10:20]
    assert await read(reader, topic, 99, 100) == VALUES[99:]
    assert await read(reader, topic, 0, 100, batch=7) == VALUES


async def test_a_range_ends_with_the_log(stores: Stores) -> None:
    topic = await stores.topic()
    await write_all(await stores.writer(), topic, VALUES[:10])
    reader = await stores.reader()
    assert await read(reader, topic, 5, 1_000) == VALUES[5:10]
    assert await read(reader, topic, 10, 1_000) == []
    assert await read(reader, topic, 500, 1_000) == []
    assert await read(reader, topic, 7, 7) == []


async def test_bounds_are_the_first_offset_and_the_end(stores: Stores) -> None:
    topic = await stores.topic()
    reader = await stores.reader()
    assert await reader.bounds(topic, 0) == (0, 0)
    await write_all(await stores.writer(), topic, VALUES[:10])
    assert await reader.bounds(topic, 0) == (0, 10)


async def test_an_offset_is_found_by_time(stores: Stores) -> None:
    topic = await stores.topic()
    writer = await stores.writer()
    for value in VALUES[:3]:
        await write_all(writer, topic, [value])
    reader = await stores.reader()
    times = [record.timestamp_ms async for batch in reader.read(topic, 0, 0, 3) for record in batch]
    assert await reader.offset_for_time(topic, 0, 0) == 0
    assert await reader.offset_for_time(topic, 0, times[2]) == times.index(times[2])
    assert await reader.offset_for_time(topic, 0, times[2] + 60_000) == 3


async def test_a_read_that_is_left_early_frees_the_reader(stores: Stores) -> None:
    topic = await stores.topic()
    await write_all(await stores.writer(), topic, VALUES)
    reader = await stores.reader()
    for _ in range(20):
        reading = reader.read(topic, 0, 0, 100, batch=5)
        async for records in reading:
            assert [record.value for record in records] == VALUES[: len(records)]
            break
        await reading.aclose()  # type: ignore[attr-defined]
    await until(lambda: reader.reading == 0)  # type: ignore[attr-defined]
    assert await read(reader, topic, 50, 60) == VALUES[50:60]


async def test_a_missing_topic_is_told(stores: Stores) -> None:
    reader = await stores.reader()
    assert await reader.partitions("missing") is None
    with pytest.raises(StoreError):
        await reader.bounds("missing", 0)
    with pytest.raises(StoreError):
        await read(reader, "missing", 0, 10)


async def test_partitions_are_what_the_topic_has(stores: Stores) -> None:
    topic = await stores.topic(partitions=3, retention_ms="3600000")
    info = await (await stores.reader()).partitions(topic)
    assert info is not None
    assert (info.name, info.partitions, info.replication_factor) == (topic, 3, 1)
    assert info.config["retention.ms"] == "3600000"
    assert info.topic_id


async def test_a_scan_gives_the_records_of_one_key_and_how_far_it_is(stores: Stores) -> None:
    topic = await stores.topic()
    writer = await stores.writer()
    for number in range(20):
        await write(writer, topic, b"%d" % number, key=b"rare" if number in (3, 11) else b"common-%d" % number)
    reader = await stores.reader()
    found: list[bytes | None] = []
    come_to = [2]
    async for step in reader.scan(topic, 0, 2, 18, b"rare", batch=5):
        found += [record.value for record in step.records]
        assert step.next_offset > come_to[-1]
        come_to.append(step.next_offset)
    assert found == [b"3", b"11"]
    assert come_to[-1] == 18
    assert [step.records async for step in reader.scan(topic, 0, 12, 20, b"rare", batch=50)] == [[]]


async def test_a_read_begins_at_what_retention_left(stores: Stores) -> None:
    topic = await stores.topic()
    await write_all(await stores.writer(), topic, [b"%d" % number for number in range(10)])
    await stores.forget_before(topic, 6)
    reader = await stores.reader()
    assert await reader.bounds(topic, 0) == (6, 10)
    read = [record.offset async for records in reader.read(topic, 0, 2, 9) for record in records]
    assert read == [6, 7, 8]
    assert [batch async for batch in reader.read(topic, 0, 2, 5)] == []


async def test_a_read_goes_on_behind_what_retention_takes_meanwhile(stores: Stores) -> None:
    topic = await stores.topic()
    await write_all(await stores.writer(), topic, [b"%d" % number * 20_000 for number in range(100)])
    reader = await stores.reader()
    seen: list[int] = []
    async with aclosing(reader.read(topic, 0, 0, 100, batch=1)) as batches:  # type: ignore[type-var]
        async for records in batches:
            if not seen:
                await stores.forget_before(topic, 90)
            seen += [record.offset for record in records]
    assert seen == sorted(set(seen))
    assert seen[-1] == 99
