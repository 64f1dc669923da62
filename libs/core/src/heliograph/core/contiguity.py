"""Contiguity: whether a stream of positions leaves something out.

"A hole is impossible without a gap frame" is kept by everybody who hands messages on, with this one tracker: the edge
for each session it forwards, the SDK for what it gives to an agent, and the checkers of the system tests for what was
seen in the end. It knows one thing, the last position, and judges the next one against it.

It moves only over what it was shown: a delivery, a declared gap, an entered epoch. A hole is an answer, not a step:
the caller fills it (from the window, from the log) or declares it, and asks again.

What this must never do: skip a position silently, step back, or decide that a hole is acceptable.
"""

from enum import Enum
from typing import NamedTuple

from heliograph.core.positions import Position

NOTHING = Position("", 0)
"""Before every epoch: the last position of who has seen nothing and wants everything."""


class Verdict(Enum):
    """What an arriving position is, if it fits."""

    DELIVER = "deliver"
    """The next one. The tracker has moved over it."""
    DUPLICATE = "duplicate"
    """At or behind the last one: delivered, declared, or left in an epoch that is over. Drop it."""


class Hole(NamedTuple):
    """Positions `from_seq` to `to_seq` of `epoch`, both included, did not come."""

    epoch: str
    from_seq: int
    to_seq: int


class EpochChange(NamedTuple):
    """A later epoch than the last position's. Whether the old one ended at `after` is for a seal to say.

    Not where the last position was the place before a first message (`Position.begins_after`) and this is that message.
    """

    after: Position
    """The last position before it, or NOTHING."""
    epoch: str


Judgement = Verdict | Hole | EpochChange


class Contiguity:
    """Tracks one stream.

    >>> stream = Contiguity(Position("1764000000000-1a2b3c4d", 4))
    >>> stream.observe(Position("1764000000000-1a2b3c4d", 5))
    <Verdict.DELIVER: 'deliver'>
    >>> stream.observe(Position("1764000000000-1a2b3c4d", 8))
    Hole(epoch='1764000000000-1a2b3c4d', from_seq=6, to_seq=7)
    """

    __slots__ = ("_epoch", "_next_seq")

    def __init__(self, last: Position | None) -> None:
        """`last` is the last position already had, or NOTHING; None takes whatever comes first as the beginning."""
        self._epoch: str | None
        if last is None:
            self._epoch, self._next_seq = None, 0
        else:
            self._epoch, self._next_seq = last.epoch, last.seq + 1

    @property
    def last(self) -> Position | None:
        """The last position delivered, declared or entered; None before a stream that may begin anywhere has begun."""
        return None if self._epoch is None else Position(self._epoch, self._next_seq - 1)

    def observe(self, position: Position) -> Judgement:
        """Judge an arriving position. Only DELIVER moves the tracker."""
        epoch, seq = position
        if seq == self._next_seq and epoch == self._epoch:
            self._next_seq = seq + 1
            return Verdict.DELIVER
        return self._judge(epoch, seq, seq)

    def skip(self, gap: Hole) -> Judgement:
        """Judge a declared gap as `observe` judges a position. One that overlaps what is known moves over the rest."""
        return self._judge(gap.epoch, gap.from_seq, gap.to_seq)

    def enter(self, epoch: str, sealed: Position | None = None) -> Hole | EpochChange | None:
        """Go on in `epoch`, before its seq 1. None when that is done (or was before).

        `sealed` is the last position of the epoch before, where it is known: then its positions must have come first.
        What is missing is returned (a hole, or an epoch in between that was never entered), and nothing is entered.
        """
        if self._epoch is not None:
            if epoch <= self._epoch:
                return None
            if sealed is not None and sealed.seq > 0:
                if sealed.epoch == self._epoch and sealed.seq >= self._next_seq:
                    return Hole(self._epoch, self._next_seq, sealed.seq)
                if sealed.epoch > self._epoch:
                    return EpochChange(Position(self._epoch, self._next_seq - 1), sealed.epoch)
        self._epoch, self._next_seq = epoch, 1
        return None

    def _judge(self, epoch: str, from_seq: int, to_seq: int) -> Judgement:
        if self._epoch is None:
            self._epoch, self._next_seq = epoch, to_seq + 1
            return Verdict.DELIVER
        if epoch > self._epoch:
            last = Position(self._epoch, self._next_seq - 1)
            if not Position(epoch, from_seq).begins_after(last):
                return EpochChange(last, epoch)
            self._epoch, self._next_seq = epoch, to_seq + 1
            return Verdict.DELIVER
        if epoch < self._epoch or to_seq < self._next_seq:
            return Verdict.DUPLICATE
        if from_seq > self._next_seq:
            return Hole(epoch, self._next_seq, from_seq - 1)
        self._next_seq = to_seq + 1
        return Verdict.DELIVER
