"""A bounded read of one session: messages, gaps and epochs in order, and where to go on.

What it must never do: leave something out without a gap or an end that says so, or read on when nobody reads.
"""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from enum import StrEnum

from heliograph.core.contiguity import Hole
from heliograph.core.history import Gap, Why
from heliograph.core.positions import MAX_SEQ, Position
from heliograph.core.sessions import SessionKey
from heliograph.protocol.expiries import frame_time_ms
from heliograph.protocol.tenants import Tenant
from heliograph.replay.places import Located, Locator, Resume, topic_tag
from heliograph.replay.scanning import Event, Item, PlaceScan, Sources, merged, position_of_event
from heliograph.stores.ports import Head


@dataclass(frozen=True, slots=True)
class Epoch:
    """What follows is of another epoch. `last`: what came before, or what the read began after."""

    epoch: str
    last: Position
    certain: bool


@dataclass(frozen=True, slots=True)
class Unread:
    """The log is too long to be looked through for what may be before what follows."""


Part = tuple[Position, bytes] | Gap | Epoch | Unread


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one read."""

    messages: int
    bytes_: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked for."""

    after: Position | None = None
    from_ms: int | None = None
    """Instead of `after`: from the first message of this time or later that the log has."""
    until: Position | None = None
    """The last position that is wanted."""
    until_ms: int | None = None
    resume: Resume | None = None
    to_window: bool = False
    """Only up to where the hot window begins: from there the live store has it."""


class Ending(StrEnum):
    """Why a read ended."""

    COMPLETE = "complete"
    """All there is was read."""
    LIMIT = "limit"
    TIME = "time"
    WAITING = "waiting"
    """The next message is not in the log yet, though later ones are."""
    STOPPED = "stopped"
    """The service stops."""


@dataclass(frozen=True, slots=True)
class End:
    """How a read ended. `last`: the last position that was handed out or named missing."""

    ending: Ending
    last: Position | None
    resume: Resume | None

    @property
    def complete(self) -> bool:
        return self.ending is Ending.COMPLETE


