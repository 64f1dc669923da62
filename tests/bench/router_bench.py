"""How much CPU a router spends on a record, next to the least that could do the same.

The log is filled with records of many sessions, appended and unconfirmed in Redis. Then, in this process and one after
the other, the same records are read and confirmed

- by a router (all of it: probes, leases, reconciling, index),
- by a bare loop: confluent-kafka's `consume`, the position's header, and the same Redis commands.

    python -m tests.bench.router_bench --bootstrap 127.0.0.1:19092 --redis redis://127.0.0.1:16379/9

The Redis database must be empty: it is used as live and metadata store. Topics are deleted afterwards.
"""

import argparse
import asyncio
import json
import random
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from uuid import uuid4

import uvloop
from confluent_kafka import Consumer
from pydantic import SecretStr

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
    record_headers,
    record_value,
)
from heliograph.protocol.tenants import Tenant, TopicSettings, TopicsSettings, encode_tenant
from heliograph.router.bootstrap import build
from heliograph.router.settings import RouterSettings
from heliograph.service.lifecycle import serve
from heliograph.service.logs import configure_logs
from heliograph.stores.kafka import KafkaLogAdmin, KafkaLogWriter
from heliograph.stores.keys import Topics
from heliograph.stores.ports import Append, Appended, Bounds, StoreError, TopicSpec
from heliograph.stores.redis.live import RedisLiveStore
from heliograph.stores.redis.metadata import MetadataClient, RedisTenantStore

PARTITIONS = 6
BATCH_RECORDS = 1_000
PAYLOAD_BYTES = 256
"""An agent's usual message: a tool call, a few sentences."""
BOUNDS = Bounds(1_000, 8 << 20, 1 << 30, 1_000, 8 << 20)
IN_FLIGHT = 2_000


@dataclass
class Result:
    """What was measured."""

    records: int
    sessions: int
    router_records_per_s: float
    router_cpu_us_per_record: float
    bare_records_per_s: float
    bare_cpu_us_per_record: float

    @property
    def ratio(self) -> float:
        """CPU of the router per CPU of the bare loop."""
        return self.router_cpu_us_per_record / self.bare_cpu_us_per_record


@dataclass
class _Cost:
    seconds: float
    cpu_s: float


