"""How many edges a fleet needs.

Each target asks for as many edges as bring its mean back to it (`ceil(total / target)`, nothing within the tolerance),
and the highest counts, as Kubernetes' HorizontalPodAutoscaler has it. What an edge carries differs from what its
kind of thing usually does, and so does this:

- Connections stay. Those that are there are there in a minute too, so they are not smoothed: what they need, and what
  they will need by the time that a new edge could take them (`ahead_s` of their growth), passes by the scale-up window.
  A storm is met at once.
- An edge that goes moves everybody on it. So the fleet never becomes smaller than what holds the present connections,
  never while any edge's load is unknown, and never because edges that are not ready carry nothing.

What this must never do: answer with less than the minimum or more than the maximum, shrink on missing data, or ask for
something else while the load stays the same.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from heliograph.core.fleet.behaviour import DOWN, UP, Change, Direction, Wish, fewest, most, stabilised

GROWTH_WINDOW_S = 30.0
"""Growth is measured over this: long enough that clients who come in bunches are no trend."""

GROWTH_SOONEST_S = 5.0
"""Two looks nearer than this say nothing about growth."""

GROWTH_MOST = 1.0
"""What is expected on top of the present connections, at most: a burst after an outage ends before it has doubled them
for ever."""

INEXACT = 1e-6
"""Of an edge: sums of measured parts are not exact (0.1 + 0.2 is above 0.3)."""


class Mode(StrEnum):
    """Who says how many."""

    AUTO = "Auto"
    """The load, by the targets."""
    EXTERNAL = "External"
    """Whoever writes the scale subresource, between minimum and maximum, and never below what holds the connections."""
    MANUAL = "Manual"
    """A person, through the same: whatever the load is."""


@dataclass(frozen=True, slots=True)
class Targets:
    """What one edge should carry; None: not looked at."""

    connections: int
    cpu: float | None = None
    """Of one core: an edge is one event loop, and more cores don't make it faster."""
    messages_per_s: float | None = None
    """From publishers and to subscribers together."""


@dataclass(frozen=True, slots=True)
class Sizing:
    """A fleet's policy."""

    minimum: int
    maximum: int
    targets: Targets
    tolerance: float = 0.1
    """No change while every mean is this near its target."""
    ahead_s: float = 30.0
    """How far ahead growth is met: from a decision until a new edge takes clients. 0: growth is not looked at."""
    up: Direction = UP
    down: Direction = DOWN
    mode: Mode = Mode.AUTO
    replicas: int | None = None
    """What was asked for from outside (`External`, `Manual`)."""
    fallback: int | None = None
    """At least so many while the load is unknown."""
    fallback_after_s: float = 60.0
    """Unknown for so long: an edge's lease runs out in some seconds, and a store fails over in some more."""

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.maximum:
            raise ValueError(f"minimum {self.minimum} and maximum {self.maximum}: 1 ≤ minimum ≤ maximum")
        if self.targets.connections < 1:
            raise ValueError("an edge's target must be at least 1 connection")


@dataclass(frozen=True, slots=True)
class EdgeLoad:
    """What one edge carries now."""

    connections: int
    cpu: float | None = None
    """None: it doesn't say."""
    messages_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Observed:
    """A fleet as it is."""

    replicas: int
    """That are asked for and not on their way out."""
    loads: Sequence[EdgeLoad]
    """Of every edge that says what it carries, whether it takes clients or not."""
    silent: int = 0
    """Edges that take clients and don't say what they carry."""
    absent: int = 0
    """Pods in which no edge takes clients yet, or any more: each may come to carry what one edge should."""
    known: bool = True
    """False: the store of loads did not answer."""

    @property
    def connections(self) -> int:
        return sum(load.connections for load in self.loads)


class Reason(StrEnum):
    """Why the size is what it is."""

    STEADY = "Steady"
    CONNECTIONS = "Connections"
    GROWTH = "ConnectionGrowth"
    CPU = "CPU"
    MESSAGES = "MessageRate"
    LOAD_UNKNOWN = "LoadUnknown"
    FALLBACK = "Fallback"
    REQUESTED = "Requested"
    BOUNDS = "OutOfBounds"
    """The fleet was smaller than its minimum, or larger than its maximum."""


