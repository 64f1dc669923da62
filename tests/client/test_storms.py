"""Many clients in one program lose their edge at once: their loop stays theirs, and they come back spread out."""

import asyncio
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from tests.certificates import certificate, server_side
from tests.client.conftest import QUICK
from tests.client.fake_edge import FakeEdge

from heliograph.client import Client, ClientState
from heliograph.core.backoff import BackoffPolicy

CLIENTS = 200
SPREAD_S = 1.0
"""Ceiling of the first delay, so that the clients come back over this time."""
BLOCKED_S = 1.0
"""CPU time of one turn of the loop, at most: what others in the program wait behind. Some 0.1 s where nobody else wants
the machine; certificates read for each client, or handshakes in step, would be many seconds."""


def trusted_certificate(folder: Path) -> None:
    """One for this machine, beside the system's own authorities."""
    own = certificate(folder).read_bytes()
    system = ssl.get_default_verify_paths().cafile
    (folder / "authorities.pem").write_bytes(own + (Path(system).read_bytes() if system else b""))


class EdgeElsewhere:
    """A fake edge on a loop and thread of its own: its work is not the clients'."""

    def __init__(self, folder: Path) -> None:
        self.edge = FakeEdge(ssl=server_side(folder))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.edge.start(), self._loop).result(30)

    def drop_all(self) -> None:
        self._loop.call_soon_threadsafe(self.edge.drop_all)

    def end(self) -> None:
        asyncio.run_coroutine_threadsafe(self.edge.stop(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EdgeElsewhere]:
    trusted_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authorities.pem"))
    monkeypatch.setattr("heliograph.client.dialing._context", None)  # this process may have read others before
    edge = EdgeElsewhere(tmp_path)
    yield edge
    edge.end()


async def longest_turn() -> float:
    """Until cancelled: the most CPU time that one turn of this loop took."""
    most = 0.0
    with suppress(asyncio.CancelledError):
        while True:
            begin = time.thread_time()
            await asyncio.sleep(0)
            most = max(most, time.thread_time() - begin)
    return most


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.01)


async def test_two_hundred_clients_that_lose_their_edge_do_not_block_their_loop(elsewhere: EdgeElsewhere) -> None:
    settings = replace(QUICK, reconnect=BackoffPolicy(base_s=SPREAD_S, cap_s=SPREAD_S), silent_heartbeats=30)
    waits: list[float] = []

    def note(state: ClientState, why: str) -> None:
        if state is ClientState.WAITING:
            waits.append(float(why.split(" ", maxsplit=1)[0]))

    clients = [
        Client(elsewhere.edge.url, token="t", proxy=None, settings=settings, on_state=note) for _ in range(CLIENTS)
    ]
    watch = asyncio.create_task(longest_turn())
    try:
        await asyncio.gather(*(client.connect() for client in clients))
        waits.clear()
        begin_s = time.monotonic()
        elsewhere.drop_all()
        await until(lambda: all(client.stats.connections >= 2 for client in clients))
        back_s = time.monotonic() - begin_s
        await asyncio.gather(*(client.publish(f"acme:planner:{n}", n) for n, client in enumerate(clients)))
    finally:
        watch.cancel()
        await asyncio.gather(*(client.close(timeout=0) for client in clients))
    blocked_s = await watch
    print(f"\nlongest turn {blocked_s * 1000:.0f} ms of CPU; all back after {back_s:.2f} s")
    assert blocked_s < BLOCKED_S
    quarters = [sum(wait_s * 4 // SPREAD_S == quarter for wait_s in waits) for quarter in range(4)]
    assert max(quarters) < len(waits) / 2, "they come in a wave"
