"""The client: one identity, one connection at a time, as many sessions as you like."""

import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Literal, Self, overload
from uuid import uuid4

import msgspec
from msgspec import Raw

from heliograph.client.acks import Acks
from heliograph.client.addresses import Addresses
from heliograph.client.each import Handler, handle_each
from heliograph.client.errors import ClosedError, ConnectError, RequestTimeout
from heliograph.client.messages import Message, encode_payload
from heliograph.client.pressure import Pressure, PressureWatch
from heliograph.client.publisher import Publisher
from heliograph.client.reader import Reader
from heliograph.client.receipts import Durabilities, Receipt
from heliograph.client.replies import ReplyWatch
from heliograph.client.runner import ClientState, Runner
from heliograph.client.sender import Sender
from heliograph.client.settings import ClientSettings
from heliograph.client.stats import ClientStats
from heliograph.client.subscription import PresenceSubscription, Subscription
from heliograph.client.tokens import Token, TokenRefresh, TokenSource
from heliograph.client.traffic import ClientTraffic
from heliograph.client.work import Work
from heliograph.client.workers import Workers
from heliograph.core.dispatching import MAX_CAPACITY
from heliograph.core.errors import InvalidValueError
from heliograph.core.limits import MAX_NAME_LENGTH
from heliograph.core.messages import AckMode, MessageClass
from heliograph.core.positions import Position
from heliograph.core.sessions import SessionKey, check_label
from heliograph.protocol.frames import CURSOR, EARLIEST, LATEST, Hello, Publish, TraceParent, check_name

logger = logging.getLogger("heliograph.client")


