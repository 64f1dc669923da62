"""Makers of log ports, and what tests of them wait for."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from heliograph.stores.kafka import KafkaLogAdmin, KafkaLogConsumer, KafkaLogReader, KafkaLogWriter
from heliograph.stores.memory.log import (
    MemoryLog,
    MemoryLogAdmin,
    MemoryLogConsumer,
    MemoryLogReader,
    MemoryLogWriter,
)
from heliograph.stores.ports import (
    LogAdmin,
    LogConsumer,
    LogReader,
    LogRecord,
    LogWriter,
    StoreError,
    TopicSpec,
)

DEADLINE_S = 90.0
"""For a state to be reached; a busy machine is slow, never this slow."""


class Stores:
    """Makes started ports on one log, and closes them with the test."""

    def __init__(self, bootstrap: str | None, stack: AsyncExitStack) -> None:
        self.bootstrap = bootstrap
        self.memory = MemoryLog()
        self.group = f"group-{uuid4().hex}"
        self._stack = stack

    @property
    def properties(self) -> dict[str, object]:
        return {"bootstrap.servers": self.bootstrap or ""}

    async def writer(self, **options: Any) -> LogWriter:
        kafka = self.bootstrap is not None
        writer: LogWriter = KafkaLogWriter(self.properties, **options) if kafka else MemoryLogWriter(self.memory)
        await writer.start()
        self._stack.push_async_callback(writer.close, 0.0)
        return writer

    async def consumer(self, *topics: str, **options: Any) -> LogConsumer:
        consumer: LogConsumer
        if self.bootstrap is None:
            consumer = MemoryLogConsumer(self.memory, self.group)
        else:
            consumer = KafkaLogConsumer(self.properties, self.group, **options)
        await consumer.start(topics)
        self._stack.push_async_callback(consumer.close)
        return consumer

    async def reader(self, **options: Any) -> LogReader:
        kafka = self.bootstrap is not None
        reader: LogReader = KafkaLogReader(self.properties, **options) if kafka else MemoryLogReader(self.memory)
        await reader.start()
        self._stack.push_async_callback(reader.close)
        return reader

    async def admin(self) -> LogAdmin:
        if self.bootstrap is None:
            return MemoryLogAdmin(self.memory)
        admin = KafkaLogAdmin(self.properties)
        self._stack.push_async_callback(admin.close)
        return admin

    async def topic(self, partitions: int = 1, **config: str) -> str:
        """The name of a topic made now."""
        name = f"test-{uuid4().hex}"
        settings = {key.replace("_", "."): value for key, value in config.items()}
        await (await self.admin()).create(TopicSpec(name, partitions, None, settings))
        return name

    async def forget_before(self, topic: str, offset: int) -> None:
        """What retention does to the topic's first partition."""
        if self.bootstrap is None:
            self.memory.truncate(topic, 0, offset)
            return
        admin = AdminClient(self.properties)  # type: ignore[arg-type]
        for future in admin.delete_records([TopicPartition(topic, 0, offset)]).values():
            await asyncio.wrap_future(future)


async def write(
    writer: LogWriter,
    topic: str,
    value: bytes,
    *,
    partition: int = 0,
    key: bytes = b"acme:planner:trip-42",
    headers: list[tuple[str, bytes]] | None = None,
) -> None:
    """Write one record and wait until it is durable; raises what `done` was told."""
    answered: asyncio.Future[StoreError | None] = asyncio.get_running_loop().create_future()
    writer.write(topic, partition, key, value, headers or [], answered.set_result)
    async with asyncio.timeout(DEADLINE_S):
        error = await answered
    if error is not None:
        raise error


async def write_all(writer: LogWriter, topic: str, values: list[bytes], *, partition: int = 0) -> None:
    """Write in order, wait for all."""
    await asyncio.gather(*(write(writer, topic, value, partition=partition) for value in values))


async def read_until(consumer: LogConsumer, count: int, deadline_s: float = DEADLINE_S) -> list[LogRecord]:
    """Poll until `count` records came."""
    records: list[LogRecord] = []
    deadline = time.monotonic() + deadline_s
    while len(records) < count:
        assert time.monotonic() < deadline, f"{len(records)} of {count} records after {deadline_s:g} s"
        records += await consumer.poll(1_000, 0.2)
    return records


async def until(holds: Callable[[], Awaitable[bool] | bool], deadline_s: float = DEADLINE_S) -> None:
    """Wait for a state."""
    deadline = time.monotonic() + deadline_s
    while True:
        held = holds()
        if held if isinstance(held, bool) else await held:
            return
        assert time.monotonic() < deadline, f"not reached in {deadline_s:g} s"
        await asyncio.sleep(0.02)
