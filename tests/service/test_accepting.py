"""Who waits to be accepted waits in the kernel, and is seen there."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from heliograph.service.accepting import Acceptor
from heliograph.service.metrics import Metrics
from heliograph.service.sockets import OpenSockets

CROWD = 300
"""More than a listener holds by habit: 100 or 128."""


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        yield made


async def test_as_many_may_wait_as_the_system_allows_and_how_many_do_is_known(listener: socket.socket) -> None:
    sockets = OpenSockets(Metrics("test"), descriptors=10_000, reserve=100)
    acceptor = Acceptor(listener, asyncio.Protocol, sockets)
    allowed = int(Path("/proc/sys/net/core/somaxconn").read_text())
    assert acceptor.waiting == (0, allowed)
    crowd = [socket.create_connection(listener.getsockname()) for _ in range(min(CROWD, allowed))]
    assert acceptor.waiting == (len(crowd), allowed), "this loop has had no turn to accept anybody"
    async with asyncio.timeout(10):
        while acceptor.waiting[0]:
            await asyncio.sleep(0)
    acceptor.close()
    assert acceptor.waiting == (0, 0)
    await acceptor.wait_closed()
    for one in crowd:
        one.close()
