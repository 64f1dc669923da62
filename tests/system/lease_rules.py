"""Judges what workers did: each message handled under the lease that held, in order, none skipped.

The rules know the guarantees, not the code that keeps them: a session has one worker at a time, and the next one goes
on where the one before had come to, at the latest. Handled again is allowed (at least once); skipped is not.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a worker. `what`: assigned, handled, gap or lost."""

    at_s: float
    """By the machine's monotonic clock, which all processes share."""
    worker: str
    what: str
    session: str
    lease: int
    position: str | None
    reason: str | None = None


def violations(
    published: Mapping[str, Sequence[str]], events: Sequence[Event], *, out_of_touch: Collection[str] = ()
) -> list[str]:
    """What is wrong. `published`: the positions of each session, in order. `out_of_touch`: workers whose edge was
    stopped: until they are told, they go on with what they had been sent.
    """
    by_session: defaultdict[str, list[Event]] = defaultdict(list)
    for event in sorted(events, key=lambda event: event.at_s):
        by_session[event.session].append(event)
    found: list[str] = []
    for session, positions in published.items():
        judged = _Session(session, positions, by_session.get(session, []), out_of_touch)
        for rule in (judged.one_worker_a_lease, judged.one_lease_at_a_time, judged.in_order, judged.none_skipped):
            found += [f"{session}: {what}" for what in rule()]
    return found


def repeats(events: Sequence[Event]) -> int:
    """Messages handled more than once."""
    handled = [(event.session, event.position) for event in events if event.what == "handled"]
    return len(handled) - len(set(handled))


class _Session:
    def __init__(
        self, session: str, positions: Sequence[str], events: list[Event], out_of_touch: Collection[str]
    ) -> None:
        self.session = session
        self.index = {position: number for number, position in enumerate(positions)}
        self.leases: defaultdict[int, list[Event]] = defaultdict(list)
        for event in events:
            self.leases[event.lease].append(event)
        self.handled = {
            lease: [event for event in some if event.what == "handled"] for lease, some in sorted(self.leases.items())
        }
        self.out_of_touch = out_of_touch

    def one_worker_a_lease(self) -> Iterator[str]:
        for lease, events in self.leases.items():
            workers = sorted({event.worker for event in events})
            if len(workers) > 1:
                yield f"lease {lease} was held by {', '.join(workers)}"

    def one_lease_at_a_time(self) -> Iterator[str]:
        """Nothing is handled under a lease once the next one's worker has begun."""
        leases = [(lease, events) for lease, events in self.handled.items() if events]
        for (lease, events), (newer, its) in pairwise(leases):
            late = [event for event in events if event.at_s > its[0].at_s and event.worker not in self.out_of_touch]
            if late:
                yield (
                    f"{len(late)} handled by {late[0].worker} under lease {lease} after {its[0].worker} began under"
                    f" {newer}, up to {late[-1].at_s - its[0].at_s:.3f} s"
                )

    def in_order(self) -> Iterator[str]:
        """Under one lease each message follows the one before it."""
        for lease, events in self.handled.items():
            numbers = [self.index.get(event.position or "") for event in events]
            if None in numbers:
                yield f"lease {lease} handled what nobody published"
                continue
            for before, after in pairwise(numbers):
                assert before is not None
                if after != before + 1:
                    yield f"lease {lease} handled number {after} after number {before}"

    def none_skipped(self) -> Iterator[str]:
        """Each lease begins at or before the first message that none before it has handled; in the end all are."""
        reached = -1
        for lease, events in self.handled.items():
            if not events:
                continue
            begin = self.index.get(events[0].position or "", -1)
            if begin > reached + 1:
                yield f"lease {lease} began at number {begin}, {reached + 1} was not handled before"
            reached = max(reached, *(self.index.get(event.position or "", -1) for event in events))
        if reached + 1 < len(self.index):
            yield f"of {len(self.index)} messages the last {len(self.index) - reached - 1} were not handled"
