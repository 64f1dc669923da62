"""What only a real Kafka can show of the writer: outages, fatal errors, topics that come late."""

import asyncio
import ctypes
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka import KafkaError, Producer
from tests.stores.log.helpers import Stores, read_until, until, write, write_all

from heliograph.core.errors import InvalidValueError
from heliograph.local.kafka import KafkaServer
from heliograph.stores.events import StoreEvent
from heliograph.stores.kafka import KafkaLogWriter
from heliograph.stores.kafka.writer import REPORTS_AT_ONCE
from heliograph.stores.ports import LogWriter, StoreError, TopicSpec


class Outcomes:
    """What `done` was told, in order."""

    def __init__(self) -> None:
        self.told: list[StoreError | None] = []

    def __call__(self, error: StoreError | None) -> None:
        self.told.append(error)


async def written(writer: LogWriter, topic: str) -> bool:
    """Whether a record could be written now."""
    try:
        await write(writer, topic, b"v")
    except StoreError:
        return False
    return True


async def kafka_writer(kafka: Stores, **options: Any) -> KafkaLogWriter:
    writer = await kafka.writer(**options)
    assert isinstance(writer, KafkaLogWriter)
    return writer


async def test_a_new_topics_first_record_is_read_within_5_s_though_its_writer_asked_too_early(kafka: Stores) -> None:
    """The edge and the router know a tenant before the brokers know its topic."""
    name, known = f"early-{kafka.group}", await kafka.topic()
    writer, consumer = await kafka_writer(kafka), await kafka.consumer(known, name)
    await write(writer, known, b"joined")
    await read_until(consumer, 1)
    early = Outcomes()
    writer.write(name, 0, b"k", b"early", [], early)
    loop = asyncio.get_running_loop()
    begin = loop.time()
    await (await kafka.admin()).create(TopicSpec(name, 6, None, {}))
    await consumer.set_topics([known, name])
    assert [record.value for record in await read_until(consumer, 1)] == [b"early"]
    assert loop.time() - begin < 5.0
    assert early.told == [None]


async def test_a_full_queue_refuses_at_once(kafka: Stores) -> None:
    topic = await kafka.topic()
    writer = KafkaLogWriter({**kafka.properties, "queue.buffering.max.messages": 10}, linger_ms=1_000)
    await writer.start()
    for _ in range(10):
        writer.write(topic, 0, b"k", b"v", [], None)
    with pytest.raises(StoreError, match="full"):
        writer.write(topic, 0, b"k", b"v", [], None)
    assert writer.stats.errors["_QUEUE_FULL"] == 1
    assert writer.in_flight == 10
    assert await writer.close(10.0) == 0


async def test_what_comes_back_at_once_is_told_in_order_and_the_loop_has_its_turns_between() -> None:
    """Without brokers, some thousands of records run out of time within one look of the client at its queue."""
    writer = KafkaLogWriter({"bootstrap.servers": "127.0.0.1:1"}, delivery_timeout_s=1.0)
    await writer.start()
    count, told, turns = 20 * REPORTS_AT_ONCE, list[int](), Counter[int]()
    turn = 0

    def done(number: int) -> Callable[[StoreError | None], None]:
        def tell(_error: StoreError | None) -> None:
            told.append(number)
            turns[turn] += 1

        return tell

    for number in range(count):
        writer.write("anywhere", 0, b"k", b"v", [], done(number))
    async with asyncio.timeout(30):
        while writer.in_flight:
            turn += 1
            await asyncio.sleep(0)
    assert told == list(range(count))
    assert max(turns.values()) < count // 4
    assert await writer.close(1.0) == 0


async def test_closing_tells_what_was_not_told_yet() -> None:
    writer = KafkaLogWriter({"bootstrap.servers": "127.0.0.1:1"}, delivery_timeout_s=60.0)
    await writer.start()
    outcomes = Outcomes()
    for _ in range(3 * REPORTS_AT_ONCE):
        writer.write("anywhere", 0, b"k", b"v", [], outcomes)
    assert await writer.close(0.0) == 3 * REPORTS_AT_ONCE
    assert len(outcomes.told) == 3 * REPORTS_AT_ONCE


async def test_one_callback_that_fails_does_not_keep_others_from_being_told(kafka: Stores) -> None:
    topic, writer, told = await kafka.topic(), await kafka_writer(kafka), Outcomes()

    def broken(_error: StoreError | None) -> None:
        raise RuntimeError("a bug of the caller")

    for done in (broken, told, broken, told):
        writer.write(topic, 0, b"k", b"v", [], done)
    await until(lambda: writer.in_flight == 0)
    assert told.told == [None, None]
    assert writer.stats[StoreEvent.CALLBACK_FAILED] == 2


