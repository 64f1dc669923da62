"""A world for routers: a log, a live store, tenants, and an edge that publishes as edges do."""

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx

from heliograph.core.limits import RECORD_OVERHEAD_BYTES
from heliograph.core.messages import MessageClass
from heliograph.core.partitions import partition_of
from heliograph.core.positions import Position
from heliograph.protocol.messages import (
    Message,
    content_hash,
    extras,
    frame_content,
    frame_rest,
    message_from_record,
    record_headers,
    record_value,
)
from heliograph.protocol.tenants import Tenant, TopicSettings, TopicsSettings, encode_tenant
from heliograph.router.bootstrap import Stores, compose
from heliograph.router.settings import RouterSettings
from heliograph.service.lifecycle import serve
from heliograph.stores.kafka import KafkaLogAdmin, KafkaLogConsumer, KafkaLogReader, KafkaLogWriter
from heliograph.stores.keys import Topics
from heliograph.stores.memory.live import MemoryLiveStore
from heliograph.stores.memory.live_server import MemoryLiveServer
from heliograph.stores.memory.log import (
    MemoryLog,
    MemoryLogAdmin,
    MemoryLogConsumer,
    MemoryLogReader,
    MemoryLogWriter,
)
from heliograph.stores.memory.metadata import (
    MemoryConnectionStore,
    MemoryLeases,
    MemoryPositionIndex,
    MemoryServeStore,
    MemorySessionExpiries,
    MemoryTenantStore,
)
from heliograph.stores.ports import (
    Append,
    Appended,
    Bounds,
    ConnectionStore,
    LogReader,
    LogRecord,
    LogWriter,
    PositionIndex,
    ServeStore,
    SessionExpiries,
    StoreError,
    TenantStore,
    TopicSpec,
)
from heliograph.stores.redis.live import RedisLiveStore
from heliograph.stores.redis.metadata import (
    MetadataClient,
    RedisConnectionStore,
    RedisLeases,
    RedisPositionIndex,
    RedisServeStore,
    RedisSessionExpiries,
    RedisTenantStore,
)

DEADLINE_S = 90.0
PARTITIONS = 3
SHARDS = 256
"""As everybody's: the number is stored in the Redis that tests of one worker share."""
BOUNDS = Bounds(
    unconfirmed_messages=1_000,
    unconfirmed_bytes=8 << 20,
    tenant_shard_bytes=256 << 20,
    window_messages=1_000,
    window_bytes=8 << 20,
)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def until(holds: Callable[[], Awaitable[bool] | bool], what: str = "", deadline_s: float = DEADLINE_S) -> None:
    """Wait for a state."""
    deadline = time.monotonic() + deadline_s
    while True:
        held = holds()
        if held if isinstance(held, bool) else await held:
            return
        assert time.monotonic() < deadline, f"not reached in {deadline_s:g} s: {what}"
        await asyncio.sleep(0.02)


