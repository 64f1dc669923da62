"""The load generator in Python: its WebSocket client against a strict server, and what it counts."""

import asyncio
import contextlib
import json
import os
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import uvloop
from websockets.asyncio.server import Server, ServerConnection, serve

from heliograph.local.bench.client import HandshakeError, LoadClient, connect
from heliograph.local.bench.load import expected_deliveries, quantile
from heliograph.local.bench.loads import parse_report
from heliograph.local.bench.machine import Usage
from heliograph.local.bench.sides import write_protocol

DEADLINE_S = 20.0


@contextlib.asynccontextmanager
async def server(handler: Callable[[ServerConnection], object]) -> AsyncIterator[str]:
    async def handle(connection: ServerConnection) -> None:
        await handler(connection)  # type: ignore[misc]

    running: Server
    async with serve(handle, "127.0.0.1", 0, compression=None) as running:
        port = next(iter(running.sockets)).getsockname()[1]
        yield f"ws://127.0.0.1:{port}/v1/connect"


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 300_000])
async def test_texts_of_every_length_go_there_and_back(size: int) -> None:
    got: asyncio.Queue[bytes] = asyncio.Queue()
    async with server(echo) as url, asyncio.timeout(DEADLINE_S):
        client = await connect(url, "", lambda _client, text: got.put_nowait(text))
        client.send(b"x" * size)
        assert await got.get() == b"x" * size
        client.close()


async def test_a_ping_is_answered() -> None:
    answered: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def ping(connection: ServerConnection) -> None:
        answered.set_result(await (await connection.ping(b"there?")))
        await connection.wait_closed()

    async with server(ping) as url, asyncio.timeout(DEADLINE_S):
        client = await connect(url, "", lambda _client, _text: None)
        assert await answered >= 0
        client.close()


async def test_the_header_reaches_the_server() -> None:
    seen: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def look(connection: ServerConnection) -> None:
        assert connection.request is not None
        seen.set_result(connection.request.headers["Authorization"])

    async with server(look) as url, asyncio.timeout(DEADLINE_S):
        client = await connect(url, "Authorization: Bearer t", lambda _client, _text: None)
        assert await seen == "Bearer t"
        client.close()


async def test_a_refused_handshake_says_what_was_answered() -> None:
    async def refuse(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        with pytest.raises(HandshakeError, match="503 Service Unavailable"):
            await connect(f"ws://127.0.0.1:{port}/", "", lambda _client, _text: None)


async def test_frames_are_put_together_however_they_arrive() -> None:
    got: list[bytes] = []
    client = LoadClient(lambda _client, text: got.append(text), b"", b"accept")
    client.open.set_result(None)
    data = b"\x81\x03one" + b"\x81\x7e\x00\x80" + b"2" * 128 + b"\x81\x00"
    for at in range(len(data)):
        client.data_received(data[at : at + 1])
    assert got == [b"one", b"2" * 128, b""]
    client.data_received(data)
    assert len(got) == 6


@pytest.mark.parametrize(("sent", "subscribers", "channels"), [(10, 4, 4), (7, 10, 3), (5, 3, 1), (0, 5, 5), (3, 2, 4)])
def test_deliveries_expected_are_those_of_each_publication(sent: int, subscribers: int, channels: int) -> None:
    one_by_one = sum(1 for number in range(sent) for one in range(subscribers) if one % channels == number % channels)
    assert expected_deliveries(sent, subscribers, channels) == one_by_one


def test_quantiles_of_nothing_are_zero() -> None:
    assert quantile([], 0.99) == 0.0
    assert quantile([1.0, 2.0, 3.0], 0.5) == 2.0


class Broker:
    """Passes publishes on to subscribers; `drop` forgets one delivery, `refuse` answers each publish with a refusal."""

    def __init__(self, *, drop: bool = False, refuse: bool = False) -> None:
        self._drop = drop
        self._refuse = refuse
        self._subscribers: dict[str, list[ServerConnection]] = defaultdict(list)
        self.hellos: list[dict[str, str]] = []
        self.seqs: dict[tuple[ServerConnection, str], list[int]] = defaultdict(list)

    async def serve(self, connection: ServerConnection) -> None:
        async for message in connection:
            frame = json.loads(message)
            match frame["type"]:
                case "hello":
                    self.hellos.append(frame)
                case "subscribe":
                    self._subscribers[frame["session"]].append(connection)
                case "publish":
                    self.seqs[connection, frame["session"]].append(frame["seq"])
                    if self._refuse:
                        await connection.send('{"type":"refused","code":"overloaded"}')
                    for reader in self._subscribers[frame["session"]]:
                        if self._drop:
                            self._drop = False
                            continue
                        payload = json.dumps(frame["payload"], separators=(",", ":"))
                        await reader.send(f'{{"type":"message","payload":{payload}}}')


async def generate(broker: Broker, tmp_path: Path, *flags: str) -> list[str]:
    """Run the generator to its end; the lines it printed."""
    async with server(broker.serve) as url, asyncio.timeout(60):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "heliograph.local.bench.load",
            "-url", url, "-protocol", str(write_protocol(tmp_path / "p.json")), "-pid", str(os.getpid()), *flags,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        out, _ = await process.communicate()
    return out.decode().splitlines()


SMALL = ("-subs", "6", "-channels", "3", "-pubs", "2", "-rate", "100", "-seconds", "0.5")


async def test_everything_that_was_sent_is_counted_once(tmp_path: Path) -> None:
    broker = Broker()
    result = parse_report(await generate(broker, tmp_path, *SMALL), Usage(1.0, {}, 0.0))
    assert result.sent > 20
    assert result.delivered == result.expected == 2 * result.sent
    assert result.refused == 0
    assert 0 < result.p50_ms <= result.p99_ms <= result.max_ms < 60_000


async def test_producers_count_from_one_per_session(tmp_path: Path) -> None:
    broker = Broker()
    await generate(broker, tmp_path, *SMALL)
    assert len({hello["incarnation"] for hello in broker.hellos}) == 8
    assert len(broker.seqs) > 1
    for seqs in broker.seqs.values():
        assert seqs == list(range(1, len(seqs) + 1))


async def test_a_lost_delivery_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = parse_report(await generate(Broker(drop=True), tmp_path, *SMALL), Usage(1.0, {}, 0.0))
    assert result.lost == 1


async def test_refusals_are_counted_and_the_first_is_shown(tmp_path: Path) -> None:
    result = parse_report(await generate(Broker(refuse=True), tmp_path, *SMALL), Usage(1.0, {}, 0.0))
    assert result.refused == result.sent
    assert "overloaded" in result.first_error


async def test_a_server_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "heliograph.local.bench.load", "-url", "ws://127.0.0.1:1/", "-pid", str(os.getpid()),
        "-protocol", str(write_protocol(tmp_path / "p.json")), "-subs", "2", "-channels", "2",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode == 1
    assert b"error:" in out


def test_what_is_sent_on_a_connection_that_was_cut_is_no_error() -> None:
    async def cut_and_send() -> None:
        async with server(echo) as url, asyncio.timeout(DEADLINE_S):
            client = await connect(url, "", lambda _client, _text: None)
            client.close()
            client.send(b"too late")

    uvloop.run(cut_and_send())  # the loop of load generators; asyncio's own would only warn
