"""What the router counts."""

from collections.abc import Callable, Collection, Mapping
from functools import partial

from heliograph.service.metrics import Metrics
from heliograph.stores.ports import ServeView


class RouterMetrics:
    """The router's metrics. Hot ones are plain attributes (`heliograph.service.metrics`)."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self.records = metrics.ticks("records_total", "Records worked on.")
        self.batches = metrics.ticks("batches_total", "Batches worked on.")
        self.confirmed = metrics.ticks("confirmed_total", "Positions told to the live store.")
        self.unsequenced = metrics.ticks("unsequenced_records_total", "Records of log topics without a position.")
        self.own = metrics.tick_family("own_records_total", "Records of Heliograph's own, by type.", ["type"])
        self.gaps = metrics.tick_family("gaps_total", "Gap records read, by reason.", ["reason"])
        self.confirm_s = metrics.tick_histogram(
            "confirm_seconds", "From a record's time in the log to its confirmation; the oldest of each batch."
        )
        self.confirm_retries = metrics.ticks("confirm_retries_total", "Rounds repeated because Redis was away.")
        self.confirm_corrupt = metrics.ticks("confirm_corrupt_total", "Sessions whose keys in Redis are not ours.")
        self.confirm_given_up = metrics.ticks(
            "confirm_given_up_total", "Sessions that failed though others went through; reconciling comes back to them."
        )
        self.indexed = metrics.ticks("indexed_total", "Index entries written.")
        self.index_failures = metrics.ticks("index_failures_total", "Batches whose index entries were not written.")
        self.index_skipped = metrics.ticks("index_skipped_total", "Entries not tried: the index failed just before.")
        self.commit_failures = metrics.ticks("commit_failures_total", "Commits that failed and are repeated.")
        self.read_failures = metrics.ticks("read_failures_total", "Polls of the log that failed.")
        self.work_errors = metrics.ticks("work_errors_total", "Batches that met an error of ours, and were split.")
        self.deferred_delivered = metrics.ticks("deferred_delivered_total", "Deferred messages put in their place.")
        self.deferred_repeats = metrics.ticks("deferred_repeats_total", "Deferred messages the live path had already.")
        self.deferred_again = metrics.ticks(
            "deferred_again_total", "Deferred messages that the live path had, and lost before the log had them."
        )
        self.deferred_by_id = metrics.ticks(
            "deferred_by_id_total", "Times the memory of a deferred message's producer was gone: judged by message id."
        )
        self.dead = metrics.tick_family("dead_letters_total", "Poison records, by reason.", ["reason"])
        self.dead_retries = metrics.ticks("dead_letter_retries_total", "Dead letters that could not be written yet.")
        self.dead_cut = metrics.ticks("dead_letters_cut_total", "Dead letters written without their value: too large.")
        self.dead_lost = metrics.ticks("dead_letters_lost_total", "Poison records that retention took before.")
        self.reconciled = metrics.ticks("reconciled_total", "Messages written to the log from the hot window.")
        self.never_written = metrics.ticks("never_written_total", "Gap records written for messages that are lost.")
        self.reconcile_corrupt = metrics.ticks(
            "reconcile_corrupt_total", "Unconfirmed messages whose stored frame can't be read."
        )
        self.reconcile_failures = metrics.tick_family(
            "reconcile_failures_total", "Steps of reconciling that failed and are repeated.", ["step"]
        )
        self.expired = metrics.ticks("expired_sessions_total", "Idle sessions forgotten.")
        self.expire_failures = metrics.ticks("expire_failures_total", "Looks for idle sessions that failed.")
        self.voided = metrics.ticks("voided_total", "Messages unconfirmed: the topic that had them was made again.")
        self.void_failures = metrics.ticks("void_failures_total", "Looks for messages to be voided that failed.")
        self.expiries_told = metrics.ticks("expiries_told_total", "Expiries of the log that the store was told.")
        self.expiry_failures = metrics.ticks("expiry_failures_total", "Times the store of expiries could not be told.")
        self.expiries_dropped = metrics.ticks("expiries_dropped_total", "Expiries not told: too many were waiting.")
        self.expiries_forgotten = metrics.ticks("expiries_forgotten_total", "Expiries removed: older than the log.")
        self.lease_failures = metrics.ticks("lease_failures_total", "Lease calls that failed.")
        self.assigned = metrics.ticks("assigned_total", "Sessions given to a worker.")
        self.nothing_to_serve = metrics.ticks(
            "nothing_to_serve_total", "Sessions that were due and had nothing behind the workers' cursor."
        )
        self.serve_wait_s = metrics.tick_histogram(
            "serve_wait_seconds", "From a session's becoming due until a worker was found."
        )
        self.released = metrics.tick_family(
            "sessions_released_total", "Sessions taken from a worker to be given out again, by reason.", ["reason"]
        )
        self.workers_lost = metrics.ticks("workers_lost_total", "Workers removed because their edge is gone.")
        self.scanned = metrics.ticks("serve_scanned_total", "Sessions with something for a worker, found by a scan.")
        self.dispatch_failures = metrics.tick_family(
            "dispatch_failures_total", "Steps of giving out sessions that failed and are repeated.", ["step"]
        )
        self._serving: dict[str, ServeView] = {}
        for name, help_, value in (
            ("serve_workers", "Workers, by agent type that this router gives out.", _workers),
            ("serve_capacity_sessions", "Sessions that its workers offer to hold.", _capacity),
            ("serve_held_sessions", "Sessions that its workers hold.", _held),
            ("serve_due_sessions", "Sessions that wait for a worker, as far as was looked.", _due),
        ):
            metrics.sampled_gauge(name, help_, partial(self._by_kind, value), label="kind")
        self._blocked: Mapping[str, int] = {}
        self._lag: Mapping[str, float] = {}
        metrics.sampled_gauge(
            "lag_records", "Records not committed yet, by topic/partition.", lambda: self._lag, label="partition"
        )
        metrics.sampled_gauge(
            "reconcile_blocked_sessions",
            "Sessions with old unconfirmed messages that can't be written now, by reason.",
            lambda: {reason: float(count) for reason, count in self._blocked.items()},
            label="reason",
        )

    def serving_is(self, kind: str, view: ServeView) -> None:
        self._serving[kind] = view

    def serving_only(self, kinds: Collection[str]) -> None:
        """Others are not this router's any more."""
        self._serving = {kind: view for kind, view in self._serving.items() if kind in kinds}

    def _by_kind(self, value: Callable[[ServeView], float]) -> Mapping[str, float]:
        return {kind: value(view) for kind, view in self._serving.items()}

    def lag_is(self, lag: Mapping[tuple[str, int], int]) -> None:
        self._lag = {f"{topic}/{partition}": float(records) for (topic, partition), records in lag.items()}

    def blocked_are(self, by_reason: Mapping[str, int]) -> None:
        self._blocked = dict(by_reason)


def _workers(view: ServeView) -> float:
    return float(len(view.workers))


def _capacity(view: ServeView) -> float:
    return float(sum(worker.capacity for worker, _ in view.workers))


def _held(view: ServeView) -> float:
    return float(sum(held for _, held in view.workers))


def _due(view: ServeView) -> float:
    return float(len(view.due))
