"""One publish that was admitted, until it is answered for good: what the stores' answers to it mean.

A publish costs no task, no future and no timer: `Publication` is its only object, and its methods are the callbacks.
What is done with it, and when, is `heliograph.edge.publishing`'s.
"""

from typing import TYPE_CHECKING, Protocol

from heliograph.core.messages import AckMode, MessageClass
from heliograph.edge.tenants import Target
from heliograph.protocol.codes import CODES
from heliograph.protocol.frames import Published, Refused
from heliograph.protocol.messages import Message
from heliograph.service.tracing import MessageSpan
from heliograph.stores.ports import Appended, AppendStatus, StoreError

if TYPE_CHECKING:
    from heliograph.edge.publishing import PublishPath

RETRY_AFTER_MS = {"backlog": 1_000, "recovering": 500, "live_unavailable": 1_000, "log_unavailable": 1_000}
"""What a refused publisher is told: about the time that the cause takes to change."""

OK, DUPLICATE = AppendStatus.OK, AppendStatus.DUPLICATE
DURABLE, ACCEPTED, NONE = AckMode.DURABLE, AckMode.ACCEPTED, AckMode.NONE
CONTROL = MessageClass.CONTROL
LIVE_UNAVAILABLE, OVERLOADED = "live_unavailable", "overloaded"
NOT_NOW = (LIVE_UNAVAILABLE, OVERLOADED)
"""Of the live store: control is deferred."""


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
        "tried_live",
        "tried_log",
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
        self.tried_live = self.tried_log = False
        """It was given to the live store, or to the log to be deferred: each is tried once."""
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
            if self.message.class_ is CONTROL and answer.code in NOT_NOW and not self.tried_log:
                path.defer(self)
            elif self.tried_log:
                self.refuse(LIVE_UNAVAILABLE)  # a code that says: it may be in, since the log may have it all the same
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
            self.end_span(None)
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
            path.log_failure = error
            self.end_span(error.code)
            if self.ack is DURABLE:
                path.follow(self)
            return
        path.metrics.log_s.observe(path.clock() - self.started)
        self.end_span(None)
        if self.ack is DURABLE:
            self.durable()

    def deferral_logged(self, error: StoreError | None) -> None:
        """The log acknowledged a deferred message, or gave up: then neither path has it for certain."""
        path = self.path
        path.metrics.in_flight -= 1
        self.target.tenant.in_flight -= 1
        message = self.message
        if message.producer_seq is None:
            placed_as = message.message_id if error is None else None
            path.deferrals.ended((message.session, message.producer), placed_as, path.clock())
        if error is not None:
            path.metrics.log_failures.labels(error.code).n += 1
            path.log_failure = error
            if path.live.available and not self.tried_live:
                # The live path is slow, the log is worse. By its id, since the log may have it all the same.
                path.append(self, message.message_id)
            else:
                self.refuse(LIVE_UNAVAILABLE)
            return
        path.metrics.deferred.n += 1
        self.end_span(None)
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

    def refuse(self, code: str) -> None:
        """Answer that it is not taken."""
        self._refused(code, CODES[code].meaning, None)

    def _refused(self, code: str, message: str, expected: int | None) -> None:
        self.answered = True
        self.end_span(code)
        path = self.path
        path.metrics.refused.labels(code).n += 1
        after_ms = path.overloaded_after_ms() if code == OVERLOADED else RETRY_AFTER_MS.get(code)
        self.answers.refused(self.request_id, code, message, retry_after_ms=after_ms, expected=expected)

    def end_span(self, error: str | None) -> None:
        """Where it is traced, that is over; with the code of what went wrong."""
        if self.span is not None:
            self.span.end(position=self.position if self.epoch else None, error=error)
            self.span = None


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
