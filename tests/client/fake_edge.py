"""An edge that speaks frames and does as it is told: one process, no stores, faults on demand.

Producers are judged by the reference of core, positions and epochs are as real ones. Each fault of a test is a line:
`edge.drop_all()`, `edge.on_publish = …`, `edge.forget(session)`.
"""

import asyncio
import contextlib
import http
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import msgspec
from msgspec import Raw, Struct
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from heliograph.core.messages import MessageClass
from heliograph.core.positions import Position
from heliograph.core.producers import Accept, Claim, Duplicate, OutOfOrder, ProducerLedger
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.frames import (
    CURSOR,
    EARLIEST,
    LATEST,
    SUBPROTOCOL,
    Ack,
    Acked,
    ClientFrame,
    Confirmed,
    Epoch,
    Error,
    Hello,
    MessageFrame,
    Ping,
    Pong,
    Presence,
    Publish,
    Published,
    Refresh,
    Refreshed,
    Refused,
    Status,
    StatusAnswer,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
    Welcome,
    decode_client_frame,
    encode,
)
from heliograph.protocol.message_ids import derived_message_id
from heliograph.protocol.messages import content_hash

BEFORE_ALL = "0000000000000-00000000-0000000000000000"
"""What a subscriber is told where a session has no message yet."""
SILENT = object()
"""What `on_publish` answers to make the edge process a publish and not answer it."""


def epoch(number: int) -> str:
    return f"{1764000000000 + number:013d}-{number:08x}"


@dataclass
class FakeSession:
    """One session as the live store would keep it."""

    name: str
    number: int = 1
    seq: int = 0
    log: list[tuple[Position, MessageFrame]] = field(default_factory=list)
    lost_with_epoch: dict[str, bool] = field(default_factory=dict)
    """By new epoch: whether nothing was lost with the old one."""
    durable: bool = True
    """Whether publishes are durable at once."""
    unconfirmed: list[Position] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ledger = ProducerLedger(lambda position: True)

    @property
    def epoch(self) -> str:
        return epoch(self.number)

    @property
    def head(self) -> Position:
        return Position(self.epoch, self.seq)

    def append(self, frame: MessageFrame) -> Position:
        self.seq += 1
        frame.position = str(self.head)
        self.log.append((self.head, frame))
        return self.head

    @property
    def payloads(self) -> list[Any]:
        return [msgspec.json.decode(frame.payload) for _, frame in self.log]

    @property
    def message_ids(self) -> list[str]:
        return [frame.message_id for _, frame in self.log]


class FakeConnection:
    """One client's connection."""

    def __init__(self, edge: "FakeEdge", ws: ServerConnection, hello: Hello) -> None:
        self.edge = edge
        self.ws = ws
        self.hello = hello
        self.subscribed: set[str] = set()
        self.presence: set[str] = set()
        """Of these, sessions whose joins and leaves were asked for."""
        self.received: list[ClientFrame] = []
        self.out: list[bytes] = []
        self.paused = False

    def send(self, frame: Struct | bytes) -> None:
        self.out.append(frame if isinstance(frame, bytes) else encode(frame))
        self.edge.kick(self)

    def drop(self) -> None:
        """Without a goodbye."""
        self.ws.transport.abort()

    def drop_mid_frame(self) -> None:
        """Half a frame, then nothing."""
        self.ws.transport.write(b"\x81\x7e\x04\x00" + b'{"type":"message","position":"')
        self.ws.transport.close()

    async def close(self, code: int, reason: str = "") -> None:
        await self.ws.close(code, reason)


PublishHook = Callable[[FakeConnection, Publish], "Struct | object | None"]


