"""Pressure: how hard it is going, and what that means for each class of message. Two tables and a trigger.

    measured ─▶ Signal (marks, hysteresis) ─▶ level of its Source ─▶ TABLE ─▶ Verdicts, which the publish path obeys

A system that is being stormed has to give something up, and it gives it up in one order: telemetry first (a part of it,
then all), then events (their publishers are told when to come back), control never: that waits on the durable stream.

Each level of a signal is a trigger of its own: it is on once the value was at or above its mark for `confirm_s`, and
off once it was below a share of that mark for `calm_s`. So a constant value never flaps, a higher one never means a
lower level, and what calms down comes down.

What this must never do: shed control, refuse control because of pressure, or refuse events because the log is slow: the
live path goes on without it, and what the bound on unconfirmed messages refuses is another matter.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum, StrEnum

from heliograph.core.messages import MessageClass


class Level(IntEnum):
    """How hard it is going."""

    NORMAL = 0
    ELEVATED = 1
    HIGH = 2
    CRITICAL = 3

    @property
    def text(self) -> str:
        """As frames, metrics and logs spell it."""
        return self.name.lower()


LEVELS: Mapping[str, Level] = {level.text: level for level in Level}


class Source(StrEnum):
    """Where it is going hard."""

    LIVE = "live"
    """The live path: Redis and the way to it."""
    LOG = "log"
    """Kafka and the way to it."""
    EDGE = "edge"
    """The edge's own process."""


class Verdict(Enum):
    """What becomes of a message. By severity: the worst of several sources counts."""

    ADMIT = 0
    SAMPLE = 1
    """A share of them is taken."""
    SHED = 2
    REFUSE = 3
    """Its publisher is told when to come back."""
    DEFER = 4
    """The log takes it, and the router puts it in its place."""


_ADMIT, _SAMPLE, _SHED = Verdict.ADMIT, Verdict.SAMPLE, Verdict.SHED
_REFUSE, _DEFER = Verdict.REFUSE, Verdict.DEFER
_ALWAYS = (_ADMIT, _ADMIT, _ADMIT, _ADMIT)

TABLE: Mapping[Source, Mapping[MessageClass, tuple[Verdict, Verdict, Verdict, Verdict]]] = {
    #                                 NORMAL  ELEVATED  HIGH    CRITICAL
    Source.LIVE: {
        MessageClass.CONTROL:        (_ADMIT, _ADMIT,  _ADMIT, _DEFER),
        MessageClass.EVENT:          (_ADMIT, _ADMIT,  _ADMIT, _REFUSE),
        MessageClass.TELEMETRY:      (_ADMIT, _SAMPLE, _SHED,  _SHED),
    },
    Source.EDGE: {
        MessageClass.CONTROL:        _ALWAYS,
        MessageClass.EVENT:          (_ADMIT, _ADMIT,  _ADMIT, _REFUSE),
        MessageClass.TELEMETRY:      (_ADMIT, _SAMPLE, _SHED,  _SHED),
    },
    Source.LOG: {
        MessageClass.CONTROL:        _ALWAYS,
        MessageClass.EVENT:          _ALWAYS,
        MessageClass.TELEMETRY:      _ALWAYS,
    },
}  # fmt: skip
"""By source, class and level."""

LOG_COPY: Mapping[Source, tuple[Verdict, Verdict, Verdict, Verdict]] = {
    Source.LOG: (_ADMIT, _SAMPLE, _SHED, _SHED),
    Source.EDGE: (_ADMIT, _SAMPLE, _SHED, _SHED),
    Source.LIVE: _ALWAYS,
}
"""What becomes of telemetry's copy in the log, where its tenant wants one: neither path's trouble costs the other."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What becomes of each class now."""

    control: Verdict = Verdict.ADMIT
    event: Verdict = Verdict.ADMIT
    telemetry: Verdict = Verdict.ADMIT
    log_copy: Verdict = Verdict.ADMIT
    """Of telemetry: its record in the log."""


CALM = Verdicts()
"""At NORMAL everywhere."""


def verdicts(levels: Mapping[Source, Level]) -> Verdicts:
    """What becomes of each class at these levels; a source that is not named is NORMAL."""

    def worst(rows: Callable[[Source], tuple[Verdict, ...]]) -> Verdict:
        found = (rows(source)[level] for source, level in levels.items())
        return max(found, key=lambda verdict: verdict.value, default=Verdict.ADMIT)

    return Verdicts(
        control=worst(lambda source: TABLE[source][MessageClass.CONTROL]),
        event=worst(lambda source: TABLE[source][MessageClass.EVENT]),
        telemetry=worst(lambda source: TABLE[source][MessageClass.TELEMETRY]),
        log_copy=worst(lambda source: LOG_COPY[source]),
    )


