"""Kafka clients: one that hears nothing for long is replaced, since it may stay deaf when its broker is back."""

import asyncio
import concurrent.futures
import gc
import socket
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka import KafkaError, KafkaException
from tests.stores.log.helpers import Stores, read_until, until, write_all

from heliograph.stores.events import LOG, SINCE_START, StoreEvent
from heliograph.stores.kafka import KafkaLogConsumer, calls, hearing, member, reader
from heliograph.stores.kafka.calls import AdminCalls
from heliograph.stores.kafka.group_offsets import GroupOffsets
from heliograph.stores.kafka.hearing import RENEW_S
from heliograph.stores.ports import StoreError

PLACES = [("topic", 0)]


def replacements() -> int:
    """Clients that this process has replaced."""
    return SINCE_START.event_counts()[LOG, StoreEvent.CLIENT_REPLACED]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Client:
    """Answers each question with its class' present answer; None: not yet."""

    answer: KafkaError | None = None
    asked: list["concurrent.futures.Future[Any]"]
    made: list["weakref.ref[Client]"]

    def __init__(self, _config: object) -> None:
        self.made.append(weakref.ref(self))

    def list_offsets(self, wanted: dict[Any, Any], request_timeout: float) -> dict[Any, Any]:
        assert request_timeout > 0
        futures = {}
        for place in wanted:
            future = futures[place] = concurrent.futures.Future[Any]()
            if self.answer is not None:
                future.set_exception(KafkaException(self.answer))
            self.asked.append(future)
        return futures

    def poll(self, _timeout: float) -> None:
        pass


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> type[Client]:
    """The class in librdkafka's place, with nothing of another test."""

    class Ours(Client):
        answer = None
        asked: list[concurrent.futures.Future[Any]] = []  # noqa: RUF012 - each test has a class of its own
        made: list[weakref.ref[Client]] = []  # noqa: RUF012

    monkeypatch.setattr(calls._library, "AdminClient", Ours)
    return Ours


async def failing(asked: AdminCalls) -> None:
    with pytest.raises(StoreError):
        await asked.ends(PLACES)


async def test_one_that_hears_nothing_for_long_is_replaced_and_let_go(client: type[Client]) -> None:
    clock, replaced = Clock(), replacements()
    asked = AdminCalls({"bootstrap.servers": "nowhere:1"}, clock=clock)
    client.answer = KafkaError(KafkaError._TIMED_OUT)
    for _ in range(3):
        await failing(asked)
        clock.now += RENEW_S / 3 - 0.01
    await failing(asked)
    assert len(client.made) == 1, "not before its time"
    clock.now += 0.1
    await failing(asked)
    assert len(client.made) == 2
    await failing(asked)
    assert len(client.made) == 2, "the new one has its time too"
    clock.now += RENEW_S
    await failing(asked)
    assert len(client.made) == 3
    assert replacements() == replaced + 2
    await asyncio.gather(*asked._replaced)
    gc.collect()
    assert [ref() is None for ref in client.made] == [True, True, False]
    await asked.close()


async def test_any_answer_of_the_cluster_counts_as_heard(client: type[Client]) -> None:
    clock = Clock()
    asked = AdminCalls({"bootstrap.servers": "nowhere:1"}, clock=clock)
    for code in (KafkaError._TIMED_OUT, KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError._TIMED_OUT):
        client.answer = KafkaError(code)
        await failing(asked)
        clock.now += RENEW_S - 1
    client.answer = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)
    asked._refreshed_at = time.monotonic()  # a look at all topics is not this test's
    assert await asked.ends(PLACES) == {}
    assert len(client.made) == 1
    await asked.close()


async def test_one_with_questions_open_is_kept_until_they_are_answered(client: type[Client]) -> None:
    clock = Clock()
    asked = AdminCalls({"bootstrap.servers": "nowhere:1"}, clock=clock)
    waiting = asyncio.create_task(failing(asked))
    while not client.asked:
        await asyncio.sleep(0)
    client.answer = KafkaError(KafkaError._TRANSPORT)
    await failing(asked)
    clock.now += RENEW_S
    await failing(asked)
    gc.collect()
    assert len(client.made) == 2
    assert client.made[0]() is not None, "it would be torn down under its callbacks"
    client.asked[0].set_exception(KafkaException(client.answer))
    await waiting
    await asyncio.gather(*asked._replaced)
    gc.collect()
    assert client.made[0]() is None
    await asked.close()


@pytest.fixture
def deaf_broker() -> Iterator[str]:
    """Takes connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


async def test_librdkafkas_own_is_replaced_again_and_again_and_leaves_no_threads(
    deaf_broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hearing, "RENEW_S", 0.5)
    before, replaced = threads(), replacements()
    asked = AdminCalls({"bootstrap.servers": deaf_broker}, timeout_s=0.2)
    of_one = threads() - before
    async with asyncio.timeout(20):
        while replacements() < replaced + 4:
            await failing(asked)
    await until(lambda: threads() - before <= 2 * of_one + 1, deadline_s=20)
    await asked.close()
    await until(lambda: threads() <= before, deadline_s=20)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaced after a second; a true broker that is busy answers before."""
    monkeypatch.setattr(hearing, "RENEW_S", 1.0)
    monkeypatch.setattr(member, "QUIET_S", 0.1)
    monkeypatch.setattr(member, "LOOK_TIMEOUT_S", 0.5)


