"""What only a real Kafka can show of a group's member: rebalances, outages, topics made anew, both protocols."""

import asyncio
import ctypes
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka import KafkaError, KafkaException, Producer
from tests.stores.log.helpers import Stores, read_until, until, write, write_all

from heliograph.core.errors import InvalidValueError
from heliograph.local.kafka import KafkaServer, Seat
from heliograph.protocol.messages import RecordError, message_from_record
from heliograph.stores.events import StoreEvent
from heliograph.stores.kafka import KafkaLogConsumer
from heliograph.stores.kafka.member import GROWTH_SEEN_S
from heliograph.stores.ports import LogRecord, StoreError, TopicSpec

PROTOCOLS = pytest.mark.parametrize("protocol", ["consumer", "classic"])


async def kafka_consumer(kafka: Stores, *topics: str, **options: Any) -> KafkaLogConsumer:
    consumer = await kafka.consumer(*topics, **options)
    assert isinstance(consumer, KafkaLogConsumer)
    return consumer


def offsets(records: list[LogRecord]) -> list[int]:
    return [record.offset for record in records]


@PROTOCOLS
async def test_both_protocols_read_commit_and_continue(kafka: Stores, protocol: str) -> None:
    topic, writer = await kafka.topic(partitions=2), await kafka.writer()
    for partition in range(2):
        await write_all(writer, topic, [b"1", b"2"], partition=partition)
    first = await kafka_consumer(kafka, topic, protocol=protocol)
    assert first.protocol == protocol
    records = await read_until(first, 4)
    await first.commit([record for record in records if record.offset == 0])
    await first.close()
    second = await kafka_consumer(kafka, topic, protocol=protocol)
    assert offsets(await read_until(second, 2)) == [1, 1]
    assert second.assigned == {(topic, 0), (topic, 1)}


@PROTOCOLS
async def test_partitions_that_a_topic_has_grown_by_are_read_within_seconds(kafka: Stores, protocol: str) -> None:
    topic, writer = await kafka.topic(), await kafka.writer()
    consumer = await kafka_consumer(kafka, topic, protocol=protocol)
    await write(writer, topic, b"1")
    await read_until(consumer, 1)
    await (await kafka.admin()).grow(topic, 3)

    async def written() -> bool:
        try:
            await write(writer, topic, b"2", partition=2)
        except StoreError:
            return False
        return True

    await until(written)
    async with asyncio.timeout(4 * GROWTH_SEEN_S):  # without looking it would take a minute
        assert [record.partition for record in await read_until(consumer, 1)] == [2]


async def test_partitions_that_a_topic_has_grown_by_have_ends_at_once(kafka: Stores) -> None:
    """Whoever was asked about the topic before remembers that it had fewer."""
    topic = await kafka.topic()
    consumer, reader = await kafka_consumer(kafka, topic), await kafka.reader()
    assert await consumer.end_offsets([(topic, 0)]) == {(topic, 0): 0}
    assert await reader.bounds(topic, 0) == (0, 0)
    await (await kafka.admin()).grow(topic, 3)

    async def there() -> bool:
        try:
            ends = await consumer.end_offsets([(topic, 0), (topic, 2)])
            return (ends, await reader.bounds(topic, 2)) == ({(topic, 0): 0, (topic, 2): 0}, (0, 0))
        except StoreError as error:
            if "NOT_LEADER" not in str(error):
                raise
            return False  # the broker does not lead them yet

    await until(there, deadline_s=10)


@PROTOCOLS
async def test_a_member_whose_caller_waits_stays_and_takes_part_in_rebalances(kafka: Stores, protocol: str) -> None:
    topic, writer = await kafka.topic(partitions=2), await kafka.writer()
    options: dict[str, Any] = {"protocol": protocol, "keep_alive_s": 0.1}
    waiting = await kafka_consumer(kafka, topic, **options)
    for partition in range(2):
        await write(writer, topic, b"1", partition=partition)
    batch = await read_until(waiting, 2)
    joining = await kafka_consumer(kafka, topic, **options)
    # `waiting` is not polled from here on; the newcomer gets its share all the same.
    await until(lambda: len(joining.assigned) == 1 and len(waiting.assigned) == 1)
    assert waiting.stats.kept_alive > 0
    (kept,), (given,) = waiting.assigned, joining.assigned
    await waiting.commit(batch)
    assert waiting.stats[StoreEvent.COMMIT_NOT_OURS] == 1
    for partition in range(2):
        await write(writer, topic, b"2", partition=partition)
    assert [(record.partition, record.offset) for record in await read_until(waiting, 1)] == [(kept[1], 1)]
    assert [(record.partition, record.offset) for record in await read_until(joining, 2)] == [
        (given[1], 0),
        (given[1], 1),
    ]