async def test_a_property_the_library_refuses_is_named_without_its_value() -> None:
    writer = KafkaLogWriter({"bootstrap.servers": "127.0.0.1:1", "security.protocol": "hunter2"})
    with pytest.raises(InvalidValueError) as refused:
        await writer.start()
    assert "security.protocol" in str(refused.value)
    assert "hunter2" not in str(refused.value)


async def test_guarantees_can_not_be_configured_away() -> None:
    writer = KafkaLogWriter({"bootstrap.servers": "127.0.0.1:1", "acks": "0", "enable.idempotence": False})
    await writer.start()
    assert writer._config["acks"] == "all"
    assert writer._config["enable.idempotence"] is True
    await writer.close(0)


async def test_without_brokers_a_write_fails_after_the_delivery_timeout_and_may_have_been_done() -> None:
    writer, told = KafkaLogWriter({"bootstrap.servers": "127.0.0.1:1"}, delivery_timeout_s=1.0), Outcomes()
    await writer.start()
    with pytest.raises(StoreError):
        await writer.ping(0.5)
    writer.write("t", 0, b"k", b"v", [], told)
    await until(lambda: writer.oldest_unacknowledged_s > 0.2)
    await until(lambda: bool(told.told))
    error = told.told[0]
    assert error is not None
    assert (error.code, error.maybe_done) == ("log_unavailable", True)
    assert writer.stats.errors["_MSG_TIMED_OUT"] == 1
    assert writer.brokers_down
    assert writer.load.broker_errors >= 1
    assert writer.oldest_unacknowledged_s == 0.0
    assert await writer.close(0) == 0


def send(server: KafkaServer, number: signal.Signals) -> None:
    if server.process is not None:
        server.process.signal(number)


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[KafkaServer]:
    """A broker of the test's own, to be killed and frozen."""
    server = KafkaServer(tmp_path)
    server.start()
    yield server
    send(server, signal.SIGCONT)
    server.stop()


async def test_an_outage_ends_without_loss_and_without_a_record_twice(own_kafka: KafkaServer, kafka: Stores) -> None:
    kafka.bootstrap = own_kafka.bootstrap_servers
    topic = await kafka.topic()
    writer = await kafka_writer(kafka, delivery_timeout_s=60.0)
    await write(writer, topic, b"before")
    own_kafka.kill()
    values = [b"%d" % number for number in range(50)]
    writing = asyncio.create_task(write_all(writer, topic, values))
    await until(lambda: writer.brokers_down)
    assert writer.in_flight == 50
    await asyncio.to_thread(own_kafka.start)
    await writing
    consumer = await kafka.consumer(topic)
    assert [record.value for record in await read_until(consumer, 51)] == [b"before", *values]
    assert await consumer.poll(10, 0.5) == []
    assert not writer.brokers_down


async def test_a_frozen_broker_costs_the_records_under_way_and_nothing_after(
    own_kafka: KafkaServer, kafka: Stores
) -> None:
    kafka.bootstrap = own_kafka.bootstrap_servers
    topic, told = await kafka.topic(), Outcomes()
    writer = await kafka_writer(kafka, delivery_timeout_s=1.0)
    await until(lambda: written(writer, topic))
    send(own_kafka, signal.SIGSTOP)
    for number in range(5):
        writer.write(topic, 0, b"k", b"%d" % number, [], told)
    await until(lambda: len(told.told) == 5)
    send(own_kafka, signal.SIGCONT)
    assert all(error is not None and error.maybe_done for error in told.told)
    await until(lambda: written(writer, topic))


async def test_a_fatal_error_ends_the_producer_not_the_writer(kafka: Stores) -> None:
    made: list[Producer] = []

    def producer(config: dict[str, Any]) -> Producer:
        made.append(Producer(config))
        return made[-1]

    topic, told = await kafka.topic(), Outcomes()
    writer = await kafka_writer(kafka, producer=producer)
    await write(writer, topic, b"before")
    writer.write(topic, 0, b"k", b"under way", [], told)
    make_fatal(made[0])
    await until(lambda: bool(told.told))
    await until(lambda: written(writer, topic))
    assert writer.stats[StoreEvent.PRODUCER_REBUILT] == 1
    assert len(made) == 2
    assert writer.stats.errors["client:OUT_OF_ORDER_SEQUENCE_NUMBER"] == 1
    await until(lambda: not writer._retired)
    assert writer.in_flight == 0


def make_fatal(producer: Producer) -> None:
    """What librdkafka itself offers to tests (`rd_kafka_test_fatal_error`), called beside its Python binding."""
    libraries = Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs"
    library = ctypes.CDLL(str(next(libraries.glob("librdkafka*"))))
    library.rd_kafka_test_fatal_error.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p]
    handle = ctypes.c_void_p.from_address(id(producer) + object.__basicsize__)
    library.rd_kafka_test_fatal_error(handle, KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, b"test")