class Client:
    """A connection to Heliograph that heals itself.

        async with Client("ws://127.0.0.1:8080", token=token, producer="planner") as client:
            await client.publish("acme:planner:42", {"step": 1})
            async for item in client.subscribe("acme:planner:42", start="earliest"):
                print(item)

    `url` is the address of an edge, or a list of several. `token` may be a function, plain or async: it is called for
    each connection, and before a token runs out, whose place the next one takes without a reconnect. `producer` is the
    publisher's stable name (the server puts the token's subject before it), `consumer` the subscriber's, `agent` what
    presence shows. A client belongs to the event loop it was connected in.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        token: Token | None = None,
        producer: str = "sdk",
        consumer: str | None = None,
        agent: str | None = None,
        affinity: str | SessionKey | None = None,
        settings: ClientSettings | None = None,
        on_state: Callable[[ClientState, str], None] | None = None,
        on_notice: Callable[[Pressure], None] | None = None,
        uniform: Callable[[], float] = random.random,
        **connection: Any,
    ) -> None:
        """`on_state` is told each change of `state`, and why; `on_notice` each change of `pressure`. `uniform` draws
        from [0, 1), for jitter.

        `affinity`: clients with the same one, a session they share, say, are led to the same edge by a balancer that
        hashes the header `X-Heliograph-Affinity`. Without it each client is led back to where it was.

        `connection` goes to `websockets.asyncio.client.connect` (`ssl`, `proxy` …).
        """
        _check_names(producer=producer, consumer=consumer, agent=agent)
        self.settings = settings or ClientSettings()
        self.stats = ClientStats()
        self._addresses = Addresses(url, uniform, None if affinity is None else str(affinity))
        self._token = token
        self._hello = Hello(producer=producer, consumer=consumer, agent=agent)
        self._on_state = on_state
        self._pressure = PressureWatch(on_notice)
        self._uniform = uniform
        self._options = connection
        self._runner: Runner | None = None
        self._task: asyncio.Task[None] | None = None
        self._replies: dict[str, ReplyWatch] = {}

    # ---- life --------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> ClientState:
        """What it is doing about its connection."""
        return self._runner.state if self._runner is not None else ClientState.NEW

    @property
    def url(self) -> str | None:
        """The edge it is connected to now."""
        link = self._runner.link if self._runner is not None else None
        return link.url if link is not None else None

    @property
    def pressure(self) -> Pressure:
        """How the edge fares, as it told last: for programs that would rather slow down than be refused."""
        return self._pressure.now

    @property
    def edge(self) -> str | None:
        """The name of that edge, which says more than its URL where a balancer chooses."""
        link = self._runner.link if self._runner is not None else None
        return link.welcome.edge if link is not None else None

    async def connect(self) -> None:
        """Start, and return with the first connection. Raises ConnectError, AuthenticationError, ClosedError."""
        if self._runner is not None:
            raise RuntimeError("a client connects once; make a new one")
        settings = self.settings
        sender = Sender(self._wake)
        durabilities = Durabilities(sender.send, sender.next_id, settings.status_interval_s)
        self._publisher = Publisher(
            settings, sender, durabilities, self.stats,
            incarnation=lambda: secrets.token_urlsafe(12), uniform=self._uniform,
        )  # fmt: skip
        self._acks = Acks(self._hello.consumer, settings, sender, self.stats, self._uniform)
        self._reader = Reader(settings, sender, self._acks, self.stats, self._uniform)
        self._durabilities = durabilities
        token = TokenSource(self._token, settings.open_timeout_s)
        refresh = TokenRefresh(token, sender, settings, self.stats, self._uniform)
        self._workers = Workers(settings, sender, self._reader, self.stats, self._uniform)
        traffic = ClientTraffic(
            self._hello, sender, self._publisher, self._reader, self._acks, self._workers, durabilities, refresh,
            self._pressure, self.stats,
        )  # fmt: skip
        self._runner = traffic.runner = Runner(
            self._addresses, token, traffic, settings,
            uniform=self._uniform, on_state=self._on_state, options=self._options,
        )  # fmt: skip
        self._task = asyncio.create_task(self._run(self._runner))
        try:
            async with asyncio.timeout(settings.connect_timeout_s):
                await asyncio.wait([self._runner.first, self._task], return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            cause = self._runner.last_failure
            await self.close(timeout=0)
            message = f"no connection within {settings.connect_timeout_s:g} s; last: {cause or 'no answer'}"
            raise ConnectError("unreachable", message, self._addresses.urls, cause) from None
        except BaseException:
            await self.close(timeout=0)
            raise
        if self._runner.error is not None:
            await self.close(timeout=0)
            raise self._runner.error

    def _wake(self) -> None:
        if self._runner is not None and self._runner.link is not None:
            self._runner.link.wake()

    async def _run(self, runner: Runner) -> None:
        """The connection's task. However it ends, whoever waits for something is told."""
        error: ClosedError | None = None
        try:
            await runner.run()
            if isinstance(runner.error, ClosedError):
                error = runner.error
            elif runner.error is not None:
                error = ClosedError(runner.error.code, runner.error.message)
        except Exception as failure:
            logger.exception("the client met an error of its own")
            error = ClosedError("internal", f"the client met an error of its own: {failure!r}")
        finally:
            error = error or ClosedError("closed", "the client is closed")
            self._publisher.end(error)
            self._reader.end(error)
            self._durabilities.end(error)
            self._acks.end()
            self._workers.end(error)
            runner.set_state(ClientState.CLOSED, error.code)

    async def close(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as asyncio's own waits read
        """Wait for the answers to what was published and acknowledged, at most `timeout` seconds (default: the
        setting), and leave.

        A publish that has no answer by then raises PublishUncertain, a subscription ends with ClosedError.
        """
        if self._runner is None or self._task is None:
            return
        for watch in list(self._replies.values()):
            await watch.close()
        if not self._task.done():
            if timeout != 0:
                await self._workers.close()
            self._runner.set_state(ClientState.CLOSING, "close() was called")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.settings.close_timeout_s if timeout is None else timeout):
                    await asyncio.gather(self._publisher.answered(), self._acks.stored())
            self._runner.stopping = True
            link = self._runner.link
            if link is not None:
                link.leave("closed here")
                await link.closed()
            self._task.cancel()
        await asyncio.wait([self._task])

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close(timeout=None if error is None else 0)

    def _check_open(self) -> None:
        if self._runner is None:
            raise ClosedError("closed", "the client is not connected yet: use `async with Client(…) as client:`")
        if self._runner.state is ClientState.CLOSING:
            raise ClosedError("closed", "the client is being closed")

    # ---- publishing --------------------------------------------------------------------------------------------------

    async def publish(
        self,
        session: str | SessionKey,
        data: object,
        *,
        cls: MessageClass | str = MessageClass.EVENT,
        ack: AckMode | str | None = None,
        id: str | None = None,  # noqa: A002 - the one word for it
        event_type: str | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
        reply_to: str | SessionKey | None = None,
        content_type: str | None = None,
        traceparent: str | None = None,
        retry: bool = True,
    ) -> Receipt:
        """Publish one message; return when it is answered as `ack` asks.

        `data` is anything JSON can say, or bytes. `ack`: `durable` (default for control and event; where the log takes
        longer than a second the receipt comes all the same, see `Receipt.durable`), `accepted`, or `none`, which does
        not wait (default for telemetry). `id` makes it idempotent: the same id again, within 10 minutes and from
        wherever, is the same message.

        Messages of one session and class are published in the order of the calls, whatever happens to connections. A
        refusal that may pass is tried again: for control until it is in, for an event up to `settings.retry_for_s`,
        with `retry=False` not at all. Cancelling ends the waiting, it can't recall a message that was sent.

        Raises PublishRefused, PublishUncertain, ClosedError, and InvalidValueError for what is not publishable.
        """
        self._check_open()
        _check_names(
            message_id=id,
            event_type=event_type,
            correlation_id=correlation_id,
            causation_id=causation_id,
            content_type=content_type,
        )
        if traceparent is not None:
            _check_traceparent(traceparent)
        payload, content_type = encode_payload(data, content_type)
        frame = Publish(
            _session(session),
            Raw(payload),
            class_=MessageClass(cls),
            ack=AckMode(ack) if ack is not None else None,
            message_id=id,
            event_type=event_type,
            correlation_id=correlation_id,
            causation_id=causation_id,
            reply_to=_session(reply_to) if reply_to is not None else None,
            content_type=content_type,
            traceparent=traceparent,
        )
        self._workers.published(id)
        return await self._publisher.publish(frame, retry=retry)

    # ---- subscribing -------------------------------------------------------------------------------------------------

    @overload
    def subscribe(
        self,
        session: str | SessionKey,
        start: str = ...,
        *,
        ack: Literal["auto", "manual"] = ...,
        presence: Literal[False] = ...,
    ) -> Subscription: ...

    @overload
    def subscribe(
        self,
        session: str | SessionKey,
        start: str = ...,
        *,
        ack: Literal["auto", "manual"] = ...,
        presence: Literal[True],
    ) -> PresenceSubscription: ...

    def subscribe(
        self,
        session: str | SessionKey,
        start: str = LATEST,
        *,
        ack: Literal["auto", "manual"] = "manual",
        presence: bool = False,
    ) -> Subscription | PresenceSubscription:
        """The session's messages from `latest`, `earliest` or after a position, as `Message | Gap`, in order, without
        holes and repeats, over any number of connections.

        `cursor` begins behind what this client's `consumer` acknowledged last, in whatever process that was, and at the
        earliest where it never did. Acknowledge by `message.ack()`, or `ack="auto"`: asking for the next message says
        that the one before is done with.

            async for item in client.subscribe("acme:planner:42"): ...
            async with client.subscribe("acme:planner:42") as subscription: ...

        With `presence` there are `Presence` items besides: who joins the session and who leaves it, from now on. The
        registry says who is there.

        A reader that falls behind by `settings.buffered_messages` is parked: the server stops sending the session and
        goes on from there once the reader has caught up (`Subscription.times_parked` counts). Other sessions, and
        publishing, don't wait for it.
        """
        self._check_open()
        if start not in (LATEST, EARLIEST, CURSOR):
            start = str(Position.parse(start))
        if ack not in ("auto", "manual"):
            raise InvalidValueError("value_invalid", "ack", ack, "auto or manual")
        if self._hello.consumer is None and (start == CURSOR or ack == "auto"):
            raise InvalidValueError("consumer_missing", "consumer", None, "a stable name, for its cursors")
        begin = self._reader.subscribe_presence if presence else self._reader.subscribe
        return begin(_session(session), start, auto_ack=ack == "auto")

    subscription = subscribe

    # ---- serving -----------------------------------------------------------------------------------------------------

    def serve(self, agent_type: str, *, capacity: int = 8, ack: Literal["auto", "manual"] = "auto") -> Work:
        """Work on sessions of an agent type, up to `capacity` at a time. Nobody needs to know their ids beforehand: a
        session comes when it has a message that no worker has seen, from where the worker before had come to.

            async with client.serve("planner", capacity=8) as work:
                async for session in work:
                    tasks.start_soon(plan, session)   # `async for item in session: …`, then `await session.done()`

        One worker has a session at a time. After a lost connection its sessions raise LeaseLost, and others come.
        See `serve_each` for the usual case.
        """
        self._check_open()
        check_label("agent_type", agent_type)
        if not 1 <= capacity <= MAX_CAPACITY:
            raise InvalidValueError("value_invalid", "capacity", capacity, f"1 to {MAX_CAPACITY}")
        if ack not in ("auto", "manual"):
            raise InvalidValueError("value_invalid", "ack", ack, "auto or manual")
        return self._workers.serve(agent_type, capacity, auto_ack=ack == "auto")

    async def serve_each(self, agent_type: str, handler: Handler, *, capacity: int = 8, idle_s: float = 30.0) -> None:
        """Call `handler(session, item)` for each message (or gap) of sessions of an agent type, for as long as it
        runs: those of one session in turn, sessions beside one another, `capacity` at a time.

            async def plan(session, item):
                if isinstance(item, Message):
                    await client.reply(item, {"plan": …})

            await client.serve_each("planner", plan)

        A message is acknowledged when its handler has returned. A handler that raises gets the same message again
        (after `settings.handler_pause_s`, it or another worker). When the session is lost while a handler runs, the
        handler is cancelled: the message comes again to whoever has the session next, so what it did should bear being
        done twice (publish with ids of your own making). A session without a message for `idle_s` is given
        back, which makes room for others.
        """
        async with self.serve(agent_type, capacity=capacity) as work:
            await handle_each(work, handler, idle_s=idle_s, pause_s=self.settings.handler_pause_s)

    # ---- requests ----------------------------------------------------------------------------------------------------

    async def request(
        self,
        session: str | SessionKey,
        data: object,
        *,
        timeout: float = 30.0,  # noqa: ASYNC109 - as asyncio's own waits read
        reply_to: str | SessionKey | None = None,
        id: str | None = None,  # noqa: A002
        cls: MessageClass | str = MessageClass.EVENT,
        correlation_id: str | None = None,
        **fields: Any,
    ) -> Message:
        """Publish a request and return the first message that answers it (see `reply`), from `reply_to` or `session`.

        Raises RequestTimeout after `timeout` seconds, besides what `publish` and `subscribe` raise.
        """
        self._check_open()
        message_id = id or uuid4().hex
        target = _session(session)
        answers = _session(reply_to) if reply_to is not None else target
        try:
            async with asyncio.timeout(timeout):
                watch = self._reply_watch(answers)
                future = watch.expect(message_id)
                try:
                    await watch.ready()
                    await self.publish(
                        target, data, cls=cls, id=message_id, correlation_id=correlation_id or message_id,
                        reply_to=answers, **fields,
                    )  # fmt: skip
                    answer = await future
                finally:
                    future.cancel()
        except TimeoutError:
            raise RequestTimeout(target, message_id, timeout) from None
        if isinstance(answer, Message):
            return answer
        raise answer

    def _reply_watch(self, session: str) -> ReplyWatch:
        watch = self._replies.get(session)
        if watch is None:
            subscription = self._reader.subscribe(session, LATEST)

            def ended() -> None:
                self._replies.pop(session, None)

            watch = self._replies[session] = ReplyWatch(subscription, self.settings.reply_linger_s, ended)
        return watch

    async def reply(self, message: Message, data: object, **fields: Any) -> Receipt:
        """Answer `message`: to its `reply_to`, else its session, naming it as the cause. `fields` as for `publish`."""
        fields.setdefault("cls", message.class_ if message.class_ is not MessageClass.TELEMETRY else MessageClass.EVENT)
        fields.setdefault("correlation_id", message.correlation_id or message.id)
        fields.setdefault("causation_id", message.id)
        return await self.publish(message.reply_to or message.session, data, **fields)


def _session(session: str | SessionKey) -> str:
    return str(session if isinstance(session, SessionKey) else SessionKey.parse(session))


def _check_names(**names: str | None) -> None:
    """What the server would call malformed is told here, by its name, and costs the connection nothing."""
    for field, value in names.items():
        if value is not None:
            if len(value) > MAX_NAME_LENGTH:
                raise InvalidValueError("value_invalid", field, value, f"at most {MAX_NAME_LENGTH} characters")
            check_name(field, value)


def _check_traceparent(value: str) -> None:
    try:
        msgspec.convert(value, TraceParent)
    except msgspec.ValidationError:
        wanted = "a W3C traceparent, such as 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        raise InvalidValueError("value_invalid", "traceparent", value, wanted) from None
