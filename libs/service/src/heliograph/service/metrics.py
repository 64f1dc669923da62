"""Metrics: names by one rule, cheap counters for hot paths, `/metrics` from one registry a process (or test).

Names are `heliograph_<service>_<what>_total | _seconds | _bytes | _ratio`; base units only, never milliseconds. Labels
come from small sets: a session, message or connection id as a label would make the store of the metrics the largest of
the system, so those names are refused.

prometheus-client's `inc()` takes a lock and costs about half a microsecond. A `TickCounter` is an object with a plain
integer that code bumps (`ticks.n += 1`, 30 ns); it is read when somebody scrapes. It belongs to one thread.
"""

import platform
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.process_collector import ProcessCollector

FORBIDDEN_LABELS = frozenset(
    {"session", "session_id", "message_id", "connection", "connection_id", "position", "token", "subject", "trace_id"}
)
"""Labels without a bound on their values."""

MAX_SERIES = 5_000
"""Of one metric. Beyond it values are counted under `other`: an unbounded label must not take the process along."""

LATENCY_BUCKETS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""From half a millisecond (a hop on one machine) to where a client has given up."""

_NAME = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*")
_WRONG_UNITS = re.compile(r"_(ms|millis|milliseconds|us|microseconds|kb|mb|kib|mib|percent|minutes|hours)(_|$)")


class TickCounter:
    """One series of a counter: bump `n` directly. Not for more than one thread."""

    __slots__ = ("n",)

    def __init__(self) -> None:
        self.n = 0


class TickHistogram:
    """One series of a histogram for hot paths: about 150 ns an observation. Not for more than one thread."""

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: Sequence[float] = LATENCY_BUCKETS_S) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count `value` in its bucket (upper bounds are inclusive, as Prometheus has it)."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def counts(self) -> tuple[int, ...]:
        """Observations in each bucket so far, to be compared with later."""
        return tuple(self._counts)

    def quantile_since(self, before: Sequence[int], share: float) -> float:
        """The value that `share` of the observations since `before` (`counts` of then) are at or below, 0 without any:
        as exact as the buckets are, and at most the highest bound.
        """
        since = [now - then for now, then in zip(self._counts, before, strict=True)]
        rank, low = share * sum(since), 0.0
        for bound, count in zip(self._bounds, since, strict=False):
            if count and rank <= count:
                return low + (bound - low) * rank / count
            rank -= count
            low = bound
        return low if any(since) else 0.0

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by upper bound, `+Inf` last."""
        running, cumulative = 0, []
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            running += count
            cumulative.append((bound, float(running)))
        return cumulative


class TickCounters:
    """A counter with labels whose series are `TickCounter`s: get one once, keep it, bump it."""

    def __init__(self, name: str, reason: str, labels: Sequence[str]) -> None:
        self._name, self._reason, self._labels = name, reason, tuple(labels)
        self._series: dict[tuple[str, ...], TickCounter] = {}
        if not labels:
            self._series[()] = TickCounter()

    def labels(self, *values: str) -> TickCounter:
        """The series of these label values, in the order of the labels' names."""
        found = self._series.get(values)
        if found is not None:
            return found
        if len(values) != len(self._labels):
            raise ValueError(f"{self._name} has the labels {self._labels}, got {len(values)} values")
        if len(self._series) >= MAX_SERIES:
            values = ("other",) * len(values)
        return self._series.setdefault(values, TickCounter())

    def forget(self, *values: str) -> None:
        """Drop a series that will not come back (a tenant that was deleted)."""
        self._series.pop(values, None)

    def describe(self) -> Iterable[Metric]:
        """The family without samples: registering must not read the series."""
        yield CounterMetricFamily(self._name, self._reason, labels=self._labels)

    def collect(self) -> Iterable[Metric]:
        """The samples, for a scrape."""
        family = CounterMetricFamily(self._name, self._reason, labels=self._labels)
        for values, counter in list(self._series.items()):
            family.add_metric(values, counter.n)
        yield family


class _TickHistogramCollector:
    def __init__(self, name: str, reason: str, labels: Mapping[str, TickHistogram], label: str | None) -> None:
        self._name, self._reason, self._series, self._label = name, reason, labels, label

    def describe(self) -> Iterable[Metric]:
        yield HistogramMetricFamily(self._name, self._reason, labels=[self._label] if self._label else [])

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(self._name, self._reason, labels=[self._label] if self._label else [])
        for value, histogram in self._series.items():
            family.add_metric([value] if self._label else [], histogram.buckets(), histogram.total)
        yield family


class _SampledGauge:
    def __init__(
        self, name: str, reason: str, read: Callable[[], float | Mapping[str, float]], label: str | None
    ) -> None:
        self._name, self._reason, self._read, self._label = name, reason, read, label

    def describe(self) -> Iterable[Metric]:
        yield GaugeMetricFamily(self._name, self._reason, labels=[self._label] if self._label else [])

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(self._name, self._reason, labels=[self._label] if self._label else [])
        read = self._read()
        if isinstance(read, Mapping):
            for value, number in list(read.items())[:MAX_SERIES]:
                family.add_metric([value], number)
        else:
            family.add_metric([], read)
        yield family


