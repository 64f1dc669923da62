"""What every member of a consumer group promises."""

import asyncio

from tests.stores.log.helpers import Stores, read_until, until, write, write_all

from heliograph.stores.ports import LogRecord, TopicSpec


def values(records: list[LogRecord]) -> list[bytes | None]:
    return [record.value for record in records]


async def test_a_group_begins_at_the_earliest_record(stores: Stores) -> None:
    topic = await stores.topic()
    await write_all(await stores.writer(), topic, [b"1", b"2", b"3"])
    assert values(await read_until(await stores.consumer(topic), 3)) == [b"1", b"2", b"3"]


async def test_a_batch_has_at_most_as_many_records_as_asked(stores: Stores) -> None:
    topic = await stores.topic()
    await write_all(await stores.writer(), topic, [b"%d" % number for number in range(30)])
    consumer = await stores.consumer(topic)
    records: list[LogRecord] = []

    async def all_read() -> bool:
        batch = await consumer.poll(7, 0.2)
        assert len(batch) <= 7
        records.extend(batch)
        return len(records) == 30

    await until(all_read)


async def test_a_first_record_does_not_wait_for_the_rest_of_its_batch(stores: Stores) -> None:
    topic, writer = await stores.topic(), await stores.writer()
    consumer = await stores.consumer(topic)
    await write(writer, topic, b"joined")
    await read_until(consumer, 1)
    loop = asyncio.get_running_loop()
    polling = asyncio.create_task(consumer.poll(1_000, 20.0))
    await write(writer, topic, b"alone")
    begin = loop.time()
    assert values(await polling) == [b"alone"]
    assert loop.time() - begin < 10.0


async def test_an_empty_poll_ends_with_its_timeout(stores: Stores) -> None:
    consumer = await stores.consumer(await stores.topic())
    assert await consumer.poll(10, 0.3) == []


async def test_the_group_continues_behind_what_was_committed(stores: Stores) -> None:
    topic, writer = await stores.topic(), await stores.writer()
    await write_all(writer, topic, [b"1", b"2", b"3", b"4"])
    first = await stores.consumer(topic)
    records = await read_until(first, 4)
    await first.commit(records[:2])
    await first.close()
    assert values(await read_until(await stores.consumer(topic), 2)) == [b"3", b"4"]


async def test_what_was_read_and_not_committed_is_read_again(stores: Stores) -> None:
    topic = await stores.topic()
    await write_all(await stores.writer(), topic, [b"1", b"2"])
    first = await stores.consumer(topic)
    await read_until(first, 2)
    await first.close()
    assert values(await read_until(await stores.consumer(topic), 2)) == [b"1", b"2"]


async def test_a_cancelled_poll_loses_nothing(stores: Stores) -> None:
    topic, writer = await stores.topic(), await stores.writer()
    consumer = await stores.consumer(topic)
    await write(writer, topic, b"joined")
    await read_until(consumer, 1)
    for number in range(20):
        polling = asyncio.create_task(consumer.poll(10, 5.0))
        await asyncio.sleep(0)
        await write(writer, topic, b"%d" % number)
        polling.cancel()
        await asyncio.gather(polling, return_exceptions=True)
        if not polling.cancelled():
            assert values(polling.result()) == [b"%d" % number]
        else:
            assert values(await read_until(consumer, 1)) == [b"%d" % number]


async def test_members_share_the_partitions_and_a_leaver_hands_his_over(stores: Stores) -> None:
    topic, writer = await stores.topic(partitions=4), await stores.writer()
    first, second = await stores.consumer(topic), await stores.consumer(topic)
    seen: dict[str, set[int]] = {"first": set(), "second": set()}

    async def both_read() -> bool:
        for partition in range(4):
            await write(writer, topic, b"v", partition=partition)
        for name, consumer in (("first", first), ("second", second)):
            records = await consumer.poll(100, 0.1)
            await consumer.commit(records)
            seen[name] = {record.partition for record in records}
        return bool(seen["first"]) and bool(seen["second"]) and not seen["first"] & seen["second"]

    await until(both_read)
    await second.close()

    async def first_has_all() -> bool:
        for partition in range(4):
            await write(writer, topic, b"v", partition=partition)
        return {record.partition for record in await first.poll(100, 0.2)} == {0, 1, 2, 3}

    await until(first_has_all)


async def test_a_commit_of_another_members_partition_is_no_error(stores: Stores) -> None:
    topic = await stores.topic()
    await write_all(await stores.writer(), topic, [b"1", b"2"])
    consumer = await stores.consumer(topic)
    records = await read_until(consumer, 2)
    await consumer.set_topics([])
    await until(lambda: _no_lag(consumer))
    await consumer.commit(records)
    assert await consumer.committed_past({(topic, 0): 1}) == {(topic, 0): False}


async def _no_lag(consumer: object) -> bool:
    lag: dict[tuple[str, int], int] = await consumer.lag()  # type: ignore[attr-defined]
    await consumer.poll(1, 0.0)  # type: ignore[attr-defined]
    return lag == {}