class Limit(StrEnum):
    """What kept the size from being what the load asks for."""

    NONE = "WithinLimits"
    MINIMUM = "TooFewReplicas"
    MAXIMUM = "TooManyReplicas"
    UP_POLICY = "ScaleUpLimit"
    DOWN_POLICY = "ScaleDownLimit"
    UP_WINDOW = "ScaleUpStabilized"
    DOWN_WINDOW = "ScaleDownStabilized"
    CONNECTIONS = "HoldsConnections"
    """Fewer were asked for than hold the present connections."""


@dataclass(frozen=True, slots=True)
class Size:
    """How many edges there should be, and why."""

    replicas: int
    reason: Reason
    limit: Limit
    wanted: int
    """Before limits."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What is remembered of a fleet from one look to the next. A new one begins with what it sees: whoever restarts
    shrinks nothing before a whole window has passed.
    """

    seen: int | None = None
    """Replicas at the last look."""
    changes: tuple[Change, ...] = ()
    wishes: tuple[Wish, ...] = ()
    counts: tuple[tuple[float, int], ...] = ()
    """Connections, and when."""
    unknown_since: float | None = None


def size(policy: Sizing, fleet: Observed, memory: Memory, now: float) -> tuple[Size, Memory]:
    """How many edges, and what to remember. `now`: seconds, monotonic, never going back between calls."""
    memory = _look(policy, fleet, memory, now)
    current = fleet.replicas
    as_it_is = replace(memory, wishes=(*memory.wishes, Wish(now, current)))
    if policy.mode is not Mode.AUTO:
        return _requested(policy, fleet), as_it_is
    if not policy.minimum <= current <= policy.maximum:
        bound = min(max(current, policy.minimum), policy.maximum)
        limit = Limit.MINIMUM if current < policy.minimum else Limit.MAXIMUM
        if bound > current or _complete(fleet):
            # Nothing was wished for yet that a window could hold on to.
            return Size(bound, Reason.BOUNDS, limit, bound), replace(memory, wishes=(*memory.wishes, Wish(now, bound)))
    if not _heard(fleet):
        return _unknown(policy, fleet, memory, now), as_it_is
    wanted, reason, urgent = _wanted(policy, fleet, memory)
    calm = stabilised(current, wanted, memory.wishes, policy.up, policy.down, now)
    memory = replace(memory, wishes=(*memory.wishes, Wish(now, wanted)))
    target, limit = max(calm, urgent if urgent > current else 0), Limit.NONE
    if target != wanted:
        limit = Limit.UP_WINDOW if wanted > target else Limit.DOWN_WINDOW
    target, limit = _limited(policy, current, target, limit, memory, now)
    if target < current and not _complete(fleet):
        return Size(current, Reason.LOAD_UNKNOWN, Limit.NONE, wanted), memory
    return Size(target, Reason.STEADY if wanted == current else reason, limit, wanted), memory


def holding(policy: Sizing, fleet: Observed) -> int:
    """As many edges as hold the present connections."""
    return math.ceil(fleet.connections / policy.targets.connections)


def growth_per_s(memory: Memory) -> float:
    """Connections that come on top each second; negative: that go."""
    if len(memory.counts) < 2:
        return 0.0
    (begin, before), (end, after) = memory.counts[0], memory.counts[-1]
    return (after - before) / (end - begin) if end - begin >= GROWTH_SOONEST_S else 0.0


def _heard(fleet: Observed) -> bool:
    """Whether any edge that takes clients says what it carries."""
    return fleet.known and bool(fleet.loads or not fleet.silent)


def _complete(fleet: Observed) -> bool:
    """Whether it is known what each edge carries."""
    return fleet.known and not fleet.silent


def _look(policy: Sizing, fleet: Observed, memory: Memory, now: float) -> Memory:
    """The memory with this look, without what no window or period reaches back to."""
    changes, wishes = memory.changes, memory.wishes
    if memory.seen is None:
        wishes = (Wish(now, fleet.replicas),)
    elif memory.seen != fleet.replicas:
        changes = (*changes, Change(now, fleet.replicas - memory.seen))
    back_s = max(policy.up.memory_s, policy.down.memory_s)
    counts = memory.counts
    if _complete(fleet):
        counts = (*(count for count in counts if count[0] > now - GROWTH_WINDOW_S), (now, fleet.connections))
    unknown = None
    if not _heard(fleet):
        unknown = now if memory.unknown_since is None else memory.unknown_since
    return Memory(
        fleet.replicas,
        tuple(change for change in changes if change.at > now - back_s),
        tuple(wish for wish in wishes if wish.at > now - back_s),
        counts,
        unknown,
    )


