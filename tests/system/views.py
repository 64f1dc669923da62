"""One subscriber's view of a session, read as a story: where it began, what it was told, where the story breaks."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.system.history import Delivered, EpochTold, GapTold, Subscribed, View

from heliograph.core.contiguity import NOTHING, Contiguity, EpochChange, Hole, Verdict
from heliograph.core.positions import Position
from heliograph.protocol.frames import CURSOR, EARLIEST, LATEST

BEFORE_ALL = "0" * 13
"""How the position begins that a server tells where a session has no message yet."""

NAMED = (LATEST, CURSOR)
"""Starts whose place the server tells."""

FOR_EVER = Position("9" * 13 + "-ffffffff", 0)


@dataclass(frozen=True, slots=True)
class Fault:
    """Where a story breaks."""

    what: str
    positions: tuple[str, ...]
    at_s: float


def place(text: str) -> Position:
    """The position of a `subscribed`."""
    return NOTHING if text.startswith(BEFORE_ALL) else Position.parse(text)


def walk(view: View) -> Iterator[Fault]:
    """Faults of order: repeats, steps back, holes and epochs without a word, answers that contradict the question."""
    story = _Story(view)
    for sight in view.sights:
        if isinstance(sight, Subscribed):
            yield from story.subscribed(sight)
        elif isinstance(sight, Delivered) and sight.position is not None:
            yield from story.delivered(sight, Position.parse(sight.position))
        elif isinstance(sight, GapTold):
            yield from story.gap(sight)
        elif isinstance(sight, EpochTold):
            yield from story.epoch(sight)


class _Story:
    def __init__(self, view: View) -> None:
        self._view = view
        self._stream: Contiguity | None = Contiguity(None) if view.silent_epochs else None
        self._open_gap = False

    @property
    def _last(self) -> Position | None:
        return None if self._stream is None else self._stream.last

    def subscribed(self, sight: Subscribed) -> Iterator[Fault]:
        at = place(sight.position)
        last = self._last
        if last is None:
            from_nothing = sight.asked == EARLIEST or (sight.asked == CURSOR and at == NOTHING)
            self._stream = Contiguity(None if from_nothing else at)
            if sight.asked not in (EARLIEST, LATEST, CURSOR):
                self._stream = Contiguity(Position.parse(sight.asked))
                last = self._last
        if last is not None and last != NOTHING and sight.recovered and at != last:
            what = f"resumed from {last}, which was `recovered`, and put at {at}"
            yield Fault(what, (str(last), sight.position), sight.at_s)

    def delivered(self, sight: Delivered, position: Position) -> Iterator[Fault]:
        if self._stream is None:
            yield Fault("a message before `subscribed`", (str(position),), sight.at_s)
            self._stream = Contiguity(None)
        last = self._stream.last
        if self._open_gap and last is not None and position > last:
            self._stream = Contiguity(None)
        self._open_gap = False
        judgement = self._stream.observe(position)
        if isinstance(judgement, EpochChange):
            if last != NOTHING and not self._view.silent_epochs:
                yield Fault(f"a new epoch after {last} without a word", (str(position),), sight.at_s)
            self._stream.enter(position.epoch)
            judgement = self._stream.observe(position)
        if isinstance(judgement, Hole):
            first, end = (str(Position(judgement.epoch, seq)) for seq in (judgement.from_seq, judgement.to_seq))
            yield Fault(f"a hole before {position} without a word", (first, end), sight.at_s)
            self._stream = Contiguity(position)
        elif judgement is Verdict.DUPLICATE:
            yield Fault(f"came at or behind {last}", (str(position),), sight.at_s)

    def gap(self, sight: GapTold) -> Iterator[Fault]:
        if sight.last is None:
            self._open_gap = True
            return
        last = Position.parse(sight.last)
        first = Position.parse(sight.first) if sight.first is not None else last
        if self._stream is None or self._stream.last is None:
            self._stream = Contiguity(last)
            return
        if self._stream.last == NOTHING or (self._view.silent_epochs and first.epoch > self._stream.last.epoch):
            self._stream.enter(last.epoch)
        if isinstance(self._stream.skip(Hole(first.epoch, first.seq, last.seq)), Hole | EpochChange):
            yield Fault(f"a gap that does not begin behind {self._stream.last}", (str(first), str(last)), sight.at_s)
            self._stream = Contiguity(last)

    def epoch(self, sight: EpochTold) -> Iterator[Fault]:
        if self._stream is None:
            self._stream = Contiguity(None)
        last = self._stream.last
        if last is not None and last != NOTHING and sight.last is not None and sight.last != str(last):
            what = f"an epoch frame says that the last was {sight.last}, it was {last}"
            yield Fault(what, (sight.last, str(last)), sight.at_s)
        self._stream.enter(sight.epoch)
        self._open_gap = False


# ---- what it amounts to ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Seen:
    """What a view has, and what it was told that it would not get."""

    view: View
    start: Position | None = None
    """It began after this; None: with whatever came first."""
    positions: set[str] = field(default_factory=set)
    last: Position | None = None
    gaps: list[tuple[Position, Position, str]] = field(default_factory=list)
    """First, last and reason."""
    epochs: int = 0

    def after(self, position: Position) -> bool:
        """Whether a position is in what it asked for."""
        return self.start is None or position > self.start

    def why_not(self, position: Position) -> str | None:
        """The reason it was told for not getting a position; None where it was told none."""
        for first, last, reason in self.gaps:
            if first <= position <= last:
                return reason
        return None


def seen_of(view: View) -> Seen:
    """Read a view."""
    seen = Seen(view)
    begun = False
    open_gap: tuple[Position, str] | None = None
    for sight in view.sights:
        if isinstance(sight, Subscribed):
            if not begun:
                begun = True
                asked = sight.asked
                seen.start = None if asked == EARLIEST else place(sight.position if asked in NAMED else asked)
                seen.last = seen.start
        elif isinstance(sight, Delivered) and sight.position is not None:
            if not begun:
                begun, seen.start = True, None
            position = Position.parse(sight.position)
            if open_gap is not None:
                seen.gaps.append((open_gap[0], position, open_gap[1]))
                open_gap = None
            seen.positions.add(sight.position)
            seen.last = position if seen.last is None else max(seen.last, position)
        elif isinstance(sight, GapTold):
            first = Position.parse(sight.first) if sight.first is not None else seen.last or NOTHING
            if sight.last is None:
                open_gap = (first, sight.reason)
            else:
                last = Position.parse(sight.last)
                seen.gaps.append((first, last, sight.reason))
                seen.last = last if seen.last is None else max(seen.last, last)
        elif isinstance(sight, EpochTold):
            seen.epochs += 1
            if not sight.certain:
                before = seen.last or NOTHING
                seen.gaps.append((Position(before.epoch, before.seq + 1), Position(sight.epoch, 0), "epoch"))
    if open_gap is not None:
        seen.gaps.append((open_gap[0], FOR_EVER, open_gap[1]))
    return seen
