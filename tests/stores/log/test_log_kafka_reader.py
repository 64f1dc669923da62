"""What only a real Kafka can show of the reader and the admin: a busy pool, no brokers, advice."""

from contextlib import aclosing

import pytest
from tests.stores.log.helpers import Stores, until, write_all

from heliograph.stores.kafka import KafkaLogAdmin, KafkaLogReader
from heliograph.stores.ports import StoreError
from heliograph.stores.topic_advice import advise


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