def _requested(policy: Sizing, fleet: Observed) -> Size:
    """What somebody else asked for."""
    wanted = fleet.replicas if policy.replicas is None else policy.replicas
    if policy.mode is Mode.MANUAL:
        return Size(wanted, Reason.REQUESTED, Limit.NONE, wanted)
    target = min(max(wanted, policy.minimum), policy.maximum)
    limit = Limit.NONE if target == wanted else Limit.MINIMUM if target > wanted else Limit.MAXIMUM
    if target < fleet.replicas:
        if not _complete(fleet):
            return Size(fleet.replicas, Reason.LOAD_UNKNOWN, Limit.NONE, wanted)
        held = min(holding(policy, fleet), fleet.replicas, policy.maximum)
        if held > target:
            target, limit = held, Limit.CONNECTIONS
    return Size(target, Reason.REQUESTED, limit, wanted)


def _unknown(policy: Sizing, fleet: Observed, memory: Memory, now: float) -> Size:
    """Nobody says what is carried: keep what there is, or the fallback where that is more."""
    current = fleet.replicas
    since = memory.unknown_since if memory.unknown_since is not None else now
    if policy.fallback is not None and now - since >= policy.fallback_after_s:
        target = min(max(current, policy.fallback, policy.minimum), max(policy.maximum, current))
        if target > current:
            return Size(target, Reason.FALLBACK, Limit.NONE, target)
    return Size(current, Reason.LOAD_UNKNOWN, Limit.NONE, current)


def _wanted(policy: Sizing, fleet: Observed, memory: Memory) -> tuple[int, Reason, int]:
    """What the load asks for, why, and what of that can't wait."""
    targets, current = policy.targets, fleet.replicas
    connections = fleet.connections
    by_connections = _by(policy, fleet, connections, targets.connections)
    asks = [(by_connections, Reason.CONNECTIONS)]
    grown = min(max(growth_per_s(memory), 0.0) * policy.ahead_s, connections * GROWTH_MOST)
    by_growth = _by(policy, fleet, connections + grown, targets.connections)
    if by_growth > max(by_connections, current):
        asks.append((by_growth, Reason.GROWTH))
    if targets.cpu is not None:
        asks.append((_by_reported(policy, fleet, [load.cpu for load in fleet.loads], targets.cpu), Reason.CPU))
    if targets.messages_per_s is not None:
        rates = [load.messages_per_s for load in fleet.loads]
        asks.append((_by_reported(policy, fleet, rates, targets.messages_per_s), Reason.MESSAGES))
    wanted, reason = max(asks, key=lambda ask: ask[0])
    urgent = max(by_connections, by_growth)
    return wanted, reason, urgent


def _by_reported(policy: Sizing, fleet: Observed, values: Sequence[float | None], target: float) -> int:
    """By what not every edge may say: never fewer then."""
    wanted = _by(policy, fleet, sum(value for value in values if value is not None), target)
    return max(wanted, fleet.replicas) if None in values else wanted


def _by(policy: Sizing, fleet: Observed, total: float, target: float) -> int:
    """As many as bring the mean back to the target; as many as there are, within the tolerance of it.

    To shrink, those that carry nothing yet are taken for full: they are about to be.
    """
    current = fleet.replicas
    if current and abs(total / (target * current) - 1) <= policy.tolerance + INEXACT:
        return current
    wanted = _ceil(total / target)
    if wanted < current:
        wanted = min(current, _ceil((total + fleet.absent * target) / target))
    return wanted


def _ceil(edges: float) -> int:
    """What is above a whole number by no more than INEXACT is that number."""
    return math.ceil(edges - INEXACT)


def _limited(policy: Sizing, current: int, target: int, limit: Limit, memory: Memory, now: float) -> tuple[int, Limit]:
    """Within policies, minimum and maximum."""
    if target > current:
        allowed = most(current, policy.up, memory.changes, now)
        if allowed < target:
            target, limit = allowed, Limit.UP_POLICY
    elif target < current:
        allowed = fewest(current, policy.down, memory.changes, now)
        if allowed > target:
            target, limit = allowed, Limit.DOWN_POLICY
    if target > policy.maximum:
        return policy.maximum, Limit.MAXIMUM
    if target < policy.minimum:
        return policy.minimum, Limit.MINIMUM
    return target, limit
