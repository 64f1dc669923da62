"""One client connection, driven by bytes: frames in, answers and messages out. What a request asks for, and whether it
may, is judged in a module for each (`greeting`, `subscribing`, `acknowledging` …); publishes, which are most, are here.

Everything here runs on the event loop, synchronously, and nothing waits: what needs an answer from elsewhere is a
callback of the publish path or a sink of a join.
"""

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from heliograph.core.buckets import Rate, TokenBucket
from heliograph.core.errors import InvalidValueError
from heliograph.core.heartbeat import Heartbeat, HeartbeatPolicy
from heliograph.core.history import Start
from heliograph.core.limits import PRODUCER_RING
from heliograph.core.outbox import Action, Flow, OutboxMarks
from heliograph.core.pacing import hold_off
from heliograph.core.positions import Position
from heliograph.core.pressure import Level
from heliograph.core.scopes import Operation
from heliograph.core.sessions import SessionKey
from heliograph.edge.access import refresh
from heliograph.edge.acknowledging import acknowledge
from heliograph.edge.admission import NOWHERE
from heliograph.edge.assignment import NOTHING, Assignment, Offer
from heliograph.edge.greeting import greet
from heliograph.edge.joiner import Cursor
from heliograph.edge.metrics import EdgeMetrics
from heliograph.edge.offering import serve
from heliograph.edge.outlet import Outlet
from heliograph.edge.publication import Publication, published_frame, refused_frame
from heliograph.edge.publishing import PublishPath
from heliograph.edge.senders import Sender
from heliograph.edge.status import tell_status
from heliograph.edge.subscribing import forbidden, subscribe, unsubscribe
from heliograph.edge.subscription import Subscription, parse_start
from heliograph.edge.tenants import Target, TenantState
from heliograph.edge.tick_writer import TickWriter
from heliograph.edge.usage import session_retry_ms
from heliograph.edge.websocket import ClientSocket
from heliograph.protocol.codes import CLOSES, CODES, CloseCode, RevokeReason
from heliograph.protocol.frames import (
    Ack,
    Confirmed,
    Error,
    FrameError,
    Hello,
    Notice,
    NoticeKind,
    Ping,
    Pong,
    Publish,
    Refresh,
    Refused,
    Serve,
    Status,
    Subscribe,
    Unsubscribe,
    Welcome,
    decode_client_frame,
    encode,
    is_utf8,
)
from heliograph.protocol.message_ids import derived_message_id
from heliograph.protocol.websocket import text_frame
from heliograph.service.logs import get_logger
from heliograph.service.tokens import Identity
from heliograph.stores.keys import client_consumer

if TYPE_CHECKING:
    from heliograph.edge.connections import Connections
    from heliograph.edge.sessions import Sessions

log = get_logger(__name__)

REFUSING = frozenset(
    code
    for code in CloseCode
    if code >= CloseCode.TOKEN_REFUSED
    or code in (CloseCode.TOKEN_EXPIRED, CloseCode.KEYS_CHANGED, CloseCode.OVERLOADED, CloseCode.HELLO_TIMEOUT)
    or code in (CloseCode.UNSUPPORTED_DATA, CloseCode.INVALID_UTF8, CloseCode.FRAME_TIMEOUT)
)
"""Closes that refuse the client something, rather than end or move it."""

PING_FRAME = text_frame(encode(Ping()))
ALL_NORMAL_FRAME = text_frame(encode(Notice(NoticeKind.PRESSURE, Level.NORMAL.text)))
MAX_TARGETS = 1_024
"""Sessions whose publish target a connection remembers; then they are looked up again."""

RETRY_AFTER_MS = 1_000
"""For what the live store can't do now: it reconnects in less, and a failover takes a few of these."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The settings of a connection."""

    edge_name: str
    heartbeat: HeartbeatPolicy
    marks: OutboxMarks
    hello_timeout_s: float
    frame_timeout_s: float
    idle_timeout_s: float
    subscribe_timeout_s: float
    max_errors: int
    refreshes: Rate


