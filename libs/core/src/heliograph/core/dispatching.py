"""Which worker gets which session: decided here, carried out elsewhere.

Sessions that wait are given out in the order they have waited. A session goes to the worker that had it before, while
that one lives and has room; else to the worker with the most room. What this must never do: give one session to two
workers, or a worker more than its capacity.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from heapq import heapify, heappop, heapreplace

MAX_CAPACITY = 10_000
"""Sessions that one worker may offer to hold: one connection carries about so many with a message a second each."""


@dataclass(frozen=True, slots=True)
class Room:
    """A worker, and how many sessions it holds of how many it offered to."""

    worker: str
    capacity: int
    held: int

    @property
    def free(self) -> int:
        """Negative where a worker lowered what it offers below what it holds."""
        return self.capacity - self.held


@dataclass(frozen=True, slots=True)
class Waiting:
    """A session without a worker, and who had it before."""

    session: str
    previous: str | None = None


def plan(rooms: Iterable[Room], waiting: Iterable[Waiting]) -> list[tuple[str, str]]:
    """(session, worker) of each session that can be given out now; `waiting` in the order in which it has waited.

    >>> plan([Room("a", 2, 1), Room("b", 2, 0)], [Waiting("s1", "a"), Waiting("s2"), Waiting("s3"), Waiting("s4")])
    [('s1', 'a'), ('s2', 'b'), ('s3', 'b')]
    """
    free = {room.worker: room.free for room in rooms if room.free > 0}
    most = [(-count, worker) for worker, count in free.items()]
    heapify(most)
    given: dict[str, str] = {}
    for one in waiting:
        if not free:
            break
        if one.session in given:
            continue
        worker = one.previous if one.previous in free else _most_free(most, free)
        given[one.session] = worker
        free[worker] -= 1
        if not free[worker]:
            del free[worker]
    return list(given.items())


def _most_free(most: list[tuple[int, str]], free: dict[str, int]) -> str:
    """The worker with the most room. Entries of `most` are corrected when they come up: rooms only shrink."""
    while True:
        count, worker = most[0]
        now = free.get(worker, 0)
        if now == -count:
            return worker
        if now:
            heapreplace(most, (-now, worker))
        else:
            heappop(most)
