"""A port that is open to everybody: clients that are slow on purpose, that wait, and that are too many. Raw sockets."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, ClassVar, Self

import pytest
from fastapi import FastAPI, Request
from starlette.responses import Response, StreamingResponse

from heliograph.service.command_line import ExitCode
from heliograph.service.health import Liveness, Readiness
from heliograph.service.http import create_app
from heliograph.service.lifecycle import Service, serve
from heliograph.service.metrics import Metrics
from heliograph.service.settings import ServiceSettings
from heliograph.service.sockets import OpenSockets

Eventually = Callable[[Callable[[], bool]], Awaitable[None]]
DEADLINE_S = 20.0


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("HELIOGRAPH_"):
            monkeypatch.delenv(name)


class Port:
    """A service that answers `/take` with the size of what it was sent, and `/give` with more than anybody reads."""

    def __init__(self, metrics: Metrics, sockets: OpenSockets | None, settings: dict[str, Any]) -> None:
        readiness, liveness = Readiness(), Liveness()
        app = create_app(title="t", version="0", metrics=metrics, readiness=readiness, liveness=liveness)
        _routes(app)
        chosen = ServiceSettings(host="127.0.0.1", port=0, **settings)
        self.metrics = metrics
        self.service = Service("t", "0", app, chosen, metrics, readiness, liveness, sockets=sockets)
        self.port = 0
        self._stop = asyncio.Event()
        self._end: asyncio.Task[ExitCode] | None = None

    async def __aenter__(self) -> Self:
        listening = asyncio.Event()

        def on_listening(_host: str, port: int) -> None:
            self.port = port
            listening.set()

        self._end = asyncio.create_task(serve(self.service, stop=self._stop, on_listening=on_listening))
        await asyncio.wait_for(listening.wait(), DEADLINE_S)
        return self

    async def __aexit__(self, *_: object) -> None:
        while Peer.opened:
            Peer.opened.pop().close()
        self._stop.set()
        assert self._end is not None
        await asyncio.wait_for(self._end, DEADLINE_S)

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.value(name, labels)


def _routes(app: FastAPI) -> None:
    @app.post("/take")
    async def take(request: Request) -> Response:
        return Response(str(len(await request.body())))

    @app.get("/give")
    async def give() -> Response:
        async def much() -> AsyncIterator[bytes]:
            for _ in range(1_000):
                yield b"x" * 100_000

        return StreamingResponse(much())


class Peer:
    """A client that sends the bytes it is given."""

    opened: ClassVar[list["Peer"]] = []

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.opened.append(self)

    @classmethod
    async def of(cls, port: Port, *, receive_buffer: int | None = None) -> Self:
        sock = socket.socket()
        sock.setblocking(False)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port.port))
        return cls(*await asyncio.open_connection(sock=sock, limit=4_096))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def ask(self, path: str = "/livez") -> bytes:
        """One request on a connection that is kept; the status line."""
        self.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return await self.answer()

    async def answer(self) -> bytes:
        async with asyncio.timeout(DEADLINE_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await self.reader.readexactly(int(length.split(b":")[1]))
        return head

    async def ended(self) -> bytes:
        """What came until the other side ended the stream."""
        found = b""
        async with asyncio.timeout(DEADLINE_S):
            with contextlib.suppress(ConnectionError):
                while data := await self.reader.read(65_536):
                    found += data
        return found

    def close(self) -> None:
        self.writer.transport.abort()


@contextlib.asynccontextmanager
async def dribbling(peer: Peer, data: bytes) -> AsyncIterator[None]:
    """Sends one more piece again and again."""

    async def send() -> None:
        while True:
            peer.send(data)
            await asyncio.sleep(0.02)

    task = asyncio.create_task(send())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    peer.close()


# ---- slow on purpose ------------------------------------------------------------------------------------------------


async def test_a_body_that_trickles_in_is_cut_off_in_time(metrics: Metrics, eventually: Eventually) -> None:
    async with Port(metrics, None, {"http_body_timeout_s": 0.3}) as port:
        peer = await Peer.of(port)
        peer.send(b"POST /take HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
        async with dribbling(peer, b"y"):
            await peer.ended()
        await eventually(lambda: port.value("sockets_refused_total", code="body_too_late") == 1)
        await eventually(lambda: port.value("open_sockets") == 0)
        assert port.value("http_errors_total") == 0, "no error of ours"


async def test_a_chunked_body_that_never_ends_is_cut_off_in_time(metrics: Metrics) -> None:
    async with Port(metrics, None, {"http_body_timeout_s": 0.3}) as port:
        peer = await Peer.of(port)
        peer.send(b"POST /take HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        async with dribbling(peer, b"1\r\ny\r\n"):
            await peer.ended()
        assert port.value("sockets_refused_total", code="body_too_late") == 1


async def test_a_body_in_pieces_that_comes_in_time_is_taken(metrics: Metrics) -> None:
    async with Port(metrics, None, {"http_body_timeout_s": 5.0}) as port:
        peer = await Peer.of(port)
        for _ in range(2):
            peer.send(b"POST /take HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
            for _ in range(10):
                peer.send(b"y")
                await asyncio.sleep(0.005)
            assert (await peer.answer()).startswith(b"HTTP/1.1 200 ")
        peer.close()


async def test_a_client_that_reads_nothing_of_its_answer_is_cut_off(metrics: Metrics, eventually: Eventually) -> None:
    async with Port(metrics, None, {"http_unread_timeout_s": 0.3}) as port:
        peer = await Peer.of(port, receive_buffer=4_096)
        peer.send(b"GET /give HTTP/1.1\r\nHost: x\r\n\r\n")
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined] # of a transport that reads
        await eventually(lambda: port.value("sockets_refused_total", code="not_read") == 1)
        await eventually(lambda: port.value("open_sockets") == 0)
        peer.close()


async def test_a_client_that_reads_slowly_is_served(metrics: Metrics) -> None:
    async with Port(metrics, None, {"http_unread_timeout_s": 0.5}) as port:
        peer = await Peer.of(port, receive_buffer=4_096)
        peer.send(b"GET /give HTTP/1.1\r\nHost: x\r\n\r\n")
        loop = asyncio.get_running_loop()
        end, read = loop.time() + 1.5, 0
        while loop.time() < end:
            read += len(await peer.reader.read(65_536))
            await asyncio.sleep(0.002)
        assert port.value("sockets_refused_total", code="not_read") == 0
        assert read > 100_000
        peer.close()


# ---- waiting --------------------------------------------------------------------------------------------------------


async def test_a_connection_between_requests_is_closed_in_time(metrics: Metrics) -> None:
    async with Port(metrics, None, {"http_idle_timeout_s": 1}) as port:
        peer = await Peer.of(port)
        assert (await peer.ask()).startswith(b"HTTP/1.1 200 ")
        assert port.value("idle_http_connections") == 1
        assert await peer.ended() == b""
        assert port.value("idle_http_connections") == 0


async def test_of_too_many_that_wait_the_one_that_waited_longest_is_closed(metrics: Metrics) -> None:
    async with Port(metrics, None, {"http_idle_connections": 3}) as port:
        peers = [await Peer.of(port) for _ in range(5)]
        for peer in peers[:3]:
            await peer.ask()
        await peers[0].ask()  # it waits anew from here on
        for peer in peers[3:]:
            await peer.ask()
        for gone in (peers[1], peers[2]):
            assert await gone.ended() == b""
        assert port.value("idle_http_connections") == 3
        assert port.value("sockets_refused_total", code="idle_connections") == 2
        for kept in (peers[0], *peers[3:]):
            assert (await kept.ask()).startswith(b"HTTP/1.1 200 ")
            kept.close()


# ---- too many -------------------------------------------------------------------------------------------------------


async def test_above_the_reserve_clients_are_told_to_come_back_and_probes_are_answered(metrics: Metrics) -> None:
    async with Port(metrics, OpenSockets(metrics, descriptors=40, reserve=30), {}) as port:
        assert port.value("open_sockets_most") == 20, "a small limit is shared in halves"
        peers = [await Peer.of(port) for _ in range(20)]
        for peer in peers:
            await peer.ask()
        late = await Peer.of(port)
        head = await late.ask("/take")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: " in head.lower()
        assert await late.ended() == b""
        probe = await Peer.of(port)
        assert (await probe.ask()).startswith(b"HTTP/1.1 200 ")
        assert (await peers[0].ask("/metrics")).startswith(b"HTTP/1.1 200 ")
        for peer in (*peers, probe):
            peer.close()


async def test_above_half_of_the_reserve_nobody_is_read(metrics: Metrics, eventually: Eventually) -> None:
    async with Port(metrics, OpenSockets(metrics, descriptors=40, reserve=20), {}) as port:
        peers = [await Peer.of(port) for _ in range(30)]
        await eventually(lambda: port.value("open_sockets") == 30)
        late = await Peer.of(port)
        assert await late.ended() == b""
        assert port.value("sockets_refused_total", code="descriptors") == 1
        for peer in peers[:11]:
            peer.close()
        await eventually(lambda: port.value("open_sockets") == 19)
        assert (await (await Peer.of(port)).ask()).startswith(b"HTTP/1.1 200 ")
        for peer in peers[11:]:
            peer.close()


async def test_sockets_are_under_way_until_they_bring_a_request(metrics: Metrics, eventually: Eventually) -> None:
    async with Port(metrics, None, {}) as port:
        silent, asking = await Peer.of(port), await Peer.of(port)
        await eventually(lambda: port.value("handshakes_under_way") == 2)
        await asking.ask()
        assert port.value("handshakes_under_way") == 1
        silent.close()
        asking.close()
        await eventually(lambda: port.value("open_sockets") == 0)
        assert port.value("handshakes_under_way") == 0
