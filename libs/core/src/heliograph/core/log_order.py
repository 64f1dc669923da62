"""The log's order made the session's order: by position, each once, what is missing named.

Order in the log is nearly, not exactly, by position: two edges may write to one session, a router writes again what an
edge could not, and a message may be there twice. What bounds the disorder is W: the live path sequences no message W
past one that the log does not have, so once X+W was read, X was read or is not in the log.

    held          what came before its turn, at most W messages of the present epoch (and of later ones: see below)
    a hole        positions before what is held. It is a gap once W past it was seen; until then it may be filled
    an epoch      has no last position that a reader knows. It is over when W messages of later ones were read, or when
                  the reader says that nothing of it is still to be written (`finish`)

What this must never do: hand a position out twice or before a lower one, pass over a position without naming it, hold
more than 2 W, or call a gap what may still come.
"""

from collections.abc import Collection, Iterable, Iterator
from typing import Generic, TypeVar

from heliograph.core.contiguity import Hole
from heliograph.core.history import Gap, Why
from heliograph.core.limits import UNCONFIRMED_MESSAGES
from heliograph.core.positions import Position

Item = TypeVar("Item")


class LogOrder(Generic[Item]):
    """Orders one session's records of one partition, given in the order of the log.

    >>> order = LogOrder[str](Position("1764000000000-1a2b3c4d", 4))
    >>> order.push(Position("1764000000000-1a2b3c4d", 6), "six")
    []
    >>> [item for _, item in order.push(Position("1764000000000-1a2b3c4d", 5), "five")]
    ['five', 'six']
    """

    __slots__ = ("_epoch", "_held", "_later", "_next", "_top", "_why", "_window", "dropped")

    def __init__(
        self,
        after: Position | None,
        *,
        leading: Why = Why.NEVER_WRITTEN,
        window: int = UNCONFIRMED_MESSAGES,
    ) -> None:
        """`after`: hand out what comes after it; None: from the first epoch's first position.

        `leading`: why positions before the first one in the log are missing (RETENTION where it removed the beginning).
        """
        self._epoch = after.epoch if after is not None else ""
        self._next = after.seq + 1 if after is not None else 1
        self._window = window
        self._why = leading
        self._held: dict[int, Item | Why] = {}
        """Of the present epoch, by seq: an item, or why there is none."""
        self._top = 0
        """The highest seq of the present epoch that was held; below `_next` where nothing is."""
        self._later: dict[str, dict[int, Item | Why]] = {}
        self.dropped = 0
        """Records whose position was handed out, named missing, or left behind with its epoch."""

    @property
    def last(self) -> Position | None:
        """The last position handed out or named missing; what was given, before there is one."""
        return Position(self._epoch, self._next - 1) if self._epoch else None

    def held(self) -> Iterator[Item]:
        """What came before its turn and was not handed out."""
        for held in (self._held, *self._later.values()):
            for item in held.values():
                if not isinstance(item, Why):
                    yield item

    def push(self, position: Position, item: Item) -> list[tuple[Position, Item] | Gap]:
        """A record: what may be handed out now, in order."""
        epoch, seq = position
        if epoch == self._epoch and seq == self._next and not self._held:
            self._next = seq + 1
            self._why = Why.NEVER_WRITTEN
            return [(position, item)]
        if not self._hold(epoch, seq, item):
            self.dropped += 1
            return []
        return self._settle()

    def push_all(self, records: Iterable[tuple[Position, Item]]) -> list[tuple[Position, Item] | Gap]:
        """Many records, as `push` each; a run that is in order costs next to nothing."""
        out: list[tuple[Position, Item] | Gap] = []
        epoch, following, in_order = self._epoch, self._next, not self._held
        for record in records:
            position = record[0]
            if in_order and position[1] == following and position[0] == epoch:
                following += 1
                out.append(record)
                continue
            if following != self._next:
                self._next, self._why = following, Why.NEVER_WRITTEN
            out += self.push(position, record[1])
            epoch, following, in_order = self._epoch, self._next, not self._held
        if following != self._next:
            self._next, self._why = following, Why.NEVER_WRITTEN
        return out

    def missing(self, first: Position, last: Position, why: Why) -> list[tuple[Position, Item] | Gap]:
        """The log says (a gap record), or shows (a corrupt record), that positions will not come.

        A record that holds one of them after all, and comes in time, is handed out in its place.
        """
        begin = max(first.seq, self._next) if first.epoch == self._epoch else first.seq
        for seq in range(begin, last.seq + 1):
            held = self._held if first.epoch == self._epoch else self._later.get(first.epoch, {})
            if seq not in held:
                self._hold(first.epoch, seq, why)
        return self._settle()

    def finish(self, pending: Collection[Position]) -> list[tuple[Position, Item] | Gap]:
        """Everything that was in the log has been read; of what is not, only `pending` may still come to it.

        What is held is handed out, holes named, up to the first position that is pending.
        """
        out: list[tuple[Position, Item] | Gap] = []
        while True:
            waited = {position.seq for position in pending if position.epoch == self._epoch}
            self._close(out, before=min((seq for seq in waited if seq >= self._next), default=None))
            if self._held or not self._later or any(seq >= self._next for seq in waited):
                return out
            nearest = min(self._later)
            if any(self._epoch < position.epoch < nearest for position in pending):
                return out
            self._enter(nearest)

    def _hold(self, epoch: str, seq: int, item: Item | Why) -> bool:
        """Keep a record until its turn; False where that is over."""
        if epoch == self._epoch:
            if seq < self._next or (seq in self._held and not isinstance(self._held[seq], Why)):
                return False
            self._held[seq] = item
            self._top = max(self._top, seq)
            return True
        if epoch < self._epoch:
            return False
        held = self._later.setdefault(epoch, {})
        if seq in held and not isinstance(held[seq], Why):
            return False
        held[seq] = item
        return True

    def _settle(self) -> list[tuple[Position, Item] | Gap]:
        """Hand out what can be: all that is next, holes that W was seen past, epochs that are over."""
        out: list[tuple[Position, Item] | Gap] = []
        while True:
            self._hand_out(out)
            if self._top >= self._next + self._window:  # the hole at `_next` will not be filled any more
                first = min(self._held)
                self._name(out, min(first - 1, self._top - self._window))
                continue
            if self._later:
                nearest = min(self._later)
                begins = not self._epoch and 1 in self._later[nearest]
                if begins or sum(map(len, self._later.values())) >= self._window:
                    self._close(out)
                    self._enter(nearest)
                    continue
            return out

    def _hand_out(self, out: list[tuple[Position, Item] | Gap]) -> None:
        """Everything held that is next without a hole."""
        held, epoch = self._held, self._epoch
        while self._next in held:
            item = held.pop(self._next)
            if isinstance(item, Why):
                _append_gap(out, epoch, self._next, self._next, item)
            else:
                out.append((Position(epoch, self._next), item))
            self._next += 1
            self._why = Why.NEVER_WRITTEN

    def _close(self, out: list[tuple[Position, Item] | Gap], before: int | None = None) -> None:
        """Hand out all that is held, naming holes; or up to `before`, which may still come."""
        while True:
            self._hand_out(out)
            if not self._held:
                return
            first = min(self._held)
            if before is not None and before < first:
                self._name(out, before - 1)
                return
            self._name(out, first - 1)

    def _name(self, out: list[tuple[Position, Item] | Gap], last: int) -> None:
        """The positions from the next one to `last` are missing."""
        if last >= self._next:
            _append_gap(out, self._epoch, self._next, last, self._why)
            self._next = last + 1
            self._why = Why.NEVER_WRITTEN

    def _enter(self, epoch: str) -> None:
        self._epoch, self._next = epoch, 1
        self._held = self._later.pop(epoch)
        self._top = max(self._held)


def _append_gap(out: list[tuple[Position, Item] | Gap], epoch: str, first: int, last: int, why: Why) -> None:
    """Add a gap, to the one before it where they are one."""
    if out:
        before = out[-1]
        if isinstance(before, Gap) and before.why is why and before.hole[::2] == (epoch, first - 1):
            out[-1] = Gap(Hole(epoch, before.hole.from_seq, last), why)
            return
    out.append(Gap(Hole(epoch, first, last), why))