class _SampledCounter:
    def __init__(
        self, name: str, reason: str, read: Callable[[], Mapping[tuple[str, ...], float]], labels: Sequence[str]
    ) -> None:
        self._name, self._reason, self._read, self._labels = name, reason, read, tuple(labels)

    def describe(self) -> Iterable[Metric]:
        yield CounterMetricFamily(self._name, self._reason, labels=self._labels)

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(self._name, self._reason, labels=self._labels)
        for values, number in list(self._read().items())[:MAX_SERIES]:
            family.add_metric(values, number)
        yield family


class _BuildInfo:
    def __init__(self, service: str, version: str) -> None:
        self._value = {"service": service, "version": version, "python": platform.python_version()}

    def describe(self) -> Iterable[Metric]:
        yield InfoMetricFamily("heliograph_build", "What runs here.")

    def collect(self) -> Iterable[Metric]:
        yield InfoMetricFamily("heliograph_build", "What runs here.", value=self._value)


class Metrics:
    """The metrics of one service: a registry, and makers that hold the rule on names."""

    def __init__(self, service: str, version: str = "0", *, process: bool = True) -> None:
        self.service = service
        self.registry = CollectorRegistry()
        self.registry.register(_BuildInfo(service, version))
        if process:
            ProcessCollector(registry=self.registry)
            GCCollector(registry=self.registry)

    def counter(self, name: str, reason: str, labels: Sequence[str] = ()) -> Counter:
        """A counter for cold paths; safe in any thread. `name` ends in `_total`."""
        return Counter(self._named(name, labels, counter=True), reason, labels, registry=self.registry)

    def gauge(self, name: str, reason: str, labels: Sequence[str] = ()) -> Gauge:
        """A gauge that code sets. One that can be computed is better a `sampled_gauge`."""
        return Gauge(self._named(name, labels), reason, labels, registry=self.registry)

    def histogram(
        self, name: str, reason: str, labels: Sequence[str] = (), buckets: Sequence[float] = LATENCY_BUCKETS_S
    ) -> Histogram:
        """A histogram for cold paths; `name` ends in `_seconds` or `_bytes`."""
        full = self._named(name, labels, measured=True)
        return Histogram(full, reason, labels, buckets=tuple(buckets), registry=self.registry)

    def ticks(self, name: str, reason: str) -> TickCounter:
        """A counter without labels for hot paths: bump `.n`."""
        return self.tick_family(name, reason, ()).labels()

    def tick_family(self, name: str, reason: str, labels: Sequence[str]) -> TickCounters:
        """A counter with labels for hot paths."""
        family = TickCounters(self._named(name, labels, counter=True), reason, labels)
        self.registry.register(family)
        return family

    def tick_histogram(self, name: str, reason: str, buckets: Sequence[float] = LATENCY_BUCKETS_S) -> TickHistogram:
        """A histogram for hot paths, without labels."""
        histogram = TickHistogram(buckets)
        full = self._named(name, (), measured=True)
        self.registry.register(_TickHistogramCollector(full, reason, {"": histogram}, None))
        return histogram

    def tick_histograms(
        self, name: str, reason: str, label: str, values: Sequence[str], buckets: Sequence[float] = LATENCY_BUCKETS_S
    ) -> dict[str, TickHistogram]:
        """A histogram for hot paths with one label, whose values are all known: one series for each."""
        series = {value: TickHistogram(buckets) for value in values}
        self.registry.register(
            _TickHistogramCollector(self._named(name, (label,), measured=True), reason, series, label)
        )
        return series

    def sampled_gauge(
        self, name: str, reason: str, read: Callable[[], float | Mapping[str, float]], label: str | None = None
    ) -> None:
        """A gauge that is computed when somebody scrapes: `read` gives a number, or one for each value of `label`."""
        full = self._named(name, (label,) if label else ())
        self.registry.register(_SampledGauge(full, reason, read, label))

    def sampled_counter(
        self, name: str, reason: str, read: Callable[[], Mapping[tuple[str, ...], float]], labels: Sequence[str]
    ) -> None:
        """A counter that somebody else keeps: `read` gives numbers that only rise, by the values of `labels`."""
        full = self._named(name, labels, counter=True)
        self.registry.register(_SampledCounter(full, reason, read, labels))

    def _named(self, name: str, labels: Sequence[str], *, counter: bool = False, measured: bool = False) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(f"metric {name!r} must be words of a-z 0-9 with _ between them")
        if name.endswith("_total") != counter:
            raise ValueError(f"metric {name!r}: counters end in _total, and nothing else does")
        if measured and not name.endswith(("_seconds", "_bytes", "_ratio", "_messages", "_records")):
            raise ValueError(f"metric {name!r}: a histogram's name ends in what it measures (_seconds, _bytes)")
        if _WRONG_UNITS.search(name) or name.endswith(("_s", "_s_total")):
            raise ValueError(f"metric {name!r}: units are _seconds, _bytes and _ratio")
        for label in labels:
            if label in FORBIDDEN_LABELS:
                raise ValueError(f"metric {name!r}: the label {label!r} has no bound on its values")
        return f"heliograph_{self.service}_{name}"

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The text of a scrape and its content type, in the format that `accept` asks for."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def value(self, name: str, labels: Mapping[str, str] | None = None) -> float:
        """The value of a series now, or 0; `name` without the service's prefix. For tests and checks."""
        found = self.registry.get_sample_value(f"heliograph_{self.service}_{name}", dict(labels or {}))
        return found or 0.0
