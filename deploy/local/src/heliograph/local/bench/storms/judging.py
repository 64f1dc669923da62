"""What is made of samples and accounts: percentiles of stretches of time, exact losses, the rule for latencies."""

import statistics
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from heliograph.local.bench import gates
from heliograph.local.bench.storms.party import Accounts
from heliograph.local.bench.storms.streams import Fed, Read

NS_PER_S = 1_000_000_000
FEWEST_SAMPLES = 100
"""For a 99th percentile to mean more than the worst of them."""


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest rank; infinite where there is none: nothing that was measured is below any bound."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("inf")


@dataclass(frozen=True, slots=True)
class Stretch:
    """Of time: ns, monotonic."""

    begin_ns: int
    end_ns: int

    def holds(self, at_ns: int) -> bool:
        return self.begin_ns <= at_ns < self.end_ns

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.begin_ns) / NS_PER_S


class Latencies:
    """Of messages, by the time they were meant to be sent."""

    def __init__(self, packed: tuple[bytes, bytes]) -> None:
        self.at_ns: array[int] = array("q")
        self.late_ms: array[float] = array("d")
        self.at_ns.frombytes(packed[0])
        self.late_ms.frombytes(packed[1])

    def within(self, stretch: Stretch) -> list[float]:
        return [late for at, late in zip(self.at_ns, self.late_ms, strict=True) if stretch.holds(at)]

    def p99_ms(self, stretch: Stretch) -> float:
        return percentile(self.within(stretch), 0.99)

    def worst_p99_ms(self, stretch: Stretch, window_s: float) -> float:
        """The highest p99 of all windows of that length, half overlapping: what "throughout" means."""
        window_ns, begin_ns, worst = int(window_s * NS_PER_S), stretch.begin_ns, 0.0
        while True:
            end_ns = min(begin_ns + window_ns, stretch.end_ns)
            found = self.within(Stretch(begin_ns, end_ns))
            if len(found) >= FEWEST_SAMPLES or begin_ns == stretch.begin_ns:
                worst = max(worst, percentile(found, 0.99))
            if end_ns >= stretch.end_ns:
                return worst
            begin_ns += window_ns // 2


def excess(quiet_ms: Sequence[float], stormy_ms: Sequence[float]) -> float:
    """Median over the pairs of neighbouring runs: p99 in the storm by what it may be. At most 1 is kept.

    What it may be is `gates.STORM_LATENCY_RATIO` times the quiet one or `gates.STORM_LATENCY_MS` more, whichever is
    higher: a millisecond more on half a millisecond is nothing that anybody notices.
    """
    pairs = zip(quiet_ms, stormy_ms, strict=True)
    found = [stormy / allowed_ms(quiet) for quiet, stormy in pairs]
    return statistics.median(found) if found else float("inf")


def allowed_ms(quiet_ms: float) -> float:
    return max(quiet_ms * gates.STORM_LATENCY_RATIO, quiet_ms + gates.STORM_LATENCY_MS)


@dataclass(frozen=True, slots=True)
class Loss:
    """What is missing, exactly."""

    lost: int
    """Answered with `published` (or deferred) and not seen by a subscriber who was there before."""
    disordered: int
    repeated: int
    gaps: int
    unanswered: int

    @property
    def total(self) -> int:
        return self.lost + self.disordered + self.gaps

    def __str__(self) -> str:
        return (
            f"{self.lost} lost, {self.disordered} out of order, {self.gaps} gaps, {self.unanswered} without an answer,"
            f" {self.repeated} repeated"
        )


def loss(fed: Iterable[Fed], read: Iterable[Read]) -> Loss:
    """Every subscriber of a fed session owes every message that was published, in order; of uncounted streams as many
    as were published.
    """
    streams = {one.session: one for one in fed}
    lost = disordered = repeated = gaps = 0
    for one in read:
        stream = streams.get(one.session)
        if stream is None:
            continue
        lost += max(0, stream.published - one.received)
        disordered += one.late
        repeated += one.repeated
        gaps += one.gaps + one.unrecovered
    return Loss(lost, disordered, repeated, gaps, sum(one.unanswered for one in streams.values()))


def loss_of(feeders: Accounts, readers: Accounts) -> Loss:
    return loss(feeders.fed, readers.read)


def per_second(at_ns: Sequence[int]) -> list[int]:
    """How many fell into each second from the first one on."""
    if not at_ns:
        return []
    first = min(at_ns)
    found = Counter((at - first) // NS_PER_S for at in at_ns)
    return [found[second] for second in range(max(found) + 1)]


def steepest(at_ns: Sequence[int]) -> float:
    """The fullest second by the mean of all."""
    if len(at_ns) < 2:
        return float("inf")
    seconds = max((max(at_ns) - min(at_ns)) / NS_PER_S, 1.0)
    return max(per_second(at_ns)) / (len(at_ns) / seconds)
