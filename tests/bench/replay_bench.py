"""Replay of 100,000 messages of one session among 1.1 million records in 6 partitions, beside a bare scan.

    uv run python tests/bench/replay_bench.py [--bootstrap host:port] [--messages N] [--others N] [--rounds N]

The bare scan is what must be read at least: a confluent-kafka consumer that takes the session's partition from its
first offset to its end, in batches, and looks at nothing. Replay's way is all of replay but HTTP: find the place, scan,
filter, build frames, order them, render NDJSON lines. Time is CPU and wall; the ratio is of wall time, the median of
rounds that take turns. Without --bootstrap a Kafka of its own is started, and ended.
"""

import argparse
import asyncio
import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from confluent_kafka import Consumer, Producer, TopicPartition

from heliograph.core.messages import MessageClass
from heliograph.core.partitions import partition_of
from heliograph.core.positions import Position
from heliograph.core.sessions import SessionKey
from heliograph.local import KafkaServer
from heliograph.protocol.messages import Message, record_headers, record_value
from heliograph.protocol.tenants import Tenant
from heliograph.replay.bootstrap import YOUNG
from heliograph.replay.metrics import ReplayMetrics
from heliograph.replay.places import Locator
from heliograph.replay.reading import Limits, Query, SessionRead
from heliograph.replay.rendering import lines
from heliograph.replay.scanning import Sources
from heliograph.service.garbage import collect_garbage_less
from heliograph.service.health import Readiness
from heliograph.service.metrics import Metrics
from heliograph.service.topic_watch import TopicWatch
from heliograph.stores.kafka import KafkaLogAdmin, KafkaLogReader
from heliograph.stores.keys import Topics
from heliograph.stores.memory.live import MemoryLiveStore
from heliograph.stores.memory.live_server import MemoryLiveServer
from heliograph.stores.memory.metadata import MemoryPositionIndex
from heliograph.stores.ports import TopicSpec

PARTITIONS = 6
OTHER_SESSIONS = 1_000
EPOCH = "1764000000000-1a2b3c4d"
SESSION = "bench:planner:one-of-many"
PAYLOAD = b'{"role":"assistant","text":"' + b"x" * 172 + b'"}'
BATCH = 2_000
RATIO = 3.0
"""The bound: replay at most this many times a bare scan."""


@dataclass
class Took:
    """One measurement."""

    wall_s: float
    cpu_s: float


def message(session: str, seq: int) -> Message:
    return Message(
        session=session,
        message_id=f"4fGh0pQ2xY7a.e{seq}",
        time_ms=1_764_000_000_000 + seq,
        producer="agent/main",
        class_=MessageClass.EVENT,
        payload=PAYLOAD,
        position=str(Position(EPOCH, seq)),
        incarnation="4fGh0pQ2xY7a",
        producer_seq=seq,
    )


@contextlib.contextmanager
def kafka(given: str | None) -> Iterator[str]:
    if given:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="heliograph-replay-bench-") as directory:
        server = KafkaServer(Path(directory))
        server.start()
        try:
            yield server.bootstrap_servers
        finally:
            server.kill()


def fill(bootstrap: str, topic: str, messages: int, others: int) -> None:
    """The session's messages spread evenly among those of other sessions."""
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "linger.ms": 20,
            "compression.type": "lz4",
            "queue.buffering.max.messages": 200_000,
        }
    )
    every = max(1, others // messages)
    seqs = [0] * OTHER_SESSIONS
    names = [f"bench:tool:session-{number}" for number in range(OTHER_SESSIONS)]
    places = [partition_of(name.encode(), PARTITIONS) for name in names]
    mine, place, sent = SESSION.encode(), partition_of(SESSION.encode(), PARTITIONS), 0

    def produce(one: Message, key: bytes, partition: int) -> None:
        while True:
            try:
                producer.produce(topic, record_value(one), key, partition, headers=list(record_headers(one)))
                return
            except BufferError:
                producer.poll(0.1)

    for number in range(others):
        other = number % OTHER_SESSIONS
        seqs[other] += 1
        produce(message(names[other], seqs[other]), names[other].encode(), places[other])
        if number % every == 0 and sent < messages:
            sent += 1
            produce(message(SESSION, sent), mine, place)
        if number % 1_000 == 0:
            producer.poll(0)
    producer.flush()


def bare_scan(bootstrap: str, topic: str) -> tuple[Took, int]:
    """Consume the session's partition; look at nothing."""
    consumer: Any = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": uuid4().hex,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "fetch.max.bytes": 4 * 1024 * 1024,
            "max.partition.fetch.bytes": 1024 * 1024,
            "queued.min.messages": 2_000,
            "queued.max.messages.kbytes": 4 * 1024,
            "fetch.queue.backoff.ms": 5,
        }
    )
    place = partition_of(SESSION.encode(), PARTITIONS)
    _, end = consumer.get_watermark_offsets(TopicPartition(topic, place))
    begin, cpu, count = time.perf_counter(), time.process_time(), 0
    consumer.assign([TopicPartition(topic, place, 0)])
    while count < end:
        count += len(consumer.consume(BATCH, 1.0))
    took = Took(time.perf_counter() - begin, time.process_time() - cpu)
    consumer.close()
    return took, count


