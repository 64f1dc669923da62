"""The log: writing, reading in a group and outside of any, topics, and who else may read."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from msgspec import Struct

from heliograph.stores.ports.errors import StoreError


class LogRecord(Struct):
    """A record of the log as read."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True)
class LogLoad:
    """How a writer gets its records out."""

    in_flight: int
    capacity: int
    """Records that may wait; a further one is refused."""
    oldest_s: float
    """Age of the oldest record that is not acknowledged; 0: there is none."""
    broker_errors: int
    """So far. What is wrong with one topic, as that it is missing, is none."""


class LogWriter(Protocol):
    """Idempotent, acks=all."""

    async def start(self) -> None: ...

    async def close(self, timeout_s: float) -> int:
        """Flush; how many records were left unacknowledged."""

    @property
    def in_flight(self) -> int: ...

    @property
    def load(self) -> LogLoad:
        """What this writer waits for, and what failed; asks nobody."""

    def write(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]],
        done: Callable[[StoreError | None], None] | None,
    ) -> None:
        """Queue one record. `done` runs on the event loop when all in-sync replicas have it, or with the error.

        Raises StoreError(`log_unavailable`) at once where the queue is full or the topic's partition is not known.
        """


class LogConsumer(Protocol):
    """A member of the router's consumer group."""

    async def start(self, topics: Sequence[str]) -> None: ...

    async def close(self) -> None:
        """Leave the group at once."""

    async def set_topics(self, topics: Sequence[str]) -> None:
        """Exactly these, from now on; new ones are read within 5 s of their creation."""

    async def poll(self, max_records: int, timeout_s: float) -> list[LogRecord]:
        """The next records; empty after `timeout_s`. Raises StoreError(`log_unavailable`)."""

    async def commit(self, records: Sequence[LogRecord]) -> None:
        """The work of these is done: the group continues behind the highest of each partition.

        Raises StoreError(`log_unavailable`) where that is not so of some: to be repeated, also without new records.
        Partitions that others have by now are no error.
        """

    async def committed_past(self, wanted: Mapping[tuple[str, int], int]) -> dict[tuple[str, int], bool]:
        """For each partition, whether the group has committed at or past the offset."""

    async def end_offsets(self, partitions: Iterable[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """The log's ends now, of partitions that exist."""

    async def lag(self) -> dict[tuple[str, int], int]:
        """Records between what the group has committed and the log's end, of each partition this member reads."""

    def held_up_s(self) -> float:
        """For how long the present call of the client library has lasted, s; 0 without one. Some seconds at most are
        right: what lasts for a minute will not end."""


class Scanned(Struct):
    """A step of a scan: the records of the key (maybe none), and the offset that it has come to."""

    records: list[LogRecord]
    next_offset: int


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """A topic as it is: `topic_id` changes when it is deleted and made again."""

    name: str
    topic_id: str
    partitions: int
    replication_factor: int
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic as it should be. None, also as a setting's value: the brokers' default."""

    name: str
    partitions: int
    replication_factor: int | None
    config: Mapping[str, str | None]


class LogReader(Protocol):
    """Reads ranges of the log, outside of any group."""

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def partitions(self, topic: str) -> TopicInfo | None:
        """None where there is no such topic."""

    async def offset_for_time(self, topic: str, partition: int, time_ms: int) -> int:
        """The first offset whose timestamp is at or after; the end where none is."""

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """Earliest offset, and end."""

    def read(
        self, topic: str, partition: int, start: int, end: int, batch: int = 500
    ) -> AsyncIterator[list[LogRecord]]:
        """Batches of records from `start` (inclusive, or the first that retention left) to `end` (exclusive).

        Closing the iterator stops the read. Raises StoreError(`log_unavailable`).
        """

    def scan(
        self, topic: str, partition: int, start: int, end: int, key: bytes, batch: int = 500
    ) -> AsyncIterator[Scanned]:
        """`read`, for the records of one key among all others: nothing else of those is looked at."""


class LogAdmin(Protocol):
    """Topics."""

    async def describe(self, topics: Sequence[str]) -> dict[str, TopicInfo]:
        """Those that exist."""

    async def create(self, topic: TopicSpec) -> None:
        """An existing one of this name is left as it is."""

    async def grow(self, topic: str, partitions: int) -> None: ...

    async def alter(self, topic: str, config: Mapping[str, str | None]) -> None:
        """Set these keys, leave others. None: back to the brokers' default."""

    async def delete(self, topic: str) -> None: ...

    async def messages(self, partitions: Mapping[str, int]) -> dict[str, int]:
        """About how many records each topic keeps, by its number of partitions: ends less first offsets."""


class LogAccess(Protocol):
    """Who else may read the log: SCRAM-SHA-512 users, and their rights by prefix of names.

    Raises StoreError(`unavailable`) where the brokers have no authorizer, or don't let us.
    """

    async def has_user(self, user: str) -> bool: ...

    async def set_user(self, user: str, password: str) -> None:
        """Add it, or give it another password."""

    async def drop_user(self, user: str) -> None:
        """A missing one is as good."""

    async def readable(self, user: str) -> set[str]:
        """Prefixes whose topics and consumer groups the user may read."""

    async def allow(self, user: str, prefix: str) -> None:
        """Let it read topics, and use consumer groups, whose names begin so."""

    async def forbid(self, user: str) -> None:
        """Take all its rights away."""
