"""Reads ranges of the log outside of any group: history, exports, rehydration.

Reads run side by side, each on a client of its own out of a small pool; a client is one connection a broker and a few
threads, so the pool bounds both, and a read that finds none free waits for one. Fetches are bounded: a reader that is
slow holds some megabytes, not the topic.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from typing import Any, TypeVar
from uuid import uuid4

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from heliograph.stores.events import LOG, Tally
from heliograph.stores.kafka.calls import AdminCalls, Partition
from heliograph.stores.kafka.client import bad_configuration, configuration, library_logger, store_error
from heliograph.stores.kafka.decoding import decode
from heliograph.stores.kafka.hearing import close_aside, count_replaced
from heliograph.stores.ports import LogRecord, Scanned, StoreError, TopicInfo

T = TypeVar("T")

POOL_SIZE = 4
"""Reads at a time. Kafka serves one at 50 MB a second and more; beyond a few the CPU is the bound."""
WAIT_S = 0.2
"""For a first record; a closed read ends within this."""
STALL_TIMEOUT_S = 15.0
"""A read without a record for so long, though there are some, has failed, and its client is replaced."""
ACQUIRE_TIMEOUT_S = 10.0
"""For a free client."""
CALL_TIMEOUT_S = 10.0

DEFAULTS: Mapping[str, object] = {
    "fetch.max.bytes": 4 * 1024 * 1024,
    "max.partition.fetch.bytes": 1024 * 1024,
    "queued.min.messages": 2_000,
    "queued.max.messages.kbytes": 4 * 1024,
    "fetch.queue.backoff.ms": 5,
    "fetch.wait.max.ms": 50,  # at the log's end there is nothing to wait for: the range ends before it
    "fetch.error.backoff.ms": 50,
}


class _Client:
    """A consumer that belongs to no group, and the one thread that may touch it."""

    def __init__(self, config: Mapping[str, object]) -> None:
        try:
            self.consumer: Any = Consumer(dict(config))
        except (KafkaException, ValueError, TypeError) as error:
            raise bad_configuration(error, config) from None
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="log-reader")

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.thread, partial(work, *arguments))

    def close(self) -> None:
        self.thread.submit(self.consumer.close)
        self.thread.shutdown(wait=False)

    def give_up(self) -> None:
        """Close one that may never close; its thread has nothing to do."""
        close_aside(self.consumer.close)
        self.thread.shutdown(wait=False)


class _Batch:
    """What one look at the log gave."""

    __slots__ = ("errors", "last_offset", "records")

    def __init__(self) -> None:
        self.records: list[LogRecord] = []
        self.errors: list[KafkaError] = []
        self.last_offset = -1


class KafkaLogReader:
    """LogReader."""

    def __init__(
        self,
        properties: Mapping[str, object],
        *,
        pool_size: int = POOL_SIZE,
        stall_timeout_s: float = STALL_TIMEOUT_S,
        acquire_timeout_s: float = ACQUIRE_TIMEOUT_S,
    ) -> None:
        """`properties`: librdkafka's, `bootstrap.servers` among them."""
        self._properties = dict(properties)
        self._pool_size = pool_size
        self._stall_timeout_s = stall_timeout_s
        self._acquire_timeout_s = acquire_timeout_s
        self._calls: AdminCalls | None = None
        self._free: asyncio.Queue[_Client | None] = asyncio.Queue()
        self._clients: list[_Client] = []
        self._stats = Tally(LOG)
        self.reading = 0
        """Reads under way."""

    async def start(self) -> None:
        """Clients are made on first use. Raises InvalidValueError for a property they refuse."""
        self._calls = AdminCalls(self._properties, CALL_TIMEOUT_S)
        self._free = asyncio.Queue()
        for _ in range(self._pool_size):
            self._free.put_nowait(None)

    async def close(self) -> None:
        """Reads under way end with an error."""
        for client in self._clients:
            client.close()
        self._clients = []
        if self._calls is not None:
            calls, self._calls = self._calls, None
            await calls.close()

    async def partitions(self, topic: str) -> TopicInfo | None:
        calls = self._asking()
        found = (await calls.describe([topic])).get(topic)
        if found is None:
            return None
        config = (await calls.configs([topic])).get(topic, {})
        replicas = min((len(partition.replicas) for partition in found.partitions), default=0)
        return TopicInfo(topic, str(found.topic_id), len(found.partitions), replicas, config)

    async def offset_for_time(self, topic: str, partition: int, time_ms: int) -> int:
        found = await self._asking().at_time((topic, partition), time_ms)
        if found is not None and found >= 0:
            return found
        place = (topic, partition)
        return _only(place, await self._asking().ends([place]))

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        calls, place = self._asking(), (topic, partition)
        earliest, ends = await asyncio.gather(calls.earliest([place]), calls.ends([place]))
        return _only(place, earliest), _only(place, ends)

    async def read(
        self, topic: str, partition: int, start: int, end: int, batch: int = 500
    ) -> AsyncIterator[list[LogRecord]]:
        """The range as it is at the call: records that retention removes meanwhile are passed over."""
        async with aclosing(self._scan(topic, partition, start, end, None, batch)) as steps:
            async for step in steps:
                if step.records:
                    yield step.records

    async def scan(
        self, topic: str, partition: int, start: int, end: int, key: bytes, batch: int = 500
    ) -> AsyncIterator[Scanned]:
        async with aclosing(self._scan(topic, partition, start, end, key, batch)) as steps:
            async for step in steps:
                yield step

    async def _scan(
        self, topic: str, partition: int, start: int, end: int, key: bytes | None, batch: int
    ) -> AsyncGenerator[Scanned, None]:
        earliest, latest = await self.bounds(topic, partition)
        position, end = max(start, earliest), min(end, latest)
        if position >= end:
            return
        client = await self._acquire()
        self.reading += 1
        stalled = False
        try:
            await client.run(_assign, client.consumer, topic, partition, position)
            moved_at = time.monotonic()
            while position < end:
                found = await client.run(_look, client.consumer, batch, WAIT_S, key)
                records = [record for record in found.records if position <= record.offset < end]
                past_end = found.last_offset >= end - 1
                if found.last_offset >= position:
                    position, moved_at = min(found.last_offset + 1, end), time.monotonic()
                    yield Scanned(records, position)
                if past_end or self._ended(found.errors, topic):
                    return
                if any(error.code() == KafkaError._AUTO_OFFSET_RESET for error in found.errors):  # noqa: SLF001
                    earliest, _ = await self.bounds(topic, partition)
                    position = max(position, earliest)
                    await client.run(_assign, client.consumer, topic, partition, position)
                elif time.monotonic() - moved_at > self._stall_timeout_s:
                    stalled = True
                    message = f"read {topic}/{partition}: no record for {self._stall_timeout_s:g} s"
                    raise StoreError("log_unavailable", message)
        except KafkaException as error:
            raise store_error(f"read {topic}/{partition}", error) from None
        finally:
            self.reading -= 1
            self._release(client, stalled=stalled)

    def _ended(self, errors: list[KafkaError], topic: str) -> bool:
        """Whether the log's end was reached; raises for what won't pass by waiting."""
        for error in errors:
            if error.fatal() or error.code() in (
                KafkaError.TOPIC_AUTHORIZATION_FAILED,
                KafkaError.UNKNOWN_TOPIC_OR_PART,
                KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
                KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001
            ):
                raise store_error(f"read {topic}", error)
        return any(error.code() == KafkaError._PARTITION_EOF for error in errors)  # noqa: SLF001

    def _asking(self) -> AdminCalls:
        if self._calls is None:
            raise StoreError("log_unavailable", "the log reader is not running")
        return self._calls

    async def _acquire(self) -> _Client:
        try:
            async with asyncio.timeout(self._acquire_timeout_s):
                client = await self._free.get()
        except TimeoutError:
            message = f"all {self._pool_size} readers were busy for {self._acquire_timeout_s:g} s"
            raise StoreError("log_unavailable", message) from None
        if client is None:
            try:
                client = _Client(self._configuration())
            except BaseException:
                self._free.put_nowait(None)
                raise
            self._clients.append(client)
        return client

    def _release(self, client: _Client, *, stalled: bool) -> None:
        """Give the client back once its thread is done with it; runs in a `finally`, so it can't wait."""
        if client not in self._clients:
            return  # closed meanwhile
        if stalled:
            count_replaced(self._stats, "reader", self._stall_timeout_s)
            self._clients.remove(client)
            client.give_up()
            self._free.put_nowait(None)
            return
        loop = asyncio.get_running_loop()

        def idle() -> None:
            client.consumer.unassign()
            loop.call_soon_threadsafe(self._free.put_nowait, client)

        client.thread.submit(idle)

    def _configuration(self) -> dict[str, object]:
        return configuration(
            self._properties,
            DEFAULTS,
            {
                "group.id": f"heliograph-reader-{uuid4().hex}",  # the library wants one; nothing is joined or committed
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",  # the default would start over where an offset is gone
                "logger": library_logger,
            },
        )


def _only(place: Partition, found: Mapping[Partition, int]) -> int:
    """The one offset that was asked for. Raises StoreError where there is no such partition."""
    if place not in found:
        raise StoreError("log_unavailable", f"there is no {place[0]}/{place[1]}")
    return found[place]


def _assign(consumer: Any, topic: str, partition: int, offset: int) -> None:
    consumer.assign([TopicPartition(topic, partition, offset)])


def _look(consumer: Any, batch: int, wait_s: float, key: bytes | None) -> _Batch:
    messages = consumer.consume(1, wait_s)
    if messages:
        messages += consumer.consume(batch - 1, 0)
    found = _Batch()
    found.last_offset = decode(messages, found.records, found.errors, key)
    return found
