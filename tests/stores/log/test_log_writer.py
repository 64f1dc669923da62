"""What every writer of the log promises."""

import asyncio

import pytest
from tests.stores.log.helpers import Stores, read_until, until, write, write_all

from heliograph.core.partitions import partition_of
from heliograph.stores.ports import LogWriter, StoreError, TopicSpec


async def test_a_written_record_is_read_as_it_was(stores: Stores) -> None:
    topic = await stores.topic()
    headers = [("ce_id", b"m-1"), ("ce_sequence", b"\x00\xff"), ("ce_id", b"again")]
    await write(await stores.writer(), topic, b'{"text":"hi"}', key=b"acme:planner:1", headers=headers)
    (record,) = await read_until(await stores.consumer(topic), 1)
    assert (record.topic, record.partition, record.offset) == (topic, 0, 0)
    assert (record.key, record.value) == (b"acme:planner:1", b'{"text":"hi"}')
    assert record.headers == headers
    assert record.timestamp_ms > 1_600_000_000_000


async def test_a_record_may_lack_key_value_and_what_a_header_says(stores: Stores) -> None:
    topic, writer = await stores.topic(), await stores.writer()
    answered: asyncio.Future[StoreError | None] = asyncio.get_running_loop().create_future()
    writer.write(topic, 0, None, None, [("x", None)], answered.set_result)
    assert await answered is None
    (record,) = await read_until(await stores.consumer(topic), 1)
    assert (record.key, record.value, record.headers) == (None, None, [("x", None)])


async def test_records_of_a_partition_keep_the_order_of_their_writes(stores: Stores) -> None:
    topic = await stores.topic(partitions=2)
    values = [b"%d" % number for number in range(500)]
    writer = await stores.writer()
    await asyncio.gather(
        write_all(writer, topic, values, partition=0), write_all(writer, topic, values[:100], partition=1)
    )
    records = await read_until(await stores.consumer(topic), 600)
    assert [record.value for record in records if record.partition == 0] == values
    assert [record.value for record in records if record.partition == 1] == values[:100]


async def test_done_never_runs_inside_the_call(stores: Stores) -> None:
    topic, writer = await stores.topic(), await stores.writer()
    await write(writer, topic, b"first")
    inside = True
    seen: list[bool] = []
    answered = asyncio.Event()

    def done(_error: StoreError | None) -> None:
        seen.append(inside)
        answered.set()

    for _ in range(20):
        writer.write(topic, 0, b"k", b"v", [], done)
    inside = False
    await until(lambda: len(seen) == 20)
    assert not any(seen)


async def test_in_flight_counts_what_is_not_answered(stores: Stores) -> None:
    topic, writer = await stores.topic(), await stores.writer()
    assert writer.in_flight == 0
    for _ in range(5):
        writer.write(topic, 0, b"k", b"v", [], None)
    assert writer.in_flight == 5
    await until(lambda: writer.in_flight == 0)


async def test_its_load_is_what_waits(stores: Stores) -> None:
    topic, writer = await stores.topic(), await stores.writer()
    assert writer.load.in_flight == writer.load.oldest_s == 0
    for _ in range(5):
        writer.write(topic, 0, b"k", b"v", [], None)
    load = writer.load
    assert load.in_flight == 5
    assert load.capacity >= 1_000
    assert load.oldest_s >= 0
    await until(lambda: writer.load.in_flight == 0)
    assert (writer.load.oldest_s, writer.load.broker_errors) == (0, 0)


async def test_what_is_wrong_with_a_topic_is_no_error_of_the_brokers(stores: Stores) -> None:
    topic, writer = await stores.topic(), await stores.writer()
    await write(writer, topic, b"makes the topic known")
    with pytest.raises(StoreError):
        await write(writer, topic, b"v", partition=7)
    assert writer.load.broker_errors == 0


async def test_a_missing_partition_is_refused(stores: Stores) -> None:
    topic, writer = await stores.topic(), await stores.writer()
    await write(writer, topic, b"makes the topic known")
    with pytest.raises(StoreError) as refused:
        await write(writer, topic, b"v", partition=7)
    assert refused.value.code == "log_unavailable"
    assert not refused.value.maybe_done


async def test_a_grown_topic_can_be_written_to(stores: Stores) -> None:
    topic, writer = await stores.topic(), await stores.writer()
    await write(writer, topic, b"makes the topic known")
    await (await stores.admin()).grow(topic, 3)

    async def written() -> bool:
        try:
            await write(writer, topic, b"in the new one", partition=2)
        except StoreError:
            return False
        return True

    await until(written, deadline_s=5.0)
    records = await read_until(await stores.consumer(topic), 2)
    assert {record.partition for record in records} == {0, 2}


async def test_close_flushes_and_says_what_is_left(stores: Stores) -> None:
    topic, writer = await stores.topic(), await stores.writer()
    for number in range(50):
        writer.write(topic, 0, b"k", b"%d" % number, [], None)
    assert await writer.close(10.0) == 0
    assert len(await read_until(await stores.consumer(topic), 50)) == 50


async def test_a_closed_writer_refuses(stores: Stores) -> None:
    topic, writer = await stores.topic(), await stores.writer()
    await writer.close(1.0)
    with pytest.raises(StoreError):
        writer.write(topic, 0, b"k", b"v", [], None)


async def test_a_record_without_a_partition_goes_where_javas_clients_would_put_its_key(stores: Stores) -> None:
    topic, writer = await stores.topic(partitions=4), await stores.writer()
    keys = [f"acme:planner:trip-{number}".encode() for number in range(20)]
    await asyncio.gather(*(write(writer, topic, b"v", partition=-1, key=key) for key in keys))
    records = await read_until(await stores.consumer(topic), 20)
    assert {record.key: record.partition for record in records} == {key: partition_of(key, 4) for key in keys}


async def written(writer: LogWriter, topic: str) -> bool:
    """Whether a record could be written now."""
    try:
        await write(writer, topic, b"v")
    except StoreError:
        return False
    return True


async def test_a_topic_known_as_missing_can_be_written_to_once_it_is_there(stores: Stores) -> None:
    name = f"late-{stores.group}"
    writer = await stores.writer()
    with pytest.raises(StoreError) as missing:
        await write(writer, name, b"v")
    assert not missing.value.maybe_done
    with pytest.raises(StoreError):
        writer.write(name, 0, b"k", b"v", [], None)
    await (await stores.admin()).create(TopicSpec(name, 1, None, {}))
    await until(lambda: written(writer, name), deadline_s=5.0)


async def test_one_callback_that_fails_keeps_no_other_from_being_told(stores: Stores) -> None:
    topic, writer = await stores.topic(), await stores.writer()
    told: list[StoreError | None] = []

    def broken(_error: StoreError | None) -> None:
        raise RuntimeError("a bug of the caller")

    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)  # where it may be told to
    for done in (broken, told.append, broken, told.append):
        writer.write(topic, 0, b"k", b"v", [], done)
    await until(lambda: writer.in_flight == 0)
    await until(lambda: len(told) == 2)
    assert told == [None, None]
