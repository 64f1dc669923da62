"""The log in memory: topics, partitions, offsets, groups, retention, and an outage to switch on.

One `MemoryLog` is what the brokers are; writers, consumers, readers and admins share it. It behaves as Kafka does where
the contract suite looks: offsets never come back, a group's members share partitions, a topic made again has another
id, and while `available` is False writes wait for their delivery timeout.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from uuid import uuid4

from heliograph.core.partitions import partition_of
from heliograph.stores.ports import LogLoad, LogRecord, Scanned, StoreError, TopicInfo, TopicSpec

Place = tuple[str, int]
Done = Callable[[StoreError | None], None]

QUEUED_RECORDS = 200_000
"""As the writer to Kafka has it; here nothing is refused for it."""

RETRY_S = 0.005
"""Between looks at a log that is away."""


@dataclass
class _Partition:
    """Records from `first` on; `first` rises with retention."""

    first: int = 0
    records: list[LogRecord] = field(default_factory=list)
    size_bytes: int = 0

    @property
    def end(self) -> int:
        return self.first + len(self.records)

    def slice(self, start: int, count: int) -> list[LogRecord]:
        begin = max(start, self.first) - self.first
        return self.records[begin : begin + count]

    def append(self, record: LogRecord) -> None:
        record.offset = self.end
        self.records.append(record)
        self.size_bytes += record_bytes(record)

    def forget_before(self, offset: int) -> None:
        gone = self.records[: max(0, offset - self.first)]
        del self.records[: len(gone)]
        self.size_bytes -= sum(map(record_bytes, gone))
        self.first = max(self.first, offset)


@dataclass
class _Topic:
    topic_id: str
    replication_factor: int
    config: dict[str, str]
    partitions: list[_Partition]


def record_bytes(record: LogRecord) -> int:
    """What a record counts in `retention.bytes`: about what it takes in Kafka."""
    headers = sum(len(name) + len(value or b"") for name, value in record.headers)
    return len(record.key or b"") + len(record.value or b"") + headers


class MemoryLog:
    """What the brokers hold."""

    def __init__(self, clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self._clock_ms = clock_ms
        self._changed = asyncio.Event()
        self.topics: dict[str, _Topic] = {}
        self.groups: dict[str, _Group] = {}
        self.available = True
        """False: the brokers can't be reached."""
        self.refused_topics: set[str] = set()
        """Topics whose writes are answered with an error (a partition without a leader)."""

    def create(self, topic: TopicSpec) -> None:
        if topic.name not in self.topics:
            partitions = [_Partition() for _ in range(topic.partitions)]
            self.topics[topic.name] = _Topic(uuid4().hex, topic.replication_factor or 1, _set(topic.config), partitions)
            self._notify()

    def delete(self, topic: str) -> None:
        """Groups forget its offsets, as Kafka's do."""
        self.topics.pop(topic, None)
        for group in self.groups.values():
            group.committed = {place: offset for place, offset in group.committed.items() if place[0] != topic}
            group.forget(topic)
        self._notify()

    def append(self, record: LogRecord) -> LogRecord:
        """Store a record at the end of its partition; gives it offset and time. Raises KeyError without such a one."""
        partition = self.partition((record.topic, record.partition))
        if partition is None:
            raise KeyError(record.topic)
        record.timestamp_ms = self._clock_ms()
        partition.append(record)
        self._notify()
        return record

    def truncate(self, topic: str, partition: int, before: int) -> None:
        """What retention does: offsets below `before` are gone."""
        self.topics[topic].partitions[partition].forget_before(before)

    def records(self, topic: str) -> list[LogRecord]:
        """Everything in a topic, partition by partition."""
        return [record for partition in self.topics[topic].partitions for record in partition.records]

    def partition(self, place: Place) -> _Partition | None:
        topic = self.topics.get(place[0])
        return topic.partitions[place[1]] if topic is not None and 0 <= place[1] < len(topic.partitions) else None

    def group(self, name: str) -> "_Group":
        return self.groups.setdefault(name, _Group(self))

    def check(self) -> None:
        """Raise as a client does that reaches no broker."""
        if not self.available:
            raise StoreError("log_unavailable", "the log is away")

    async def wait_changed(self, timeout_s: float) -> None:
        """Until something changed, or the time is over."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            pass

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class _Group:
    """A consumer group: who is in it, who reads what, and how far it came."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self.members: list[MemoryLogConsumer] = []
        self.committed: dict[Place, int] = {}

    def assignment(self) -> dict[Place, "MemoryLogConsumer"]:
        """Each partition's reader: in turn among the members subscribed to its topic."""
        owners = {}
        for name, topic in self._log.topics.items():
            readers = [member for member in self.members if name in member.topics]
            for number in range(len(topic.partitions) if readers else 0):
                owners[name, number] = readers[number % len(readers)]
        return owners

    def forget(self, topic: str) -> None:
        for member in self.members:
            member.forget(topic)


