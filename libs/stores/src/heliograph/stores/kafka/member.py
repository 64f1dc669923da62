"""The half of a group's member that one thread owns: the librdkafka client and what is known about its partitions.

librdkafka forbids two threads at once in one consumer. Nothing here touches the event loop, and the loop touches
nothing here but by handing a method to the thread; `stats` and `assigned` may be read from anywhere.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition

from heliograph.stores.events import LOG, StoreEvent, Tally
from heliograph.stores.kafka.calls import MISSING, Partition
from heliograph.stores.kafka.client import (
    Refusals,
    bad_configuration,
    configuration,
    error_name,
    library_logger,
    logger,
    store_error,
)
from heliograph.stores.kafka.decoding import decode
from heliograph.stores.kafka.hearing import Hearing
from heliograph.stores.ports import LogRecord, StoreError

GroupProtocol = Literal["auto", "consumer", "classic"]

CALL_TIMEOUT_S = 10.0
"""Of a question to the cluster."""
LOOK_TIMEOUT_S = 1.0
"""Of a question whether something is there, asked between two polls."""
QUIET_S = 2.0
"""Without a record for so long the brokers are asked whether they are there, and again after as long."""
HEARTBEAT_S = 2.0
COMMIT_TIMEOUT_S = 5.0
COMMIT_POLL_S = 0.002
"""Between looks for a commit's answer, which takes a few milliseconds."""
REBUILD_INTERVAL_S = 1.0
"""At least between two clients: one that dies at once must not be rebuilt in a loop."""

GROWTH_SEEN_S = 5.0
"""With the classic protocol members look for new partitions themselves; what is in them is not confirmed until then."""

DEFAULTS: Mapping[str, object] = {
    # A broker gathers so much before it answers, and no longer than that: asked at once for each record that comes, it
    # and this client spend more on their questions than on the records. A deferred command waits for it as well.
    "fetch.min.bytes": 64 * 1024,
    "fetch.wait.max.ms": 25,
    "queued.min.messages": 20_000,
    "queued.max.messages.kbytes": 32 * 1024,
    "fetch.queue.backoff.ms": 20,  # the default of 1 s is a pause of 1 s whenever the queue was full
    "fetch.error.backoff.ms": 100,
    "topic.metadata.refresh.interval.ms": int(GROWTH_SEEN_S * 1000),
    "max.poll.interval.ms": 300_000,
}

PASSED_OVER = MISSING | frozenset(
    {
        KafkaError._ASSIGNMENT_LOST,  # noqa: SLF001
        KafkaError._NO_OFFSET,  # noqa: SLF001
        KafkaError._STATE,  # noqa: SLF001
        KafkaError.FENCED_MEMBER_EPOCH,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.STALE_MEMBER_EPOCH,
        KafkaError.UNKNOWN_MEMBER_ID,
    }
)
"""Errors of a commit for partitions that others have by now, who read the records again, or nobody. While the group
rebalances they come for those as well that stay ours: we read on, so nobody else will ever commit these."""

NO_KIP_848 = frozenset({KafkaError._UNSUPPORTED_FEATURE, KafkaError.UNSUPPORTED_VERSION})  # noqa: SLF001
"""How a broker without the `consumer` protocol shows."""

DENIED = frozenset(
    {
        KafkaError._AUTHENTICATION,  # noqa: SLF001
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
    }
)


class MemberStats(Tally):
    """What happened to one member, whatever client it was at the time."""

    __slots__ = ("kept_alive",)

    def __init__(self) -> None:
        super().__init__(LOG)
        self.kept_alive = 0
        """Rounds of polling while the caller waited for something else."""


