"""One place of the log, read in order: records of the session become frames, in the order of positions."""

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass

from heliograph.core.history import Gap, Why
from heliograph.core.log_order import LogOrder
from heliograph.core.positions import Position
from heliograph.protocol.expiries import frame_time_ms
from heliograph.protocol.messages import RecordError
from heliograph.protocol.record_frames import Nothing, RecordFrames, position_of
from heliograph.replay.metrics import ReplayMetrics
from heliograph.replay.places import Place
from heliograph.stores.ports import LiveStore, LogReader, Scanned, StoreError

BATCH = 128
"""Records of one step: 1 ms of work where all are the session's. Measured: 2,000 take 1.8 times the CPU a record, their
objects fall out of the cache between being made and being used; 64 are lost in hops between threads."""

MAX_PENDING = 1_000
"""W: a session has no more unconfirmed messages."""

Item = tuple[bytes, int]
"""A frame, and the offset of its record."""

Event = tuple[Position, Item] | Gap


@dataclass(frozen=True, slots=True)
class Sources:
    """What a scan reads from, and counts on."""

    log: LogReader
    live: LiveStore
    metrics: ReplayMetrics
    settle_s: float = 60.0
    """A message of an epoch that is over may still be under way to the log this long."""
    now_s: Callable[[], float] = time.time


