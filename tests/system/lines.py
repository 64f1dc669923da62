"""One raw WebSocket line to an edge: frames as bytes, in and out. Meaning, and the record of it, are the drivers'."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage
from websockets.typing import Subprotocol

from heliograph.protocol.frames import (
    CONNECT_PATH,
    SUBPROTOCOL,
    Hello,
    Ping,
    Pong,
    Reconnect,
    ServerFrame,
    Welcome,
    decode_server_frame,
    encode,
)

HEARTBEATS_MISSED = 2.5
OPEN_TIMEOUT_S = 5.0
RETRY_S = (0.05, 0.25)

FALLEN = (OSError, EOFError, ConnectionClosed, InvalidHandshake, InvalidMessage, TimeoutError)
"""How a line that breaks, hangs or does not come about shows."""


class Line:
    """An open connection that was welcomed."""

    def __init__(self, ws: ClientConnection, name: str, welcome: Welcome, url: str = "") -> None:
        self._ws = ws
        self.name = name
        self.url = url
        self.welcome = welcome
        self.leave_after_ms: int | None = None
        """Set by `reconnect`."""
        self._silent_s = HEARTBEATS_MISSED * welcome.heartbeat_ms / 1000

    @classmethod
    async def open(cls, url: str, name: str, hello: Hello) -> "Line":
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            ws = await connect(
                url.replace("http", "ws", 1) + CONNECT_PATH,
                subprotocols=[Subprotocol(SUBPROTOCOL)],
                compression=None,
                ping_interval=None,
                proxy=None,
                max_size=None,
                close_timeout=1,
            )
            try:
                await ws.send(encode(hello), text=True)
                welcome = decode_server_frame(await ws.recv(decode=False))
                if isinstance(welcome, Reconnect):
                    raise ConnectionResetError("told to come back later")
                assert isinstance(welcome, Welcome), welcome
            except BaseException:
                ws.transport.abort()
                raise
        return cls(ws, name, welcome, url)

    async def send(self, frame: object) -> None:
        await self._ws.send(encode(frame), text=True)

    async def frames(self) -> AsyncIterator[tuple[bytes, ServerFrame]]:
        """What comes, pings answered; raises one of FALLEN when it ends or falls silent."""
        while True:
            async with asyncio.timeout(self._silent_s):
                data = await self._ws.recv(decode=False)
            frame = decode_server_frame(data)
            if isinstance(frame, Ping):
                await self.send(Pong())
                continue
            if isinstance(frame, Reconnect):
                self.leave_after_ms = frame.after_ms
            if frame is not None:
                yield data, frame

    async def ask(self, frame: object) -> ServerFrame:
        """Send a frame and return what comes next, whatever that is."""
        await self.send(frame)
        return await self.next()

    async def next(self) -> ServerFrame:
        """The next frame."""
        async for _, frame in self.frames():
            return frame
        raise AssertionError("unreachable")

    async def ended(self) -> int:
        """Wait for the server to end it; its close code."""
        with suppress(*FALLEN):
            async for _ in self.frames():
                pass
        return self._ws.close_code or 0

    async def close(self) -> None:
        await self._ws.close()

    def abort(self) -> None:
        self._ws.transport.abort()


class Edges:
    """Which edge is next: a line that fell goes to another one."""

    def __init__(self, urls: Sequence[str], first: int, seed: int) -> None:
        self._urls = urls
        self._at = first % len(urls)
        self.random = random.Random(seed)

    async def connect(self, name: Callable[[], str], hello: Callable[[], Hello]) -> Line:
        """For as long as it takes."""
        while True:
            url = self._urls[self._at]
            try:
                return await Line.open(url, name(), hello())
            except (*FALLEN, msgspec.MsgspecError):
                self.leave()
                await asyncio.sleep(self.random.uniform(*RETRY_S))

    async def keep(
        self,
        name: Callable[[], str],
        hello: Callable[[], Hello],
        read: Callable[[Line], Awaitable[None]],
        *,
        write: Callable[[Line], Awaitable[None]] | None = None,
        parted: Callable[[Line], None],
        stays: Callable[[], bool] = lambda: False,
    ) -> None:
        """For ever one line after the other: each until `read` returns or it falls, then the next edge's, or, where it
        `stays`, the same one's again. `write` goes on beside `read`; `parted` is told of each line's end.
        """
        while True:
            line = await self.connect(name, hello)
            writer = asyncio.ensure_future(write(line)) if write is not None else None
            try:
                await read(line)
                await line.close()
                await asyncio.sleep((line.leave_after_ms or 0) / 1000)
            except FALLEN:
                pass
            finally:
                if writer is not None:
                    writer.cancel()
                    await asyncio.wait([writer])
                line.abort()
                parted(line)
            if writer is not None and not writer.cancelled() and not isinstance(writer.exception(), FALLEN):
                writer.result()
            if not stays():
                self.leave()

    def leave(self) -> None:
        self._at = (self._at + 1) % len(self._urls)
