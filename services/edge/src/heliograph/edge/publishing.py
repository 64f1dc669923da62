"""The publish path: one message through the live store and into the log, and its one answer.

    admit (size, names) → append (live store: judge, sequence, store, publish) → write (log) → answer

Independent on purpose: what the live store took is delivered and answered for, whatever the log does. A record that
the log doesn't take in time is not tried again here: its message is in the hot window, and the router writes it. A
control message that the live store can't take is deferred: only the log has it until the router delivers it.

A publish costs no task, no future and no timer: `Publication` is its only object, its methods are the callbacks, and
answers that are due after a while wait in one queue that a tick looks through.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from heliograph.core.errors import InvalidValueError
from heliograph.core.limits import RECORD_OVERHEAD_BYTES
from heliograph.core.messages import AckMode, MessageClass
from heliograph.core.positions import Position
from heliograph.core.sessions import SessionKey
from heliograph.edge.metrics import EdgeMetrics
from heliograph.edge.tenants import Target
from heliograph.protocol.codes import CODES
from heliograph.protocol.frames import RESERVED_EVENT_TYPE_PREFIX, Publish, Published, Refused, check_name
from heliograph.protocol.messages import (
    DEFAULT_EVENT_TYPE,
    JSON_CONTENT_TYPE,
    TELEMETRY_START,
    Message,
    canonical_payload,
    content_hash,
    extras,
    frame_content,
    frame_rest,
    record_headers,
    record_value,
)
from heliograph.service.tracing import MessageSpan, Tracing
from heliograph.stores.ports import Append, Appended, AppendStatus, LiveStore, LogWriter, StoreError

RETRY_AFTER_MS = {"backlog": 1_000, "recovering": 500, "live_unavailable": 1_000, "log_unavailable": 1_000}
"""What a refused publisher is told: about the time that the cause takes to change."""

OK, DUPLICATE = AppendStatus.OK, AppendStatus.DUPLICATE
DURABLE, ACCEPTED, NONE = AckMode.DURABLE, AckMode.ACCEPTED, AckMode.NONE
CONTROL, TELEMETRY = MessageClass.CONTROL, MessageClass.TELEMETRY
LIVE_UNAVAILABLE = "live_unavailable"


class Answers(Protocol):
    """Where the answers of a publisher go: a connection, or an HTTP request."""

    def published(self, publication: "Publication", *, durable: bool, pending: bool, duplicate: bool) -> None: ...

    def confirmed(self, publication: "Publication") -> None: ...

    def refused(
        self, request_id: int | None, code: str, message: str, *, retry_after_ms: int | None, expected: int | None
    ) -> None: ...


class Publication:
    """One publish that was admitted, until it is answered for good."""

    __slots__ = (
        "ack",
        "answered",
        "answers",
        "deadline",
        "deferred",
        "epoch",
        "message",
        "path",
        "pending",
        "request_id",
        "seq",
        "span",
        "started",
        "target",
    )

    def __init__(
        self, path: "PublishPath", answers: Answers, target: Target, message: Message, ack: AckMode, id_: int | None
    ) -> None:
        self.path = path
        self.answers = answers
        self.target = target
        self.message = message
        self.ack = ack
        self.request_id = id_
        self.answered = False
        self.pending = False
        self.deferred = False
        """Only the log has it; the router puts it in its place."""
        self.epoch = ""
        self.seq = 0
        self.deadline = 0.0
        self.started = 0.0
        self.span: MessageSpan | None = None

    @property
    def position(self) -> str:
        """Text of the position that the live store gave."""
        return f"{self.epoch}-{self.seq:016d}"

    def appended(self, answer: Appended | StoreError) -> None:
        """The live store answered."""
        path = self.path
        if type(answer) is StoreError:
            if self.message.class_ is CONTROL and answer.code == LIVE_UNAVAILABLE:
                path.defer(self)
            else:
                self._refused(answer.code, answer.message, None)
            return
        assert isinstance(answer, Appended)
        status = answer.status
        if status is OK:
            self.epoch, self.seq = answer.epoch, answer.seq
            self.message.position = self.position
            path.metrics.append_s.observe(path.clock() - self.started)
            path.metrics.published[self.message.class_].n += 1
            if self.ack is ACCEPTED:
                self.answered = True
                self.answers.published(self, durable=False, pending=False, duplicate=False)
            elif self.ack is DURABLE:
                path.await_log(self)
            path.write(self, answer.partition)
            kind = self.target.kind
            if kind.pending is not None and not self.message.by_worker:
                kind.mark(self.target.session, self.message.position)
        elif status is DUPLICATE:
            self.epoch, self.seq = answer.epoch, answer.seq
            path.metrics.duplicates.n += 1
            self._end_span(None)
            if answer.confirmed or self.ack is not DURABLE:
                if self.ack is not NONE:
                    self.answers.published(self, durable=answer.confirmed, pending=False, duplicate=True)
                self.answered = True
            else:  # the first one's write may still be under way: not written again, but followed
                path.await_log(self)
                path.follow(self)
        else:
            self._refused(status.value, CODES[status.value].meaning, answer.expected or None)

    def logged(self, error: StoreError | None) -> None:
        """The log acknowledged, or gave up."""
        path = self.path
        path.metrics.in_flight -= 1
        self.target.tenant.in_flight -= 1
        if error is not None:
            path.metrics.log_failures.labels(error.code).n += 1
            path.log_failed(error)
            self._end_span(error.code)
            if self.ack is DURABLE:
                path.follow(self)
            return
        path.metrics.log_s.observe(path.clock() - self.started)
        self._end_span(None)
        if self.ack is DURABLE:
            self.durable()

    def deferral_logged(self, error: StoreError | None) -> None:
        """The log acknowledged a deferred message, or gave up: then neither path has it for certain."""
        path = self.path
        path.metrics.in_flight -= 1
        self.target.tenant.in_flight -= 1
        if error is not None:
            path.metrics.log_failures.labels(error.code).n += 1
            path.log_failed(error)
            self._refused(LIVE_UNAVAILABLE, CODES[LIVE_UNAVAILABLE].meaning, None)
            return
        path.metrics.deferred.n += 1
        self._end_span(None)
        self.answered = self.deferred = True
        if self.ack is not NONE:
            self.answers.published(self, durable=True, pending=False, duplicate=False)

    def durable(self) -> None:
        """The log is known to have it."""
        if self.pending:
            self.pending = False
            self.answers.confirmed(self)
        elif not self.answered:
            self.answered = True
            self.answers.published(self, durable=True, pending=False, duplicate=self.message.position is None)

    def overdue(self) -> None:
        """It took too long: answer as pending; `confirmed` follows."""
        if not self.answered:
            self.answered = self.pending = True
            self.path.metrics.pending.n += 1
            self.answers.published(self, durable=False, pending=True, duplicate=self.message.position is None)

    def _refused(self, code: str, message: str, expected: int | None) -> None:
        self.answered = True
        self._end_span(code)
        self.path.metrics.refused.labels(code).n += 1
        self.answers.refused(self.request_id, code, message, retry_after_ms=RETRY_AFTER_MS.get(code), expected=expected)

    def _end_span(self, error: str | None) -> None:
        if self.span is not None:
            self.span.end(position=self.position if self.epoch else None, error=error)
            self.span = None


@dataclass(frozen=True, slots=True)
class PublishLimits:
    """The settings of the publish path."""

    durable_wait_s: float
    log_in_flight_per_tenant: int
    follow_s: float = 600.0
    """How long a pending publish is followed; after that its client asks by `status`."""
    follow_most: int = 100_000
    """Pending publishes followed at once (about 1 KB each); more are left to `status`."""


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
    ) -> None:
        self.live = live
        self.log = log
        self.metrics = metrics
        self.tracing = tracing
        self.clock = clock
        self.log_failed: Callable[[StoreError], None] = lambda _error: None
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
    ) -> Publication:
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
        content_type, event_type = frame.content_type, frame.event_type
        if content_type == JSON_CONTENT_TYPE:
            content_type = None
        if event_type == DEFAULT_EVENT_TYPE:
            event_type = None
        class_, seq = frame.class_, frame.seq
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
            self._telemetry(publication)
            return publication
        publication.started = self.clock()
        if class_ is CONTROL and not self.live.available:
            self.defer(publication)
            return publication
        content = frame_content(message)
        self.live.append(
            Append(
                session=target.session,
                rest=frame_rest(message, content),
                extras=extras(message),
                size_bytes=len(message.payload) + RECORD_OVERHEAD_BYTES,
                partition=target.partition,
                content_hash=content_hash(content),
                producer=b"" if seq is None else f"{class_}|{producer}|{incarnation}".encode(),
                producer_seq=seq or 0,
                message_id=frame.message_id or "",
            ),
            target.tenant.bounds,
            publication.appended,
        )
        return publication

    def write(self, publication: Publication, partition: int) -> None:
        """Put an appended message on the log. Where that can't be done now, the router does it later."""
        self._produce(publication, publication.target.topic, partition, publication.logged)

    def defer(self, publication: Publication) -> None:
        """Put a control message on the durable stream only: the live path is away.

        It may have taken the message before it went away: the router that delivers it has it judged like any repeat.
        Messages of a session go to one partition in the order they come in here, so a producer's order stays.
        """
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
        """Answer what is overdue. Called some ten times a second."""
        waiting = self._waiting
        while waiting and (waiting[0].answered or waiting[0].deadline <= now):
            waiting.popleft().overdue()

    async def look_after_followed(self, now: float) -> None:
        """One round of questions about followed publishes. What can't be told now is asked again."""
        for session in list(self._followed):
            publications = list(self._followed[session])  # others may be added while the store is asked
            positions = [Position(one.epoch, one.seq) for one in publications]
            known: list[bool | None]
            try:
                known = await self.live.confirmed(session, positions)
            except StoreError:
                known = [None] * len(positions)
            done = {
                id(one)
                for one, confirmed in zip(publications, known, strict=True)
                if confirmed or now - one.started > self._limits.follow_s
            }
            for one, confirmed in zip(publications, known, strict=True):
                if confirmed:
                    one.durable()
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

    def _telemetry(self, publication: Publication) -> None:
        message, tenant = publication.message, publication.target.tenant
        if publication.ack is DURABLE:
            raise InvalidValueError("ack_impossible", "ack", "durable", "`none` or `accepted` for telemetry")
        rest = TELEMETRY_START + frame_rest(message, frame_content(message))
        self.live.publish_unsequenced(publication.target.session, rest)
        self.metrics.published[TELEMETRY].n += 1
        if tenant.telemetry_topic is not None and tenant.in_flight < self._limits.log_in_flight_per_tenant:
            try:
                self.log.write(
                    tenant.telemetry_topic,
                    -1,
                    publication.target.key,
                    record_value(message),
                    record_headers(message),
                    None,
                )
            except StoreError:
                self.metrics.telemetry_not_logged.n += 1
        publication.answered = True
        if publication.ack is ACCEPTED:
            publication.answers.published(publication, durable=False, pending=False, duplicate=False)

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


def refused_frame(
    request_id: int | None, code: str, message: str, *, retry_after_ms: int | None, expected: int | None
) -> Refused:
    """The frame for a refusal."""
    return Refused(code, message, request_id, None, retry_after_ms, expected)


def published_frame(publication: Publication, *, durable: bool, pending: bool, duplicate: bool) -> Published:
    """The frame for an answered publish."""
    return Published(
        durable,
        publication.request_id,
        publication.position if publication.epoch else None,
        publication.message.message_id,
        pending,
        duplicate,
        publication.deferred,
    )