class PlaceScan:
    """A scan of one place. `events` may be read once."""

    def __init__(
        self,
        sources: Sources,
        session: str,
        topic: str,
        place: Place,
        after: Position | None,
        gone_until_ms: int = 0,
    ) -> None:
        """`gone_until_ms`: messages of this time and before have expired."""
        self._sources = sources
        self._session = session
        self._topic = topic
        self._place = place
        self._frames = RecordFrames(session)
        self._gone_until_ms = gone_until_ms
        leading = Why.RETENTION if place.trimmed else Why.EXPIRED if place.expired else Why.NEVER_WRITTEN
        self._order: LogOrder[Item] = LogOrder(after, leading=leading)
        self._marks: dict[Position, int] = {}
        """Offsets of records that said that their position is missing."""
        self._newest_ms = 0
        self._at = place.start
        self.buffered: list[Event] = []
        """What `merged` has taken from `events` and not handed on."""
        self.waiting = False
        """The log's end was reached, and something before what is held may still be written."""

    @property
    def partition(self) -> int:
        return self._place.partition

    def resume_offset(self) -> int:
        """Nothing that has not been handed out is before this offset."""
        buffered = [event[1][1] for event in self.buffered if not isinstance(event, Gap)]
        held = [offset for _, offset in self._order.held()]
        return min([self._at, *held, *self._open_marks().values(), *buffered])

    def _open_marks(self) -> dict[Position, int]:
        """Offsets of records that said that a position is missing which is not handed out yet."""
        last = self._order.last
        self._marks = {at: offset for at, offset in self._marks.items() if last is None or at > last}
        return self._marks

    async def events(self) -> AsyncGenerator[list[Event], None]:
        """In order, in lists that may be empty: a step that found nothing is a step. Raises StoreError."""
        async for step in self._scan(self._place.start, self._place.end):
            yield self._ordered(step)
        if next(self._order.held(), None) is None and not self._open_marks():
            return
        pending = await self._pending()
        if pending is None:
            self.waiting = True
            return
        # What is not pending by now was in the log by now: read up to the end that it has now.
        _, end = await self._sources.log.bounds(self._topic, self._place.partition)
        if end > self._at:
            async for step in self._scan(self._at, end):
                yield self._ordered(step)
        yield self._order.finish(pending)
        self.waiting = next(self._order.held(), None) is not None

    async def messages(self) -> AsyncGenerator[list[tuple[Position, bytes]], None]:
        """Positions and frames in the order of the log, duplicates and all. Raises StoreError."""
        async for step in self._scan(self._place.start, self._place.end):
            found: list[tuple[Position, bytes]] = []
            for record in step.records:
                with suppress(RecordError):
                    read = self._frames.read(record.value, record.headers)
                    if not isinstance(read, Nothing) and isinstance(read[1], bytes) and not self._is_gone(read[1]):
                        found.append((read[0], read[1]))
            yield found

    async def _scan(self, start: int, end: int) -> AsyncGenerator[Scanned, None]:
        if start >= end:
            return
        log, key = self._sources.log, self._session.encode()
        steps = log.scan(self._topic, self._place.partition, start, end, key, BATCH)
        async with aclosing(steps):  # type: ignore[type-var] # every implementation is a generator
            async for step in steps:
                self._sources.metrics.records_scanned.n += step.next_offset - self._at
                self._at = step.next_offset
                yield step
        self._at = max(self._at, end)

    def _ordered(self, step: Scanned) -> list[Event]:
        order, read = self._order, self._frames.read
        out: list[Event] = []
        run: list[tuple[Position, Item]] = []
        dropped = order.dropped
        for record in step.records:
            missing: tuple[Position, Why] | None = None
            try:
                found = read(record.value, record.headers)
            except RecordError as error:
                self._sources.metrics.corrupt.labels(error.reason).n += 1
                claimed = position_of(record.headers)
                if claimed is not None:
                    missing = (claimed, Why.CORRUPT)
            else:
                if isinstance(found, Nothing):
                    continue
                position, frame = found
                if not isinstance(frame, bytes):
                    missing = (position, frame)
                elif self._is_gone(frame):
                    missing = (position, Why.EXPIRED)
                else:
                    run.append((position, (frame, record.offset)))
            if missing is not None:
                self._marks[missing[0]] = record.offset
                out += order.push_all(run)
                out += order.missing(missing[0], missing[0], missing[1])
                run = []
        out += order.push_all(run)
        if step.records:
            self._newest_ms = step.records[-1].timestamp_ms
        self._sources.metrics.duplicates.n += order.dropped - dropped
        return out

    def _is_gone(self, frame: bytes) -> bool:
        return self._gone_until_ms > 0 and frame_time_ms(frame) <= self._gone_until_ms

    async def _pending(self) -> Sequence[Position] | None:
        """Positions that the log may still get; None where nobody can tell."""
        try:
            unconfirmed = await self._sources.live.unconfirmed(self._session, MAX_PENDING)
            head = (await self._sources.live.heads([self._session]))[0]
        except (StoreError, OSError, TimeoutError):
            self._sources.metrics.store_failures.labels("live").n += 1
            return None
        pending = [message.position for message in unconfirmed]
        last = self._order.last
        if (
            last is not None
            and last.epoch != head.epoch
            and self._newest_ms > (self._sources.now_s() - self._sources.settle_s) * 1000
        ):
            pending.append(last.next)
        return pending


async def merged(scans: Sequence[PlaceScan]) -> AsyncGenerator[list[Event], None]:
    """The events of several places in one order. An epoch is in one place, so runs are long."""
    sources = {scan.partition: scan.events() for scan in scans}
    open_ = set(sources)
    try:
        while True:
            for scan in scans:
                while scan.partition in open_ and not scan.buffered:
                    events = await anext(sources[scan.partition], None)
                    if events is None:
                        open_.discard(scan.partition)
                    else:
                        scan.buffered = events
                        if not events:
                            yield []
            ahead = sorted(
                (scan for scan in scans if scan.buffered), key=lambda scan: position_of_event(scan.buffered[0])
            )
            if not ahead:
                return
            lowest, run = ahead[0], ahead[0].buffered
            if len(ahead) > 1:
                bound = position_of_event(ahead[1].buffered[0])
                run = [event for event in run if position_of_event(event) <= bound]
            lowest.buffered = lowest.buffered[len(run) :]
            yield run
    finally:
        for source in sources.values():
            await source.aclose()


def position_of_event(event: Event) -> Position:
    """The first position that an event is about."""
    return Position(event.hole.epoch, event.hole.from_seq) if isinstance(event, Gap) else event[0]
