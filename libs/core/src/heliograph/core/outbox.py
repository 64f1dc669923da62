"""The outbox: how much one connection may have waiting, and what happens when it is more.

A reader slower than its sessions must cost neither memory nor its place. What waits for it is bounded in bytes, with
two marks: over the soft one its telemetry is shed; over the hard one nothing more is queued and it *catches up*: once
the socket has drained it is served from the hot window, from the last position it was sent. Only a reader that takes
no byte at all for a while is closed. What it takes is what its end of the connection acknowledged: our own kernel asks
for more only when a third of its buffer is free, which at 1 KB/s is once in minutes.

The rules are the two tables below; `Outbox` only finds the row.

What this must never do: drop a control or event message (LATER means that the log and the window have it, and that it
will be read from there), close who makes progress however slowly, or hold the bytes themselves.
"""

from dataclasses import dataclass
from enum import Enum

from heliograph.core.messages import MessageClass


class Flow(Enum):
    """How a connection is being served."""

    FLOWING = "flowing"
    SHEDDING = "shedding"
    CATCHING_UP = "catching up"


class Level(Enum):
    """How much waits for the connection."""

    DRAINED = "drained"
    LOW = "low"
    SOFT = "over the soft mark"
    HARD = "over the hard mark"


class Action(Enum):
    """What the connection has to do now."""

    NONE = "none"
    CATCH_UP = "catch up"
    """Stop queueing; note the last position sent per session."""
    READ_ON = "read on"
    """The socket has drained: join history with live again from the last position sent."""
    CLOSE = "close"
    """No progress for too long."""


class Fate(Enum):
    """What becomes of one message for this connection."""

    SEND = "send"
    SHED = "shed"
    """Dropped by policy, and counted."""
    LATER = "later"
    """Not queued: it is read from the hot window once the connection has drained."""


TRANSITIONS: dict[Flow, dict[Level, tuple[Flow, Action]]] = {
    Flow.FLOWING: {
        Level.DRAINED: (Flow.FLOWING, Action.NONE),
        Level.LOW: (Flow.FLOWING, Action.NONE),
        Level.SOFT: (Flow.SHEDDING, Action.NONE),
        Level.HARD: (Flow.CATCHING_UP, Action.CATCH_UP),
    },
    Flow.SHEDDING: {
        Level.DRAINED: (Flow.FLOWING, Action.NONE),
        Level.LOW: (Flow.SHEDDING, Action.NONE),
        Level.SOFT: (Flow.SHEDDING, Action.NONE),
        Level.HARD: (Flow.CATCHING_UP, Action.CATCH_UP),
    },
    Flow.CATCHING_UP: {
        Level.DRAINED: (Flow.FLOWING, Action.READ_ON),
        Level.LOW: (Flow.CATCHING_UP, Action.NONE),
        Level.SOFT: (Flow.CATCHING_UP, Action.NONE),
        Level.HARD: (Flow.CATCHING_UP, Action.NONE),
    },
}

FATES: dict[Flow, dict[MessageClass, Fate]] = {
    Flow.FLOWING: {
        MessageClass.CONTROL: Fate.SEND,
        MessageClass.EVENT: Fate.SEND,
        MessageClass.TELEMETRY: Fate.SEND,
    },
    Flow.SHEDDING: {
        MessageClass.CONTROL: Fate.SEND,
        MessageClass.EVENT: Fate.SEND,
        MessageClass.TELEMETRY: Fate.SHED,
    },
    Flow.CATCHING_UP: {
        MessageClass.CONTROL: Fate.LATER,
        MessageClass.EVENT: Fate.LATER,
        MessageClass.TELEMETRY: Fate.SHED,
    },
}


@dataclass(frozen=True, slots=True)
class OutboxMarks:
    """The bounds of one connection."""

    drained_bytes: int = 16 * 1024
    """At or below this the connection counts as drained: not 0, so that the socket never runs dry in between."""
    soft_bytes: int = 256 * 1024
    """Above this telemetry is shed: one page of history."""
    hard_bytes: int = 1024 * 1024
    """Above this nothing is queued: what 1,000 stuck readers cost an edge is 1 GiB, and no more."""
    no_progress_s: float = 30.0
    """Without a byte taken for this long the reader is gone: longer than a mobile network's hand-over takes."""

    def __post_init__(self) -> None:
        if not 0 <= self.drained_bytes < self.soft_bytes < self.hard_bytes:
            raise ValueError(f"{self!r}: 0 <= drained_bytes < soft_bytes < hard_bytes must hold")
        if not self.no_progress_s > 0:
            raise ValueError(f"no_progress_s is {self.no_progress_s!r}; it must be above 0")

    def level(self, buffered_bytes: int) -> Level:
        """Where `buffered_bytes` stands between the marks."""
        if buffered_bytes <= self.drained_bytes:
            return Level.DRAINED
        if buffered_bytes <= self.soft_bytes:
            return Level.LOW
        return Level.SOFT if buffered_bytes <= self.hard_bytes else Level.HARD


class Outbox:
    """What one connection owes its reader. `flow` names its row in the tables."""

    __slots__ = ("_marks", "_progress_s", "_taken_bytes", "flow")

    def __init__(self, marks: OutboxMarks) -> None:
        self._marks = marks
        self._taken_bytes = -1
        self._progress_s = 0.0
        """As of the first `look`, which counts as progress."""
        self.flow = Flow.FLOWING

    def fate(self, message_class: MessageClass) -> Fate:
        """What becomes of a message of this class."""
        return FATES[self.flow][message_class]

    def observe(self, buffered_bytes: int) -> Action:
        """Judge what waits to be handed to the kernel, after writes and once in a while."""
        self.flow, action = TRANSITIONS[self.flow][self._marks.level(buffered_bytes)]
        return action

    def look(self, taken_bytes: int, offered_bytes: int, now: float) -> Action:
        """CLOSE where the reader makes no progress; asked once in a while, `now` in seconds, monotonic.

        `taken_bytes` is how much it has acknowledged since the connection began, `offered_bytes` how much more it was
        offered. Where it was offered nothing, the delay is ours: a pass that comes late after our own stall closes
        nobody.
        """
        if taken_bytes > self._taken_bytes or offered_bytes == 0:
            self._taken_bytes = max(self._taken_bytes, taken_bytes)
            self._progress_s = now
        return Action.CLOSE if now - self._progress_s >= self._marks.no_progress_s else Action.NONE
