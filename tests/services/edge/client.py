"""Clients of the tests: a strict one that understands frames, and one that writes whatever bytes a test wants."""

import asyncio
import base64
import contextlib
import itertools
import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.typing import Origin, Subprotocol

from heliograph.protocol.frames import SUBPROTOCOL, decode_server_frame

DEADLINE_S = 20.0
PROTOCOLS = (SUBPROTOCOL,)


class Client:
    """A WebSocket client. `websockets` ends the connection for any breach of RFC 6455; each frame must be strict JSON
    and one that `heliograph.protocol` knows.
    """

    def __init__(self, ws: ClientConnection, token: str | None, *, answers_pings: bool) -> None:
        self._ws = ws
        self._token = token
        self._answers_pings = answers_pings
        self._ids = itertools.count(1)
        self._changed = asyncio.Event()
        self.frames: list[dict[str, Any]] = []
        """Every frame but pings, in order."""
        self.inbox: list[dict[str, Any]] = []
        """Those that nobody took yet."""
        self.pings = 0
        self.is_closed = False
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def connect(
        cls,
        address: str,
        *,
        token: str | None = None,
        in_header: bool = False,
        answers_pings: bool = True,
        protocols: Sequence[str] | None = PROTOCOLS,
        origin: str | None = None,
        max_queue: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Self:
        """Raises what `websockets` raises for a refused handshake."""
        authorization = {"Authorization": f"Bearer {token}"} if in_header and token else {}
        ws = await connect(
            address,
            additional_headers={**authorization, **(headers or {})},
            subprotocols=None if protocols is None else [Subprotocol(one) for one in protocols],
            origin=None if origin is None else Origin(origin),
            compression=None,
            ping_interval=None,
            close_timeout=2,
            max_size=None,
            max_queue=max_queue,
            user_agent_header=None,
            proxy=None,
        )
        return cls(ws, None if in_header else token, answers_pings=answers_pings)

    async def _read(self) -> None:
        try:
            async for text in self._ws:
                assert isinstance(text, str)
                frame = json.loads(text, parse_constant=_refuse)
                assert decode_server_frame(text) is not None, frame
                if frame["type"] == "ping":
                    self.pings += 1
                    if self._answers_pings:
                        await self._ws.send('{"type":"pong"}')
                    continue
                self.frames.append(frame)
                self.inbox.append(frame)
                self._changed.set()
        except ConnectionClosed:
            pass
        finally:
            self.is_closed = True
            self._changed.set()

    # ---- out --------------------------------------------------------------------------------------------------------

    async def send(self, frame: dict[str, Any] | str | bytes | Sequence[str]) -> None:
        """A frame: an object, or what is to be sent as it is (a sequence of texts: as fragments)."""
        await self._ws.send(json.dumps(frame) if isinstance(frame, dict) else frame)

    async def hello(self, **fields: Any) -> dict[str, Any]:
        """`hello` with this client's token; the `welcome`."""
        if self._token is not None:
            fields.setdefault("token", self._token)
        await self.send({"type": "hello", **fields})
        return await self.next("welcome")

    async def ask(self, type_: str, **fields: Any) -> dict[str, Any]:
        """Send a frame with an id; the one frame that answers it."""
        id_ = next(self._ids)
        await self.send({"type": type_, "id": id_, **fields})
        return await self.next(id=id_)

    async def publish(self, session: str, payload: Any = 1, **fields: Any) -> dict[str, Any]:
        """Publish; the answer."""
        if "class_" in fields:
            fields["class"] = fields.pop("class_")
        return await self.ask("publish", session=session, payload=payload, **fields)

    async def subscribe(self, session: str, start: str = "latest") -> dict[str, Any]:
        """Subscribe; the answer."""
        return await self.ask("subscribe", session=session, **{"from": start})

    async def barrier(self) -> None:
        """Return when everything sent before is judged: frames are handled in order."""
        answer = await self.ask("unsubscribe", session="nobody")
        assert answer["type"] == "unsubscribed"

    # ---- in ---------------------------------------------------------------------------------------------------------

    async def next(self, type_: str | None = None, deadline_s: float = DEADLINE_S, **fields: Any) -> dict[str, Any]:
        """Take the first frame of this type with these fields, waiting for it."""

        def fits(frame: dict[str, Any]) -> bool:
            return (type_ is None or frame["type"] == type_) and all(
                frame.get(name) == value for name, value in fields.items()
            )

        def look() -> dict[str, Any] | None:
            return next((frame for frame in self.inbox if fits(frame)), None)

        await self.until(lambda: look() is not None, f"{type_ or 'a frame'} with {fields}", deadline_s)
        found = look()
        assert found is not None
        self.inbox.remove(found)
        return found

    async def messages(self, session: str, count: int, deadline_s: float = DEADLINE_S) -> list[dict[str, Any]]:
        """Take the next `count` messages of a session."""

        def found() -> list[dict[str, Any]]:
            return [frame for frame in self.inbox if frame["type"] == "message" and frame["session"] == session]

        await self.until(lambda: len(found()) >= count, f"{count} messages of {session}", deadline_s)
        taken = found()[:count]
        for frame in taken:
            self.inbox.remove(frame)
        return taken

    async def until(self, state: Callable[[], bool], what: str = "the state", deadline_s: float = DEADLINE_S) -> None:
        """Wait until what has arrived makes `state` true."""
        try:
            async with asyncio.timeout(deadline_s):
                while not state():
                    assert not self.is_closed, f"closed ({self.close_code}) before {what}; last {self.frames[-3:]}"
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"no {what} in {deadline_s:g} s; last {self.frames[-3:]}") from None

    def of(self, type_: str, session: str | None = None) -> list[dict[str, Any]]:
        """All frames of a type that ever came."""
        return [
            frame
            for frame in self.frames
            if frame["type"] == type_ and (session is None or frame.get("session") == session)
        ]

    def positions(self, session: str) -> list[str]:
        """Positions of all messages of a session that ever came, in the order of their coming."""
        return [frame["position"] for frame in self.of("message", session) if "position" in frame]

    # ---- end --------------------------------------------------------------------------------------------------------

    async def closed(self, deadline_s: float = DEADLINE_S) -> int | None:
        """Wait until the edge ended the connection; the close code it sent (1006: none)."""
        async with asyncio.timeout(deadline_s):
            await asyncio.wait([self._reader])
            await self._ws.wait_closed()
        return self.close_code

    @property
    def subprotocol(self) -> str | None:
        return self._ws.subprotocol

    @property
    def close_code(self) -> int | None:
        return self._ws.close_code

    @property
    def close_reason(self) -> str | None:
        return self._ws.close_reason

    async def close(self) -> None:
        await self._ws.close()
        await asyncio.gather(self._reader, return_exceptions=True)

    def abort(self) -> None:
        """End the socket without a close frame."""
        self._ws.transport.abort()


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def contiguous(positions: Sequence[str], first_seq: int = 1) -> bool:
    """Whether positions are of one epoch, rising by one from `first_seq`."""
    seqs = [int(position[23:]) for position in positions]
    return len({position[:22] for position in positions}) <= 1 and seqs == list(
        range(first_seq, first_seq + len(positions))
    )


