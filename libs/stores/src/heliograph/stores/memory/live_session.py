"""One session of the live store in memory: the rules of the Redis functions, in Python.

`ProducerLedger` judges; what is written here besides is what `redis/functions/*.lua` write, under the same rules. The
contract suite runs the same questions against both.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from heliograph.core.limits import CONSUMERS_PER_SESSION, PAGE_BYTES
from heliograph.core.positions import BEFORE_ALL, Position
from heliograph.core.producers import Claim, ProducerLedger
from heliograph.protocol.messages import FRAME_START, is_by_worker
from heliograph.stores.ports import Ack, Acknowledged, AckStatus, Append, Bounds, Head, Page, Unconfirmed


@dataclass(slots=True)
class Entry:
    """A message in the window."""

    position: Position
    frame: bytes
    extras: bytes

    @property
    def size_bytes(self) -> int:
        return len(self.frame) + len(self.extras)


@dataclass(slots=True)
class Epoch:
    """One life of the counter. `ahead`: confirmed beyond a hole."""

    name: str
    seq: int = 0
    confirmed: int = 0
    ahead: set[int] = field(default_factory=set)

    @property
    def open(self) -> int:
        """What bounds count: positions from the first unconfirmed one on."""
        return self.seq - self.confirmed

    def has(self, seq: int) -> bool:
        return seq <= self.confirmed or seq in self.ahead

    def confirm(self, seq: int) -> bool:
        """Whether that was news."""
        if seq > self.seq or self.has(seq):
            return False
        self.ahead.add(seq)
        while self.confirmed + 1 in self.ahead:
            self.confirmed += 1
            self.ahead.discard(self.confirmed)
        return True


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a consumer stands, and the fence of the last lease that claimed it."""

    position: Position | None = None
    fence: int = 0


NO_CURSOR = Cursor()