class Refusing(confluent_kafka.Consumer):
    """The answer to its first commits is this one."""

    answer = KafkaError.REBALANCE_IN_PROGRESS
    times = 1

    def commit(self, *arguments: Any, **options: Any) -> Any:
        if self.times > 0:
            self.times -= 1
            raise KafkaException(KafkaError(self.answer))
        return super().commit(*arguments, **options)


@pytest.mark.parametrize(
    "code", [KafkaError.REBALANCE_IN_PROGRESS, KafkaError.ILLEGAL_GENERATION, KafkaError.UNKNOWN_TOPIC_OR_PART]
)
async def test_a_commit_that_is_refused_though_the_partition_stays_ours_is_to_be_repeated(
    kafka: Stores, code: int
) -> None:
    """Members keep partitions through a rebalance and read on: nobody would ever commit what was refused then."""

    class Answering(Refusing):
        answer = code

    topic, writer = await kafka.topic(), await kafka.writer()
    await write_all(writer, topic, [b"1", b"2"])
    consumer = await kafka_consumer(kafka, topic, protocol="classic", consumer=Answering)
    records = await read_until(consumer, 2)
    with pytest.raises(StoreError, match="commit"):
        await consumer.commit(records)
    assert await consumer.committed_past({(topic, 0): 2}) == {(topic, 0): False}
    await consumer.commit(records)
    assert await consumer.committed_past({(topic, 0): 2}) == {(topic, 0): True}
    assert consumer.stats[StoreEvent.COMMIT_NOT_OURS] == 0


async def test_a_commit_that_is_refused_for_a_topic_that_is_gone_is_no_error(kafka: Stores) -> None:
    class Answering(Refusing):
        answer = KafkaError.UNKNOWN_TOPIC_OR_PART
        times = 1_000_000

    topic, writer = await kafka.topic(), await kafka.writer()
    await write(writer, topic, b"1")
    consumer = await kafka_consumer(kafka, topic, protocol="classic", consumer=Answering)
    records = await read_until(consumer, 1)
    await (await kafka.admin()).delete(topic)

    async def passed_over() -> bool:
        try:
            await consumer.commit(records)
        except StoreError:  # its deletion has not come to all of the broker yet
            return False
        return True

    await until(passed_over)
    assert consumer.stats[StoreEvent.COMMIT_NOT_OURS] == 1


async def test_nothing_is_lost_while_the_caller_waits(kafka: Stores) -> None:
    topic, writer = await kafka.topic(), await kafka.writer()
    consumer = await kafka_consumer(kafka, topic, keep_alive_s=0.05)
    await write(writer, topic, b"0")
    assert offsets(await read_until(consumer, 1)) == [0]
    for number in range(1, 4):
        await write_all(writer, topic, [b"%d" % number] * 20)
        before = consumer.stats.kept_alive
        await until(lambda before=before: consumer.stats.kept_alive > before + 2)  # type: ignore[misc]
        expected = list(range(1 + (number - 1) * 20, 1 + number * 20))
        assert offsets(await read_until(consumer, 20)) == expected
    assert consumer.stats[StoreEvent.OFFSET_SKIPPED] == consumer.stats[StoreEvent.PARTITION_REWOUND] == 0


@PROTOCOLS
async def test_a_topic_made_again_is_read_from_its_beginning(kafka: Stores, protocol: str) -> None:
    admin, topic, writer = await kafka.admin(), await kafka.topic(), await kafka.writer()
    consumer = await kafka_consumer(kafka, topic, protocol=protocol, topic_check_s=0.1)
    await write_all(writer, topic, [b"old"] * 3)
    await consumer.commit(await read_until(consumer, 3))
    await until(lambda: topic in consumer._topic_ids)
    await admin.delete(topic)
    await admin.create(TopicSpec(topic, 1, None, {}))
    await (await kafka.writer()).close(0)
    fresh = await kafka.writer()
    await write_all(fresh, topic, [b"new %d" % number for number in range(8)])
    seen: set[bytes | None] = set()

    async def all_read() -> bool:
        records = await consumer.poll(100, 0.1)
        seen.update(record.value for record in records)
        await consumer.commit(records)
        return seen >= {b"new %d" % number for number in range(8)}

    await until(all_read)
    assert consumer.stats[StoreEvent.TOPIC_RECREATED] == 1
    assert b"old" not in seen


async def test_what_retention_took_before_it_was_read_is_counted(kafka: Stores) -> None:
    topic, writer = await kafka.topic(), await kafka.writer()
    await write_all(writer, topic, [b"%d" % number for number in range(10)])
    first = await kafka_consumer(kafka, topic)
    await first.commit((await read_until(first, 10))[:2])
    await first.close()
    await kafka.forget_before(topic, 6)
    second = await kafka_consumer(kafka, topic)
    assert offsets(await read_until(second, 4)) == [6, 7, 8, 9]
    assert second.stats[StoreEvent.OFFSET_SKIPPED] == 4
    assert await second.committed_past({(topic, 0): 6}) == {(topic, 0): True}
    assert await second.committed_past({(topic, 0): 7}) == {(topic, 0): False}