class RawClient:
    """A socket that did the handshake and then sends the bytes that a test gives it."""

    opened: ClassVar[list[asyncio.StreamWriter]] = []
    """All of a test: one that fails leaves some open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened.append(writer)
        self.reader = reader
        self.writer = writer
        self.response = b""

    @classmethod
    async def connect(
        cls,
        host: str,
        port: int,
        *,
        headers: str = "",
        with_handshake: bytes = b"",
        limit: int = 2**16,
        receive_buffer: int | None = None,
    ) -> Self:
        """`headers`: more of them, or others than the usual ones. `with_handshake`: sent in the same segment.
        `receive_buffer`: of the socket, small for a slow reader.
        """
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await asyncio.get_running_loop().sock_connect(sock, (host, port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=limit)
        client = cls(reader, writer)
        writer.write(handshake(host, port, headers) + with_handshake)
        async with asyncio.timeout(DEADLINE_S):
            client.response = await reader.readuntil(b"\r\n\r\n")
        return client

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    def send(self, frame: dict[str, Any] | bytes, opcode: Opcode = Opcode.TEXT, *, fin: bool = True) -> None:
        """A masked frame."""
        self.write(masked(frame, opcode, fin=fin))

    async def receive(self) -> tuple[int, bytes]:
        """The next frame: opcode and payload. The end of the stream is (8, b"")."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                head = await self.reader.readexactly(2)
                length = head[1] & 0x7F
                assert not head[1] & 0x80, "a server masked"
                if length == 126:
                    length = int.from_bytes(await self.reader.readexactly(2))
                elif length == 127:
                    length = int.from_bytes(await self.reader.readexactly(8))
                return head[0] & 0x0F, await self.reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return 8, b""

    async def frame(self, type_: str) -> dict[str, Any]:
        """The next frame of a type; others are passed over."""
        while True:
            opcode, data = await self.receive()
            assert opcode == Opcode.TEXT, (opcode, data)
            found: dict[str, Any] = json.loads(data)
            if found["type"] == type_:
                return found

    async def close_code(self) -> int | None:
        """Read until the close frame; its code. None where the stream ended without one."""
        while True:
            opcode, data = await self.receive()
            if opcode == Opcode.CLOSE:
                return int.from_bytes(data[:2]) if data else None

    async def ended(self) -> None:
        """Return when the edge ended the stream."""
        async with asyncio.timeout(DEADLINE_S):
            with contextlib.suppress(ConnectionError):
                while await self.reader.read(2**16):
                    pass

    @classmethod
    def abort_all(cls) -> None:
        """End what a test left open."""
        while cls.opened:
            cls.opened.pop().transport.abort()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


def handshake(host: str, port: int, headers: str = "") -> bytes:
    """A client's opening handshake; `headers` are added to the usual ones, or replace them."""
    usual = {
        "Host": f"{host}:{port}",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Protocol": SUBPROTOCOL,
    }
    lines = [f"{name}: {value}\r\n" for name, value in usual.items() if f"{name}:" not in headers]
    return f"GET /v1/connect HTTP/1.1\r\n{''.join(lines)}{headers}\r\n".encode()


def masked(frame: dict[str, Any] | bytes, opcode: Opcode = Opcode.TEXT, *, fin: bool = True) -> bytes:
    """A client's frame as bytes."""
    data = json.dumps(frame).encode() if isinstance(frame, dict) else frame
    return Frame(opcode, data, fin=fin).serialize(mask=True)
