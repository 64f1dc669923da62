"""A bounded read of everything that the log has of a tenant: record by record, as they lie there.

Partition by partition, each up to the end it had when its read began, so that an export ends while others publish. A
resume token names what is left of one partition: whoever comes back with it gets every record behind it, once.

What it must never do: hand out a record of another tenant, leave one out without counting it, or read on when nobody
reads.
"""

import re
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from enum import StrEnum

from heliograph.core.errors import InvalidValueError
from heliograph.core.sessions import SessionKey
from heliograph.protocol.exports import Place, exported_message, record_line
from heliograph.protocol.frames import encode
from heliograph.protocol.messages import OWN_EVENT_TYPES, RecordError
from heliograph.protocol.tenants import Tenant
from heliograph.replay.metrics import ReplayMetrics
from heliograph.replay.places import CLOCK_SKEW_MS, topic_tag
from heliograph.replay.reading import Limits
from heliograph.service.expiries import ExpiryDirectory
from heliograph.stores.keys import Topics
from heliograph.stores.ports import LogReader, LogRecord, StoreError, TopicInfo

BATCH = 128
"""Records of one step: some ms of work, between which the loop has its turn."""

MARK_BYTES = 1024 * 1024
MARK_S = 1.0
"""At least so often a mark says where to go on: what a reader does twice after it was cut off, and how long a proxy
sees nothing while records are read that are not wanted."""

TELEMETRY = ".telemetry"

MADE_ANEW = "the topic is gone, or was deleted and made again: begin the export anew"

RESUME_PATTERN = r"^[0-9a-f]{16}~[0-9]{1,6}\.[0-9]{1,18}\.[0-9]{1,18}$"
_RESUME = re.compile(RESUME_PATTERN, re.ASCII)


@dataclass(frozen=True, slots=True)
class Source:
    """A log topic that holds records of the tenant."""

    name: str
    """Without the installation's prefix: what the tenant is told."""
    info: TopicInfo

    @property
    def tag(self) -> str:
        return topic_tag(f"{self.name}/{self.info.topic_id}")


@dataclass(frozen=True, slots=True)
class Span:
    """What is left to read of one partition."""

    source: Source
    partition: int
    start: int
    end: int

    @property
    def resume(self) -> str:
        return f"{self.source.tag}~{self.partition}.{self.start}.{self.end}"


@dataclass(frozen=True, slots=True)
class ExportQuery:
    """What is asked for. Times are those that messages carry; of what is no message, when Kafka got it."""

    resume: str | None = None
    alone: bool = False
    """Only the partition of `resume`, not those behind it."""
    from_ms: int | None = None
    until_ms: int | None = None

    def wants(self, time_ms: int) -> bool:
        return (self.from_ms is None or time_ms >= self.from_ms) and (self.until_ms is None or time_ms <= self.until_ms)


class ExportEnding(StrEnum):
    """Why an answer ended."""

    COMPLETE = "complete"
    LIMIT = "limit"
    TIME = "time"
    STOPPED = "stopped"
    FAILED = "failed"
    """The log went away in the middle."""
    GONE = "gone"
    """The reader went away."""