async def replayed(reader: KafkaLogReader, topics: Topics, messages: int) -> tuple[Took, int]:
    """All of replay but HTTP."""
    counts = ReplayMetrics(Metrics("replay", "0", process=False))
    live = MemoryLiveStore(MemoryLiveServer(lambda: time.time_ns() // 1_000_000))
    await live.start()
    watch = TopicWatch(Readiness().condition("topics"), Metrics("replay", process=False))
    locator = Locator(reader, live, MemoryPositionIndex(), topics, counts, watch, beginning_scan_records=10**9)
    begin, cpu = time.perf_counter(), time.process_time()
    read = SessionRead(
        locator,
        Sources(reader, live, counts),
        SessionKey.parse(SESSION),
        Tenant("bench"),
        Query(),
        Limits(10**9, 10**12, 600.0),
    )
    found = size = 0
    async with aclosing(read.parts()) as parts:
        async for some in parts:
            size += len(lines(SESSION, some))
            found += len(some)
    took = Took(time.perf_counter() - begin, time.process_time() - cpu)
    assert read.end.complete, read.end
    assert found == messages, f"{found} of {messages} messages"
    await live.close()
    return took, size


async def run(bootstrap: str, messages: int, others: int, rounds: int) -> bool:
    """Whether the bound was kept."""
    topics = Topics(f"bench-{uuid4().hex[:8]}")
    topic = topics.log("bench")
    admin = KafkaLogAdmin({"bootstrap.servers": bootstrap})
    reader = KafkaLogReader({"bootstrap.servers": bootstrap})
    await admin.create(TopicSpec(topic, PARTITIONS, None, {}))
    await reader.start()
    try:
        begin = time.perf_counter()
        await asyncio.to_thread(fill, bootstrap, topic, messages, others)
        print(
            f"{messages + others:,} records in {PARTITIONS} partitions, filled in {time.perf_counter() - begin:.1f} s"
        )
        bare: list[Took] = []
        ours: list[Took] = []
        records = size = 0
        for _ in range(rounds):
            took, records = await asyncio.to_thread(bare_scan, bootstrap, topic)
            bare.append(took)
            took, size = await replayed(reader, topics, messages)
            ours.append(took)
    finally:
        await admin.delete(topic)
        await reader.close()
        await admin.close()
    wall = [statistics.median(took.wall_s for took in some) for some in (bare, ours)]
    cpu = [statistics.median(took.cpu_s for took in some) for some in (bare, ours)]
    ratio = statistics.median(mine.wall_s / least.wall_s for mine, least in zip(ours, bare, strict=True))
    print(f"{'':24}{'wall':>10}{'CPU':>10}")
    print(f"{'bare scan':24}{wall[0]:>8.2f} s{cpu[0]:>8.2f} s   {records:,} records")
    print(f"{'replay':24}{wall[1]:>8.2f} s{cpu[1]:>8.2f} s   {messages:,} messages, {size / 1e6:.1f} MB")
    print(f"{'ratio':24}{ratio:>9.2f} {cpu[1] / cpu[0]:>9.2f}     bound {RATIO:g}")
    return ratio <= RATIO


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bootstrap", help="host:port of a Kafka; default: one of its own")
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--others", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    collect_garbage_less(YOUNG)
    with kafka(options.bootstrap) as bootstrap:
        kept = asyncio.run(run(bootstrap, options.messages, options.others, options.rounds))
    raise SystemExit(0 if kept else 1)


if __name__ == "__main__":
    main()