@dataclass(frozen=True, slots=True)
class Marks:
    """From which value on a signal means which level, and how soon."""

    elevated: float
    high: float
    critical: float
    release: float = 0.7
    """A level is left below this share of its mark."""
    confirm_s: float = 0.0
    """How long a value must stand there before it counts."""
    calm_s: float = 5.0
    """How long it must be gone before it counts no more: publishers that were held back are then on their way."""

    def __post_init__(self) -> None:
        if not 0 < self.elevated <= self.high <= self.critical:
            raise ValueError(f"{self!r}: 0 < elevated <= high <= critical must hold")
        if not 0 < self.release <= 1:
            raise ValueError(f"release is {self.release!r}; it must be above 0, at most 1")
        if not (self.confirm_s >= 0 and self.calm_s >= 0):
            raise ValueError(f"confirm_s ({self.confirm_s!r}) and calm_s ({self.calm_s!r}) can't be negative")


class _Trigger:
    """Whether one level of one signal is on."""

    __slots__ = ("_since_s", "on")

    def __init__(self) -> None:
        self.on = False
        self._since_s = math.inf
        """Since when the value says otherwise; inf: it doesn't."""

    def observe(self, now: float, value: float, mark: float, marks: Marks) -> bool:
        if (value < mark * marks.release) if self.on else (value >= mark):
            self._since_s = min(self._since_s, now)
            if now - self._since_s >= (marks.calm_s if self.on else marks.confirm_s):
                self.on = not self.on
                self._since_s = math.inf
        else:
            self._since_s = math.inf
        return self.on


class Signal:
    """One thing that is measured, and the level that it means."""

    __slots__ = ("_triggers", "level", "marks", "value")

    def __init__(self, marks: Marks) -> None:
        self.marks = marks
        self.level = Level.NORMAL
        self.value = 0.0
        """As it was last measured."""
        self._triggers = (_Trigger(), _Trigger(), _Trigger())

    def observe(self, now: float, value: float) -> Level:
        """The level after `value` was measured at `now` (seconds, monotonic)."""
        marks, self.value = self.marks, value
        level = 0
        for trigger, mark in zip(self._triggers, (marks.elevated, marks.high, marks.critical), strict=True):
            level += trigger.observe(now, value, mark, marks)
        self.level = Level(level)
        return self.level


@dataclass(frozen=True, slots=True)
class Change:
    """A source went to another level. `signal`: the one that stands highest, and its value."""

    source: Source
    before: Level
    after: Level
    signal: str
    value: float


class Pressure:
    """All signals of one process, and the levels that they come to."""

    def __init__(self, marks: Mapping[tuple[Source, str], Marks]) -> None:
        """By source and name of the signal."""
        self.signals = {key: Signal(given) for key, given in marks.items()}
        self.levels: dict[Source, Level] = dict.fromkeys(Source, Level.NORMAL)
        self.verdicts = CALM

    @property
    def level(self) -> Level:
        """The highest."""
        return max(self.levels.values())

    @property
    def sources(self) -> list[Source]:
        """Those that are not NORMAL."""
        return [source for source, level in self.levels.items() if level]

    def observe(self, now: float, values: Mapping[tuple[Source, str], float]) -> list[Change]:
        """What has changed after `values` were measured at `now`; a signal without one keeps its level."""
        for key, value in values.items():
            self.signals[key].observe(now, value)
        changes = []
        for source, before in self.levels.items():
            name, signal = max(self._of(source), key=lambda one: one[1].level, default=("", None))
            after = signal.level if signal is not None else Level.NORMAL
            if signal is not None and after is not before:
                changes.append(Change(source, before, after, name, signal.value))
        for change in changes:
            self.levels[change.source] = change.after
        if changes:
            self.verdicts = verdicts(self.levels)
        return changes

    def _of(self, source: Source) -> Iterable[tuple[str, Signal]]:
        return ((name, signal) for (its, name), signal in self.signals.items() if its is source)


_GOLDEN = (math.sqrt(5) - 1) / 2


class Sampler:
    """Takes a share of what comes: the same ones for the same sequence, and of any regular pattern in it (every tenth
    is of the same agent) the same share. Steps by an irrational number do that; counting to ten would not.
    """

    __slots__ = ("_at", "share")

    def __init__(self, share: float) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"share is {share!r}; it must be 0 to 1")
        self.share = share
        self._at = 0.0

    def take(self) -> bool:
        """Whether the next one is taken."""
        at = self._at + _GOLDEN
        if at >= 1.0:
            at -= 1.0
        self._at = at
        return at < self.share
