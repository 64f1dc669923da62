"""Writes to the log: idempotent, acknowledged by all in-sync replicas, without a thread hop for a record.

librdkafka sends from its own threads; what comes back is fetched by `poll(0)` on the event loop, in batches: about
every millisecond while something is in flight, rarely when nothing is. `done` runs in there, never inside `write`.
Where thousands come back at once (a broker is back, a second's records ran out of time) the loop gets turns between.

A topic that librdkafka believes missing is asked for again in the background, so that one that was just created (or
grown) can be written to at once. A fatal error of the idempotent producer ends that producer, not the writer: another
one takes its place.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from confluent_kafka import KafkaError, KafkaException, Producer

from heliograph.stores.events import LOG, StoreEvent, Tally
from heliograph.stores.kafka.client import (
    NOT_SENT,
    Refusals,
    bad_configuration,
    configuration,
    error_name,
    library_logger,
    logger,
    store_error,
)
from heliograph.stores.ports import LogLoad, StoreError

BUSY_POLL_S = 0.001
"""While records are in flight. A poll that finds nothing costs about a microsecond."""
IDLE_POLL_S = 0.25
"""With nothing in flight: only errors and log lines are fetched."""
REPORTS_AT_ONCE = 250
"""Told within one poll, and a sixteenth of those that wait besides, so that a busy loop never falls behind for good:
about 3 ms of it. A second's records that run out of time come back at once.
"""
AGE_STEP_S = 0.05
"""Records written within this time share one entry of the account of ages."""
REFRESH_INTERVAL_S = 0.25
"""Between two questions about one topic that seems to be missing."""
METADATA_TIMEOUT_S = 5.0
REBUILD_INTERVAL_S = 1.0
"""At least between two producers: one that dies at once must not be rebuilt in a loop."""

QUEUED_RECORDS = 200_000

DEFAULTS: Mapping[str, object] = {
    "compression.type": "lz4",
    "queue.buffering.max.messages": QUEUED_RECORDS,
    "queue.buffering.max.kbytes": 256 * 1024,
    "topic.metadata.refresh.fast.interval.ms": 50,  # a new topic's leader is there within a few of these
    "topic.metadata.propagation.max.ms": 5_000,  # then a missing topic is an error, not a wait
    "retry.backoff.ms": 20,
    "retry.backoff.max.ms": 500,
}

UNKNOWN_HERE = frozenset({KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION})  # noqa: SLF001

Done = Callable[[StoreError | None], None]


class _Written:
    """Records written at about the same time, and how many of them are still unacknowledged."""

    __slots__ = ("at", "open")

    def __init__(self, at: float) -> None:
        self.at = at
        self.open = 0


class ProducerFactory(Protocol):
    """Makes the client; `confluent_kafka.Producer` is one."""

    def __call__(self, config: dict[str, Any], /) -> Producer: ...


class KafkaLogWriter:
    """LogWriter on one idempotent producer, shared by all topics of the process."""

    def __init__(
        self,
        properties: Mapping[str, object],
        *,
        linger_ms: float = 2.0,
        delivery_timeout_s: float = 10.0,
        producer: ProducerFactory = Producer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`properties`: librdkafka's, `bootstrap.servers` among them.

        `linger_ms`: how long a record waits for others of its partition. `delivery_timeout_s`: after it a record that
        is not acknowledged is an error; the router reconciles no earlier.
        """
        self._config = configuration(
            properties,
            {**DEFAULTS, "linger.ms": linger_ms},
            {
                "acks": "all",
                "enable.idempotence": True,
                "partitioner": "murmur2_random",  # for callers that leave the partition to the key: as Java's clients
                "delivery.timeout.ms": int(delivery_timeout_s * 1000),
                "delivery.report.only.error": False,
                "error_cb": self._on_error,
                "logger": library_logger,
            },
        )
        self._make = producer
        self._clock = clock
        self._producer: Producer | None = None
        self._retired: list[Producer] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._busy = False
        self._rebuild_at = 0.0
        self._fatal = False
        self._ages: deque[_Written] = deque()
        self._now = _Written(clock())
        self._refreshed: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._room = REPORTS_AT_ONCE
        """Reports that this poll may still tell."""
        self._reports: deque[tuple[Done | None, _Written, str, KafkaError | None]] = deque()
        """Those it may not, in order."""
        self.in_flight = 0
        self.acknowledged = 0
        """Records that all in-sync replicas have."""
        self.stats = Tally(LOG)
        """Errors: of records, and of the client itself (prefix `client:`), by Kafka's name of the code."""
        self._broker_errors = 0
        self._refusals = Refusals(clock)
        queued = str(self._config["queue.buffering.max.messages"])
        self._capacity = int(queued) if queued.isdecimal() else QUEUED_RECORDS  # which the client then refuses
        self.brokers_down = False
        """No broker could be reached; ends with the next acknowledgement or successful `ping`."""

    # ---- life -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Create the producer; it connects in the background. Raises InvalidValueError for a property it refuses."""
        self._loop = asyncio.get_running_loop()
        self._producer = self._new_producer()
        self._ages.append(self._now)
        self._timer = self._loop.call_later(IDLE_POLL_S, self._poll)

    async def close(self, timeout_s: float) -> int:
        """Flush for at most `timeout_s`, then fail what is left; how many records that was."""
        if self._producer is None:
            return 0
        deadline = self._clock() + timeout_s
        while self.in_flight and self._clock() < deadline:
            self._serve()
            await asyncio.sleep(BUSY_POLL_S)
        left = self.in_flight
        producers = [self._producer, *self._retired]
        self._producer, self._retired = None, []
        if self._timer is not None:
            self._timer.cancel()
        for producer in producers:
            producer.purge()
            self._serve_one(producer)
        while self._reports:
            self._tell(*self._reports.popleft())
        for task in list(self._tasks):
            task.cancel()
        if self._loop is not None:
            await asyncio.gather(*(self._loop.run_in_executor(None, producer.close) for producer in producers))
        return left

    async def ping(self, timeout_s: float = 5.0) -> None:
        """Whether a broker answers. Raises StoreError(`log_unavailable`)."""
        await self._ask_metadata(None, timeout_s)

    # ---- writing ----------------------------------------------------------------------------------------------------

    def write(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]],
        done: Done | None,
    ) -> None:
        """Queue one record for `partition` (callers choose it: `heliograph.core.partitions.partition_of`)."""
        producer = self._producer
        if producer is None:
            raise StoreError("log_unavailable", "the log writer is not running")
        written = self._now
        try:
            producer.produce(
                topic,
                value,
                key,
                partition,
                partial(self._delivered, done, written, topic),
                headers=headers,  # type: ignore[arg-type] # the stub's list is invariant
            )
        except BufferError:
            self.stats.error("_QUEUE_FULL")
            raise StoreError("log_unavailable", "the producer's queue is full") from None
        except KafkaException as error:
            raise self._refused(topic, error) from None
        written.open += 1
        self.in_flight += 1
        if not self._busy:
            self._busy = True
            self._arm(BUSY_POLL_S)

    @property
    def oldest_unacknowledged_s(self) -> float:
        """Age of the oldest record in flight (to within 50 ms), 0 with none."""
        return next((self._clock() - written.at for written in self._ages if written.open), 0.0)

    @property
    def load(self) -> LogLoad:
        return LogLoad(self.in_flight, self._capacity, self.oldest_unacknowledged_s, self._broker_errors)

    def _refused(self, topic: str, error: KafkaException) -> StoreError:
        kafka_error: KafkaError = error.args[0]
        self._count(kafka_error)
        if kafka_error.fatal() or kafka_error.code() == KafkaError._FATAL:  # noqa: SLF001
            self._fatal = True
            self._arm(0)
        elif kafka_error.code() in UNKNOWN_HERE:
            self._refresh(topic)
        return store_error(f"write to {topic}", kafka_error)

    def _delivered(
        self, done: Done | None, written: _Written, topic: str, error: KafkaError | None, _message: object
    ) -> None:
        if self._room > 0:
            self._room -= 1
            self._tell(done, written, topic, error)
        else:
            self._reports.append((done, written, topic, error))

    def _tell(self, done: Done | None, written: _Written, topic: str, error: KafkaError | None) -> None:
        written.open -= 1
        self.in_flight -= 1
        failure = None
        if error is None:
            self.acknowledged += 1
            self.brokers_down = False
        else:
            failure = self._failed(topic, error)
        if done is not None:
            try:
                done(failure)
            except Exception:  # noqa: BLE001 - one caller's fault must not keep the reports of others
                self.stats.count(StoreEvent.CALLBACK_FAILED)
                logger.exception("log_write_callback_failed", extra={"topic": topic})

    def _failed(self, topic: str, error: KafkaError) -> StoreError:
        self._count(error)
        if error.code() in UNKNOWN_HERE:
            self._refresh(topic)
        return self._refusals.explain(store_error(f"write to {topic}", error, maybe_done=error.code() not in NOT_SENT))

    def _count(self, error: KafkaError) -> None:
        self.stats.error(error_name(error))
        self._broker_errors += error.code() not in UNKNOWN_HERE

    # ---- polling ----------------------------------------------------------------------------------------------------

    def _arm(self, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._loop is not None and self._producer is not None:
            self._timer = self._loop.call_later(delay_s, self._poll)

    def _poll(self) -> None:
        try:
            self._serve()
        finally:
            self._busy = self.in_flight > 0
            self._arm(BUSY_POLL_S if self._busy else IDLE_POLL_S)

    def _serve(self) -> None:
        """Run what came back, keep the account of ages, replace a producer that died."""
        if self._producer is None:
            return
        now = self._clock()
        if now - self._now.at >= AGE_STEP_S:
            self._now = _Written(now)
            self._ages.append(self._now)
        self._room = REPORTS_AT_ONCE + len(self._reports) // 16
        while self._reports and self._room > 0:
            self._room -= 1
            self._tell(*self._reports.popleft())
        for producer in (self._producer, *self._retired):
            self._serve_one(producer)
        while len(self._ages) > 1 and not self._ages[0].open:
            self._ages.popleft()
        if self._fatal and now >= self._rebuild_at:
            self._rebuild(now)
        if self._retired:
            self._bury()

    def _serve_one(self, producer: Producer) -> None:
        """Run the callbacks of one producer. A fatal error is raised by `poll`, not told to the error callback."""
        try:
            producer.poll(0)
        except KafkaException as error:
            self._on_error(error.args[0], fatal=producer is self._producer)

    def _on_error(self, error: KafkaError, *, fatal: bool = False) -> None:
        """The client's own errors; runs inside `poll`."""
        self._refusals.note(error)
        self.stats.error(f"client:{error_name(error)}")
        self._broker_errors += 1
        if error.code() == KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001
            self.brokers_down = True
        if fatal and error.fatal():
            self._fatal = True

    # ---- repair -----------------------------------------------------------------------------------------------------

    def _new_producer(self) -> Producer:
        try:
            return self._make(dict(self._config))
        except (KafkaException, ValueError, TypeError) as error:
            raise bad_configuration(error, self._config) from None

    def _rebuild(self, now: float) -> None:
        """Put another producer in the place of one that met a fatal error; what it held fails and is reconciled."""
        assert self._producer is not None
        self._fatal = False
        self._rebuild_at = now + REBUILD_INTERVAL_S
        self.stats.count(StoreEvent.PRODUCER_REBUILT)
        rebuilt = self.stats[StoreEvent.PRODUCER_REBUILT]
        logger.error("log_producer_rebuilt", extra={"in_flight": self.in_flight, "rebuilt": rebuilt})
        old, self._producer = self._producer, self._new_producer()
        old.purge(blocking=False)
        self._retired.append(old)

    def _bury(self) -> None:
        """Let go of dead producers whose records have all been answered; destroying one blocks."""
        assert self._loop is not None
        for producer in [retired for retired in self._retired if not len(retired)]:
            self._retired.remove(producer)
            self._loop.run_in_executor(None, producer.close)

    def _refresh(self, topic: str) -> None:
        """Ask for a topic's metadata; librdkafka itself would in some minutes."""
        now = self._clock()
        if self._loop is None or now - self._refreshed.get(topic, -REFRESH_INTERVAL_S) < REFRESH_INTERVAL_S:
            return
        if len(self._refreshed) > 1_000:
            self._refreshed.clear()
        self._refreshed[topic] = now
        task = self._loop.create_task(self._refresh_quietly(topic))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _refresh_quietly(self, topic: str) -> None:
        try:
            await self._ask_metadata(topic, METADATA_TIMEOUT_S)
        except StoreError as error:
            logger.debug("log_metadata_refresh_failed", extra={"topic": topic, "error": str(error)})

    async def _ask_metadata(self, topic: str | None, timeout_s: float) -> None:
        producer = self._producer
        if self._loop is None or producer is None:
            raise StoreError("log_unavailable", "the log writer is not running")
        try:
            await self._loop.run_in_executor(None, partial(producer.list_topics, topic, timeout=timeout_s))
        except KafkaException as error:
            raise self._refusals.explain(store_error("ask for metadata", error)) from None
        self.brokers_down = False
