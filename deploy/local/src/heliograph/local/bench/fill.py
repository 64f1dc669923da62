"""Puts messages where sections read them: into Redis and Kafka as an edge would, or into Kafka alone."""

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from confluent_kafka import KafkaException, Producer

from heliograph.core.limits import RECORD_OVERHEAD_BYTES
from heliograph.core.messages import MessageClass
from heliograph.core.partitions import partition_of
from heliograph.local.bench.rig import PARTITIONS
from heliograph.local.errors import LocalError
from heliograph.protocol.messages import (
    Message,
    content_hash,
    extras,
    frame_content,
    frame_rest,
    record_headers,
    record_value,
)
from heliograph.stores.ports import Append, Appended, AppendStatus, Bounds, StoreError
from heliograph.stores.redis.live import RedisLiveStore

PAYLOAD_BYTES = 200
IN_FLIGHT = 2_000
"""Appends without an answer: keeps Redis busy, and its reply buffers small."""
FLUSH_TIMEOUT_S = 60.0
NO_BOUNDS = Bounds(10**9, 10**12, 10**12, 1_000, 8 * 1024 * 1024)
SEED = 1
"""The same order of sessions in every run."""
PROGRESS_EVERY = 250_000

Progress = Callable[[str], None]


class FillError(LocalError):
    """Something was not taken that must be there for the measurement."""


class _Log:
    """A producer that counts what was not delivered."""

    def __init__(self, bootstrap_servers: str) -> None:
        self._producer: Any = Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "enable.idempotence": True,
                "compression.type": "lz4",
                "linger.ms": 20,
                "queue.buffering.max.messages": 1_000_000,
                "queue.buffering.max.kbytes": 1_048_576,
                "log_level": 3,
            }
        )
        self._failed = 0

    def write(self, topic: str, message: Message, partition: int) -> None:
        while True:
            try:
                self._producer.produce(
                    topic,
                    record_value(message),
                    message.session.encode(),
                    partition,
                    on_delivery=self._delivered,
                    headers=record_headers(message),
                )
            except BufferError:
                self._producer.poll(0.1)
            else:
                self._producer.poll(0)
                return

    def _delivered(self, error: object, _message: object) -> None:
        self._failed += error is not None

    def flush(self) -> None:
        """Raise FillError unless everything is in the log."""
        try:
            left = self._producer.flush(FLUSH_TIMEOUT_S)
        except KafkaException as error:
            raise FillError(f"the log could not be filled: {error}") from None
        if left or self._failed:
            raise FillError(f"{left + self._failed} records are not in the log")


def _message(session: str, number: int, payload: bytes) -> Message:
    return Message(
        session=session,
        message_id=f"m-{number:012d}",
        time_ms=time.time_ns() // 1_000_000,
        producer="bench/filler",
        class_=MessageClass.EVENT,
        payload=payload,
        incarnation="filled-by-the-bench",
        producer_seq=number + 1,
    )


def _payload() -> bytes:
    return json.dumps({"p": "x" * (PAYLOAD_BYTES - 8)}, separators=(",", ":")).encode()


def fill_sessions(
    bootstrap_servers: str, redis_url: str, topic: str, tenant: str, *, records: int, sessions: int
) -> None:
    """`records` messages over `sessions` sessions in random order: accepted by Redis, written to Kafka, unconfirmed."""
    asyncio.run(_fill_sessions(bootstrap_servers, redis_url, topic, tenant, records, sessions))


async def _fill_sessions(
    bootstrap_servers: str, redis_url: str, topic: str, tenant: str, records: int, sessions: int
) -> None:
    log, payload = _Log(bootstrap_servers), _payload()
    live = RedisLiveStore(redis_url, uniform=random.random)
    await live.start()
    names = [f"{tenant}:planner:{number:06d}" for number in range(sessions)]
    partitions = {name: partition_of(name.encode(), PARTITIONS) for name in names}
    order = random.Random(SEED)
    slots, refused = asyncio.Semaphore(IN_FLIGHT), 0

    def append(message: Message) -> None:
        content = frame_content(message)

        def done(answer: Appended | StoreError) -> None:
            nonlocal refused
            slots.release()
            if isinstance(answer, StoreError) or answer.status is not AppendStatus.OK:
                refused += 1
                return
            message.position = f"{answer.epoch}-{answer.seq:016d}"
            log.write(topic, message, answer.partition)

        size = len(payload) + RECORD_OVERHEAD_BYTES
        rest, partition = frame_rest(message, content), partitions[message.session]
        live.append(
            Append(message.session, rest, extras(message), size, partition, content_hash(content)), NO_BOUNDS, done
        )

    try:
        for number in range(records):
            await slots.acquire()
            append(_message(names[order.randrange(sessions)], number, payload))
        for _ in range(IN_FLIGHT):
            await slots.acquire()
    finally:
        await live.close()
    await asyncio.to_thread(log.flush)
    if refused:
        raise FillError(f"{refused} of {records} messages were refused by the live store")


def fill_log(bootstrap_servers: str, topic: str, messages: Iterable[Message], progress: Progress) -> None:
    """Records with the positions they have, by Java's partitioner."""
    log, partitions = _Log(bootstrap_servers), dict[str, int]()
    for number, message in enumerate(messages, start=1):
        partition = partitions.get(message.session)
        if partition is None:
            partition = partitions[message.session] = partition_of(message.session.encode(), PARTITIONS)
        log.write(topic, message, partition)
        if number % PROGRESS_EVERY == 0:
            progress(f"{number:,} records written")
    log.flush()


def one_among_many(session: str, tenant: str, *, wanted: int, others: int, sessions: int) -> Iterator[Message]:
    """`wanted` messages of one session, evenly among `others` of `sessions` more. Positions are of one epoch each."""
    epoch, payload = f"{time.time_ns() // 1_000_000:013d}-00000000", _payload()
    seqs = dict[str, int]()
    order, total, given = random.Random(SEED), wanted + others, 0
    for number in range(total):
        mine = (number + 1) * wanted // total > given
        given += mine
        name = session if mine else f"{tenant}:planner:{order.randrange(sessions):06d}"
        seqs[name] = seq = seqs.get(name, 0) + 1
        message = _message(name, number, payload)
        message.position = f"{epoch}-{seq:016d}"
        yield message
