"""What only a real Kafka can show of the reader and the admin: retention, a busy pool, no brokers, advice."""

import asyncio
from contextlib import aclosing

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from tests.stores.log.helpers import Stores, until, write_all

from heliograph.stores.kafka import KafkaLogAdmin, KafkaLogReader
from heliograph.stores.ports import StoreError
from heliograph.stores.topic_advice import advise


async def forget_before(kafka: Stores, topic: str, offset: int) -> None:
    """What retention does."""
    admin = AdminClient(kafka.properties)  # type: ignore[arg-type]
    for future in admin.delete_records([TopicPartition(topic, 0, offset)]).values():
        await asyncio.wrap_future(future)


async def test_a_read_begins_at_what_retention_left(kafka: Stores) -> None:
    topic = await kafka.topic()
    await write_all(await kafka.writer(), topic, [b"%d" % number for number in range(10)])
    await forget_before(kafka, topic, 6)
    reader = await kafka.reader()
    assert await reader.bounds(topic, 0) == (6, 10)
    read = [record.offset async for records in reader.read(topic, 0, 2, 9) for record in records]
    assert read == [6, 7, 8]
    assert [batch async for batch in reader.read(topic, 0, 2, 5)] == []


async def test_a_read_goes_on_behind_what_retention_takes_meanwhile(kafka: Stores) -> None:
    topic = await kafka.topic()
    await write_all(await kafka.writer(), topic, [b"%d" % number * 20_000 for number in range(100)])
    reader = await kafka.reader()
    seen: list[int] = []
    async with aclosing(reader.read(topic, 0, 0, 100, batch=1)) as batches:  # type: ignore[type-var]
        async for records in batches:
            if not seen:
                await forget_before(kafka, topic, 90)
            seen += [record.offset for record in records]
    assert seen == sorted(set(seen))
    assert seen[-1] == 99


async def test_a_read_that_finds_every_client_busy_says_so_after_a_while(kafka: Stores) -> None:
    topic = await kafka.topic()
    await write_all(await kafka.writer(), topic, [b"1", b"2"])
    reader = await kafka.reader(pool_size=1, acquire_timeout_s=0.2)
    assert isinstance(reader, KafkaLogReader)
    async with aclosing(reader.read(topic, 0, 0, 2, batch=1)) as first:  # type: ignore[type-var]
        await anext(first)
        with pytest.raises(StoreError, match="busy"):
            await anext(reader.read(topic, 0, 0, 2))
    await until(lambda: reader.reading == 0)
    assert [len(records) async for records in reader.read(topic, 0, 0, 2)] in ([2], [1, 1])


async def test_without_brokers_reads_and_questions_say_so() -> None:
    reader = KafkaLogReader({"bootstrap.servers": "127.0.0.1:1", "socket.timeout.ms": 1_000})
    await reader.start()
    reader._asking()._timeout_s = 0.5
    with pytest.raises(StoreError) as away:
        await anext(reader.read("t", 0, 0, 1))
    assert away.value.code == "log_unavailable"
    await reader.close()
    with pytest.raises(StoreError):
        await reader.bounds("t", 0)
    admin = KafkaLogAdmin({"bootstrap.servers": "127.0.0.1:1"}, timeout_s=0.5)
    with pytest.raises(StoreError) as away:
        await admin.describe(["t"])
    assert away.value.code == "log_unavailable"
    with pytest.raises(StoreError):
        await admin.ping()
    await admin.close()


async def test_settings_that_weaken_the_promises_are_told(kafka: Stores) -> None:
    admin = KafkaLogAdmin(kafka.properties)
    good = await kafka.topic()
    weak = await kafka.topic(
        unclean_leader_election_enable="true", message_timestamp_type="CreateTime", cleanup_policy="compact"
    )
    topics = await admin.describe([good, weak])
    assert {advice.setting for advice in advise(topics[good])} == {"replication factor"}
    found = {advice.setting: advice for advice in advise(topics[weak])}
    assert set(found) == {
        "replication factor",
        "unclean.leader.election.enable",
        "message.timestamp.type",
        "cleanup.policy",
    }
    assert "recommended is LogAppendTime" in str(found["message.timestamp.type"])
    await admin.close()