@dataclass
class RunningRouter:
    """A router that runs in this process."""

    service: Any
    stores: Stores
    task: asyncio.Task[Any]
    stopping: asyncio.Event
    port: int

    def value(self, name: str, **labels: str) -> float:
        """A metric now."""
        found: float = self.service.metrics.value(name, labels)
        return found

    def lag(self) -> dict[str, float]:
        """By partition; known once measured."""
        family = next(
            family
            for family in self.service.metrics.registry.collect()
            if family.name == "heliograph_router_lag_records"
        )
        return {sample.labels["partition"]: sample.value for sample in family.samples}

    async def stop(self) -> None:
        """As by SIGTERM."""
        self.stopping.set()
        await self.task

    async def kill(self) -> None:
        """Nothing more is committed or written: what it held in memory is gone. (Real kills are the system tests'.)"""

        async def never(*_: object) -> None:
            raise StoreError("log_unavailable", "killed")

        self.stores.consumer.commit = never  # type: ignore[assignment]
        await self.stop()

    async def get(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient() as client:
            return await client.get(f"http://127.0.0.1:{self.port}{path}")


class World:
    """Everything that outlives a router, and an edge's side of it."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.stack = stack
        self.prefix = f"t{uuid4().hex[:16]}"
        self.names = Topics(self.prefix)
        self.tenant = f"acme-{uuid4().hex[:8]}"
        self.topic = self.names.log(self.tenant)
        self.live: Any = None
        self.writer: LogWriter
        self.reader: LogReader
        self.index: PositionIndex
        self.tenants: TenantStore
        self.connections: ConnectionStore
        self.serving: ServeStore
        self.expiries: SessionExpiries
        self._numbers = itertools.count(1)

    async def stores(self) -> Stores:
        """What one router talks to."""
        raise NotImplementedError

    async def create_topic(self, topic: TopicSpec) -> None:
        raise NotImplementedError

    async def set_up(self) -> None:
        await self.set_up_tenant()

    async def set_up_tenant(self) -> None:
        """A tenant with its topics."""
        topics = ((self.topic, PARTITIONS), (self.names.deferred(self.tenant), PARTITIONS), (self.names.dead, 1))
        for topic, partitions in topics:
            await self.create_topic(TopicSpec(topic, partitions, None, {}))
        settings = TopicsSettings(log=TopicSettings(partitions=PARTITIONS))
        await self.tenants.put(self.tenant, encode_tenant(Tenant(self.tenant, topics=settings)))

    async def router(self, **settings: Any) -> RunningRouter:
        """A router that is ready."""
        values: dict[str, Any] = {
            "port": 0,
            "topic_prefix": self.prefix,
            "virtual_shards": SHARDS,
            "log_delivery_timeout_s": 1,
            "reconcile_margin_s": 0,
            "reconcile_interval_s": 0.1,
            "lease_s": 2,
            "commit_interval_s": 0.05,
            "topics_check_s": 0.5,
            "lag_interval_s": 0.2,
            **settings,
        }
        stores = await self.stores()
        service = compose(RouterSettings(**values), stores)
        stopping, listening = asyncio.Event(), asyncio.get_running_loop().create_future()
        task = asyncio.create_task(
            serve(service, stop=stopping, on_listening=lambda _host, port: listening.set_result(port))
        )
        router = RunningRouter(service, stores, task, stopping, await listening)
        self.stack.push_async_callback(router.stop)
        await until(lambda: service.readiness.ready, f"ready: {service.readiness.as_json()}")
        return router

    # ---- an edge ----------------------------------------------------------------------------------------------------

    def session(self, name: str = "") -> str:
        return f"{self.tenant}:planner:{name or f's{next(self._numbers)}'}"

    def message(self, session: str, number: int, incarnation: str = "abcdefgh") -> Message:
        return Message(
            session=session,
            message_id=f"m-{number}",
            time_ms=now_ms(),
            producer="agent/one",
            class_=MessageClass.EVENT,
            payload=b'{"n":%d}' % number,
            incarnation=incarnation,
            producer_seq=number,
        )

    async def append(self, message: Message) -> Appended:
        """Give a message its position, as an edge does before it writes to the log."""
        key = message.session.encode()
        content = frame_content(message)
        append = Append(
            session=message.session,
            rest=frame_rest(message, content),
            extras=extras(message),
            size_bytes=len(record_value(message)) + RECORD_OVERHEAD_BYTES,
            partition=partition_of(key, PARTITIONS),
            content_hash=content_hash(content),
            producer=f"{message.class_}|{message.producer}|{message.incarnation}".encode(),
            producer_seq=message.producer_seq or 0,
        )
        answered: asyncio.Future[Appended | StoreError] = asyncio.get_running_loop().create_future()
        self.live.append(append, BOUNDS, answered.set_result)
        answer = await answered
        if isinstance(answer, StoreError):
            raise answer
        assert answer.status.value == "ok", answer
        message.position = str(Position(answer.epoch, answer.seq))
        return answer

    async def log(self, message: Message) -> None:
        """Write a message's record."""
        await self.write(
            message.session.encode(),
            record_value(message),
            record_headers(message),
            topic=self.topic,
            partition=partition_of(message.session.encode(), PARTITIONS),
        )

    async def write(
        self, key: bytes, value: bytes, headers: list[tuple[str, bytes]], *, topic: str, partition: int = 0
    ) -> None:
        """Write any record."""
        answered: asyncio.Future[StoreError | None] = asyncio.get_running_loop().create_future()
        self.writer.write(topic, partition, key, value, headers, answered.set_result)
        error = await answered
        if error is not None:
            raise error

    async def publish(self, session: str, count: int, first: int = 1, *, logged: bool = True) -> list[Message]:
        """Messages appended, and written to the log unless the edge "dies" before."""
        messages = [self.message(session, number) for number in range(first, first + count)]
        for message in messages:
            await self.append(message)
        if logged:
            await asyncio.gather(*map(self.log, messages))
        return messages

    # ---- what came of it --------------------------------------------------------------------------------------------

    async def confirmed(self, session: str) -> int:
        (head,) = await self.live.heads([session])
        found: int = head.confirmed
        return found

    async def until_confirmed(self, session: str, seq: int) -> None:
        async def confirmed() -> bool:
            return await self.confirmed(session) >= seq

        await until(confirmed, f"{session} confirmed up to {seq}")

    async def until_confirmed_old(self, session: str, message: Message) -> None:
        """Until a message of any epoch is confirmed."""
        position = Position.parse(message.position or "")

        async def confirmed() -> bool:
            (found,) = await self.live.confirmed(session, [position])
            return found is True

        await until(confirmed, f"{session} confirmed {position}")

    async def records(self, topic: str = "") -> list[LogRecord]:
        """Everything in a topic, partition by partition."""
        topic = topic or self.topic
        info = await self.reader.partitions(topic)
        found: list[LogRecord] = []
        for partition in range(0 if info is None else info.partitions):
            async for records in self.reader.read(topic, partition, 0, 1 << 60):
                found += records
        return found

    async def messages(self, session: str) -> list[Message]:
        """A session's records in the order of the log."""
        read = [message_from_record(record.key, record.value, record.headers) for record in await self.records()]
        return [message for message in read if message.session == session]


class MemoryWorld(World):
    """On memory stores."""

    def __init__(self, stack: AsyncExitStack) -> None:
        super().__init__(stack)
        self.memory_log = MemoryLog()
        self.server = MemoryLiveServer(now_ms, virtual_shards=SHARDS)
        self.leases = MemoryLeases()
        self.memory_index = MemoryPositionIndex()
        self.memory_tenants = MemoryTenantStore()
        self.connections, self.serving = MemoryConnectionStore(), MemoryServeStore()
        self.memory_expiries = MemorySessionExpiries()

    async def set_up(self) -> None:
        self.live = MemoryLiveStore(self.server)
        self.writer, self.reader = MemoryLogWriter(self.memory_log), MemoryLogReader(self.memory_log)
        self.index, self.tenants = self.memory_index, self.memory_tenants
        self.expiries = self.memory_expiries
        await self.live.start()
        await self.writer.start()
        await super().set_up()

    async def create_topic(self, topic: TopicSpec) -> None:
        self.memory_log.create(topic)

    async def stores(self) -> Stores:
        return Stores(
            live=MemoryLiveStore(self.server),
            consumer=MemoryLogConsumer(self.memory_log, "router"),
            writer=MemoryLogWriter(self.memory_log, delivery_timeout_s=1.0),
            reader=MemoryLogReader(self.memory_log),
            admin=MemoryLogAdmin(self.memory_log),
            tenants=self.memory_tenants,
            index=self.memory_index,
            leases=self.leases,
            connections=self.connections,
            serving=self.serving,
            expiries=self.expiries,
            start_metadata=_nothing,
            stop_metadata=_nothing,
            find_log=_nothing,
            stop_admin=_nothing,
        )


class RealWorld(World):
    """On Kafka and Redis."""

    def __init__(self, stack: AsyncExitStack, bootstrap: str, redis_url: str) -> None:
        super().__init__(stack)
        self.bootstrap = bootstrap
        self.redis_url = redis_url

    @property
    def kafka(self) -> dict[str, object]:
        return {"bootstrap.servers": self.bootstrap}

    def live_store(self) -> RedisLiveStore:
        return RedisLiveStore(self.redis_url, uniform=random.random, virtual_shards=SHARDS)

    async def set_up(self) -> None:
        metadata = MetadataClient(self.redis_url)
        self.live, self.writer, self.reader = self.live_store(), KafkaLogWriter(self.kafka), KafkaLogReader(self.kafka)
        self.index, self.tenants = RedisPositionIndex(metadata), RedisTenantStore(metadata)
        self.connections, self.serving = RedisConnectionStore(metadata), RedisServeStore(metadata)
        self.expiries = RedisSessionExpiries(metadata)
        self.stack.push_async_callback(metadata.close)
        for part in (self.live, self.reader):
            await part.start()
            self.stack.push_async_callback(part.close)
        await self.writer.start()
        self.stack.push_async_callback(self.writer.close, 5.0)
        await super().set_up()

    async def create_topic(self, topic: TopicSpec) -> None:
        admin = KafkaLogAdmin(self.kafka)
        await admin.create(topic)
        await admin.close()

    async def stores(self) -> Stores:
        metadata, admin = MetadataClient(self.redis_url), KafkaLogAdmin(self.kafka)
        serving = RedisServeStore(metadata)

        async def stop_metadata() -> None:
            await serving.close()
            await metadata.close()

        return Stores(
            live=self.live_store(),
            consumer=KafkaLogConsumer(self.kafka, f"{self.prefix}.router"),
            writer=KafkaLogWriter(self.kafka, delivery_timeout_s=1.0),
            reader=KafkaLogReader(self.kafka, pool_size=1),
            admin=admin,
            tenants=RedisTenantStore(metadata),
            index=RedisPositionIndex(metadata),
            leases=RedisLeases(metadata),
            connections=RedisConnectionStore(metadata),
            serving=serving,
            expiries=RedisSessionExpiries(metadata),
            start_metadata=metadata.start,
            stop_metadata=stop_metadata,
            find_log=admin.ping,
            stop_admin=admin.close,
        )


async def _nothing() -> None:
    return None
