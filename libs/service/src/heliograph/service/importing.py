"""Writes records of an export into the log of this installation, each once.

Batch by batch: all of a batch is written and acknowledged, then where the topics end now and what of the export is
written by now is kept together as a `Checkpoint`. An import that was interrupted looks at what its topics got behind
their ends of the last checkpoint: that, and nothing else, the interrupted batch may have written already. So no record
is written twice, none is left out, and it does not matter who else writes meanwhile.

What this must never do: change a record, or write to a topic of another tenant.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from hashlib import blake2b
from itertools import islice
from typing import NamedTuple

import msgspec
from msgspec import Struct

from heliograph.core.errors import InvalidValueError
from heliograph.core.partitions import partition_of
from heliograph.core.positions import Position
from heliograph.core.sessions import SessionKey
from heliograph.protocol.exports import ExportedRecord, Verbatim, record_of
from heliograph.protocol.tenants import Tenant
from heliograph.stores.keys import Topics
from heliograph.stores.ports import LogReader, LogWriter, StoreError, TopicInfo

BATCH_RECORDS = 10_000
BATCH_BYTES = 32 * 1024 * 1024
"""Written before all of them are waited for: half a second of work, and far below what the producer's queue takes."""

READ_BATCH = 500
RECORD_OVERHEAD_BYTES = 512
"""Of a record besides its value, in a batch's size: its key and headers."""

TELEMETRY = ".telemetry"

Target = tuple[str, int]
"""A topic of this installation, and a partition of it."""


class Checkpoint(Struct):
    """How far an import has come. All of it is written and acknowledged."""

    topic_ids: dict[str, str]
    """The topics written to, as they were when the import began."""
    ends: dict[str, int]
    """`<topic>/<partition>` → its end when everything before was written."""
    consumed: list[int]
    """Of each partition of the export, how many records."""
    written: int = 0
    skipped: int = 0
    """Telemetry, where the tenant keeps none here."""
    last_epoch_ms: int = 0
    """The newest epoch among the positions."""


class _Batch(NamedTuple):
    consumed: list[int]
    records: list[tuple[Target, Verbatim]]
    skipped: int
    last_epoch_ms: int


class ImportTopics:
    """Where a tenant's records go."""

    def __init__(self, tenant: Tenant, topics: Topics, found: dict[str, TopicInfo]) -> None:
        """`found`: those of `names` that exist."""
        self._tenant = tenant
        self._topics = topics
        self._found = found

    @staticmethod
    def names(tenant: Tenant, topics: Topics) -> list[str]:
        """Of every topic that records of the tenant may go to, the main log first."""
        telemetry = topics.telemetry_of(tenant)
        return [*topics.logs_of(tenant), *([telemetry] if telemetry is not None else [])]

    @property
    def ids(self) -> dict[str, str]:
        return {name: info.topic_id for name, info in self._found.items()}

    @property
    def partitions(self) -> list[Target]:
        return [(name, number) for name, info in self._found.items() for number in range(info.partitions)]

    def target(self, line: ExportedRecord, record: Verbatim) -> Target | None:
        """None for telemetry that this installation does not keep.

        Raises InvalidValueError for a record of another tenant, StoreError where a topic is missing.
        """
        topic = self._topic(line, record)
        if topic is None:
            return None
        info = self._found.get(topic)
        if info is None:
            raise StoreError("unavailable", f"there is no topic {topic}: `heliograph tenant apply` makes it")
        return topic, partition_of(record.key or b"", info.partitions)

    def is_own(self, key: bytes | None) -> bool:
        """Whether a record with this key, in one of the topics, is the tenant's."""
        return not self._tenant.shared or (key or b"").startswith(f"{self._tenant.tenant}:".encode())

    def _topic(self, line: ExportedRecord, record: Verbatim) -> str | None:
        name = self._tenant.tenant
        if line.topic.endswith(TELEMETRY):
            return self._topics.telemetry_of(self._tenant)
        try:
            session = SessionKey.parse((record.key or b"").decode())
        except ValueError:  # no message: it stays what it is, beside the messages
            return self._topics.log_for(self._tenant, "")
        if session.tenant != name and (line.corrupt is None or self._tenant.shared):
            raise InvalidValueError("value_invalid", "record", str(session), f"of tenant {name}")
        return self._topics.log_for(self._tenant, session.agent_type)


