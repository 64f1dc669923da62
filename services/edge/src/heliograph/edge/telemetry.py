"""Telemetry on its way out: to whoever is subscribed now, and into the log where its tenant wants it. Best effort, and
counted: each frame that was within its limits is in `published_total` or in `telemetry_dropped_total`, once.

It is the first to go under pressure (`heliograph.core.pressure`): a share of it, then all.
"""

from typing import TYPE_CHECKING

from heliograph.core.errors import InvalidValueError
from heliograph.core.messages import AckMode, MessageClass
from heliograph.core.pressure import CALM, Sampler, Verdict, Verdicts
from heliograph.edge.metrics import EdgeMetrics
from heliograph.protocol.messages import TELEMETRY_START, frame_content, frame_rest, record_headers, record_value
from heliograph.stores.ports import LiveStore, LogWriter, StoreError

if TYPE_CHECKING:
    from heliograph.edge.publication import Publication

SAMPLED, PRESSURE, LIVE_UNAVAILABLE, BOUND = "sampled", "pressure", "live_unavailable", "bound"
"""Reasons."""


class Telemetry:
    """Of an edge."""

    def __init__(
        self, live: LiveStore, log: LogWriter, metrics: EdgeMetrics, *, sample: float, log_in_flight_per_tenant: int
    ) -> None:
        """`sample`: the share that is taken where not all is."""
        self._live = live
        self._log = log
        self._metrics = metrics
        self._log_in_flight_per_tenant = log_in_flight_per_tenant
        self._sampler = Sampler(sample)
        self._copy_sampler = Sampler(sample)
        self._published = metrics.published[MessageClass.TELEMETRY]
        self._lost = metrics.telemetry_dropped.labels(LIVE_UNAVAILABLE)
        self.answered = self._answered
        self.logged = self._logged

    def publish(self, publication: "Publication", verdicts: Verdicts | None) -> None:
        """Send it on, or drop it. Raises InvalidValueError where it can't be what it asks to be."""
        if publication.ack is AckMode.DURABLE:
            raise InvalidValueError("ack_impossible", "ack", "durable", "`none` or `accepted` for telemetry")
        dropped = self._dropped(verdicts)
        if dropped is not None:
            self._metrics.telemetry_dropped.labels(dropped).n += 1
            if publication.ack is AckMode.ACCEPTED:  # told, so it is nowhere: whoever sends it again sends it once
                publication.refuse(LIVE_UNAVAILABLE if dropped is LIVE_UNAVAILABLE else "overloaded")
                return
        else:
            message = publication.message
            rest = TELEMETRY_START + frame_rest(message, frame_content(message))
            self._live.publish_unsequenced(message.session, rest, self.answered)
        if publication.target.tenant.telemetry_topic is not None:
            self._copy(publication, verdicts or CALM)
        publication.answered = True
        publication.end_span(dropped)
        if publication.ack is AckMode.ACCEPTED:
            publication.answers.published(publication, durable=False, pending=False, duplicate=False)

    def _dropped(self, verdicts: Verdicts | None) -> str | None:
        """Why it is not published; None: it is."""
        if not self._live.available:
            return LIVE_UNAVAILABLE
        if verdicts is None or verdicts.telemetry is Verdict.ADMIT:
            return None
        if verdicts.telemetry is Verdict.SAMPLE:
            return None if self._sampler.take() else SAMPLED
        return PRESSURE

    def _answered(self, taken: bool) -> None:
        """The live store took it, or lost it. A connection that broke before the answer counts as lost."""
        if taken:
            self._published.n += 1
        else:
            self._lost.n += 1

    def _copy(self, publication: "Publication", verdicts: Verdicts) -> None:
        """Write it to the log, without waiting."""
        tenant, message, not_logged = publication.target.tenant, publication.message, self._metrics.telemetry_not_logged
        if verdicts.log_copy is Verdict.SHED:
            not_logged.labels(PRESSURE).n += 1
        elif verdicts.log_copy is Verdict.SAMPLE and not self._copy_sampler.take():
            not_logged.labels(SAMPLED).n += 1
        elif tenant.in_flight >= self._log_in_flight_per_tenant:
            not_logged.labels(BOUND).n += 1
        else:
            topic = tenant.telemetry_topic
            assert topic is not None
            try:
                self._log.write(
                    topic, -1, publication.target.key, record_value(message), record_headers(message), self.logged
                )
            except StoreError as error:
                self._logged(error)

    def _logged(self, error: StoreError | None) -> None:
        if error is not None:
            self._metrics.telemetry_not_logged.labels(error.code).n += 1
