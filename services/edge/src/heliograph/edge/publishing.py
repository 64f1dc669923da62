"""The publish path: one message through the live store and into the log, and its one answer.

    admit (size, names) → append (live store: judge, sequence, store, publish) → write (log) → answer

Independent on purpose: what the live store took is delivered and answered for, whatever the log does. A record that
the log doesn't take in time is not tried again here: its message is in the hot window, and the router writes it. A
control message that the live store can't take is deferred: only the log has it until the router delivers it.

Under pressure (`heliograph.edge.pressure`) events are refused with a time, and control goes to the log at once.

A publish costs no task, no future and no timer: `Publication` is its only object, and answers that are due after a
while wait in one queue that a tick looks through.
"""

import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from heliograph.core.errors import InvalidValueError
from heliograph.core.messages import AckMode, MessageClass
from heliograph.core.pacing import jittered_after_ms
from heliograph.core.positions import Position
from heliograph.core.pressure import Verdict, Verdicts
from heliograph.core.sessions import SessionKey
from heliograph.edge.deferrals import Deferrals
from heliograph.edge.metrics import EdgeMetrics
from heliograph.edge.publication import OVERLOADED, Answers, Publication
from heliograph.edge.telemetry import Telemetry
from heliograph.edge.tenants import Target
from heliograph.protocol.codes import CODES
from heliograph.protocol.frames import RESERVED_EVENT_TYPE_PREFIX, Publish, check_name
from heliograph.protocol.messages import (
    DEFAULT_EVENT_TYPE,
    JSON_CONTENT_TYPE,
    Message,
    canonical_payload,
    record_headers,
    record_value,
)
from heliograph.service.tracing import Tracing
from heliograph.stores.appending import append_of
from heliograph.stores.ports import LiveStore, LogWriter, StoreError

OVERLOADED_AFTER_MS, OVERLOADED_SPREAD_MS = 1_000, 2_000
"""When a publisher may come back where too much is going on: each has its own time, or all would be back at once."""

DURABLE, NONE = AckMode.DURABLE, AckMode.NONE
CONTROL, EVENT, TELEMETRY = MessageClass.CONTROL, MessageClass.EVENT, MessageClass.TELEMETRY
DEFER, REFUSE = Verdict.DEFER, Verdict.REFUSE


FOLLOW_BATCH = 32
"""Followed publishes of one session in one question."""


@dataclass(frozen=True, slots=True)
class PublishLimits:
    """The settings of the publish path."""

    durable_wait_s: float
    log_in_flight_per_tenant: int
    follow_s: float = 600.0
    """How long a pending publish is followed; after that its client asks by `status`."""
    follow_most: int = 100_000
    """Pending publishes followed at once (about 1 KB each); more are left to `status`."""
    telemetry_sample: float = 0.1
    """Share of telemetry that is taken while a level is elevated."""