def _cpu_s() -> float:
    """Of this process with all its threads, librdkafka's among them."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def measure(bootstrap: str, redis_url: str, *, records: int = 100_000, sessions: int = 10_000) -> Result:
    """Fill, measure the router, measure the bare loop, clean up."""
    tenant, prefix = "bench", f"bench-{uuid4().hex[:12]}"
    names = Topics(prefix)
    admin = KafkaLogAdmin({"bootstrap.servers": bootstrap})
    for topic, partitions in ((names.log(tenant), PARTITIONS), (names.dead, 1)):
        await admin.create(TopicSpec(topic, partitions, None, {}))
    try:
        await _fill(bootstrap, redis_url, tenant, names.log(tenant), records, sessions)
        router = await _router(bootstrap, redis_url, prefix, records)
        bare = await _bare(bootstrap, redis_url, names.log(tenant), records)
    finally:
        for topic in (names.log(tenant), names.dead):
            await admin.delete(topic)
        await admin.close()
    return Result(
        records,
        sessions,
        records / router.seconds,
        router.cpu_s / records * 1e6,
        records / bare.seconds,
        bare.cpu_s / records * 1e6,
    )


async def _fill(bootstrap: str, redis_url: str, tenant: str, topic: str, records: int, sessions: int) -> None:
    metadata = MetadataClient(redis_url)
    settings = TopicsSettings(log=TopicSettings(partitions=PARTITIONS))
    await RedisTenantStore(metadata).put(tenant, encode_tenant(Tenant(tenant, topics=settings)))
    await metadata.close()
    live, writer = RedisLiveStore(redis_url, uniform=random.random), KafkaLogWriter({"bootstrap.servers": bootstrap})
    await live.start()
    await writer.start()
    names = [f"{tenant}:planner:session-{number:06d}" for number in range(sessions)]
    payload = json.dumps({"text": "x" * (PAYLOAD_BYTES - 12)}).encode()
    room = asyncio.Semaphore(IN_FLIGHT)
    failed: list[object] = []

    def publish(message: Message) -> None:
        key, content = message.session.encode(), frame_content(message)
        partition = partition_of(key, PARTITIONS)

        def written(error: StoreError | None) -> None:
            room.release()
            if error is not None:
                failed.append(error)

        def appended(answer: Appended | StoreError) -> None:
            if isinstance(answer, StoreError) or answer.status != "ok":
                failed.append(answer)
                room.release()
                return
            message.position = str(Position(answer.epoch, answer.seq))
            writer.write(topic, partition, key, record_value(message), record_headers(message), written)

        live.append(
            Append(
                message.session,
                frame_rest(message, content),
                extras(message),
                len(payload) + RECORD_OVERHEAD_BYTES,
                partition,
                content_hash(content),
                b"event|bench|bench-incarnation",
                message.producer_seq or 0,
            ),
            BOUNDS,
            appended,
        )

    for number in range(records):
        await room.acquire()
        seq = number // sessions + 1
        publish(
            Message(
                session=names[number % sessions],
                message_id=f"m-{number:012d}",
                time_ms=time.time_ns() // 1_000_000,
                producer="bench",
                class_=MessageClass.EVENT,
                payload=payload,
                incarnation="bench-incarnation",
                producer_seq=seq,
            )
        )
    for _ in range(IN_FLIGHT):
        await room.acquire()
    await writer.close(10)
    await live.close()
    if failed:
        raise RuntimeError(f"{len(failed)} messages were not written: {failed[0]}")


async def _router(bootstrap: str, redis_url: str, prefix: str, records: int) -> _Cost:
    settings = RouterSettings(
        port=0,
        kafka_bootstrap_servers=bootstrap,
        redis_url=SecretStr(redis_url),
        topic_prefix=prefix,
        batch_records=BATCH_RECORDS,
        log_level="error",
    )
    configure_logs(service="router", version="bench", level="error")
    service = await build(settings)
    stop = asyncio.Event()
    running = asyncio.create_task(serve(service, stop=stop))
    while service.metrics.value("records_total") == 0:
        await asyncio.sleep(0.001)
    first, begin, cpu_s = service.metrics.value("records_total"), time.monotonic(), _cpu_s()
    while service.metrics.value("records_total") < records:
        await asyncio.sleep(0.01)
    share = records / (records - first)
    cost = _Cost((time.monotonic() - begin) * share, (_cpu_s() - cpu_s) * share)
    stop.set()
    await running
    return cost


async def _bare(bootstrap: str, redis_url: str, topic: str, records: int) -> _Cost:
    """The least that does it: one thread hop a batch, one header read, the same commands, a commit a batch."""
    live = RedisLiveStore(redis_url, uniform=random.random)
    await live.start()
    loop = asyncio.get_running_loop()
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"bare-{uuid4().hex}",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe([topic])

    def consume() -> Sequence[object]:
        return consumer.consume(1, 1.0) + consumer.consume(BATCH_RECORDS - 1, 0)

    seen, first, begin, cpu_s = 0, 0, 0.0, 0.0
    while seen < records:
        positions: dict[tuple[str, str], list[tuple[int, int]]] = {}
        messages = await loop.run_in_executor(None, consume)
        for message in messages:
            position = dict(message.headers())["ce_sequence"].decode()  # type: ignore[attr-defined]
            key = (message.key().decode(), position[:22])  # type: ignore[attr-defined]
            pair = (int(position[23:]), len(message.value()) + RECORD_OVERHEAD_BYTES)  # type: ignore[attr-defined]
            positions.setdefault(key, []).append(pair)
        if not messages:
            continue
        await live.confirm_many([(session, epoch, pairs) for (session, epoch), pairs in positions.items()])
        consumer.commit(asynchronous=True)
        seen += len(messages)
        if not begin:
            first, begin, cpu_s = seen, time.monotonic(), _cpu_s()
    share = records / (records - first)
    cost = _Cost((time.monotonic() - begin) * share, (_cpu_s() - cpu_s) * share)
    await loop.run_in_executor(None, consumer.close)
    await live.close()
    return cost


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU of a router per record, next to a bare consume loop")
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--redis", required=True, help="URL of an empty Redis database")
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--sessions", type=int, default=10_000)
    given = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(measure(given.bootstrap, given.redis, records=given.records, sessions=given.sessions))
    json.dump({**asdict(result), "ratio": result.ratio}, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
