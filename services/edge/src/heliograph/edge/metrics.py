"""What the edge counts."""

from heliograph.core.messages import MessageClass
from heliograph.protocol.codes import GapReason
from heliograph.service.metrics import Metrics


class EdgeMetrics:
    """The edge's metrics. Hot ones are plain attributes (`heliograph.service.metrics`)."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        published = metrics.tick_family("published_total", "Messages taken, by class.", ["class"])
        self.published = {class_: published.labels(class_.value) for class_ in MessageClass}
        self.refused = metrics.tick_family("refused_total", "Requests refused, by code.", ["code"])
        self.rests = metrics.ticks(
            "rests_total",
            "Times that a client was not read for a moment: it had been refused and went on.",
        )
        self.errors = metrics.tick_family("bad_frames_total", "Inbound frames not understood, by code.", ["code"])
        self.deferred = metrics.ticks(
            "deferred_total", "Control messages put on the log alone: the live path was away, or under pressure."
        )
        self.deferred_unplaced = metrics.ticks(
            "deferred_unplaced_total",
            "Publishers without a counter that are not kept in order behind what was deferred: too long, or too many.",
        )
        self.duplicates = metrics.ticks("duplicates_total", "Publishes that were a repeat.")
        self.pending = metrics.ticks("pending_total", "Publishes answered before the log had them.")
        self.unfollowed = metrics.ticks("unfollowed_total", "Pending publishes not followed: too many at once.")
        self.log_failures = metrics.tick_family("log_failures_total", "Records the log did not take.", ["code"])
        self.telemetry_dropped = metrics.tick_family(
            "telemetry_dropped_total",
            "Telemetry that was within its limits and not published, by reason; all other is in published_total.",
            ["reason"],
        )
        self.telemetry_not_logged = metrics.tick_family(
            "telemetry_not_logged_total", "Telemetry whose tenant wants it in the log, and that is not.", ["reason"]
        )
        self.acks = metrics.ticks("acks_total", "Acks taken from consumers.")
        self.cursors_written = metrics.ticks("cursors_written_total", "Acks written: the furthest of each batch.")
        self.cursors_missing = metrics.ticks("cursors_missing_total", "Subscriptions from a cursor that was not there.")
        self.telemetry_shed = metrics.ticks("telemetry_shed_total", "Telemetry not sent to a slow reader, each once.")
        self.telemetry_joining = metrics.ticks(
            "telemetry_joining_total", "Telemetry not sent to a subscriber that had not caught up with its session yet."
        )
        self.telemetry_cut = metrics.ticks(
            "telemetry_cut_total", "Subscribers whose live link broke: what telemetry came meanwhile they miss."
        )
        self.presence_sent = metrics.ticks("presence_sent_total", "Joins and leaves sent to subscribers.")
        self.presence_shed = metrics.ticks("presence_shed_total", "Joins and leaves not sent to a slow reader.")
        self.presence_announced = metrics.ticks("presence_announced_total", "Joins and leaves told to their sessions.")
        self.presence_unannounced = metrics.ticks(
            "presence_unannounced_total", "Joins not told: the session has too many subscribers here."
        )
        self.presence_failures = metrics.tick_family(
            "presence_failures_total", "Joins and leaves the live store did not take; told again.", ["code"]
        )
        self.deliveries = metrics.ticks("deliveries_total", "Messages sent to subscribers.")
        self.frames_in = metrics.ticks("frames_in_total", "Frames from clients.")
        self.opened = metrics.ticks("connections_opened_total", "Connections accepted.")
        self.handshakes_refused = metrics.tick_family(
            "handshakes_refused_total", "Handshakes refused, and what was no request.", ["code"]
        )
        self.admission = metrics.tick_family(
            "admission_refused_total",
            "Handshakes for which there was no room, told to come back or refused, by what was used up.",
            ["cause"],
        )
        self.closed = metrics.tick_family("connections_closed_total", "Connections the edge closed.", ["reason"])
        self.catch_ups = metrics.ticks("catch_ups_total", "Slow readers that went over the hard mark.")
        self.repairs = metrics.tick_family("repairs_total", "Sessions whose live frames had a hole.", ["cause"])
        self.gaps = metrics.tick_family("gaps_total", "Gaps told to subscribers.", ["reason"])
        for reason in GapReason.ALL:
            self.gaps.labels(reason)  # from 0: the first gap of a series that was not there would be no increase
        self.stale_frames = metrics.ticks("stale_frames_total", "Live frames dropped as already delivered.")
        self.corrupt_frames = metrics.ticks("corrupt_frames_total", "Live frames that are no message of ours.")
        self.lost_subscriptions = metrics.ticks("live_connection_lost_total", "Times the subscription link broke.")
        self.history_reads = metrics.tick_family("history_reads_total", "Pages read, by source.", ["source"])
        self.history_shared = metrics.ticks(
            "history_reads_shared_total", "Pages that were had by a read that another had asked for."
        )
        self.history_failures = metrics.tick_family(
            "history_failures_total", "Pages, and cursors of consumers, not had.", ["source"]
        )
        self.quota_leases = metrics.ticks("quota_leases_total", "Leases of tenants' tokens from the token store.")
        self.quota_store_failures = metrics.ticks(
            "quota_store_failures_total", "Calls that the token store did not answer: edges spend their share."
        )
        self.edges_not_counted = metrics.ticks(
            "edges_not_counted_total", "Times that other edges could not be counted: shares are by the last count."
        )
        self.status_unknown = metrics.tick_family(
            "status_unknown_total", "Status questions answered as unknown without being judged, by code.", ["code"]
        )
        self.moved = metrics.tick_family("moved_total", "Clients told to go to another edge, by reason.", ["reason"])
        self.orders_obeyed = metrics.tick_family("orders_obeyed_total", "Orders to this edge begun, by kind.", ["kind"])
        self.order_failures = metrics.ticks("order_failures_total", "Times that this edge could not read its orders.")
        self.over_limit = metrics.tick_family(
            "connections_over_limit_total",
            "Connections refused, by whose limit they were above.",
            ["limit"],
        )
        self.usage_store_failures = metrics.ticks(
            "usage_store_failures_total", "Rounds in which limits over all edges could not be asked."
        )
        self.registry_failures = metrics.ticks("registry_failures_total", "Registry updates that failed.")
        self.expiries = metrics.ticks("session_expiries_total", "Times that a session's expiry was set.")
        self.assigned = metrics.ticks("assigned_total", "Sessions given to a worker of this edge.")
        self.revoked = metrics.tick_family("revoked_total", "Sessions taken from a worker here, by reason.", ["reason"])
        self.done = metrics.ticks("sessions_done_total", "Sessions that a worker gave back.")
        self.orders_void = metrics.ticks("orders_void_total", "Orders for a worker or lease that was gone.")
        self.serve_failures = metrics.ticks("serve_failures_total", "Calls about workers that failed; repeated.")
        self.append_s = metrics.tick_histogram("append_seconds", "From publish to the live store's answer.")
        self.log_s = metrics.tick_histogram("log_seconds", "From publish to the log's acknowledgement.")
        self.in_flight = 0
        metrics.sampled_gauge(
            "log_in_flight_records", "Records the log has not acknowledged.", lambda: float(self.in_flight)
        )
