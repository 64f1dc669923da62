"""The outbox: how much one connection may have waiting, and what happens when it is more.

A reader slower than its sessions must cost neither memory nor its place. What waits for it is bounded in bytes, with
two marks: over the soft one its telemetry is shed; over the hard one nothing more is queued and it *catches up*: once
the socket has drained it is served from the hot window, from the last position it was sent. Only a reader that takes
no byte at all for a while is closed.

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

    __slots__ = ("_expected_bytes", "_marks", "_progress_s", "flow")

    def __init__(self, marks: OutboxMarks, now: float) -> None:
        self._marks = marks
        self._expected_bytes = 0
        self._progress_s = now
        self.flow = Flow.FLOWING

    def fate(self, message_class: MessageClass) -> Fate:
        """What becomes of a message of this class."""
        return FATES[self.flow][message_class]

    def wrote(self, size_bytes: int, now: float) -> None:
        """`size_bytes` went to the socket or its buffer. Without this, a buffer that drains while it is filled would
        look stuck.
        """
        if self._expected_bytes == 0:
            self._progress_s = now
        self._expected_bytes += size_bytes

    def observe(self, buffered_bytes: int, now: float) -> Action:
        """Judge what is still buffered at `now` (seconds, monotonic), after writes and once in a while."""
        if buffered_bytes < self._expected_bytes or buffered_bytes == 0:
            self._progress_s = now
        self._expected_bytes = buffered_bytes
        if now - self._progress_s >= self._marks.no_progress_s:
            return Action.CLOSE
        self.flow, action = TRANSITIONS[self.flow][self._marks.level(buffered_bytes)]
        return action