class PublishPath:
    """Takes publishes of connections and HTTP requests."""

    def __init__(
        self,
        live: LiveStore,
        log: LogWriter,
        metrics: EdgeMetrics,
        tracing: Tracing,
        limits: PublishLimits,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        """`uniform` draws from [0, 1), for jitter."""
        self.live = live
        self.log = log
        self.metrics = metrics
        self.tracing = tracing
        self.clock = clock
        self.log_failed: Callable[[StoreError], None] = lambda _error: None
        """Told the last of the log's errors by each `tick`: while Kafka is away a second's writes fail at once."""
        self.log_failure: StoreError | None = None
        """That one, until it is told."""
        self.pressed: Verdicts | None = None
        """What is held back, set by `heliograph.edge.pressure`; None: nothing is."""
        self.deferrals = Deferrals(live, metrics)
        self._telemetry = Telemetry(
            live,
            log,
            metrics,
            sample=limits.telemetry_sample,
            log_in_flight_per_tenant=limits.log_in_flight_per_tenant,
        )
        self._uniform = uniform
        self._limits = limits
        self._waiting: deque[Publication] = deque()
        self._followed: dict[str, list[Publication]] = {}
        self._followed_count = 0

    def publish(
        self,
        answers: Answers,
        target: Target,
        frame: Publish,
        producer: str,
        incarnation: str | None,
        message_id: str,
        kind: type[Publication] = Publication,
    ) -> None:
        """One publish that scopes and buckets let through. `message_id` is used where the frame has none.

        Answers exactly once (but `none`), now or later. Raises InvalidValueError where the message itself is wrong.
        """
        check_publish(frame)
        payload = bytes(frame.payload)
        if len(payload) > target.tenant.max_payload_bytes:
            raise InvalidValueError(
                "payload_too_large",
                "payload",
                f"{len(payload)} bytes",
                f"at most {target.tenant.max_payload_bytes} bytes",
            )
        class_, pressed = frame.class_, self.pressed
        if pressed is not None and class_ is EVENT and pressed.event is REFUSE and self.live.available:
            self._refuse_event(answers, frame.id)
            return
        content_type, event_type = frame.content_type, frame.event_type
        if content_type == JSON_CONTENT_TYPE:
            content_type = None
        if event_type == DEFAULT_EVENT_TYPE:
            event_type = None
        seq = frame.seq
        message = Message(
            session=target.session,
            message_id=frame.message_id or message_id,
            time_ms=int(time.time() * 1000),
            producer=producer,
            class_=class_,
            payload=canonical_payload(payload, content_type),
            traceparent=frame.traceparent,
            event_type=event_type,
            correlation_id=frame.correlation_id,
            causation_id=frame.causation_id,
            reply_to=frame.reply_to,
            content_type=content_type,
            incarnation=incarnation if seq is not None else None,
            producer_seq=seq,
            by_worker=target.by_worker,
        )
        ack = frame.ack
        if ack is None:
            ack = NONE if class_ is TELEMETRY else DURABLE
        publication = kind(self, answers, target, message, ack, frame.id)
        if self.tracing.enabled:
            self._trace(publication)
        if class_ is TELEMETRY:
            self._telemetry.publish(publication, pressed)
            return
        publication.started = self.clock()
        if class_ is CONTROL and (
            not self.live.available
            or (pressed is not None and pressed.control is DEFER)
            or (seq is None and self.deferrals.held and (target.session, producer) in self.deferrals.held)
        ):
            self.defer(publication)
            return
        self.append(publication, frame.message_id or "")

    def append(self, publication: Publication, message_id: str) -> None:
        """Give it to the live store; `message_id` where it is to be judged by that as well."""
        publication.tried_live = True
        message, target = publication.message, publication.target
        self.live.append(
            append_of(message, target.partition, message_id, counted=message.producer_seq is not None),
            target.tenant.bounds,
            publication.appended,
        )

    def write(self, publication: Publication, partition: int) -> None:
        """Put an appended message on the log. Where that can't be done now, the router does it later."""
        self._produce(publication, publication.target.topic, partition, publication.logged)

    def defer(self, publication: Publication) -> None:
        """Put a control message on the durable stream only: the live path is away, or has too much to do.

        It may have taken the message before it went away: the router that delivers it has it judged like any repeat.
        Messages of a session go to one partition in the order they come in here, so a producer's order stays; what it
        publishes later waits its turn, by its counter or by `deferrals`.
        """
        publication.tried_log = True
        message = publication.message
        if message.producer_seq is None:
            self.deferrals.began((message.session, message.producer))
        self._produce(publication, publication.target.tenant.deferred_topic, -1, publication.deferral_logged)

    def _produce(
        self, publication: Publication, topic: str, partition: int, done: Callable[[StoreError | None], None]
    ) -> None:
        tenant = publication.target.tenant
        tenant.in_flight += 1
        self.metrics.in_flight += 1
        if tenant.in_flight > self._limits.log_in_flight_per_tenant:
            done(StoreError("log_unavailable", "too many unacknowledged records of this tenant"))
            return
        message = publication.message
        try:
            self.log.write(
                topic, partition, publication.target.key, record_value(message), record_headers(message), done
            )
        except StoreError as error:
            done(error)

    def await_log(self, publication: Publication) -> None:
        """Answer it as pending unless the log has it in time."""
        publication.deadline = publication.started + self._limits.durable_wait_s
        self._waiting.append(publication)

    def follow(self, publication: Publication) -> None:
        """Ask the live store, now and then, whether the log has it by somebody else's work."""
        if self._followed_count >= self._limits.follow_most:
            self.metrics.unfollowed.n += 1
            return
        self._followed_count += 1
        self._followed.setdefault(publication.target.session, []).append(publication)

    def tick(self, now: float) -> None:
        """Answer what is overdue, and tell how the log does. Called some twenty times a second."""
        if self.log_failure is not None:
            self.log_failed(self.log_failure)
            self.log_failure = None
        waiting = self._waiting
        while waiting and (waiting[0].answered or waiting[0].deadline <= now):
            waiting.popleft().overdue()

    async def look_after_followed(self, now: float) -> None:
        """One round of questions about followed publishes. What can't be told now is asked again."""
        for session in list(self._followed):
            await self._look_after(session, now)

    async def _look_after(self, session: str, now: float) -> None:
        """The oldest first, and on as long as any is confirmed: while the log is away a session costs one small
        question a round, however many of its publishes wait. The newest is in each: it may have been confirmed ahead.
        """
        publications = list(self._followed[session])  # others may be added while the store is asked
        done = {id(one) for one in publications if now - one.started > self._limits.follow_s}
        for at in range(0, len(publications), FOLLOW_BATCH):
            batch = publications[at : at + FOLLOW_BATCH]
            if batch[-1] is not publications[-1]:
                batch.append(publications[-1])
            try:
                known = await self.live.confirmed(session, [Position(one.epoch, one.seq) for one in batch])
            except StoreError:
                break
            confirmed = [one for one, is_so in zip(batch, known, strict=True) if is_so]
            for one in confirmed:
                one.durable()
            done.update(map(id, confirmed))
            if not confirmed:
                break
        left = [one for one in self._followed[session] if id(one) not in done]
        self._followed_count -= len(self._followed[session]) - len(left)
        if left:
            self._followed[session] = left
        else:
            del self._followed[session]

    @property
    def followed(self) -> int:
        """Publishes that are pending and followed."""
        return self._followed_count

    def overloaded_after_ms(self) -> int:
        """When one publisher shall come back."""
        return jittered_after_ms(OVERLOADED_AFTER_MS, OVERLOADED_SPREAD_MS, self._uniform)

    def _refuse_event(self, answers: Answers, request_id: int | None) -> None:
        """Before anything is made of it: under pressure these are many."""
        self.metrics.refused.labels(OVERLOADED).n += 1
        after_ms, meaning = self.overloaded_after_ms(), CODES[OVERLOADED].meaning
        answers.refused(request_id, OVERLOADED, meaning, retry_after_ms=after_ms, expected=None)

    def _trace(self, publication: Publication) -> None:
        message, target = publication.message, publication.target
        publication.span = self.tracing.begin(
            "publish",
            message.traceparent,
            tenant=target.tenant.record.tenant,
            session=target.session,
            message_id=message.message_id,
        )
        if publication.span is not None:
            message.traceparent = publication.span.traceparent
            if self.tracing.samples(target.tenant.record.tracing.payload_sample_ratio):
                publication.span.show(message.payload)


def check_publish(frame: Publish) -> None:
    """Raise InvalidValueError for a name that may not become a header, a log field and a JSON string."""
    if frame.message_id is not None:
        check_name("message_id", frame.message_id)
    event_type = frame.event_type
    if event_type is not None:
        check_name("event_type", event_type)
        if event_type.startswith(RESERVED_EVENT_TYPE_PREFIX) and event_type != DEFAULT_EVENT_TYPE:
            wanted = f"a type that does not begin with {RESERVED_EVENT_TYPE_PREFIX}"
            raise InvalidValueError("value_invalid", "event_type", event_type, wanted)
    if frame.correlation_id is not None:
        check_name("correlation_id", frame.correlation_id)
    if frame.causation_id is not None:
        check_name("causation_id", frame.causation_id)
    if frame.reply_to is not None:
        SessionKey.parse(frame.reply_to)
    if frame.content_type is not None:
        check_name("content_type", frame.content_type)
