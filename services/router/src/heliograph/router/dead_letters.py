"""Poison records go to `<prefix>.dead`: key and value as they were, where they came from and what is wrong in headers.

Until a dead letter is written its offset is owed: nothing behind it is committed in its partition, and everything else
goes on. A bounded number of bytes is kept meanwhile; what is beyond is read again from the log when its turn comes, so
that an unwritable dead-letter topic costs some memory, not the confirmations of everybody.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from heliograph.core.backoff import Backoff, BackoffPolicy
from heliograph.core.partitions import partition_of
from heliograph.router.batch import Poison
from heliograph.router.metrics import RouterMetrics
from heliograph.router.progress import Progress
from heliograph.service.logs import RateLimitedLog, get_logger
from heliograph.stores.ports import LogAdmin, LogReader, LogRecord, LogWriter, StoreError, TopicSpec

RETRY = BackoffPolicy(base_s=0.2, cap_s=10.0, healthy_s=5.0)

CUT_BYTES = 128 * 1024
"""A larger value may be what makes a dead letter too large for the topic: after a refusal it is left out."""

HEADER_PREFIX = "heliograph_dead_"


@dataclass(slots=True)
class _Pending:
    """A dead letter to write. `record` None: to be read again."""

    place: tuple[str, int]
    offset: int
    reason: str
    detail: str
    record: LogRecord | None
    size_bytes: int
    cut: bool = False


class DeadLetters:
    """Writes dead letters one after the other, for as long as it takes."""

    def __init__(
        self,
        topic: str,
        writer: LogWriter,
        reader: LogReader,
        admin: LogAdmin,
        progress: Progress,
        metrics: RouterMetrics,
        *,
        pending_bytes: int,
        retention_s: int,
        uniform: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._topic = topic
        self._writer = writer
        self._reader = reader
        self._admin = admin
        self._progress = progress
        self._metrics = metrics
        self._pending_bytes = pending_bytes
        self._retention_s = retention_s
        self._clock = clock
        self._backoff = Backoff(RETRY, uniform)
        self._pending: deque[_Pending] = deque()
        self._held_bytes = 0
        self._partitions = 0
        self._added = asyncio.Event()
        self._log = RateLimitedLog(get_logger(__name__))
        metrics.metrics.sampled_gauge(
            "dead_letters_pending", "Poison records whose dead letter is not written yet.", lambda: len(self._pending)
        )

    def take(self, poison: Poison) -> None:
        """Owe this record, and write its dead letter soon."""
        record = poison.record
        place = (record.topic, record.partition)
        self._progress.owe(place, record.offset)
        size_bytes = len(record.key or b"") + len(record.value or b"")
        kept = self._held_bytes + size_bytes <= self._pending_bytes
        self._held_bytes += size_bytes if kept else 0
        pending = _Pending(
            place, record.offset, poison.reason, poison.detail, record if kept else None, size_bytes if kept else 0
        )
        self._pending.append(pending)
        self._added.set()
        self._log.warning(
            "poison_record",
            key=poison.reason,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            reason=poison.reason,
        )

    async def run(self) -> None:
        """Write what is pending, for as long as the task lives."""
        while True:
            while self._pending:
                await self._write_next()
            self._added.clear()
            await self._added.wait()

    async def _write_next(self) -> None:
        pending = self._pending[0]
        try:
            record = pending.record or await self._read_again(pending)
            if record is not None:
                await self._write(pending, record)
        except StoreError as error:
            self._metrics.dead_retries.n += 1
            if record_too_large(pending, error):
                pending.cut = True
                return
            self._partitions = 0  # the topic may be gone, or another one
            self._log.warning("dead_letter_not_written", reason=pending.reason, error=str(error))
            await asyncio.sleep(self._backoff.failed(self._clock()))
            return
        self._backoff.succeeded(self._clock())
        self._pending.popleft()
        self._held_bytes -= pending.size_bytes
        self._progress.settle(pending.place, pending.offset)

    async def _read_again(self, pending: _Pending) -> LogRecord | None:
        topic, partition = pending.place
        async for records in self._reader.read(topic, partition, pending.offset, pending.offset + 1):
            for record in records:
                return record
        self._metrics.dead_lost.n += 1
        self._log.warning("poison_record_lost", topic=topic, partition=partition, offset=pending.offset)
        return None

    async def _write(self, pending: _Pending, record: LogRecord) -> None:
        if not self._partitions:
            self._partitions = await self._ensure_topic()
        key = record.key or b""
        value = record.value or b""
        if pending.cut:
            value = b""
            self._metrics.dead_cut.n += 1
        answered: asyncio.Future[StoreError | None] = asyncio.get_running_loop().create_future()
        self._writer.write(
            self._topic,
            partition_of(key, self._partitions),
            key,
            value,
            dead_letter_headers(record, pending.reason, pending.detail, cut=pending.cut),
            lambda error: None if answered.done() else answered.set_result(error),
        )
        error = await answered
        if error is not None:
            raise error

    async def _ensure_topic(self) -> int:
        """How many partitions the dead-letter topic has; it is created where there is none."""
        found = (await self._admin.describe([self._topic])).get(self._topic)
        if found is None:
            config = {"retention.ms": str(self._retention_s * 1000), "cleanup.policy": "delete"}
            await self._admin.create(TopicSpec(self._topic, 1, None, config))
            found = (await self._admin.describe([self._topic])).get(self._topic)
        return 1 if found is None else found.partitions


def record_too_large(pending: _Pending, error: StoreError) -> bool:
    """Whether a refusal may be about the size, and leaving the value out has not been tried."""
    record = pending.record
    large = record is None or len(record.value or b"") > CUT_BYTES
    return not error.maybe_done and "TOO_LARGE" in error.message and large and not pending.cut


def dead_letter_headers(record: LogRecord, reason: str, detail: str, *, cut: bool) -> list[tuple[str, bytes]]:
    """The record's own headers, then where it came from and why it is here."""
    headers = [(name, value or b"") for name, value in record.headers if not name.startswith(HEADER_PREFIX)]
    about = {
        "topic": record.topic,
        "partition": str(record.partition),
        "offset": str(record.offset),
        "timestamp_ms": str(record.timestamp_ms),
        "reason": reason,
        "detail": detail[:300],
    }
    if record.key is None:
        about["no_key"] = "true"
    if record.value is None:
        about["no_value"] = "true"
    if cut:
        about["value_cut_bytes"] = str(len(record.value or b""))
    return headers + [(HEADER_PREFIX + name, text.encode()) for name, text in about.items()]