async def test_headers_whose_names_are_not_utf8_are_poison_not_a_crash(kafka: Stores) -> None:
    topic, writer = await kafka.topic(), await kafka.writer()
    await write_all(writer, topic, [b"before"] * 200)  # the interpreter takes other paths once it is warm
    produce_with_header(kafka, topic, b"\xff\xfe")
    await write(writer, topic, b"behind")
    *before, poison, behind = await read_until(await kafka_consumer(kafka, topic), 202)
    assert {record.value for record in before} == {b"before"}
    assert (poison.key, poison.value, behind.value) == (b"k", b"v", b"behind")
    with pytest.raises(RecordError) as error:
        message_from_record(poison.key, poison.value, poison.headers)
    assert error.value.reason == "header_not_utf8"


def produce_with_header(kafka: Stores, topic: str, name: bytes) -> None:
    """A record that the Python binding can't write: by librdkafka's own `rd_kafka_producev`."""
    producer = Producer(kafka.properties)
    libraries = Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs"
    library = ctypes.CDLL(str(next(libraries.glob("librdkafka*"))))
    handle = ctypes.c_void_p.from_address(id(producer) + object.__basicsize__)
    end, topic_, partition, value, key, header = 0, 1, 3, 4, 5, 9  # rd_kafka_vtype_t
    assert (
        library.rd_kafka_producev(
            handle,
            *(ctypes.c_int(topic_), ctypes.c_char_p(topic.encode())),
            *(ctypes.c_int(partition), ctypes.c_int32(0)),
            *(ctypes.c_int(value), ctypes.c_char_p(b"v"), ctypes.c_size_t(1)),
            *(ctypes.c_int(key), ctypes.c_char_p(b"k"), ctypes.c_size_t(1)),
            *(ctypes.c_int(header), ctypes.c_char_p(name), ctypes.c_char_p(b"x"), ctypes.c_ssize_t(1)),
            ctypes.c_int(end),
        )
        == 0
    )
    assert producer.flush(10) == 0


async def test_a_property_the_library_refuses_is_named() -> None:
    consumer = KafkaLogConsumer({"bootstrap.servers": "127.0.0.1:1", "fetch.min.bytes": "many"}, "g")
    with pytest.raises(InvalidValueError, match=r"fetch\.min\.bytes"):
        await consumer.start(["t"])


async def test_without_brokers_a_poll_says_so() -> None:
    consumer = KafkaLogConsumer({"bootstrap.servers": "127.0.0.1:1"}, "g")
    await consumer.start(["t"])

    async def told() -> bool:
        try:
            await consumer.poll(10, 0.1)
        except StoreError as error:
            return error.code == "log_unavailable"
        return False

    await until(told)
    await consumer.close()


async def test_a_call_that_does_not_end_is_seen() -> None:
    let_go = threading.Event()

    class Deaf(confluent_kafka.Consumer):
        def consume(self, *_arguments: Any, **_options: Any) -> list[Any]:
            let_go.wait(60)
            return []

    consumer = KafkaLogConsumer({"bootstrap.servers": "127.0.0.1:1"}, "g", consumer=Deaf)
    await consumer.start(["t"])
    assert consumer.held_up_s() == 0
    reading = asyncio.create_task(consumer.poll(10, 0.1))
    await until(lambda: consumer.held_up_s() > 0.3)
    let_go.set()
    assert await reading == []
    await until(lambda: consumer.held_up_s() == 0)
    await consumer.close()


@pytest.fixture
def classic_kafka(tmp_path: Path) -> Iterator[KafkaServer]:
    """A broker without KIP-848."""
    server = KafkaServer(tmp_path, seat=Seat(settings={"group.coordinator.rebalance.protocols": "classic"}))
    server.start()
    yield server
    server.stop()


async def test_a_broker_without_the_new_protocol_is_spoken_to_in_the_old_one_and_may_be_killed(
    classic_kafka: KafkaServer, kafka: Stores
) -> None:
    kafka.bootstrap = classic_kafka.bootstrap_servers
    topic, writer = await kafka.topic(), await kafka.writer()
    await write(writer, topic, b"1")
    consumer = await kafka_consumer(kafka, topic)
    records = await read_until(consumer, 1)
    assert (consumer.protocol, consumer.stats[StoreEvent.MEMBER_REBUILT]) == ("classic", 1)
    await consumer.commit(records)

    classic_kafka.kill()

    async def told() -> bool:
        try:
            await consumer.poll(10, 0.1)
        except StoreError as error:
            return error.code == "log_unavailable"
        return False

    await until(told)
    with pytest.raises(StoreError):
        await consumer.commit(records)
    await asyncio.to_thread(classic_kafka.start)
    await write(await kafka.writer(delivery_timeout_s=60.0), topic, b"2")

    async def read() -> bool:
        try:
            return offsets(await consumer.poll(10, 0.1)) == [1]
        except StoreError:
            return False

    await until(read)