class Connection(Outlet):
    """One client."""

    __slots__ = (
        "_beat",
        "_begun",
        "_begun_s",
        "_closing",
        "_connections",
        "_errors",
        "_held",
        "_incarnation",
        "_limits",
        "_noticed",
        "_opened_s",
        "_path",
        "_ping_bytes",
        "_producer",
        "_published",
        "_refreshes",
        "_sender",
        "_sessions",
        "_targets",
        "_told_s",
        "agent",
        "consumer",
        "hello_done",
        "id",
        "identity",
        "last_active_s",
        "origin",
        "place",
        "serves",
        "since_ms",
        "subscriptions",
        "tenant",
    )

    def __init__(
        self,
        id_: str,
        socket: ClientSocket,
        connections: "Connections",
        sessions: "Sessions",
        path: PublishPath,
        writer: TickWriter,
        metrics: EdgeMetrics,
        limits: ConnectionLimits,
        identity: Identity | None,
        now: float,
    ) -> None:
        super().__init__(socket, writer, metrics, limits.marks)
        self.id = id_
        self.identity = identity
        self.tenant: TenantState | None = None
        self.hello_done = False
        self.agent: str | None = None
        self.consumer: str | None = None
        """Whose cursors `ack` moves: the name that `hello` gave, scoped by the subject."""
        self.origin: str | None = None
        """Of the page that connected, where only some tenants allow it: for `hello` to judge."""
        self.since_ms = int(time.time() * 1000)
        self.subscriptions: dict[str, Subscription] = {}
        self.serves: Mapping[str, Offer] = NOTHING
        """By agent type."""
        self.place = NOWHERE
        """What it holds of limits."""
        self.last_active_s = now
        self._opened_s = now
        self._connections = connections
        self._sessions = sessions
        self._path = path
        self._limits = limits
        self._beat = Heartbeat(limits.heartbeat, random.random, now)
        self._sender: Sender | None = None
        self._refreshes: TokenBucket | None = None
        self._targets: dict[str, Target] | None = None
        self._producer = ""
        self._incarnation: str | None = None
        self._published = 0
        self._ping_bytes = 0
        self._errors = 0
        self._held: list[bytes] | None = None
        """What came behind a `hello` that waits for its turn."""
        self._begun: object | None = None
        """What it was sending at the last look and had not ended, since `_begun_s`."""
        self._begun_s = 0.0
        self._told_s = 0.0
        """Until when it was told to wait with something."""
        self._noticed: bytes | None = None
        """The notice of pressure that it was told last; None: that all is normal."""
        self._closing = False

    # ---- a slow reader ----------------------------------------------------------------------------------------------

    def _fall_behind(self) -> None:
        """Nothing more is queued: each session goes on later, from where it stands now. Nothing more is read either:
        who doesn't take its answers may not ask for more of them.
        """
        self._metrics.catch_ups.n += 1
        self._socket.pause_reading()
        for subscription in self.subscriptions.values():
            if subscription.joiner is None and subscription.behind is None:
                last = self._sessions.detach(subscription)
                subscription.behind = last if last is not None else parse_start("earliest")

    def _read_on(self) -> None:
        self._socket.resume_reading()
        for subscription in self.subscriptions.values():
            if subscription.behind is not None:
                start, subscription.behind = subscription.behind, None
                self._sessions.join(subscription, start)
        self._unpark()

    # ---- in ---------------------------------------------------------------------------------------------------------

    def on_text(self, data: bytes) -> None:
        """One complete text frame."""
        self._metrics.frames_in.n += 1
        if self._closing:
            return
        if self._held is not None:
            self._held.append(data)
            return
        if not is_utf8(data):
            self._metrics.errors.labels("invalid_utf8").n += 1
            self.close(CloseCode.INVALID_UTF8)
            return
        frame = None
        try:
            frame = decode_client_frame(data)
            if type(frame) is Publish:
                self._publish(frame)
            elif type(frame) is Pong:
                pass
            else:
                self._control(frame)
        except Exception as error:  # noqa: BLE001 - told or logged, by its kind
            self._failed(frame, error)

    def _failed(self, frame: object, error: Exception) -> None:
        if isinstance(error, FrameError):
            self._bad_frame(error.code, error.message, error.request_id)
        elif isinstance(error, InvalidValueError):
            self.refuse(getattr(frame, "id", None), error.code, error.message)
        else:
            log.error("frame_failed", connection=self.id, exc_info=error)
            self.close(CloseCode.INTERNAL)

    def on_binary(self) -> None:
        """A binary frame: not in this protocol."""
        self._metrics.errors.labels("binary").n += 1
        self.close(CloseCode.UNSUPPORTED_DATA)

    def _control(self, frame: object) -> None:
        if type(frame) is Hello:
            if self.hello_done:
                raise FrameError("hello_repeated", CODES["hello_repeated"].meaning, frame.id)
            self._held = []
            self._socket.pause_reading()
            self._connections.hellos.enter(lambda: self._greet(frame))
        elif not self.hello_done:
            raise FrameError("hello_expected", CODES["hello_expected"].meaning, getattr(frame, "id", None))
        elif type(frame) is Subscribe:
            subscribe(self, self._connections, frame.session, frame.start, frame.id, presence=frame.presence)
        elif type(frame) is Unsubscribe:
            unsubscribe(self, frame)
        elif type(frame) is Ack:
            acknowledge(self, self._connections, frame)
        elif type(frame) is Refresh:
            refresh(self, self._connections, frame)
        elif type(frame) is Serve:
            serve(self, self._connections, frame)
            self._targets = None
        else:
            assert type(frame) is Status
            tell_status(self, self._connections, frame)

    def _greet(self, frame: Hello) -> None:
        """It is this `hello`'s turn; then that of what was sent behind it."""
        held, self._held = self._held or [], None
        if self._closing:
            return
        try:
            greet(self, self._connections, frame)
        except Exception as error:  # noqa: BLE001 - told or logged, by its kind
            self._failed(frame, error)
        self._socket.resume_reading()
        for data in held:
            self.on_text(data)

    def _bad_frame(self, code: str, message: str, request_id: int | None) -> None:
        self._metrics.errors.labels(code).n += 1
        self._connections.say("bad_frame", code, self)
        self.send(Error(code, message, request_id))
        self._errors += 1
        if self._errors >= self._limits.max_errors:
            self.close(CloseCode.TOO_MANY_ERRORS)

    def refuse(
        self,
        request_id: int | None,
        code: str,
        message: str,
        session: str | None = None,
        *,
        retry_after_ms: int | None = None,
        operation: Operation | None = None,
    ) -> None:
        """Answer a request that is not done. `operation`: with `forbidden`, what the token does not allow."""
        self._metrics.refused.labels(code).n += 1
        self._connections.say("refused", code, self, operation)
        if retry_after_ms is None and CODES[code].retry:
            retry_after_ms = RETRY_AFTER_MS
        self._hold_off(retry_after_ms)
        self.send(Refused(code, message, request_id, session, retry_after_ms))

    def _hold_off(self, retry_after_ms: int | None) -> None:
        """It is refused something: who goes on asking is read less often."""
        too_early, self._told_s = hold_off(self._told_s, time.monotonic(), retry_after_ms)
        if too_early and self._socket.rest():
            self._metrics.rests.n += 1

    def begin(self, tenant: TenantState, frame: Hello) -> None:
        """`hello` was found good: from here on it may ask for more."""
        assert self.identity is not None
        subject, expires_at = self.identity.subject, self.identity.expires_at
        self.tenant = tenant
        self.agent = frame.agent
        if frame.consumer is not None:
            self.consumer = client_consumer(subject, frame.consumer)
        self._producer = subject if frame.producer is None else f"{subject}/{frame.producer}"
        self._incarnation = frame.incarnation
        self.hello_done = True
        if self._socket.seat is not None:
            self._socket.seat.known()
        self.send(
            Welcome(
                self.id,
                self._limits.edge_name,
                int(self._limits.heartbeat.interval_s * 1000),
                tenant.max_payload_bytes,
                PRODUCER_RING,
                frame.id,
                int(expires_at * 1000) if expires_at is not None else None,
            )
        )
        self._take_notice()
        self._connections.changed(self)

    def _take_notice(self) -> None:
        notice = self._connections.notice
        if notice is not self._noticed:
            self._noticed = notice
            self.post(notice or ALL_NORMAL_FRAME)

    # ---- subscriptions ----------------------------------------------------------------------------------------------

    def follow(self, session: str, begin: Position | Start | Cursor, request_id: int | None, *, presence: bool) -> None:
        """Subscribe to a session that it may follow and does not follow yet; answered from there."""
        subscription = Subscription(session, begin, self, self._sessions, request_id, presence=presence)
        self.subscriptions[session] = subscription
        self._sessions.subscribe(subscription)
        self._connections.awaiting(subscription)
        self._connections.changed(self)

    def drop(self, subscription: Subscription) -> None:
        """Forget a subscription: nothing of the session follows."""
        if self.subscriptions.get(subscription.session) is subscription:
            del self.subscriptions[subscription.session]
            self._sessions.unsubscribe(subscription)
            self._connections.changed(self)

    def take(self, subscription: Subscription) -> None:
        """Have a subscription, in the place of one of that session that there may be."""
        before = self.subscriptions.get(subscription.session)
        if before is not None:
            self._sessions.unsubscribe(before)
            if not before.answered:
                before.answered = True
                self.refuse(before.request_id, "value_invalid", "it is this connection's to work on", before.session)
        self.subscriptions[subscription.session] = subscription
        self._sessions.subscribe(subscription)
        self._connections.changed(self)

    def end_subscription(self, subscription: Subscription, code: str, retry_after_ms: int | None = None) -> None:
        """Refuse a subscription that can't begin, or go on: nothing of the session follows."""
        if self.subscriptions.get(subscription.session) is not subscription:
            return
        del self.subscriptions[subscription.session]
        self._sessions.unsubscribe(subscription)
        request_id = None if subscription.answered else subscription.request_id
        self.refuse(request_id, code, CODES[code].meaning, subscription.session, retry_after_ms=retry_after_ms)
        subscription.answered = True
        self._connections.changed(self)

    # ---- publish ----------------------------------------------------------------------------------------------------

    def _publish(self, frame: Publish) -> None:
        targets = self._targets
        target = targets.get(frame.session) if targets is not None else None
        if target is None:
            target = self._target(frame)
            if target is None:
                return
        now = time.monotonic()
        self.last_active_s = now
        if now >= target.use.renew_s and not self._connections.usage.publishes(target, now):
            self._metrics.refused.labels("too_many_sessions").n += 1
            meaning, wait_ms = CODES["too_many_sessions"].meaning, session_retry_ms()
            self.refused(frame.id, "too_many_sessions", meaning, retry_after_ms=wait_ms, expected=None)
            return
        sender = self._sender
        if sender is None:
            sender = self._sender = Sender()
        refusal = sender.admit(target.tenant, frame.class_, now, len(frame.payload))
        if refusal is not None:
            code, wait_ms = refusal
            self._metrics.refused.labels(code).n += 1
            self.refused(frame.id, code, CODES[code].meaning, retry_after_ms=wait_ms, expected=None)
            return
        if frame.seq is not None and self._incarnation is None:
            self.refuse(frame.id, "producer_missing", CODES["producer_missing"].meaning)
            return
        if frame.message_id is not None:
            message_id = ""
        elif frame.seq is not None:
            assert self._incarnation is not None
            message_id = derived_message_id(self._incarnation, frame.class_, frame.seq)
        else:
            self._published += 1
            message_id = f"{self.id}.{self._published}"
        self._path.publish(self, target, frame, self._producer, self._incarnation, message_id)

    def _target(self, frame: Publish) -> Target | None:
        """Where a publish goes, once it is known to be allowed; None when it was refused."""
        if not self.hello_done:
            raise FrameError("hello_expected", CODES["hello_expected"].meaning, frame.id)
        assert self.identity is not None
        assert self.tenant is not None
        key = SessionKey.parse(frame.session)
        if not self.identity.scopes.allows(Operation.PUBLISH, key):
            self.refuse(frame.id, "forbidden", CODES["forbidden"].meaning, operation=Operation.PUBLISH)
            return None
        target = self._connections.target(key, self.tenant, by_worker=key.agent_type in self.serves)
        if self._targets is None or len(self._targets) >= MAX_TARGETS:
            self._targets = {}
        self._targets[target.session] = target
        return target

    def published(self, publication: Publication, *, durable: bool, pending: bool, duplicate: bool) -> None:
        """The answer of the publish path."""
        self.send(published_frame(publication, durable=durable, pending=pending, duplicate=duplicate))

    def confirmed(self, publication: Publication) -> None:
        """The later answer to a pending one."""
        self.send(Confirmed(publication.target.session, publication.position))

    def refused(
        self, request_id: int | None, code: str, message: str, *, retry_after_ms: int | None, expected: int | None
    ) -> None:
        """The other answer of the publish path, which counts it."""
        self._connections.say("refused", code, self, Operation.PUBLISH)
        self._hold_off(retry_after_ms)
        self.send(refused_frame(request_id, code, message, retry_after_ms=retry_after_ms, expected=expected))

    # ---- life -------------------------------------------------------------------------------------------------------

    def take_refresh(self, now: float) -> int:
        """0, or the ms until another token may be shown: each may cost a signature check."""
        if self._refreshes is None:
            self._refreshes = TokenBucket(self._limits.refreshes)
        return self._refreshes.take(now)

    def renew_identity(self, identity: Identity) -> None:
        """Another token speaks for the connection: from here on that counts, also for what was begun before."""
        self.identity = identity
        self._targets = None
        for agent_type in tuple(self.serves):
            if not identity.scopes.allows_every(Operation.SERVE, identity.tenant, agent_type):
                self.refuse(None, "forbidden", CODES["forbidden"].meaning, operation=Operation.SERVE)
                self._connections.serving.end(self, RevokeReason.UNSERVED, agent_type)
        for subscription in tuple(self.subscriptions.values()):
            if type(subscription) is Assignment:
                continue
            if forbidden(identity, SessionKey.parse(subscription.session), presence=subscription.presence) is not None:
                self.end_subscription(subscription, "forbidden")

    def renew_tenant(self, tenant: TenantState) -> None:
        """The tenant's record changed."""
        self.tenant = tenant
        self._targets = None

    def look(self, now: float, wall: float) -> int:
        """Once a second: time-outs, heartbeat, progress, what is to be told. Bytes that wait for its reader."""
        if self._closing:
            return 0
        if not self.hello_done:
            if now - self._opened_s > self._limits.hello_timeout_s:
                self.close(CloseCode.HELLO_TIMEOUT)
            return 0
        identity = self.identity
        assert identity is not None
        if identity.expires_at is not None and wall >= identity.expires_at:
            self.close(CloseCode.TOKEN_EXPIRED)
            return 0
        self._take_notice()
        waiting: int = self._socket.transport.get_write_buffer_size()
        if waiting or self._outbox is not None:
            self._observe(waiting)
        self._unpark()
        if not self.subscriptions and not self.serves and now - self.last_active_s > self._limits.idle_timeout_s:
            self.close(CloseCode.IDLE)
            return 0
        outbox = self._outbox
        taken = 0
        if outbox is not None or self._beat.due(now):
            offered = self._socket.offered_bytes
            taken = self._written_bytes - waiting - (offered or 0)
            if outbox is not None and outbox.look(taken, waiting if offered is None else offered, now) is Action.CLOSE:
                self.close(CloseCode.NO_PROGRESS, abort=True)
                return 0
        behind = outbox is not None and outbox.flow is Flow.CATCHING_UP
        if self._never_ends(now, behind=behind):
            self.close(CloseCode.FRAME_TIMEOUT)
            return 0
        moved = self._socket.read_bytes + max(taken - self._ping_bytes, 0)
        beat = self._beat.look(now, moved, catching_up=behind)
        if beat is beat.PING:
            self._ping_bytes += len(PING_FRAME)
            self.post(PING_FRAME)
        elif beat is beat.DEAD:
            self.close(CloseCode.HEARTBEAT_TIMEOUT)
        return waiting

    def _never_ends(self, now: float, *, behind: bool) -> bool:
        """Whether one frame or message has been under way for too long: its bytes are signs of life, and are held.
        Of one that is `behind` nothing is read.
        """
        begun, before = self._socket.begun(), self._begun
        if begun is not None and not behind and (begun is before or (type(begun) is int and begun == before)):
            return now - self._begun_s > self._limits.frame_timeout_s
        self._begun, self._begun_s = begun, now
        return False

    def close(self, code: CloseCode, *, abort: bool = False) -> None:
        """End the connection, telling why; `abort` where the peer reads nothing anyway."""
        if self._closing:
            return
        self._closing = True
        known = CLOSES[code]
        self._metrics.closed.labels(known.name).n += 1
        if code in REFUSING:
            self._connections.say("connection_refused", known.name, self)
        else:
            log.debug("connection_closed", connection=self.id, code=known.code, reason=known.name)
        if self.out:
            self.flush()
        if abort:
            self._socket.abort()
        else:
            self._socket.close(known.code, known.name)

    def on_closed(self) -> None:
        """The socket is gone."""
        self._closing = True
        self._connections.serving.end(self, None)
        for subscription in self.subscriptions.values():
            self._sessions.unsubscribe(subscription)
        self.subscriptions.clear()
        self._connections.closed(self)