class MemoryLogWriter:
    """LogWriter."""

    def __init__(self, log: MemoryLog, *, delivery_timeout_s: float = 10.0) -> None:
        self._log = log
        self._delivery_timeout_s = delivery_timeout_s
        self._tasks: set[asyncio.Task[None]] = set()
        self._running = False
        self._since: dict[int, float] = {}
        """When each record that waits for the brokers was written, oldest first."""
        self._broker_errors = 0
        self.in_flight = 0

    @property
    def load(self) -> LogLoad:
        oldest = next(iter(self._since.values()), None)
        oldest_s = time.monotonic() - oldest if oldest is not None else 0.0
        return LogLoad(self.in_flight, QUEUED_RECORDS, oldest_s, self._broker_errors)

    async def start(self) -> None:
        self._running = True

    async def close(self, timeout_s: float) -> int:
        await asyncio.sleep(0)  # what is stored already is told now
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)
        left = self.in_flight
        self._running = False
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        return left

    def write(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]],
        done: Done | None,
    ) -> None:
        if not self._running:
            raise StoreError("log_unavailable", "the log writer is not running")
        if partition < 0 and topic in self._log.topics:  # as Kafka's clients do
            partition = partition_of(key or b"", len(self._log.topics[topic].partitions))
        if self._log.available and self._log.partition((topic, partition)) is None:
            raise StoreError("log_unavailable", f"write to {topic}: there is no such partition")
        record = LogRecord(topic, partition, -1, 0, key, value, list(headers))
        self.in_flight += 1
        if self._log.available:
            # Stored now, so that order is kept; told later, as it is never told inside this call.
            asyncio.get_running_loop().call_soon(self._tell, self._store(record), done)
            return
        task = asyncio.get_running_loop().create_task(self._write_later(record, done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _write_later(self, record: LogRecord, done: Done | None) -> None:
        since = self._since[id(record)] = time.monotonic()
        deadline = since + self._delivery_timeout_s
        error: StoreError | None = StoreError("log_unavailable", "closed before it was written")
        try:
            while not self._log.available:
                if time.monotonic() > deadline:
                    self._broker_errors += 1
                    error = StoreError("log_unavailable", f"write to {record.topic}: timed out", maybe_done=True)
                    return
                await asyncio.sleep(RETRY_S)
            error = self._store(record)
        finally:
            del self._since[id(record)]
            self._tell(error, done)

    def _store(self, record: LogRecord) -> StoreError | None:
        if record.topic in self._log.refused_topics:
            self._broker_errors += 1
            return StoreError("log_unavailable", f"write to {record.topic}: refused", maybe_done=True)
        try:
            self._log.append(record)
        except KeyError:
            return StoreError("log_unavailable", f"write to {record.topic}: there is no such partition")
        return None

    def _tell(self, error: StoreError | None, done: Done | None) -> None:
        self.in_flight -= 1
        if done is not None:
            done(error)


class MemoryLogConsumer:
    """LogConsumer."""

    def __init__(self, log: MemoryLog, group: str) -> None:
        self._log = log
        self._group = log.group(group)
        self._positions: dict[Place, int] = {}
        self.topics: frozenset[str] = frozenset()

    async def start(self, topics: Sequence[str]) -> None:
        self.topics = frozenset(topics)
        self._group.members.append(self)

    async def close(self) -> None:
        if self in self._group.members:
            self._group.members.remove(self)
        self._positions.clear()

    async def set_topics(self, topics: Sequence[str]) -> None:
        self.topics = frozenset(topics)

    def forget(self, topic: str) -> None:
        """The topic was deleted: another one of its name is read from its beginning."""
        self._positions = {place: offset for place, offset in self._positions.items() if place[0] != topic}

    async def poll(self, max_records: int, timeout_s: float) -> list[LogRecord]:
        deadline = time.monotonic() + timeout_s
        while True:
            self._log.check()
            records = self._take(max_records)
            left_s = deadline - time.monotonic()
            if records or left_s <= 0:
                return records
            await self._log.wait_changed(min(left_s, 0.05))  # members come and go without a change of the log

    async def commit(self, records: Sequence[LogRecord]) -> None:
        self._log.check()
        assigned = self._assigned()
        for record in records:
            place = (record.topic, record.partition)
            if place in assigned:
                self._group.committed[place] = max(record.offset + 1, self._group.committed.get(place, 0))

    async def committed_past(self, wanted: Mapping[Place, int]) -> dict[Place, bool]:
        self._log.check()
        past = {}
        for place, offset in wanted.items():
            partition = self._log.partition(place)
            first = -1 if partition is None else partition.first
            past[place] = max(self._group.committed.get(place, -1), first) >= offset
        return past

    async def end_offsets(self, partitions: Iterable[Place]) -> dict[Place, int]:
        self._log.check()
        found = {place: self._log.partition(place) for place in partitions}
        return {place: partition.end for place, partition in found.items() if partition is not None}

    async def lag(self) -> dict[Place, int]:
        ends = await self.end_offsets(self._assigned())
        return {place: end - self._start(place) for place, end in ends.items()}

    def held_up_s(self) -> float:
        return 0.0

    def _assigned(self) -> set[Place]:
        return {place for place, owner in self._group.assignment().items() if owner is self}

    def _start(self, place: Place) -> int:
        partition = self._log.partition(place)
        return max(self._group.committed.get(place, 0), 0 if partition is None else partition.first)

    def _take(self, max_records: int) -> list[LogRecord]:
        assigned = self._assigned()
        self._positions = {place: self._positions.get(place, self._start(place)) for place in sorted(assigned)}
        taken: list[LogRecord] = []
        for place, position in self._positions.items():
            partition = self._log.partition(place)
            assert partition is not None
            found = partition.slice(position, max_records - len(taken))
            if found:
                self._positions[place] = found[-1].offset + 1
                taken += found
        return taken


class MemoryLogReader:
    """LogReader."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self.reading = 0
        """Reads under way."""

    async def start(self) -> None:
        """Nothing to connect to."""

    async def close(self) -> None:
        """Nothing to let go of."""

    async def partitions(self, topic: str) -> TopicInfo | None:
        self._log.check()
        return _info(topic, self._log.topics[topic]) if topic in self._log.topics else None

    async def offset_for_time(self, topic: str, partition: int, time_ms: int) -> int:
        found = self._partition(topic, partition)
        return next((record.offset for record in found.records if record.timestamp_ms >= time_ms), found.end)

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        found = self._partition(topic, partition)
        return found.first, found.end

    async def read(
        self, topic: str, partition: int, start: int, end: int, batch: int = 500
    ) -> AsyncGenerator[list[LogRecord], None]:
        position, end = start, min(end, self._partition(topic, partition).end)
        self.reading += 1
        try:
            while position < end:
                found = self._partition(topic, partition)
                position = max(position, found.first)
                records = found.slice(position, min(batch, end - position)) if position < end else []
                if not records:
                    return
                position = records[-1].offset + 1
                yield records
                await asyncio.sleep(0)
        finally:
            self.reading -= 1

    async def scan(
        self, topic: str, partition: int, start: int, end: int, key: bytes, batch: int = 500
    ) -> AsyncIterator[Scanned]:
        async with aclosing(self.read(topic, partition, start, end, batch)) as batches:
            async for records in batches:
                yield Scanned([record for record in records if record.key == key], records[-1].offset + 1)

    def _partition(self, topic: str, partition: int) -> _Partition:
        self._log.check()
        found = self._log.partition((topic, partition))
        if found is None:
            raise StoreError("log_unavailable", f"there is no {topic}/{partition}")
        return found


class MemoryLogAdmin:
    """LogAdmin."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log

    async def describe(self, topics: Sequence[str]) -> dict[str, TopicInfo]:
        self._log.check()
        return {name: _info(name, self._log.topics[name]) for name in topics if name in self._log.topics}

    async def create(self, topic: TopicSpec) -> None:
        self._log.check()
        self._log.create(topic)

    async def grow(self, topic: str, partitions: int) -> None:
        found = self._topic(topic)
        found.partitions += [_Partition() for _ in range(partitions - len(found.partitions))]

    async def alter(self, topic: str, config: Mapping[str, str | None]) -> None:
        found = self._topic(topic).config
        for name, value in config.items():
            if value is None:
                found.pop(name, None)
            else:
                found[name] = value

    async def delete(self, topic: str) -> None:
        self._log.check()
        self._log.delete(topic)

    async def messages(self, partitions: Mapping[str, int]) -> dict[str, int]:
        self._log.check()
        return {
            name: sum(one.end - one.first for one in self._log.topics[name].partitions)
            for name in partitions
            if name in self._log.topics
        }

    def _topic(self, topic: str) -> _Topic:
        self._log.check()
        if topic not in self._log.topics:
            raise StoreError("unavailable", f"there is no topic {topic}")
        return self._log.topics[topic]


def _info(name: str, topic: _Topic) -> TopicInfo:
    return TopicInfo(name, topic.topic_id, len(topic.partitions), topic.replication_factor, dict(topic.config))


def _set(config: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in config.items() if value is not None}