async def test_topics_come_and_go(stores: Stores) -> None:
    first, second = await stores.topic(), await stores.topic()
    writer = await stores.writer()
    consumer = await stores.consumer(first)
    await write(writer, first, b"1")
    assert values(await read_until(consumer, 1)) == [b"1"]
    await consumer.set_topics([first, second])
    await write(writer, second, b"2")
    assert values(await read_until(consumer, 1)) == [b"2"]
    await consumer.set_topics([second])
    await until(lambda: _reads_only(consumer, second))
    await write(writer, first, b"unread")
    await write(writer, second, b"3")
    assert values(await read_until(consumer, 1)) == [b"3"]


async def _reads_only(consumer: object, topic: str) -> bool:
    lag: dict[tuple[str, int], int] = await consumer.lag()  # type: ignore[attr-defined]
    await consumer.poll(1, 0.0)  # type: ignore[attr-defined]
    return {name for name, _ in lag} == {topic}


async def test_committed_past_tells_where_the_group_is(stores: Stores) -> None:
    topic = await stores.topic(partitions=2)
    await write_all(await stores.writer(), topic, [b"1", b"2", b"3"])
    consumer = await stores.consumer(topic)
    records = await read_until(consumer, 3)
    ends = await consumer.end_offsets([(topic, 0), (topic, 1), (topic, 9), ("missing", 0)])
    assert ends == {(topic, 0): 3, (topic, 1): 0}
    assert await consumer.committed_past(ends) == {(topic, 0): False, (topic, 1): True}
    await consumer.commit(records[:2])
    assert await consumer.committed_past({(topic, 0): 2}) == {(topic, 0): True}
    assert await consumer.committed_past({(topic, 0): 3}) == {(topic, 0): False}
    await consumer.commit(records)
    assert await consumer.committed_past(ends) == {(topic, 0): True, (topic, 1): True}


async def test_a_missing_partition_is_never_past(stores: Stores) -> None:
    consumer = await stores.consumer(await stores.topic())
    assert await consumer.committed_past({("missing", 0): 0}) == {("missing", 0): False}


async def test_lag_is_what_is_not_committed(stores: Stores) -> None:
    topic = await stores.topic(partitions=2)
    await write_all(await stores.writer(), topic, [b"1", b"2", b"3"])
    consumer = await stores.consumer(topic)
    records = await read_until(consumer, 3)
    assert await consumer.lag() == {(topic, 0): 3, (topic, 1): 0}
    await consumer.commit(records[:2])
    assert await consumer.lag() == {(topic, 0): 1, (topic, 1): 0}


async def test_a_new_topics_first_record_is_read_within_5_s_of_its_creation(stores: Stores) -> None:
    known = await stores.topic()
    writer, consumer = await stores.writer(), await stores.consumer(known)
    await write(writer, known, b"joined")
    await read_until(consumer, 1)
    loop = asyncio.get_running_loop()
    begin = loop.time()
    topic = await stores.topic(partitions=6)
    await consumer.set_topics([known, topic])
    await write(writer, topic, b"first", partition=5)
    assert values(await read_until(consumer, 1)) == [b"first"]
    assert loop.time() - begin < 5.0


async def test_what_retention_took_before_it_was_read_is_passed_over_and_counts_as_read(stores: Stores) -> None:
    topic, writer = await stores.topic(), await stores.writer()
    await write_all(writer, topic, [b"%d" % number for number in range(10)])
    first = await stores.consumer(topic)
    await first.commit((await read_until(first, 10))[:2])
    await first.close()
    await stores.forget_before(topic, 6)
    second = await stores.consumer(topic)
    assert [record.offset for record in await read_until(second, 4)] == [6, 7, 8, 9]
    assert await second.committed_past({(topic, 0): 6, (topic, 1): 0}) == {(topic, 0): True, (topic, 1): False}
    assert await second.committed_past({(topic, 0): 7}) == {(topic, 0): False}


async def test_a_topic_made_again_under_its_name_is_read_from_its_beginning(stores: Stores) -> None:
    admin, topic, writer = await stores.admin(), await stores.topic(), await stores.writer()
    consumer = await stores.consumer(topic)
    await write_all(writer, topic, [b"old"] * 3)
    await consumer.commit(await read_until(consumer, 3))
    await admin.delete(topic)
    await admin.create(TopicSpec(topic, 1, None, {}))
    await write_all(await stores.writer(), topic, [b"new %d" % number for number in range(8)])
    seen: set[bytes | None] = set()

    async def all_read() -> bool:
        records = await consumer.poll(100, 0.1)
        seen.update(record.value for record in records)
        await consumer.commit(records)
        return seen >= {b"new %d" % number for number in range(8)}

    await until(all_read)
    assert b"old" not in seen


async def test_a_deleted_topic_is_no_error_for_the_others(stores: Stores) -> None:
    admin, writer = await stores.admin(), await stores.writer()
    gone, stays = await stores.topic(), await stores.topic()
    consumer = await stores.consumer(gone, stays)
    await write(writer, gone, b"1")
    await write(writer, stays, b"1")
    records = await read_until(consumer, 2)
    await admin.delete(gone)
    await consumer.commit(records)
    assert await consumer.committed_past({(stays, 0): 1}) == {(stays, 0): True}
    await write(writer, stays, b"2")
    assert [(record.topic, record.value) for record in await read_until(consumer, 1)] == [(stays, b"2")]
    assert {topic for topic, _ in await consumer.lag()} == {stays}
