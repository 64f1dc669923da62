"""How far the router came in each partition: what may be committed, and what it still owes.

Work is done in batches, but some of it can take longer than its batch: a poison record whose dead letter can't be
written yet. Its offset is *owed*: nothing at or past it is committed until it is settled, while the records behind it
are worked on. After a restart they are worked on again, which changes nothing.
"""

from collections.abc import Iterable

from heliograph.stores.ports import LogRecord

Place = tuple[str, int]


class Progress:
    """Offsets by partition. Pure: it neither reads nor commits."""

    def __init__(self) -> None:
        self._done: dict[Place, int] = {}
        self._owed: dict[Place, set[int]] = {}
        self._committed: dict[Place, int] = {}

    def done(self, records: Iterable[LogRecord]) -> None:
        """The work of these is done, but for what is owed."""
        done = self._done
        place, highest = ("", -1), -1
        for record in records:
            if record.partition != place[1] or record.topic != place[0]:
                if highest >= 0:
                    done[place] = highest
                place = (record.topic, record.partition)
            highest = record.offset
        if highest >= 0:
            done[place] = highest

    def owe(self, place: Place, offset: int) -> None:
        """This one is not done, whatever is told of others."""
        self._owed.setdefault(place, set()).add(offset)

    def settle(self, place: Place, offset: int) -> None:
        """This one is done now."""
        owed = self._owed.get(place)
        if owed is not None:
            owed.discard(offset)
            if not owed:
                del self._owed[place]

    def owed(self) -> int:
        """Records that are owed, of all partitions."""
        return sum(map(len, self._owed.values()))

    def committable(self) -> list[LogRecord]:
        """The last record of each partition that may be committed and has not been yet."""
        found = []
        for place, offset in self._done.items():
            owed = self._owed.get(place)
            last = offset if owed is None else min(offset, min(owed) - 1)
            if last >= 0 and (owed is None or last != self._committed.get(place)):
                found.append(LogRecord(place[0], place[1], last, 0, None, None, []))
        return found

    def committed(self, records: Iterable[LogRecord]) -> None:
        """These were committed."""
        for record in records:
            place = (record.topic, record.partition)
            self._committed[place] = record.offset
            if self._done.get(place) == record.offset:
                del self._done[place]  # a partition that moved to another router must not be committed again later