class Lost:
    """Makes clients, of which the first reaches a broker that says nothing: it has lost the true ones' addresses."""

    def __init__(self, deaf_broker: str) -> None:
        self.deaf_broker = deaf_broker
        self.made: list[Any] = []

    def __call__(self, config: dict[str, Any]) -> Any:
        if not self.made:
            config = {**config, "bootstrap.servers": self.deaf_broker}
        self.made.append(confluent_kafka.Consumer(config))
        return self.made[-1]


@pytest.mark.parametrize("protocol", ["consumer", "classic"])
@pytest.mark.usefixtures("impatient")
async def test_a_member_that_lost_all_brokers_is_replaced_and_reads_where_the_group_is(
    kafka: Stores, deaf_broker: str, protocol: str
) -> None:
    topic, writer = await kafka.topic(), await kafka.writer()
    await write_all(writer, topic, [b"1", b"2", b"3"])
    before = await kafka.consumer(topic, protocol=protocol)
    records = await read_until(before, 3)
    await before.commit(records[:1])
    await before.close()
    lost, replaced = Lost(deaf_broker), replacements()
    consumer = await kafka.consumer(topic, protocol=protocol, consumer=lost)
    assert isinstance(consumer, KafkaLogConsumer)
    records = await read_until(consumer, 2)
    assert [record.value for record in records] == [b"2", b"3"]
    await consumer.commit(records)
    assert await consumer.committed_past({(topic, records[0].partition): 3}) == {(topic, records[0].partition): True}
    assert consumer.stats[StoreEvent.CLIENT_REPLACED] >= 1
    assert len(lost.made) == consumer.stats[StoreEvent.CLIENT_REPLACED] + 1
    assert replacements() >= replaced + consumer.stats[StoreEvent.CLIENT_REPLACED]


@pytest.mark.usefixtures("impatient")
async def test_a_member_that_hears_its_brokers_is_not_replaced_for_having_nothing_to_read(kafka: Stores) -> None:
    topic = await kafka.topic()
    consumer = await kafka.consumer(topic)
    assert isinstance(consumer, KafkaLogConsumer)
    end = time.monotonic() + 3
    while time.monotonic() < end:
        assert await consumer.poll(10, 0.1) == []
    assert consumer.stats[StoreEvent.CLIENT_REPLACED] == 0


@pytest.mark.usefixtures("impatient")
async def test_members_of_brokers_that_are_away_are_replaced_and_leave_no_threads(deaf_broker: str) -> None:
    before = threads()
    consumer = KafkaLogConsumer({"bootstrap.servers": deaf_broker}, "g", protocol="classic")
    await consumer.start(["t"])
    async with asyncio.timeout(30):
        while consumer.stats[StoreEvent.CLIENT_REPLACED] < 3:
            await consumer.poll(10, 0.1)
    await consumer.close()
    await until(lambda: threads() <= before, deadline_s=30)


@pytest.mark.usefixtures("impatient")
async def test_who_asks_for_a_groups_offsets_and_lost_all_brokers_is_replaced(kafka: Stores, deaf_broker: str) -> None:
    topic, writer = await kafka.topic(), await kafka.writer()
    await write_all(writer, topic, [b"1"])
    consumer = await kafka.consumer(topic)
    records = await read_until(consumer, 1)
    await consumer.commit(records)
    place = (topic, records[0].partition)
    lost = Lost(deaf_broker)
    offsets = GroupOffsets(kafka.properties, kafka.group, 0.5, consumer=lost)
    found: dict[tuple[str, int], int] = {}
    async with asyncio.timeout(30):
        while not found:
            try:
                found = await offsets.committed([place])
            except StoreError:
                continue
    assert found == {place: 1}
    assert len(lost.made) >= 2
    await offsets.close()


async def test_a_reader_that_lost_all_brokers_is_replaced_after_the_read_that_it_failed(
    kafka: Stores, deaf_broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic, writer = await kafka.topic(), await kafka.writer()
    await write_all(writer, topic, [b"1", b"2"])
    lost, replaced = Lost(deaf_broker), replacements()
    monkeypatch.setattr(reader, "Consumer", lost)
    reading = await kafka.reader(pool_size=1, stall_timeout_s=3.0)
    with pytest.raises(StoreError, match="no record for"):
        [batch async for batch in reading.read(topic, 0, 0, 2)]
    assert replacements() == replaced + 1
    batches = [batch async for batch in reading.read(topic, 0, 0, 2)]
    assert [record.value for batch in batches for record in batch] == [b"1", b"2"]
    assert len(lost.made) == 2


def threads() -> int:
    """Those of librdkafka in this process."""
    return sum(path.read_text().startswith("rdk:") for path in Path("/proc/self/task").glob("*/comm"))