class GroupMember:
    """One member, in whatever client it lives at the moment."""

    def __init__(
        self,
        properties: Mapping[str, object],
        group: str,
        protocol: GroupProtocol,
        session_timeout_s: float,
        make: Callable[[dict[str, Any]], Any],
    ) -> None:
        self._properties = dict(properties)
        self._group = group
        self._auto = protocol == "auto"
        self.protocol: Literal["consumer", "classic"] = "classic" if protocol == "classic" else "consumer"
        """What is spoken now."""
        self._session_timeout_s = session_timeout_s
        self._make = make
        self._consumer: Any = None
        self._topics: list[str] = []
        self._held: list[LogRecord] = []
        self._paused = False
        self._expected: dict[Partition, int] = {}
        self._brokers_down = False
        self.stats = MemberStats()
        self._hearing = Hearing("group member", self.stats)
        self._asked_at = 0.0
        """When the cluster last answered, or was asked to."""
        self._life = 0
        """Which client it is: what those before it still tell is about nothing that is ours."""
        self._rebuilt_at = 0.0
        self._answer: tuple[KafkaError | None, list[TopicPartition]] | None = None
        self.assigned: frozenset[Partition] = frozenset()
        self.committed: dict[Partition, int] = {}
        """Where the group continues, of assigned partitions, as far as known."""
        self._refusals = Refusals()

    def open(self, topics: list[str]) -> None:
        self._life += 1
        self._asked_at = time.monotonic()
        life = self._life
        classic = {
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": int(self._session_timeout_s * 1000),
            "heartbeat.interval.ms": int(min(HEARTBEAT_S, self._session_timeout_s / 3) * 1000),
        }
        config = configuration(
            self._properties,
            DEFAULTS,
            {
                "group.id": self._group,
                "group.protocol": self.protocol,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "enable.partition.eof": False,
                "auto.offset.reset": "earliest",
                "error_cb": lambda error: self._on_error(life, error),
                "on_commit": lambda error, partitions: self._on_commit(life, error, partitions),
                "logger": library_logger,
                **(classic if self.protocol == "classic" else {}),
            },
        )
        try:
            self._consumer = self._make(config)
        except (KafkaException, ValueError, TypeError) as error:
            raise bad_configuration(error, config) from None
        self.subscribe(topics)

    def subscribe(self, topics: list[str]) -> None:
        self._topics = topics
        if topics:
            self._consumer.subscribe(
                topics, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke
            )
        else:
            self._consumer.unsubscribe()

    def leave(self) -> None:
        if self._consumer is not None:
            consumer, self._consumer = self._consumer, None
            self._hearing.close(consumer.close)
        self.assigned = frozenset()
        self._held = []

    def consume(self, max_records: int, wait_s: float) -> list[LogRecord]:
        if self._paused:
            self._paused = False
            self._consumer.resume(self._consumer.assignment())
        records, self._held = self._held[:max_records], self._held[max_records:]
        messages: list[Any] = []
        try:
            # `consume` waits for all it is asked for: one first, then what is there.
            messages = self._consumer.consume(1, 0 if records else wait_s)
            if messages and max_records > len(records) + 1:
                messages += self._consumer.consume(max_records - len(records) - 1, 0)
        except KafkaException as error:
            self._failed(error.args[0], nothing_read=not records and not messages)
        self._take(messages, records)
        if records:
            self._heard()
        else:
            self._listen()
        return records

    def _failed(self, error: KafkaError, *, nothing_read: bool) -> None:
        """`consume` itself failed. What was read is not lost; what failed, fails again."""
        self.stats.error(error_name(error))
        if error.fatal():
            self._rebuild(error)
        elif nothing_read:
            raise store_error("read the log", error)

    def _take(self, messages: list[Any], records: list[LogRecord]) -> None:
        first, errors = len(records), list[KafkaError]()
        decode(messages, records, errors)
        self._follow(records, first)
        for error in errors:
            self._told(error, records)

    def stay(self) -> None:
        """Poll without reading: heartbeats, rebalances. What slips through is held."""
        self._paused = True
        self.stats.kept_alive += 1
        self._consumer.pause(self._consumer.assignment())
        try:
            messages = self._consumer.consume(100, 0)
        except KafkaException as error:
            self._failed(error.args[0], nothing_read=False)
            return
        self._take(messages, self._held)

    def _follow(self, records: list[LogRecord], first: int) -> None:
        """Compare each run of a partition with where the last one ended."""
        topic, partition, following = "", -1, -1
        for record in records[first:]:
            if record.offset == following and record.partition == partition and record.topic == topic:
                following += 1
                continue
            if topic:
                self._expected[topic, partition] = following
            place = topic, partition = record.topic, record.partition
            expected = self._expected.get(place)
            if expected is not None and record.offset != expected:
                self._jumped(place, expected, record.offset)
            following = record.offset + 1
        if topic:
            self._expected[topic, partition] = following

    def _jumped(self, place: Partition, expected: int, found: int) -> None:
        fields = {"topic": place[0], "partition": place[1], "expected": expected, "offset": found}
        if found > expected:
            self.stats.count(StoreEvent.OFFSET_SKIPPED, found - expected)
            logger.warning("log_offsets_skipped", extra=fields)
        else:
            self.stats.count(StoreEvent.PARTITION_REWOUND)
            self.committed.pop(place, None)
            logger.warning("log_rewound", extra=fields)

    def _told(self, error: KafkaError, records: list[LogRecord]) -> None:
        """An error in the place of a record."""
        code = error.code()
        self.stats.error(error_name(error))
        if error.fatal() or code == KafkaError._FATAL or code in NO_KIP_848:  # noqa: SLF001
            self._rebuild(error)
        elif code in DENIED and not records:
            raise store_error("read the log", error)
        else:
            logger.warning("log_consumer_error", extra={"error": error_name(error), "text": error.str()})

    def _rebuild(self, error: KafkaError) -> None:
        """A fatal error ends the client, not the member: join anew, by the older protocol where need be."""
        if self._auto and self.protocol == "consumer" and _says_no_kip_848(error):
            self.protocol = "classic"
        else:
            time.sleep(max(0.0, self._rebuilt_at + REBUILD_INTERVAL_S - time.monotonic()))
        self._rebuilt_at = time.monotonic()
        self.stats.count(StoreEvent.MEMBER_REBUILT)
        logger.error("log_consumer_rebuilt", extra={"error": error_name(error), "protocol": self.protocol})
        self._begin_anew()

    def _begin_anew(self) -> None:
        self.leave()
        self._expected.clear()
        self.committed.clear()
        self.open(self._topics)

    def _heard(self) -> None:
        self._asked_at = time.monotonic()
        self._hearing.heard()

    def _listen(self) -> None:
        """Nothing was read. Now and then, or when all brokers were down, ask for an answer: without one a client that
        has been deaf for long is replaced, and a StoreError tells that the brokers are away.
        """
        if not self._brokers_down and time.monotonic() - self._asked_at < QUIET_S:
            return
        try:
            self._consumer.list_topics(*self._topics[:1], timeout=LOOK_TIMEOUT_S)
        except KafkaException as error:
            self._asked_at = time.monotonic()
            if self._hearing.missed():
                self._begin_anew()
            if self._brokers_down:
                raise self._refusals.explain(store_error("read the log", error)) from None
        else:
            self._brokers_down = False
            self._heard()
            self._refusals.over()

    def commit(self, highest: dict[Partition, int]) -> None:
        ours = {place: offset + 1 for place, offset in highest.items() if place in self.assigned}
        self.stats.count(StoreEvent.COMMIT_NOT_OURS, len(highest) - len(ours))
        if not ours:
            return
        offsets = [TopicPartition(topic, partition, offset) for (topic, partition), offset in ours.items()]
        self._answer = None
        refused: dict[Partition, KafkaError] = {}
        try:
            self._consumer.commit(offsets=offsets, asynchronous=True)
            results = self._committed(ours)
        except KafkaException as error:
            refused = dict.fromkeys(ours, error.args[0])
        else:
            for result in results:
                if result.error is None:
                    self.committed[result.topic, result.partition] = result.offset
                else:
                    refused[result.topic, result.partition] = result.error
        others = {
            place for place, error in refused.items() if error.code() in PASSED_OVER and place not in self.assigned
        }
        others |= self._gone({place for place in refused.keys() - others if refused[place].code() in MISSING})
        self.stats.count(StoreEvent.COMMIT_NOT_OURS, len(others))
        repeat = {place: highest[place] for place in refused if place not in others}
        if repeat and others:  # a topic that is gone has brokers refuse all that is asked with it
            self.commit(repeat)
        elif repeat:
            raise store_error("commit", refused[next(iter(repeat))])

    def _gone(self, places: set[Partition]) -> set[Partition]:
        """Those that brokers say they don't have: a coordinator may not have heard of a new partition yet."""
        gone: set[Partition] = set()
        for topic in {topic for topic, _ in places}:
            try:
                found = self._consumer.list_topics(topic, timeout=LOOK_TIMEOUT_S).topics[topic]
            except KafkaException:
                continue  # nobody can say so
            there = set() if found.error is not None else {(topic, partition) for partition in found.partitions}
            gone |= {place for place in places if place[0] == topic} - there
        return gone

    def _committed(self, ours: Mapping[Partition, int]) -> list[TopicPartition]:
        """Wait for the answer to a commit. The library's own waiting lasts a session's timeout without brokers."""
        deadline = time.monotonic() + COMMIT_TIMEOUT_S
        while self._answer is None or not _is_about(self._answer[1], ours):
            if time.monotonic() > deadline:
                raise StoreError("log_unavailable", f"commit: no answer in {COMMIT_TIMEOUT_S:g} s", maybe_done=True)
            self._take(self._consumer.consume(1, COMMIT_POLL_S), self._held)
        error, results = self._answer
        if error is not None:
            raise KafkaException(error)
        return results

    def start_over(self, topic: str) -> None:
        for place in [place for place in self.assigned if place[0] == topic]:
            self._expected.pop(place, None)
            self.committed.pop(place, None)
            self._held = [record for record in self._held if (record.topic, record.partition) != place]
            try:
                self._consumer.seek(TopicPartition(place[0], place[1], OFFSET_BEGINNING))
            except KafkaException as error:
                logger.warning("log_not_started_over", extra={"topic": topic, "error": str(error.args[0])})

    # ---- told by librdkafka, inside its calls, in the thread --------------------------------------------------------

    def _on_assign(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        """Begin where the group has committed; knowing the offset shows what retention took in between."""
        if consumer is not self._consumer:
            return
        self.stats.count(StoreEvent.REBALANCED)
        self._paused = True  # the library remembers that a partition was paused when we had it last
        self.assigned |= {(place.topic, place.partition) for place in partitions}
        if not partitions:
            return
        try:
            committed = consumer.committed(partitions, timeout=CALL_TIMEOUT_S)
        except KafkaException as error:
            logger.warning("log_committed_offsets_unknown", extra={"error": str(error.args[0])})
            return  # librdkafka asks again by itself, in the background
        for place in committed:
            if place.error is None and place.offset >= 0:
                self._expected[place.topic, place.partition] = place.offset
                self.committed[place.topic, place.partition] = place.offset
        logger.info("log_partitions_assigned", extra={"partitions": len(partitions), "all": len(self.assigned)})

    def _on_revoke(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        if consumer is not self._consumer:
            return  # it was left, with all that it had
        self.stats.count(StoreEvent.REBALANCED)
        gone = {(place.topic, place.partition) for place in partitions}
        self.assigned -= gone
        for place in gone:
            self._expected.pop(place, None)
            self.committed.pop(place, None)
        self._held = [record for record in self._held if (record.topic, record.partition) not in gone]

    def _on_commit(self, life: int, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        if life == self._life:
            self._answer = (error, partitions)

    def _on_error(self, life: int, error: KafkaError) -> None:
        if life != self._life:
            return
        self._refusals.note(error)
        self.stats.error(error_name(error))
        if error.code() == KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001
            self._brokers_down = True


def _says_no_kip_848(error: KafkaError) -> bool:
    """Fatal errors arrive as _FATAL, and tell the code in their text alone."""
    text = error.str()
    return error.code() in NO_KIP_848 or ("ConsumerGroupHeartbeat" in text and "not supported" in text)


def _is_about(answered: list[TopicPartition], ours: Mapping[Partition, int]) -> bool:
    """Whether an answer is the one to this commit, and not to one before that was given up."""
    return {(one.topic, one.partition): one.offset for one in answered} == ours
