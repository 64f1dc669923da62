"""From an edge's URL to a TCP connection: which of the addresses behind its name, and without blocking the loop.

A name may stand for many edges (a headless service, round-robin DNS). The resolver's order is the same for everybody
(RFC 6724), so it is not used: the client's own memory, and chance, choose. The next address is tried when one fails, or
is slow to answer, side by side with it (RFC 8305, "Happy Eyeballs"): a dead one costs a quarter of a second.
"""

import asyncio
import contextlib
import socket
import ssl
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from websockets.proxy import get_proxy
from websockets.uri import parse_uri

from heliograph.core.choosing import Choice

NEXT_ADDRESS_S = 0.25
"""Until the next address is tried beside a slow one: RFC 8305's recommendation."""
ADDRESSES_PER_TRY = 3
"""Of one name. All of fifty dead ones at each try would be fifty times the load; the backoff is between tries."""

OWN_WAYS = frozenset({"sock", "host", "port", "unix", "path", "family", "flags", "proto", "local_addr"})
"""Options of `websockets.connect` by which a program says itself where to connect to."""

PORTS = {"ws": 80, "wss": 443}


@dataclass(frozen=True, slots=True)
class Address:
    """One address that a name stands for."""

    family: int
    kind: int
    protocol: int
    where: tuple[Any, ...]

    @property
    def name(self) -> str:
        """How it is remembered."""
        return f"{self.where[0]} {self.where[1]}"


async def dial(url: str, choice: Choice, options: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """What to add to the options of `websockets.connect`, and the address by which the URL was reached; None where that
    is not ours to say (a proxy, or a program that chose). Raises OSError.
    """
    more: dict[str, Any] = {}
    parts = urlsplit(url)
    if parts.scheme == "wss" and "ssl" not in options:
        more["ssl"] = _context or await asyncio.to_thread(default_context)
    proxy = options.get("proxy", True)
    if OWN_WAYS & options.keys() or (get_proxy(parse_uri(url)) if proxy is True else proxy) is not None:
        return more, None
    host = parts.hostname or ""
    found = {one.name: one for one in await _resolve(host, parts.port or PORTS[parts.scheme])}
    loop = asyncio.get_running_loop()
    wanted = [found[name] for name in choice.order(list(found), loop.time())[:ADDRESSES_PER_TRY]]
    more["sock"], reached = await _race(wanted, choice)
    return more, reached.name


async def _resolve(host: str, port: int) -> list[Address]:
    try:  # an address as it is needs no thread
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [Address(family, kind, protocol, where) for family, kind, protocol, _, where in found]


async def _race(wanted: Sequence[Address], choice: Choice) -> tuple[socket.socket, Address]:
    """The first that answers. Raises the OSError of the first that failed where none does."""
    loop = asyncio.get_running_loop()
    left = deque(wanted)
    under_way: dict[asyncio.Task[socket.socket], Address] = {}
    failure: OSError | None = None
    try:
        while left or under_way:
            if left:
                address = left.popleft()
                under_way[asyncio.create_task(_connect(address))] = address
            done, _ = await asyncio.wait(
                under_way, timeout=NEXT_ADDRESS_S if left else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                error = task.exception()
                if error is None:
                    address = under_way.pop(task)
                    return task.result(), address
                choice.failed(under_way.pop(task).name, loop.time())
                if not isinstance(error, OSError):
                    raise error
                failure = failure or error
    finally:
        await _give_up(list(under_way))
    raise failure or OSError("the name stands for no address")


async def _give_up(tasks: list[asyncio.Task[socket.socket]]) -> None:
    for task in tasks:
        task.cancel()
    for made in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(made, socket.socket):
            made.close()


async def _connect(address: Address) -> socket.socket:
    made = socket.socket(address.family, address.kind, address.protocol)
    try:
        made.setblocking(False)
        with contextlib.suppress(OSError):
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(made, address.where)
    except BaseException:
        made.close()
        raise
    return made


# ---- TLS -------------------------------------------------------------------------------------------------------------

_context: ssl.SSLContext | None = None
_making = threading.Lock()


def default_context() -> ssl.SSLContext:
    """One for the process. Reading the system's certificates takes some 20 ms: 200 clients that come back after an
    outage, each with a context of its own, would block their loop for seconds.
    """
    global _context  # noqa: PLW0603 - it is what is shared
    with _making:
        if _context is None:
            _context = ssl.create_default_context()
        return _context