class Session:
    """Times in ms come in; nothing here reads a clock."""

    __slots__ = (
        "at_ms", "cursors", "entries", "epoch", "ledger", "old", "partition", "unconfirmed_bytes", "window_bytes"
    )  # fmt: skip

    def __init__(self, epoch: str, partition: int) -> None:
        self.epoch = Epoch(epoch)
        self.old: Epoch | None = None
        self.partition = partition
        self.unconfirmed_bytes = 0
        self.entries: list[Entry] = []
        self.window_bytes = 0
        self.at_ms = 0
        """Last append."""
        self.ledger = ProducerLedger(self.is_confirmed)
        self.cursors: dict[str, Cursor] = {}

    @property
    def open(self) -> int:
        return self.epoch.open + (self.old.open if self.old is not None else 0)

    @property
    def recovering(self) -> bool:
        """The former epoch is not confirmed yet: another one now would have nowhere to be kept."""
        return self.old is not None and self.old.open > 0

    def is_confirmed(self, position: Position) -> bool:
        if position.epoch == self.epoch.name:
            return self.epoch.has(position.seq)
        if self.old is not None and position.epoch == self.old.name:
            return self.old.has(position.seq)
        return True  # no epoch is followed by another but one before it is confirmed

    def begin(self, epoch: str) -> None:
        self.old = self.epoch
        self.epoch = Epoch(epoch)

    def add(self, message: Append, bounds: Bounds, now_ms: int) -> Entry:
        """The message in the window, at the next position."""
        self.epoch.seq += 1
        position = Position(self.epoch.name, self.epoch.seq)
        entry = Entry(position, b'%b%b",%b' % (FRAME_START, str(position).encode(), message.rest), message.extras)
        self.entries.append(entry)
        self.window_bytes += entry.size_bytes
        self.unconfirmed_bytes += message.size_bytes
        self.at_ms = now_ms
        self._trim(bounds)
        return entry

    def unserved(self, after: Position | None) -> Position | None:
        next_seq, epoch = (after.seq + 1, after.epoch) if after is not None else (1, None)
        behind = [entry for entry in self.entries if after is None or entry.position > after]
        for entry in reversed(behind):
            if not is_by_worker(entry.extras):
                return entry.position
        if any(one.position.seq == next_seq and epoch in (None, one.position.epoch) for one in behind):
            return None
        return behind[-1].position if behind else None

    def _trim(self, bounds: Bounds) -> None:
        """To its size, only once it is an eighth over, and never past what is unconfirmed."""
        too_many = len(self.entries) * 8 > bounds.window_messages * 9
        if not too_many and self.window_bytes * 8 <= bounds.window_bytes * 9:
            return
        drop = 0
        while drop < len(self.entries) - 1 and (
            len(self.entries) - drop > bounds.window_messages or self.window_bytes > bounds.window_bytes
        ):
            if not self.is_confirmed(self.entries[drop].position):
                break
            self.window_bytes -= self.entries[drop].size_bytes
            drop += 1
        del self.entries[:drop]

    def confirm(self, epoch: str, seqs_and_sizes: Sequence[tuple[int, int]]) -> tuple[int, bool]:
        """Bytes that are no longer unconfirmed, and whether the oldest unconfirmed position is another one now."""
        of = self.epoch if epoch == self.epoch.name else self.old if self.recovering else None
        freed, advanced = 0, False
        if of is not None and of.name == epoch:
            before = of.confirmed
            freed = sum(size for seq, size in seqs_and_sizes if of.confirm(seq))
            advanced = of.confirmed > before
        freed = self.unconfirmed_bytes if self.open == 0 else min(freed, self.unconfirmed_bytes)
        self.unconfirmed_bytes -= freed
        return freed, advanced

    def unconfirm(self, epoch: str, first_seq: int, last_seq: int, size_bytes: int) -> bool:
        """Whether these positions were confirmed and are so no more."""
        of = self.epoch
        if epoch != of.name or not self.head("").first_seq <= first_seq <= last_seq <= of.confirmed:
            return False
        of.ahead.update(range(last_seq + 1, of.confirmed + 1))
        of.confirmed = first_seq - 1
        self.unconfirmed_bytes += size_bytes
        return True

    def known(self, position: Position) -> bool | None:
        for epoch in (self.epoch, self.old):
            if epoch is not None and epoch.name == position.epoch:
                return epoch.has(position.seq) if position.seq <= epoch.seq else None
        if self.old is None or position.epoch > self.old.name:
            return None
        # No epoch is followed by another but one before it is confirmed.
        return True if any(entry.position == position for entry in self.entries) else None

    def head(self, next_epoch: str) -> Head:
        first = self.epoch.seq + 1
        for entry in self.entries:
            if entry.position.epoch == self.epoch.name:
                first = entry.position.seq
                break
        return Head(self.epoch.name, self.epoch.seq, self.epoch.confirmed, first, next_epoch)

    def page(self, after: Position | None, next_epoch: str, *, from_before: bool) -> Page:
        """`from_before`: `after` is where it stood before it had a message."""
        head = self.head(next_epoch)
        complete = after is None or after.epoch == self.epoch.name
        last = after if complete else None
        if from_before and self.old is None and Position(self.epoch.name, 1).begins_after(after or BEFORE_ALL):
            complete, last = True, Position(self.epoch.name, 0)
        frames: list[bytes] = []
        size, more = 0, False
        for entry in self.entries:
            if after is not None and (entry.position.epoch_ms, entry.position.seq) <= (after.epoch_ms, after.seq):
                continue
            if frames and size + len(entry.frame) > PAGE_BYTES:
                more = True
                break
            size += len(entry.frame)
            complete = complete and (last is None or self._follows(last, entry.position))
            last = entry.position
            frames.append(entry.frame)
        if not more and last is None and head.seq:
            complete = False
        if not more and last is not None and (last.epoch != head.epoch or last.seq < head.seq):
            complete = False
        return Page(frames, head, complete, more)

    def _follows(self, last: Position, position: Position) -> bool:
        if position.epoch == last.epoch:
            return position.seq == last.seq + 1
        return self.old is not None and last == (self.old.name, self.old.seq) and position.seq == 1

    def cursor(self, consumer: str) -> Cursor:
        return self.cursors.get(consumer, NO_CURSOR)

    def _given(self, position: Position) -> bool:
        """Of epochs before the former one nobody knows the end."""
        if position.epoch >= self.epoch.name:
            return position <= (self.epoch.name, self.epoch.seq)
        return self.old is None or position <= (self.old.name, self.old.seq)

    def acknowledge(self, ack: Ack) -> Acknowledged:
        known = self.cursors.get(ack.consumer)
        stands, asked = known or NO_CURSOR, ack.position
        if asked is not None and asked.epoch == BEFORE_ALL.epoch:
            asked = None
        status = AckStatus.OK
        if 0 < ack.fence < stands.fence:
            status = AckStatus.FENCED
        elif asked is not None and not self._given(asked):
            status = AckStatus.AHEAD
        elif asked is not None or ack.fence:
            if known is None and not ack.fence and len(self.cursors) >= CONSUMERS_PER_SESSION:
                status = AckStatus.FULL
            else:
                furthest = max(filter(None, (stands.position, asked)), default=None)
                stands = self.cursors[ack.consumer] = Cursor(furthest, max(stands.fence, ack.fence))
        return Acknowledged(status, stands.position, stands.fence)

    def unconfirmed(self, limit: int) -> list[Unconfirmed]:
        entries = {entry.position: entry for entry in self.entries}
        found: list[Unconfirmed] = []
        for epoch in (self.old, self.epoch):
            if epoch is None:
                continue
            for seq in range(epoch.confirmed + 1, epoch.seq + 1):
                if seq not in epoch.ahead and len(found) < limit:
                    position = Position(epoch.name, seq)
                    entry = entries.get(position)
                    found.append(Unconfirmed(position, entry.frame if entry else None, entry.extras if entry else b""))
        return found


def claim_of(message: Append) -> Claim:
    """What the ledger is asked."""
    return Claim(message.content_hash, message.producer, message.producer_seq, message.message_id)
