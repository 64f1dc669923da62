"""How fast a fleet may grow and shrink: windows and policies, as Kubernetes' `autoscaling/v2` has them.

Who knows a HorizontalPodAutoscaler knows this. Followed: "Algorithm details" and "Configurable scaling behavior" of
https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/.

- A *stabilisation window* looks back: the fleet shrinks to the highest of the wishes of the last `window_s`, and grows
  to the lowest of them, so that a short dip, or peak, moves nothing.
- A *policy* bounds the change within `period_s`, as a number of pods or a percentage of the pods at its begin. Of
  several the one that allows most counts (`Max`), or least (`Min`); `Disabled` allows nothing.

Values in, values out: what happened before comes in as `Changes` and `Wishes`, which whoever calls keeps.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class PolicyKind(StrEnum):
    """What `value` counts."""

    PODS = "Pods"
    PERCENT = "Percent"


class Select(StrEnum):
    """Which of several policies counts."""

    MAX = "Max"
    MIN = "Min"
    DISABLED = "Disabled"


@dataclass(frozen=True, slots=True)
class ScalingPolicy:
    """At most so many pods, or percent of them, in any `period_s`."""

    kind: PolicyKind
    value: int
    period_s: float

    def __post_init__(self) -> None:
        if self.value < 1 or self.period_s <= 0:
            raise ValueError(f"a policy of {self.value!r} in {self.period_s!r} s; both must be above 0")


@dataclass(frozen=True, slots=True)
class Direction:
    """One direction's behaviour."""

    window_s: float
    policies: tuple[ScalingPolicy, ...]
    select: Select = Select.MAX

    @property
    def memory_s(self) -> float:
        """How far back it looks."""
        return max(self.window_s, *(policy.period_s for policy in self.policies), 0.0)


UP = Direction(0.0, (ScalingPolicy(PolicyKind.PODS, 4, 15), ScalingPolicy(PolicyKind.PERCENT, 100, 15)))
"""At once, and twice as many every 15 s: as Kubernetes has it, and what a storm needs."""

DOWN = Direction(300.0, (ScalingPolicy(PolicyKind.PODS, 1, 60), ScalingPolicy(PolicyKind.PERCENT, 10, 60)))
"""What was needed within 5 minutes is kept, and a tenth a minute goes. Slower than in Kubernetes: an edge that goes
moves its clients, and a fleet too large for some minutes costs less than one too small."""


@dataclass(frozen=True, slots=True)
class Change:
    """The fleet became larger or smaller by `by` at `at`."""

    at: float
    by: int


@dataclass(frozen=True, slots=True)
class Wish:
    """The load asked for so many at `at`."""

    at: float
    replicas: int


def stabilised(current: int, wish: int, wishes: Iterable[Wish], up: Direction, down: Direction, now: float) -> int:
    """What is left of a wish after both windows have been looked back over."""
    highest = lowest = wish
    for former in wishes:
        if former.at > now - up.window_s:
            lowest = min(lowest, former.replicas)
        if former.at > now - down.window_s:
            highest = max(highest, former.replicas)
    return min(max(current, lowest), max(highest, lowest))


def most(current: int, up: Direction, changes: Iterable[Change], now: float) -> int:
    """The largest that the policies allow now; never below `current`."""
    if up.select is Select.DISABLED or not up.policies:
        return current
    changes = tuple(changes)
    limits = []
    for policy in up.policies:
        begin = _at_begin(current, policy, changes, now)
        grown = policy.value if policy.kind is PolicyKind.PODS else math.ceil(begin * policy.value / 100)
        limits.append(begin + grown)
    return max(current, max(limits) if up.select is Select.MAX else min(limits))


def fewest(current: int, down: Direction, changes: Iterable[Change], now: float) -> int:
    """The smallest that the policies allow now; never above `current`."""
    if down.select is Select.DISABLED or not down.policies:
        return current
    changes = tuple(changes)
    limits = []
    for policy in down.policies:
        begin = _at_begin(current, policy, changes, now)
        shrunk = policy.value if policy.kind is PolicyKind.PODS else math.ceil(begin * policy.value / 100)
        limits.append(max(begin - shrunk, 0))
    return min(current, min(limits) if down.select is Select.MAX else max(limits))


def _at_begin(current: int, policy: ScalingPolicy, changes: Iterable[Change], now: float) -> int:
    """How many there were at the begin of the policy's period."""
    return max(current - sum(change.by for change in changes if change.at > now - policy.period_s), 0)