class SessionRead:
    """One read. After `parts` has ended by itself, `end` says how."""

    def __init__(
        self,
        locator: Locator,
        sources: Sources,
        session: SessionKey,
        tenant: Tenant,
        query: Query,
        limits: Limits,
        *,
        gone_until_ms: int = 0,
        stopping: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`gone_until_ms`: messages of this time and before have expired."""
        self._locator = locator
        self._sources = sources
        self._session = session
        self._tenant = tenant
        self._query = query
        self._limits = limits
        self._gone_until_ms = gone_until_ms
        self._stopping = stopping
        self._clock = clock
        self._ends_at = clock() + limits.seconds
        self._until = query.until
        self._last = query.after
        self._epoch = query.after.epoch if query.after is not None else None
        self._handed_out = False
        self._trimmed = False
        self._scans: list[PlaceScan] = []
        self._topic_id = ""
        self._expired: Gap | None = None
        """Expired positions come a step of the scan at a time, and are told as one gap: not handed out yet."""
        self._met_expired = False
        self._messages = 0
        self._bytes = 0
        self._unsent: int | None = None
        """The lowest offset of what was read and not handed out."""
        self._ending: Ending | None = None

    @property
    def last(self) -> Position | None:
        """The last position that was handed out or named missing so far; what was asked for, before there is one."""
        held = self._expired
        return self._last if held is None else Position(held.hole.epoch, held.hole.from_seq - 1)

    @property
    def end(self) -> End:
        assert self._ending is not None, "the read is still under way"
        resume = None
        if self._ending is not Ending.COMPLETE and self._scans:
            offsets = {scan.partition: scan.resume_offset() for scan in self._scans}
            if self._unsent is not None:  # it can't be told whose: all go back that far
                offsets = {number: min(offset, self._unsent) for number, offset in offsets.items()}
            resume = Resume(topic_tag(self._topic_id), offsets)
        self._sources.metrics.ends.labels(self._ending.value).n += 1
        return End(self._ending, self._last, resume)

    async def parts(self) -> AsyncGenerator[list[Part], None]:
        """What there is, in order, in lists. Raises StoreError."""
        head = await self._locator.head(str(self._session))
        if self._query.from_ms is not None and not await self._find_start():
            return
        if self._is_over(head):
            self._ending = Ending.COMPLETE
            return
        located = await self._locator.locate(
            self._session, self._tenant, self._last, head, self._query.resume, self._gone_until_ms
        )
        if located is None:
            self._ending = Ending.COMPLETE
            return
        if located.beginning_skipped:
            yield [Unread()]
        async with aclosing(self._read(located)) as parts:
            async for part in parts:
                yield part

    def _is_over(self, head: Head | None) -> bool:
        """Whether the end of what is wanted is known, and behind us. Notes where it is."""
        if head is not None and head.epoch and head.confirmed == head.seq:
            present = Position(head.epoch, head.seq)  # and all of it is in the log
            self._until = present if self._until is None else min(self._until, present)
        if self._query.to_window and head is not None and head.epoch:
            window = Position(head.epoch, head.first_seq - 1)
            if self._last is None or self._last < window:
                self._until = window if self._until is None else min(self._until, window)
        return self._until is not None and self._last is not None and self._last >= self._until

    @property
    def all_expired(self) -> bool:
        """Whether all there was to be read has expired."""
        nothing = self._ending is Ending.COMPLETE and self._messages == 0 and self._gone_until_ms > 0
        return nothing and (self._query.after is None or self._met_expired)

    async def _read(self, located: Located) -> AsyncGenerator[list[Part], None]:
        self._topic_id = located.topic_id
        self._trimmed = any(place.trimmed for place in located.places)
        self._scans = [
            PlaceScan(self._sources, str(self._session), located.topic, place, self._last, self._gone_until_ms)
            for place in located.places
        ]
        events = self._scans[0].events() if len(self._scans) == 1 else merged(self._scans)
        async with aclosing(events):
            async for step in events:
                parts = self._joined(self._take(step))
                if parts:
                    yield parts
                if self._ending is None and self._stopping():
                    self._ending = Ending.STOPPED
                if self._ending is None and self._clock() >= self._ends_at:
                    self._ending = Ending.TIME
                if self._ending is not None:
                    break
        if self._ending is None:
            waiting = any(scan.waiting for scan in self._scans)
            self._ending = Ending.WAITING if waiting else Ending.COMPLETE
        if self._expired is not None:
            held, self._expired = self._expired, None
            yield [held]

    def _joined(self, parts: list[Part]) -> list[Part]:
        """`parts`, but expired positions that follow each other as one gap, kept back until it ends."""
        if self._gone_until_ms == 0:
            return parts
        out: list[Part] = []
        for part in parts:
            held, self._expired = self._expired, None
            if not isinstance(part, Gap) or part.why is not Why.EXPIRED:
                out += [part] if held is None else [held, part]
                continue
            self._met_expired = True
            if held is not None and held.hole[::2] == (part.hole.epoch, part.hole.from_seq - 1):
                self._expired = Gap(Hole(part.hole.epoch, held.hole.from_seq, part.hole.to_seq), part.why)
            else:
                out += [] if held is None else [held]
                self._expired = part
        return out

    def _take(self, events: list[Event]) -> list[Part]:
        """What of `events` is to be handed out; sets the ending where one is reached."""
        parts: list[Part] = self._take_run(events)
        for number, event in enumerate(events if not parts else ()):
            is_gap = isinstance(event, Gap)
            if not is_gap and self._over_limits(event[1]):  # type: ignore[index]
                self._ending = Ending.LIMIT
            elif self._is_past(event):
                self._ending = Ending.COMPLETE
            if self._ending is not None:
                offsets = [left[1][1] for left in events[number:] if not isinstance(left, Gap)]
                self._unsent = min(offsets, default=None)
                break
            position = position_of_event(event)
            if position.epoch != self._epoch:
                parts += self._epoch_begins(position.epoch)
            self._handed_out = True
            if isinstance(event, Gap):
                parts.append(self._clipped(event))
                self._last = Position(position.epoch, event.hole.to_seq)
            else:
                frame = event[1][0]
                parts.append((position, frame))
                self._last = position
                self._messages += 1
                self._bytes += len(frame)
        if self._ending is None and self._until is not None and self._last is not None and self._last >= self._until:
            self._ending = Ending.COMPLETE
        if self._ending is None and self._messages >= self._limits.messages:
            self._ending = Ending.LIMIT
        return parts

    def _take_run(self, events: list[Event]) -> list[Part]:
        """All of `events`, where they are messages of the present epoch and every limit is far: most of the time."""
        if not events or self._query.until_ms is not None or self._messages + len(events) > self._limits.messages:
            return []
        if Gap in set(map(type, events)):
            return []
        run: list[Part] = [(event[0], event[1][0]) for event in events]  # type: ignore[index] # no gap is among them
        first, last = position_of_event(events[0]), position_of_event(events[-1])
        size = sum([len(part[1]) for part in run])  # type: ignore[index,misc]
        over = self._bytes + size > self._limits.bytes_ or (self._until is not None and last > self._until)
        if over or not first.epoch == last.epoch == self._epoch:
            return []
        self._handed_out = True
        self._last = last
        self._messages += len(run)
        self._bytes += size
        return run

    def _over_limits(self, item: Item) -> bool:
        if self._messages >= self._limits.messages:
            return True
        return self._messages > 0 and self._bytes + len(item[0]) > self._limits.bytes_

    def _is_past(self, event: Event) -> bool:
        """Whether this, and so everything after it, is not wanted."""
        if self._until is not None and position_of_event(event) > self._until:
            return True
        until_ms = self._query.until_ms
        return until_ms is not None and not isinstance(event, Gap) and frame_time_ms(event[1][0]) > until_ms

    def _clipped(self, gap: Gap) -> Gap:
        hole, until = gap.hole, self._until
        if until is None or until.epoch != hole.epoch or until.seq >= hole.to_seq:
            return gap
        return Gap(Hole(hole.epoch, hole.from_seq, until.seq), gap.why)

    def _epoch_begins(self, epoch: str) -> list[Part]:
        parts: list[Part] = []
        if self._epoch is not None and self._last is not None:
            lost = self._trimmed and not self._handed_out
            if lost:  # retention took what was next; how much of the old epoch that was, nobody knows any more
                parts.append(Gap(Hole(self._epoch, self._last.seq + 1, MAX_SEQ), Why.RETENTION))
            parts.append(Epoch(epoch, self._last, certain=not lost and self._epoch[-8:] == epoch[-8:]))
        self._epoch = epoch
        return parts

    async def _find_start(self) -> bool:
        """Turn `from_ms` into a position: the first message in the log of that time or later. False: there is none."""
        assert self._query.from_ms is not None
        from_ms = max(self._query.from_ms, self._gone_until_ms)
        found: list[Position] = []
        located = await self._locator.locate_time(self._session, self._tenant, from_ms)
        for place in located.places if located is not None else ():
            assert located is not None
            scan = PlaceScan(self._sources, str(self._session), located.topic, place, None, self._gone_until_ms)
            async with aclosing(scan.messages()) as steps:
                async for step in steps:
                    first = next((position for position, frame in step if frame_time_ms(frame) >= from_ms), None)
                    if first is not None:
                        found.append(first)
                        break
                    if self._clock() >= self._ends_at or self._stopping():
                        self._ending = Ending.TIME
                        return False
        if not found:
            self._ending = Ending.COMPLETE
            return False
        first = min(found)
        self._last = Position(first.epoch, first.seq - 1)
        self._epoch = first.epoch
        return True