class Exporter:
    """Knows where a tenant's records are."""

    def __init__(
        self,
        log: LogReader,
        topics: Topics,
        expiries: ExpiryDirectory,
        metrics: ReplayMetrics,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.log = log
        self.metrics = metrics
        self.now_ms = now_ms
        self._topics = topics
        self._expiries = expiries

    async def sources(self, tenant: Tenant) -> list[Source]:
        """The tenant's topics that exist, by name. Raises StoreError."""
        topics = self._topics
        names = {*topics.logs_of(tenant), topics.telemetry_of(tenant) or topics.telemetry(tenant.tenant)}
        found = [await self.log.partitions(name) for name in sorted(names)]
        skipped = len(topics.prefix) + 1
        return [Source(info.name[skipped:], info) for info in found if info is not None]

    async def spans(self, tenant: Tenant, from_ms: int | None) -> list[Span]:
        """All there is of every partition now. Raises StoreError."""
        return [
            await self.span(source, partition, from_ms)
            for source in await self.sources(tenant)
            for partition in range(source.info.partitions)
        ]

    async def span(self, source: Source, partition: int, from_ms: int | None) -> Span:
        """All there is of one partition now; with `from_ms` without what is certainly older."""
        start, end = await self.log.bounds(source.info.name, partition)
        if from_ms is not None and source.info.config.get("message.timestamp.type") == "LogAppendTime":
            # A message is in the log after it was accepted, never before.
            begun = await self.log.offset_for_time(source.info.name, partition, max(0, from_ms - CLOCK_SKEW_MS))
            start = max(start, begun)
        return Span(source, partition, min(start, end), end)

    async def gone_until(self, records: Iterable[LogRecord]) -> dict[bytes | None, int]:
        """Of the records' sessions that have expired, by their key: messages of this time and before are gone.

        Raises StoreError(`unavailable`) where that can't be found out.
        """
        gone: dict[bytes | None, int] = {}
        for key in {record.key for record in records}:
            try:
                session = SessionKey.parse((key or b"").decode())
            except ValueError:  # nobody's
                continue
            until = await self._expiries.gone_until(str(session))
            if until:
                gone[key] = until
        return gone


def resumed(sources: list[Source], resume: str) -> Span:
    """The span that a token names.

    Raises InvalidValueError for what is no token of this tenant, StoreError(`expired`) where the topic was made anew.
    """
    if not _RESUME.fullmatch(resume):
        raise InvalidValueError("value_invalid", "resume", resume, "what an earlier answer gave as `resume`")
    tag, _, place = resume.partition("~")
    partition, start, end = map(int, place.split("."))
    for source in sources:
        if source.tag == tag and partition < source.info.partitions and start <= end:
            return Span(source, partition, start, end)
    raise StoreError("expired", MADE_ANEW)


class ExportRead:
    """One answer's read. `chunks` may be read once; after it, `ending` says how it ended."""

    def __init__(
        self,
        exporter: Exporter,
        tenant: Tenant,
        query: ExportQuery,
        limits: Limits,
        *,
        stopping: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._exporter = exporter
        self._log = exporter.log
        self._tenant = tenant
        self._own = f"{tenant.tenant}:".encode()
        self._query = query
        self._limits = limits
        self._stopping = stopping
        self._clock = clock
        self._ends_at = clock() + limits.seconds
        self._at: Span | None = None
        """What is left of the partition that is being read; None before the first and behind the last."""
        self.ending: ExportEnding | None = None
        self.records = 0
        self.bytes = 0
        self._marked_bytes = 0
        self._marked_at = 0.0
        self.removed = 0
        """Offsets that retention took while the export was under way."""
        self.expired = 0
        """Messages left out because their session has expired."""

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Lines: records, and marks among them. Raises InvalidValueError and StoreError."""
        sources = await self._exporter.sources(self._tenant)
        rest = [(source, number) for source in sources for number in range(source.info.partitions)]
        if self._query.resume is not None:
            first = resumed(sources, self._query.resume)
            behind = (first.source.name, first.partition)
            rest = [] if self._query.alone else [place for place in rest if (place[0].name, place[1]) > behind]
            async with aclosing(self._partition(first)) as chunks:
                async for chunk in chunks:
                    yield chunk
        for source, number in rest:
            if self.ending is not None:
                return
            span = await self._exporter.span(source, number, self._query.from_ms)
            async with aclosing(self._partition(span)) as chunks:
                async for chunk in chunks:
                    yield chunk
        if self.ending is None:
            self._at, self.ending = None, ExportEnding.COMPLETE

    async def _partition(self, span: Span) -> AsyncGenerator[bytes, None]:
        self._at = span
        yield self._mark()
        steps = self._log.read(span.source.info.name, span.partition, span.start, span.end, BATCH)
        async with aclosing(steps):  # type: ignore[type-var] # every implementation is a generator
            async for records in steps:
                await self._count_removed(records[0].offset)
                lines = self._taken(records, await self._exporter.gone_until(filter(self._is_own, records)))
                self._exporter.metrics.records_scanned.n += len(records)
                now = self._clock()
                if self.ending is None and self._stopping():
                    self.ending = ExportEnding.STOPPED
                if self.ending is None and now >= self._ends_at:
                    self.ending = ExportEnding.TIME
                if now - self._marked_at >= MARK_S:
                    lines.append(self._mark())
                if lines:
                    yield b"".join(lines)
                if self.ending is not None:
                    return
        await self._count_removed(span.end)
        info = await self._log.partitions(span.source.info.name)
        if info is None or info.topic_id != span.source.info.topic_id:  # some of what was read may be of another topic
            raise StoreError("expired", MADE_ANEW)
        self._go_to(span.end)

    def _go_to(self, offset: int) -> None:
        assert self._at is not None
        self._at = Span(self._at.source, self._at.partition, offset, self._at.end)

    async def _count_removed(self, next_offset: int) -> None:
        """Count what retention took of the offsets before `next_offset` that have not been read. Holes are normal."""
        at = self._at
        assert at is not None
        if next_offset > at.start:
            earliest, _ = await self._log.bounds(at.source.info.name, at.partition)
            self.removed += max(0, min(earliest, next_offset) - at.start)

    def _taken(self, records: list[LogRecord], gone: dict[bytes | None, int]) -> list[bytes]:
        """The lines of what is wanted; sets the ending where a limit is reached. `gone`: what of which key expired."""
        assert self._at is not None
        lines: list[bytes] = []
        for record in records:
            line = self._line(self._at.source, record, gone.get(record.key, 0))
            if line is not None:
                full = self.records >= self._limits.messages or self.bytes + len(line) > self._limits.bytes_
                if full and self.records > 0:
                    self.ending = ExportEnding.LIMIT
                    self._go_to(record.offset)
                    return lines
                lines.append(line)
                self.records += 1
                self.bytes += len(line)
                if self.bytes - self._marked_bytes >= MARK_BYTES:
                    self._go_to(record.offset + 1)
                    lines.append(self._mark())
        self._go_to(records[-1].offset + 1)
        return lines

    def _is_own(self, record: LogRecord) -> bool:
        """Whether it is the tenant's: of a shared topic only what says so."""
        return not self._tenant.shared or (record.key or b"").startswith(self._own)

    def _line(self, source: Source, record: LogRecord, gone_until_ms: int) -> bytes | None:
        """None for what is not wanted, or not there any more for readers."""
        if not self._is_own(record) or record.timestamp_ms < self._kept_since_ms(source, record):
            return None
        message = exported_message(record.key, record.value, record.headers)
        if isinstance(message, RecordError):
            time_ms, ours = record.timestamp_ms, False
        else:
            time_ms, ours = message.time_ms, message.event_type in OWN_EVENT_TYPES
        if not self._query.wants(time_ms):
            return None
        if time_ms <= gone_until_ms and not ours:  # what says that they expired goes along
            self.expired += 1
            return None
        place = Place(source.name, record.partition, record.offset, record.timestamp_ms)
        return record_line(place, record.key, record.value, record.headers, message) + b"\n"

    def _kept_since_ms(self, source: Source, record: LogRecord) -> int:
        """Kafka keeps a shared topic longer than some of its tenants asked for."""
        tenant = self._tenant
        if not tenant.shared:
            return 0
        settings = tenant.log_settings((record.key or b"").decode(errors="replace").split(":")[1])
        if source.name.endswith(TELEMETRY) and tenant.topics.telemetry is not None:
            settings = tenant.topics.telemetry
        return self._exporter.now_ms() - settings.retention_s * 1000

    def _told(self) -> dict[str, object]:
        counts = {"records": self.records, "removed": self.removed, "expired": self.expired}
        at = self._at
        if at is None:
            return {"resume": None, **counts}
        return {
            "topic": at.source.name, "partition": at.partition, "offset": at.start, "resume": at.resume, **counts
        }  # fmt: skip

    def _mark(self) -> bytes:
        """Every record before it has been handed out."""
        self._marked_bytes, self._marked_at = self.bytes, self._clock()
        return encode({"type": "mark", **self._told()}) + b"\n"

    def end_line(self) -> bytes:
        """The last line of an answer: without it, the answer was cut off."""
        return encode({"type": "end", "complete": self.ending is ExportEnding.COMPLETE, **self._told()}) + b"\n"
