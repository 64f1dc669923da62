"""What the operator counts. Kinds and reasons are few; names of objects are never labels."""

from collections.abc import Callable, Collection, Mapping

from heliograph.service.metrics import Metrics

RECONCILE_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""A look that changes nothing takes some 20 ms, one that makes topics some seconds."""


class QueueMetrics:
    """Of the work queue."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._reconciles = metrics.counter(
            "reconciles_total", "Looks at objects, by how they ended.", ["kind", "result"]
        )
        self._seconds = metrics.histogram(
            "reconcile_seconds", "Time of one look at an object.", ["kind"], buckets=RECONCILE_BUCKETS_S
        )
        self._errors = metrics.counter("reconcile_errors_total", "Looks that failed, by why.", ["kind", "reason"])
        self._gave_up = metrics.counter(
            "reconcile_gave_up_total", "Objects that failed so often in a row that they wait for the resync.", ["kind"]
        )

    def depth_of(self, depth: Callable[[], Mapping[str, float]], oldest_s: Callable[[], float]) -> None:
        """Where the queue's depth is read."""
        self._metrics.sampled_gauge("queue_depth", "Objects that wait to be looked at.", depth, label="kind")
        self._metrics.sampled_gauge("queue_oldest_seconds", "How long the one that waits longest has waited.", oldest_s)

    def done(self, kind: str, seconds: float) -> None:
        self._reconciles.labels(kind, "ok").inc()
        self._seconds.labels(kind).observe(seconds)

    def failed(self, kind: str, reason: str, seconds: float) -> None:
        self._reconciles.labels(kind, "error").inc()
        self._errors.labels(kind, reason).inc()
        self._seconds.labels(kind).observe(seconds)

    def gave_up(self, kind: str) -> None:
        self._gave_up.labels(kind).inc()


class KubeMetrics:
    """Of requests to the API server and what it tells."""

    def __init__(self, metrics: Metrics) -> None:
        self._requests = metrics.counter(
            "kube_requests_total", "Requests to the API server.", ["verb", "resource", "status"]
        )
        self._changes = metrics.counter("watch_changes_total", "Changes that the watch told of.", ["kind"])
        self._restarts = metrics.counter("watch_restarts_total", "Times that watching ended and began again.")

    def request(self, verb: str, resource: str, status: int) -> None:
        """`status` 0: no answer."""
        self._requests.labels(verb, resource, str(status)).inc()

    def change(self, kind: str) -> None:
        self._changes.labels(kind).inc()

    def restarted(self) -> None:
        self._restarts.inc()


DRAIN_RESULTS = ("ordered", "removed", "withdrawn", "disobeyed", "another_went")

FLEET_STATES = ("all", "not_ready", "load_unknown", "at_max", "paused")
"""What a fleet is counted for; each is in `all`."""


class FleetMetrics:
    """Of edge fleets, all together."""

    def __init__(self, metrics: Metrics) -> None:
        self._scalings = metrics.counter("fleet_scalings_total", "Times that replicas were changed.", ["direction"])
        self._drains = metrics.counter(
            "fleet_drains_total",
            f"Edges ordered to drain, and what became of it: {', '.join(DRAIN_RESULTS)}.",
            ["result"],
        )
        self._shed = metrics.counter("fleet_shed_total", "Clients that edges were asked to move, to spread them.")
        for result in DRAIN_RESULTS:
            self._drains.labels(result)  # from 0, or the first would be no increase
        self._edges: dict[str, Mapping[str, float]] = {}
        self._states: dict[str, Collection[str]] = {}
        metrics.sampled_gauge("fleet_edges", "Edges of all fleets, by state.", self._sums, label="state")
        metrics.sampled_gauge("fleets", "Fleets, by what is so of them.", self._counts, label="state")

    def scaled(self, direction: str) -> None:
        self._scalings.labels(direction).inc()

    def drain(self, result: str) -> None:
        self._drains.labels(result).inc()

    def shed(self, clients: int) -> None:
        self._shed.inc(clients)

    def fleet(self, name: str, desired: int, current: int, ready: int, draining: int) -> None:
        """A fleet as it is."""
        self._edges[name] = {
            "desired": float(desired),
            "current": float(current),
            "ready": float(ready),
            "draining": float(draining),
        }

    def stands(self, name: str, states: Collection[str]) -> None:
        """What is so of a fleet: of FLEET_STATES."""
        self._states[name] = states

    def gone(self, name: str) -> None:
        self._edges.pop(name, None)
        self._states.pop(name, None)

    def _counts(self) -> Mapping[str, float]:
        return {state: float(sum(state in one for one in self._states.values())) for state in FLEET_STATES}

    def _sums(self) -> Mapping[str, float]:
        sums = dict.fromkeys(("desired", "current", "ready", "draining"), 0.0)
        for one in self._edges.values():
            for state, count in one.items():
                sums[state] += count
        return sums


class TenantMetrics:
    """Of Tenants, all together: how many conditions are not met."""

    def __init__(self, metrics: Metrics, conditions: Collection[str]) -> None:
        """`conditions`: the types that are counted."""
        self._conditions = tuple(conditions)
        self._unmet: dict[str, Collection[str]] = {}
        metrics.sampled_gauge("tenants", "Tenants there are.", lambda: float(len(self._unmet)))
        metrics.sampled_gauge(
            "tenants_unmet", "Tenants of which a condition is not true, by condition.", self._counts, label="condition"
        )

    def stands(self, name: str, unmet: Collection[str]) -> None:
        """Types of a Tenant's conditions that are not true."""
        self._unmet[name] = unmet

    def gone(self, name: str) -> None:
        self._unmet.pop(name, None)

    def _counts(self) -> Mapping[str, float]:
        return {one: float(sum(one in unmet for unmet in self._unmet.values())) for one in self._conditions}