class FakeEdge:
    """`async with FakeEdge() as edge: Client(edge.url)`."""

    def __init__(
        self,
        *,
        heartbeat_ms: int = 10_000,
        ping: bool = False,
        max_payload_bytes: int = 65_536,
        host: str = "127.0.0.1",
        name: str = "edge-1",
        ssl: ssl.SSLContext | None = None,
    ) -> None:
        self.host = host
        self.name = name
        self.ssl = ssl
        self.heartbeat_ms = heartbeat_ms
        self.ping = ping
        self.max_payload_bytes = max_payload_bytes
        self.sessions: dict[str, FakeSession] = {}
        self.connections: list[FakeConnection] = []
        self.hellos: list[Hello] = []
        self.handshakes = 0
        self.headers: list[Headers] = []
        """Of each handshake."""
        self.refuse_handshakes: list[Response] = []
        """Answers to the next handshakes instead of the upgrade."""
        self.on_hello: Callable[[ServerConnection, Hello], Awaitable[bool]] | None = None
        """True: it has dealt with the connection, which ends."""
        self.on_publish: PublishHook | None = None
        """Instead of processing: an answer frame, SILENT (process, don't answer), or None (process and answer)."""
        self.on_subscribe: Callable[[FakeConnection, Subscribe], Struct | None] | None = None
        self.on_refresh: Callable[[FakeConnection, Refresh], Struct | None] | None = None
        """What answers a refresh; None: nothing does. Without it each is taken."""
        self.token_life_s: float | None = None
        """What `welcome` and `refreshed` say is left of a token; None: it has no end."""
        self.refreshes: list[Refresh] = []
        self.on_ack: Callable[[FakeConnection, Ack], Struct | object | None] | None = None
        """Instead of storing: an answer frame, SILENT (store, don't answer), or None (store and answer)."""
        self.acks: list[Ack] = []
        self.cursors: dict[tuple[str, str], str] = {}
        """By consumer and session."""
        self.publishes: list[Publish] = []
        self.subscribes: list[Subscribe] = []
        self.unsubscribes = 0
        self.statuses: list[Status] = []
        self.pongs = 0
        self.failure: Exception | None = None
        """What broke in here; raised at the end of the test."""
        self._server: Server | None = None
        self._changed = asyncio.Event()
        self._kicks: dict[FakeConnection, asyncio.Event] = {}

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def start(self, port: int = 0) -> None:
        self._server = await serve(
            self._serve,
            self.host,
            port,
            ssl=self.ssl,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            compression=None,
            ping_interval=None,
            close_timeout=1,
            process_request=self._handshake,
        )
        self.port: int = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Gone: connections break, the port refuses."""
        assert self._server is not None
        for connection in self.connections:
            connection.drop()
        self._server.close(close_connections=True)
        await self._server.wait_closed()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()
        if self.failure is not None:
            raise self.failure

    @property
    def url(self) -> str:
        return f"{'ws' if self.ssl is None else 'wss'}://{self.host}:{self.port}"

    def session(self, name: str) -> FakeSession:
        return self.sessions.setdefault(name, FakeSession(name))

    # ---- faults and what others do -----------------------------------------------------------------------------------

    def publish(self, session: str, data: Any, **fields: Any) -> Position:
        """Somebody else's message."""
        payload = Raw(msgspec.json.encode(data))
        number = len(self.session(session).log)
        frame = MessageFrame(
            session, fields.pop("message_id", f"m{number}"), 1, "other", payload, MessageClass.EVENT, **fields
        )
        return self._append(self.session(session), frame)

    def publish_many(self, session: str, data: list[Any]) -> None:
        for each in data:
            self.publish(session, each)

    def swallow(self, session: str, data: Any) -> Position:
        """A message that pub/sub loses: it is in the window, subscribers don't get it."""
        fake = self.session(session)
        return fake.append(
            MessageFrame(session, f"m{len(fake.log)}", 1, "other", Raw(msgspec.json.encode(data)), MessageClass.EVENT)
        )

    def telemetry(self, session: str, data: Any) -> None:
        frame = MessageFrame(session, "t", 1, "other", Raw(msgspec.json.encode(data)), MessageClass.TELEMETRY)
        self._fan_out(session, frame)

    def forget(self, session: str, *, certain: bool = True, lose: int = 0) -> None:
        """The live store is another: a new epoch, no memory of producers, the last `lose` messages gone."""
        fake = self.session(session)
        old = fake.head
        if lose:
            del fake.log[-lose:]
        fake.number += 1
        fake.seq = 0
        fake.ledger = ProducerLedger(lambda position: True)
        fake.lost_with_epoch[fake.epoch] = certain
        frame = Epoch(session, fake.epoch, certain, str(Position(old.epoch, old.seq - lose)))
        self._fan_out(session, frame)

    def drop_all(self) -> None:
        for connection in list(self.connections):
            connection.drop()

    def confirm(self, session: str) -> None:
        """The log has everything now."""
        fake = self.session(session)
        fake.durable = True
        for position in fake.unconfirmed:
            for connection in self.connections:
                connection.send(Confirmed(session, str(position)))
        fake.unconfirmed.clear()

    def broadcast(self, frame: Struct) -> None:
        for connection in self.connections:
            connection.send(frame)

    # ---- waiting -----------------------------------------------------------------------------------------------------

    async def until(self, condition: Callable[[], bool], timeout_s: float = 15.0) -> None:
        """Return when `condition` holds, looking again whenever a frame came."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.02):
                        await self._changed.wait()

    # ---- the server --------------------------------------------------------------------------------------------------

    async def _handshake(self, ws: ServerConnection, request: Request) -> Response | None:
        self.handshakes += 1
        self.headers.append(request.headers)
        self._changed.set()
        return self.refuse_handshakes.pop(0) if self.refuse_handshakes else None

    async def _serve(self, ws: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            hello = decode_client_frame(await ws.recv(decode=False))
            assert isinstance(hello, Hello)
            self.hellos.append(hello)
            if self.on_hello is not None and await self.on_hello(ws, hello):
                return
            connection = FakeConnection(self, ws, hello)
            welcome = Welcome(
                "c1", self.name, self.heartbeat_ms, self.max_payload_bytes, 64, hello.id, self._expires_at_ms
            )
            await ws.send(encode(welcome), text=True)
            self.connections.append(connection)
            self._kicks[connection] = asyncio.Event()
            tasks = [asyncio.create_task(self._write(connection))]
            if self.ping:
                tasks.append(asyncio.create_task(self._ping(connection)))
            try:
                async for data in ws:
                    assert isinstance(data, str)
                    frame = decode_client_frame(data.encode())
                    connection.received.append(frame)
                    try:
                        self._handle(connection, frame)
                    except Exception as error:
                        self.failure = error
                        await ws.close(CloseCode.TOO_MANY_ERRORS, "the fake failed")
                        raise
                    self._changed.set()
            finally:
                self.connections.remove(connection)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                self._changed.set()

    @property
    def _expires_at_ms(self) -> int | None:
        return None if self.token_life_s is None else int((time.time() + self.token_life_s) * 1000)

    def _refresh(self, connection: FakeConnection, frame: Refresh) -> None:
        self.refreshes.append(frame)
        answer: Struct | None = Refreshed(self._expires_at_ms or 0, frame.id)
        if self.on_refresh is not None:
            answer = self.on_refresh(connection, frame)
        if answer is not None:
            connection.send(answer)

    def kick(self, connection: FakeConnection) -> None:
        if connection in self._kicks:
            self._kicks[connection].set()

    async def _write(self, connection: FakeConnection) -> None:
        kick = self._kicks[connection]
        with contextlib.suppress(ConnectionClosed):
            while True:
                await kick.wait()
                kick.clear()
                while connection.out and not connection.paused:
                    await connection.ws.send(connection.out.pop(0), text=True)

    async def _ping(self, connection: FakeConnection) -> None:
        while True:
            await asyncio.sleep(self.heartbeat_ms / 1000)
            connection.send(Ping())

    def _handle(self, connection: FakeConnection, frame: ClientFrame) -> None:
        match frame:
            case Publish():
                self._publish(connection, frame)
            case Subscribe():
                self._subscribe(connection, frame)
            case Unsubscribe():
                self.unsubscribes += 1
                connection.subscribed.discard(frame.session)
                connection.send(Unsubscribed(frame.session, frame.id))
            case Ack():
                self._ack(connection, frame)
            case Status():
                self.statuses.append(frame)
                fake = self.session(frame.session)
                connection.send(StatusAnswer(frame.session, frame.position, fake.durable, frame.id))
            case Refresh():
                self._refresh(connection, frame)
            case Pong():
                self.pongs += 1
            case _:
                connection.send(Error("unknown_type", "not here"))

    def _publish(self, connection: FakeConnection, frame: Publish) -> None:
        self.publishes.append(frame)
        answer = self.on_publish(connection, frame) if self.on_publish is not None else None
        if isinstance(answer, Struct):
            connection.send(answer)
            return
        result = self._judge(connection, frame)
        if answer is not SILENT and result is not None:
            connection.send(result)

    def _ack(self, connection: FakeConnection, frame: Ack) -> None:
        self.acks.append(frame)
        answer = self.on_ack(connection, frame) if self.on_ack is not None else None
        if isinstance(answer, Struct):
            connection.send(answer)
            return
        consumer = connection.hello.consumer
        assert consumer is not None
        assert Position.parse(frame.position) <= self.session(frame.session).head, "never given"
        key = (consumer, frame.session)
        self.cursors[key] = max(self.cursors.get(key, ""), frame.position)
        if answer is not SILENT and frame.id is not None:
            connection.send(Acked(frame.session, self.cursors[key], frame.id))

    def _judge(self, connection: FakeConnection, frame: Publish) -> Struct | None:
        fake = self.session(frame.session)
        hello = connection.hello
        producer = f"{frame.class_}|{hello.producer}|{hello.incarnation}".encode() if frame.seq is not None else b""
        claim = Claim(content_hash(bytes(frame.payload)), producer, frame.seq or 0, frame.message_id or "")
        if frame.class_ is MessageClass.TELEMETRY:
            self._fan_out(frame.session, self._message(frame, hello))
            return None if frame.ack in (None, "none") else Published(False, id=frame.id, message_id="t")
        judgement = fake.ledger.judge(claim, 0)
        match judgement:
            case Accept():
                message = self._message(frame, hello)
                position = self._append(fake, message)
                fake.ledger.record(claim, position, 0)
                if not fake.durable:
                    fake.unconfirmed.append(position)
                return Published(
                    fake.durable,
                    id=frame.id,
                    position=str(position),
                    message_id=message.message_id,
                    pending=not fake.durable,
                )
            case Duplicate():
                if judgement.consumes:
                    fake.ledger.record(claim, judgement.position, 0)
                return Published(True, id=frame.id, position=str(judgement.position), duplicate=True)
            case OutOfOrder():
                return Refused("out_of_order", "skipped", id=frame.id, expected=judgement.expected)
            case other:
                return Refused(other.code, "can't be judged", id=frame.id)

    def _message(self, frame: Publish, hello: Hello) -> MessageFrame:
        message_id = frame.message_id or derived_message_id(hello.incarnation or "", frame.class_, frame.seq or 0)
        return MessageFrame(
            frame.session,
            message_id,
            1,
            hello.producer or "",
            frame.payload,
            frame.class_,
            event_type=frame.event_type,
            correlation_id=frame.correlation_id,
            causation_id=frame.causation_id,
            reply_to=frame.reply_to,
            content_type=frame.content_type,
        )

    def _append(self, fake: FakeSession, frame: MessageFrame) -> Position:
        position = fake.append(frame)
        self._fan_out(fake.name, frame)
        return position

    def tell(self, presence: Presence) -> None:
        """A join or leave, to who asked for them."""
        for connection in self.connections:
            if presence.session in connection.subscribed & connection.presence:
                connection.send(presence)

    def _fan_out(self, session: str, frame: Struct) -> None:
        data = encode(frame)
        for connection in self.connections:
            if session in connection.subscribed:
                connection.send(data)

    def _subscribe(self, connection: FakeConnection, frame: Subscribe) -> None:
        self.subscribes.append(frame)
        answer = self.on_subscribe(connection, frame) if self.on_subscribe is not None else None
        if answer is not None:
            connection.send(answer)
            return
        fake = self.session(frame.session)
        connection.subscribed.add(frame.session)
        connection.presence.discard(frame.session)
        if frame.presence:
            connection.presence.add(frame.session)
        if frame.start == LATEST:
            connection.send(Subscribed(frame.session, str(fake.head) if fake.log else BEFORE_ALL, id=frame.id))
            return
        start, missing = frame.start, False
        if start == CURSOR:
            assert connection.hello.consumer is not None
            found = self.cursors.get((connection.hello.consumer, frame.session))
            start, missing = found or EARLIEST, found is None
        after = Position("", 0) if start == EARLIEST else Position.parse(start)
        told = BEFORE_ALL if start == EARLIEST else start
        connection.send(Subscribed(frame.session, told, id=frame.id, cursor_missing=missing))
        last = after
        for position, message in fake.log:
            if position > after:
                if position.epoch != last.epoch and last.epoch:
                    certain = fake.lost_with_epoch[position.epoch]
                    connection.send(Epoch(fake.name, position.epoch, certain, str(last)))
                connection.send(message)
                last = position


def response(status: int, **headers: str) -> Response:
    return Response(status, http.HTTPStatus(status).phrase, Headers(**headers), b"")