class Importer:
    """One import."""

    def __init__(self, topics: ImportTopics, reader: LogReader, writer: LogWriter) -> None:
        self._topics = topics
        self._reader = reader
        self._writer = writer
        self._there: Counter[bytes] = Counter()
        """Digests of records that the interrupted batch has written."""

    async def begin(self, partitions: int) -> Checkpoint:
        """Of an export of so many partitions, with the topics as they are."""
        return Checkpoint(self._topics.ids, await self._ends(self._topics.partitions), [0] * partitions)

    async def resume(self, checkpoint: Checkpoint) -> None:
        """Find out what was written behind `checkpoint`. Raises StoreError."""
        for topic, number in self._topics.partitions:
            _, end = await self._reader.bounds(topic, number)
            steps = self._reader.read(topic, number, checkpoint.ends.get(_name((topic, number)), 0), end, READ_BATCH)
            async with aclosing(steps):  # type: ignore[type-var] # every implementation is a generator
                async for records in steps:
                    own = (one for one in records if self._topics.is_own(one.key))
                    self._there.update(_digest(Verbatim(one.key, one.value, one.headers)) for one in own)

    async def holding(self) -> str | None:
        """A topic that holds messages of the tenant already. A shared one is looked through. Raises StoreError."""
        for topic, number in self._topics.partitions:
            start, end = await self._reader.bounds(topic, number)
            steps = self._reader.read(topic, number, start, end, READ_BATCH)
            async with aclosing(steps):  # type: ignore[type-var] # every implementation is a generator
                async for records in steps:
                    if any(self._topics.is_own(one.key) for one in records):
                        return topic
        return None

    async def run(
        self,
        lines: Iterable[tuple[int, ExportedRecord]],
        checkpoint: Checkpoint,
        reached: Callable[[Checkpoint], None],
    ) -> Checkpoint:
        """Write `lines` (each with its partition's number), those behind `checkpoint`. `reached` keeps what it is told.

        Raises InvalidValueError for a line that makes no record, StoreError where the log does not take one.
        """
        rest = iter(lines)
        while True:
            batch = await asyncio.to_thread(self._next_batch, rest, len(checkpoint.consumed))
            if batch is None:
                return checkpoint
            written = await self._write(batch.records)
            touched = {target for target, _ in batch.records}
            checkpoint = Checkpoint(
                checkpoint.topic_ids,
                {**checkpoint.ends, **await self._ends(sorted(touched))},
                [before + more for before, more in zip(checkpoint.consumed, batch.consumed, strict=True)],
                checkpoint.written + written,
                checkpoint.skipped + batch.skipped,
                max(checkpoint.last_epoch_ms, batch.last_epoch_ms),
            )
            reached(checkpoint)

    def _next_batch(self, lines: Iterator[tuple[int, ExportedRecord]], partitions: int) -> _Batch | None:
        consumed, records, skipped, last_epoch_ms, size = [0] * partitions, [], 0, 0, 0
        for number, line in islice(lines, BATCH_RECORDS):
            record = record_of(line)
            target = self._topics.target(line, record)
            consumed[number] += 1
            if target is None:
                skipped += 1
                continue
            if line.position is not None:
                last_epoch_ms = max(last_epoch_ms, Position.parse(line.position).epoch_ms)
            records.append((target, record))
            size += len(record.value or b"") + RECORD_OVERHEAD_BYTES
            if size >= BATCH_BYTES:
                break
        return _Batch(consumed, records, skipped, last_epoch_ms) if any(consumed) else None

    async def _write(self, records: Sequence[tuple[Target, Verbatim]]) -> int:
        """Write what is not there; how many that were. Returns when all of them are acknowledged."""
        loop = asyncio.get_running_loop()
        answered: list[asyncio.Future[StoreError | None]] = []
        written = 0
        for (topic, number), record in records:
            if self._there:
                digest = _digest(record)
                if self._there[digest] > 0:
                    self._there[digest] -= 1
                    written += 1
                    continue
            future: asyncio.Future[StoreError | None] = loop.create_future()
            answered.append(future)
            self._writer.write(topic, number, record.key, record.value, record.headers, future.set_result)
        failures = [error for error in await asyncio.gather(*answered) if error is not None]
        if failures:
            raise failures[0]
        return written + len(answered)

    async def _ends(self, targets: Sequence[Target]) -> dict[str, int]:
        bounds = await asyncio.gather(*(self._reader.bounds(topic, number) for topic, number in targets))
        return {_name(target): end for target, (_, end) in zip(targets, bounds, strict=True)}


def _name(target: Target) -> str:
    return f"{target[0]}/{target[1]}"


def _digest(record: Verbatim) -> bytes:
    """Tells a record from every other, with its headers in their order."""
    return blake2b(msgspec.msgpack.encode(record), digest_size=16).digest()
