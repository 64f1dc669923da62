"""A reader that takes a few KB a second, beside quick ones, on real processes: what it costs, and what it gets."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import pytest
from tests.services.edge.client import handshake, masked
from tests.system.rig import Rig, until

from heliograph.client import Client, ClientSettings, Message
from heliograph.local.ports import LOOPBACK

pytestmark = pytest.mark.xdist_group("system-services")

TENANT = "slowly"
ROOMY = {"connection_messages_per_s": 1e6, "connection_burst_messages": 10**6, "connection_burst_bytes": 10**9}
ROOMY_QUOTAS = {"event": {"messages_per_s": 1e6, "bytes_per_s": 1e9}}
PAYLOAD_BYTES = 50_000
QUICK_READERS = 10
WARM_UP = 200
MESSAGES = 600
"""30 MB: nearly four times what the hot window holds, and 28 times what may wait for a reader."""
HARD_BYTES = 1024 * 1024
"""`HELIOGRAPH_OUTBOUND_HARD_BYTES`, as it is unless set."""
NOISE_BYTES = 10 * 1024 * 1024
"""By which an edge's memory differs from one moment to another, with 500 KB of messages under way to each reader."""
SIP_BYTES_PER_S = 4_096


class Sipper:
    """A subscriber with a receive buffer of 4 KiB, read at the pace that the test wants."""

    def __init__(self, port: int) -> None:
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        self._port = port
        self._data = bytearray()
        self.loop = asyncio.get_running_loop()

    async def subscribe(self, token: str, session: str) -> None:
        hello = {"type": "hello", "token": token, "subscriptions": [{"session": session}]}
        await self.loop.sock_connect(self.socket, (LOOPBACK, self._port))
        await self.loop.sock_sendall(self.socket, handshake(LOOPBACK, self._port) + masked(hello))
        while b'"type":"subscribed"' not in self._data:
            await self.take(4_096)
        del self._data[: self._data.index(b"\r\n\r\n") + 4]

    async def take(self, size: int) -> None:
        data = await self.loop.sock_recv(self.socket, size)
        assert data, "the edge closed the connection"
        self._data += data

    async def sip(self) -> None:
        """Until cancelled."""
        while True:
            await self.take(SIP_BYTES_PER_S // 4)
            await asyncio.sleep(0.25)

    async def drink(self, up_to: bytes) -> list[dict[str, Any]]:
        """Everything up to a frame that holds `up_to`: what came with sips too."""
        answered = 0
        while self._data.find(up_to, max(0, len(self._data) - 2**17)) < 0:
            async with asyncio.timeout(30):
                await self.take(2**16)
            if len(self._data) - answered > 2**20:  # pings among them; who moves is alive, but this is polite
                answered = len(self._data)
                await self.loop.sock_sendall(self.socket, masked({"type": "pong"}))
        return list(self._frames())

    def _frames(self) -> Iterator[dict[str, Any]]:
        at, data = 0, bytes(self._data)
        while at + 2 <= len(data):
            length, at = data[at + 1] & 0x7F, at + 2
            if length > 125:
                size = 2 if length == 126 else 8
                length, at = int.from_bytes(data[at : at + size]), at + size
            if at + length > len(data):
                return
            yield json.loads(data[at : at + length])
            at += length


@pytest.fixture
async def publisher(rig: Rig) -> AsyncIterator[Client]:
    await asyncio.to_thread(rig.apply, TENANT, limits=ROOMY, quotas=ROOMY_QUOTAS)
    edge = rig.stack.edges[0]
    await asyncio.to_thread(edge.wait_ready)
    settings = ClientSettings(retry_for_s=120.0)
    async with Client(edge.url, token=rig.token(TENANT), proxy=None, settings=settings) as client:
        yield client


async def read_for_ever(client: Client, session: str, seen: dict[int, int], reader: int) -> None:
    """Note the last number that came."""
    async for item in client.subscribe(session):
        assert isinstance(item, Message)
        seen[reader] = item.data["n"]


async def test_a_slow_reader_costs_a_bounded_memory_stays_connected_and_gets_everything(
    rig: Rig, publisher: Client
) -> None:
    """Heartbeats come each second here, so two silent ones are 2 s; the log has what the hot window has no more."""
    edge, session = rig.stack.edges[0], rig.session(TENANT)
    quick, seen = [], dict.fromkeys(range(QUICK_READERS), -1)
    for number in seen:
        client = Client(edge.url, token=rig.token(TENANT), proxy=None)
        await client.connect()
        quick.append((client, asyncio.create_task(read_for_ever(client, session, seen, number))))

    async def publish(first: int, last: int) -> None:
        for begin in range(first, last, 20):
            await asyncio.gather(
                *(
                    publisher.publish(session, {"n": n, "x": "x" * PAYLOAD_BYTES}, ack="accepted")
                    for n in range(begin, min(begin + 20, last))
                )
            )

    def resident() -> float:
        return rig.metric(edge, "process_resident_memory_bytes")

    async def watch(most: list[float]) -> None:
        while True:
            most.append(await asyncio.to_thread(resident))
            await asyncio.sleep(0.2)

    slow = Sipper(edge.port)
    samples: list[float] = []
    try:
        await until("everybody is subscribed", lambda: rig.metric(edge, "heliograph_edge_sessions") >= 1)
        await publish(0, WARM_UP)
        await until("the quick ones have it", lambda: set(seen.values()) == {WARM_UP - 1}, 60.0)
        caught_up = rig.metric(edge, "heliograph_edge_catch_ups_total")
        closed = rig.metric(edge, "heliograph_edge_connections_closed_total")
        from_log = rig.metric(edge, "heliograph_edge_history_reads_total", 'source="log"')
        base = resident()
        await slow.subscribe(rig.token(TENANT), session)
        tasks = [asyncio.create_task(slow.sip()), asyncio.create_task(watch(samples))]
        await publish(WARM_UP, WARM_UP + MESSAGES)
        last = WARM_UP + MESSAGES - 1
        await until("the quick ones have it", lambda: set(seen.values()) == {last}, 60.0)
        await asyncio.sleep(3 * 1.0)  # through some heartbeats more at this pace
        for task in tasks:
            assert not task.done(), task
            task.cancel()
        await asyncio.wait(tasks)
        assert rig.metric(edge, "heliograph_edge_catch_ups_total") > caught_up
        assert rig.metric(edge, "heliograph_edge_connections_closed_total") == closed
        await publisher.publish(session, {"n": last + 1, "end": "of it"})
        frames = await slow.drink(b'"end":"of it"')
    finally:
        slow.socket.close()
        for client, task in quick:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await client.close(timeout=0)
    grown = max(samples) - base
    print(f"\nthe edge grew by {grown / 2**20:.1f} MiB, {len(samples)} samples")
    assert grown <= 2 * HARD_BYTES + NOISE_BYTES
    messages = [frame for frame in frames if frame["type"] == "message"]
    assert [frame for frame in frames if frame["type"] in ("gap", "epoch")] == []
    assert [frame["payload"]["n"] for frame in messages] == list(range(WARM_UP, last + 2))
    assert rig.metric(edge, "heliograph_edge_history_reads_total", 'source="log"') > from_log
