"""Loopback TCP ports: find free ones, tell whether one is taken.

Servers are started on ports chosen beforehand, and killed and started again on the same ones. In between nothing
listens there, so the kernel would give such a port away: to whoever binds to port 0, and to any outgoing connection as
its own end, if it comes from the range for those (`ip_local_port_range`; 32,768 and up on Linux, 49,152 and up
elsewhere). Ports are therefore taken from below that range, and in blocks, each of which belongs to one process for as
long as it lives: it holds the first port, bound and never listened on. A port comes back only after many others.
"""

import atexit
import random
import socket
import threading
from collections import deque

from heliograph.local.errors import NoFreePortError

LOOPBACK = "127.0.0.1"

BLOCK_PORTS = 25
"""Of which one is the sign that the others are taken: a stack of services fits into one."""

PORTS = range(15_000, 30_000)
"""Above what well-known servers listen on, below Kubernetes' node ports and what kernels give to connections."""

GIVEN_AGAIN_AFTER = 1_000
"""Ports given in between: more than any one test or bench has servers, few enough for hours of them."""


class PortReservation:
    """The ports of one process: no other that uses this class is given them while it lives."""

    def __init__(
        self, ports: range = PORTS, block_ports: int = BLOCK_PORTS, again_after: int = GIVEN_AGAIN_AFTER
    ) -> None:
        self._ports = ports
        self._again_after = again_after
        self._blocks = [range(first, first + block_ports) for first in ports[: 1 - block_ports : block_ports]]
        random.shuffle(self._blocks)
        self._signs: list[socket.socket] = []
        self._given: deque[int] = deque()
        self._unused: deque[int] = deque()
        self._lock = threading.Lock()

    def take(self) -> int:
        """A port that is free now, and was not given to anybody for long.

        Raises:
            NoFreePortError: there is none.
        """
        with self._lock:
            for _ in self._ports:
                if (port := self._next()) is None:
                    break
                self._given.append(port)  # one in use too: whoever has it keeps it for a while
                if (sock := _bound(port)) is not None:
                    sock.close()
                    return port
        raise NoFreePortError(f"no free port from {self._ports.start} to {self._ports.stop - 1}")

    def close(self) -> None:
        """Leave the blocks to others."""
        for sign in self._signs:
            sign.close()

    def _next(self) -> int | None:
        if len(self._given) < self._again_after and (self._unused or self._another_block()):
            return self._unused.popleft()
        return self._given.popleft() if self._given else None

    def _another_block(self) -> bool:
        while self._blocks:
            first, *others = self._blocks.pop()
            if (sign := _bound(first)) is not None:
                self._signs.append(sign)
                self._unused.extend(others)
                return True
        return False


_RESERVED = PortReservation()
atexit.register(_RESERVED.close)


def free_ports(count: int) -> list[int]:
    """`count` different ports that are free now, and no other process of ours will be given."""
    return [_RESERVED.take() for _ in range(count)]


def free_port() -> int:
    """One port that is free now, and no other process of ours will be given."""
    return _RESERVED.take()


def is_taken(port: int) -> bool:
    """Whether a server on loopback could not listen on `port` now (lingering closed connections don't count)."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((LOOPBACK, port))
        except OSError:
            return True
    return False


def accepts(port: int, timeout_s: float = 0.2) -> bool:
    """Whether somebody accepts connections on `port`."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=timeout_s):
            return True
    except OSError:
        return False


def _bound(port: int) -> socket.socket | None:
    """A socket bound to it; None if it is in use, lingering closed connections included."""
    sock = socket.socket()
    try:
        sock.bind((LOOPBACK, port))
    except OSError:
        sock.close()
        return None
    return sock
