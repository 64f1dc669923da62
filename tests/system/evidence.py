"""A history with what rules need to look at it, and what they say of it."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from tests.system.history import Answer, Attempt, History, Kind, LogEntry, Outcome
from tests.system.views import Seen, seen_of

from heliograph.core.positions import EPOCH_LENGTH


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken rule, with what one needs to look further."""

    rule: str
    session: str
    what: str
    positions: tuple[str, ...] = ()
    at_s: float | None = None
    who: str = ""

    def __str__(self) -> str:
        at = "" if self.at_s is None else f" at {self.at_s:.3f} s"
        positions = f" [{', '.join(self.positions)}]" if self.positions else ""
        return f"{self.rule}: {self.session}{f' {self.who}' if self.who else ''}{at}: {self.what}{positions}"


class Evidence:
    """A history with the indexes that rules share."""

    def __init__(self, history: History) -> None:
        self.history = history

    @cached_property
    def entries(self) -> dict[tuple[str, str], list[LogEntry]]:
        """Log records by session and position, in the order of the log."""
        found: dict[tuple[str, str], list[LogEntry]] = defaultdict(list)
        for entry in self.history.log:
            if entry.position is not None and entry.kind in (Kind.MESSAGE, Kind.GAP):
                found[entry.session, entry.position].append(entry)
        return found

    @cached_property
    def messages(self) -> dict[tuple[str, str], LogEntry]:
        """The first record of each position that is a message."""
        return {
            place: message
            for place, entries in self.entries.items()
            if (message := next((entry for entry in entries if entry.kind is Kind.MESSAGE), None)) is not None
        }

    @cached_property
    def by_session(self) -> dict[str, list[str]]:
        """Positions of messages in the log, in order."""
        found: dict[str, list[str]] = defaultdict(list)
        for session, position in sorted(self.messages):
            found[session].append(position)
        return found

    @cached_property
    def seen(self) -> list[Seen]:
        """What each view amounts to."""
        return [seen_of(view) for view in self.history.views.values()]

    def is_lost(self, position: str) -> bool:
        """Whether a position was given by a live store that is gone with its data."""
        return position[EPOCH_LENGTH - 8 : EPOCH_LENGTH] in self.history.lost_runs

    def answers(self, *outcomes: Outcome) -> Iterator[tuple[Attempt, Answer]]:
        for attempt in self.history.attempts:
            for answer in attempt.answers:
                if answer.outcome in outcomes:
                    yield attempt, answer


Rule = Callable[[Evidence], Iterator[Violation]]
