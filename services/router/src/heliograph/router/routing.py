"""The router's main loop: read a batch, confirm it, index it, commit.

The next batch is fetched while one is worked on. Commits come after the work, at intervals under load and at once when
the log has nothing more; what was worked on and not committed is worked on again by whoever reads it next, which
changes nothing.
"""

import asyncio
import random
import time
from collections.abc import Callable

from heliograph.core.backoff import Backoff, BackoffPolicy
from heliograph.core.positions import Position
from heliograph.router.batch import ROUTER_ERROR, Batch, Poison, take_apart
from heliograph.router.confirming import Confirmer
from heliograph.router.dead_letters import DeadLetters
from heliograph.router.deferring import Deferrer
from heliograph.router.expiring import ExpiryKeeper
from heliograph.router.indexing import Indexer
from heliograph.router.metrics import RouterMetrics
from heliograph.router.progress import Progress
from heliograph.router.topics import TopicTable
from heliograph.service.health import Condition
from heliograph.service.logs import RateLimitedLog, get_logger
from heliograph.service.serving import ServeMarks
from heliograph.stores.ports import LogConsumer, LogRecord, StoreError

POLL_S = 0.5
"""Waiting for records; commits and topics are looked at in between."""

READ_RETRY = BackoffPolicy(base_s=0.1, cap_s=2.0, healthy_s=0.0)


class Router:
    """Works on the log, for as long as its task lives."""

    def __init__(
        self,
        consumer: LogConsumer,
        topics: TopicTable,
        confirmer: Confirmer,
        indexer: Indexer,
        dead_letters: DeadLetters,
        deferrer: Deferrer,
        expiries: ExpiryKeeper,
        progress: Progress,
        marks: ServeMarks,
        metrics: RouterMetrics,
        condition: Condition,
        *,
        batch_records: int,
        commit_interval_s: float,
        clock: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._consumer = consumer
        self._topics = topics
        self._confirmer = confirmer
        self._indexer = indexer
        self._dead_letters = dead_letters
        self._deferrer = deferrer
        self._expiries = expiries
        self._progress = progress
        self._marks = marks
        self._metrics = metrics
        self._condition = condition
        self._batch_records = batch_records
        self._commit_interval_s = commit_interval_s
        self._clock = clock
        self._now_ms = now_ms
        self._committed_at = clock()
        self._next: asyncio.Task[list[LogRecord]] | None = None
        self._unfinished: list[LogRecord] = []
        self._backoff = Backoff(READ_RETRY, random.random)
        self._logger = get_logger(__name__)
        self._log = RateLimitedLog(self._logger)

    async def run(self) -> None:
        """Until cancelled. May be run again after an error: what was read is not forgotten."""
        try:
            while True:
                await self.step()
        except asyncio.CancelledError:
            if self._next is not None:
                self._next.cancel()
                self._next = None
            raise

    async def step(self) -> None:
        """One batch, or one wait without any."""
        records = self._unfinished = self._unfinished or await self._read()
        if records:
            # Fetched while this one is worked on; it is the consumer's until the next step takes it.
            self._next = self._next or asyncio.create_task(self._consumer.poll(self._batch_records, POLL_S))
            await self._work_through(records)
            self._unfinished = []
        if self._clock() - self._committed_at >= self._commit_interval_s:
            await self.commit()

    async def _work_through(self, records: list[LogRecord]) -> None:
        """Work on a batch; where that ends by an error of ours, find the record that it is about and put it aside."""
        try:
            await self.work(records)
        except Exception as error:
            self._metrics.work_errors.n += 1
            self._logger.exception("batch_failed", records=len(records))
            if len(records) == 1:
                self._put_aside(records[0], error)
                return
            for record in records:
                await self._work_through([record])

    def _put_aside(self, record: LogRecord, error: Exception) -> None:
        self._metrics.dead.labels(ROUTER_ERROR).n += 1
        self._dead_letters.take(Poison(record, ROUTER_ERROR, type(error).__name__))
        self._progress.done([record])

    async def work(self, records: list[LogRecord]) -> None:
        """Do all that a batch asks for; returns when its positions are confirmed."""
        batch = take_apart(records, self._topics.of)
        if batch.strangers and await self._topics.now_share(batch.strangers):
            batch = take_apart(records, self._topics.of)
        heads = await self._confirmer.confirm(batch.positions)
        if self._marks.served:
            self._mark(batch)
        await self._indexer.add(batch, heads)
        for poison in batch.poison:
            self._dead_letters.take(poison)
        if batch.deferred:
            await self._deferrer.take(batch.deferred)
        if batch.expiries:
            self._expiries.take(batch.expiries)
        self._progress.done(records)
        self._count(records, batch)

    def _mark(self, batch: Batch) -> None:
        """Tell which sessions have something for a worker: what an edge published and didn't live to tell."""
        served = self._marks.served
        for (session, epoch), pairs in batch.positions.items():
            kind = served.get(session[: session.rindex(":")])
            if kind is None:
                continue
            own = batch.by_worker.get((session, epoch), ())
            seq = max((seq for seq, _ in pairs if seq not in own), default=0)
            if seq:
                kind.mark(session, str(Position(epoch, seq)))

    def _count(self, records: list[LogRecord], batch: Batch) -> None:
        metrics = self._metrics
        metrics.records.n += len(records)
        metrics.batches.n += 1
        metrics.unsequenced.n += batch.unsequenced
        for poison in batch.poison:
            metrics.dead.labels(poison.reason).n += 1
        for event_type, count in batch.own.items():
            metrics.own.labels(event_type).n += count
        for reason, count in batch.gaps.items():
            metrics.gaps.labels(reason).n += count
        if batch.places:
            oldest_ms = min(record.timestamp_ms for *_, record in (batch.places[0], batch.places[-1]))
            metrics.confirm_s.observe(max(0.0, (self._now_ms() - oldest_ms) / 1000))

    async def commit(self) -> None:
        """Commit what is done. A failure is repeated with the next one."""
        records = self._progress.committable()
        self._committed_at = self._clock()
        if not records:
            return
        try:
            await self._consumer.commit(records)
        except StoreError as error:
            self._metrics.commit_failures.n += 1
            self._log.warning("commit_failed", error=str(error))
        else:
            self._progress.committed(records)

    async def _read(self) -> list[LogRecord]:
        reading, self._next = self._next, None
        try:
            records = await (reading or self._consumer.poll(self._batch_records, POLL_S))
        except StoreError as error:
            self._metrics.read_failures.n += 1
            self._condition.waiting(error)
            self._log.warning("log_not_read", error=str(error))
            await asyncio.sleep(self._backoff.failed(self._clock()))
            return []
        self._backoff.succeeded(self._clock())
        self._condition.ok()
        return records
