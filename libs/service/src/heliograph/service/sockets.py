"""The sockets of a service's clients: how many there are, and how many may be.

Every socket is a file descriptor, and a process has so many. Were clients to use them up, no store could be reconnected
and no probe answered, so clients get what is left above a reserve: over that, they are told to come back; over half of
the reserve too, they are not even read. Whose socket it is, is unknown until a request's head is there or, over
WebSocket, until `hello` was found good: those under way are counted by themselves.

What this must never do: touch a socket that is at work.
"""

import errno
import resource
import socket
from collections.abc import Callable

from heliograph.service.logs import RateLimitedLog, get_logger
from heliograph.service.metrics import Metrics

WANTED_DESCRIPTORS = 65_536
"""Asked of the system at start where it grants so many: more clients than one process serves."""


class Seat:
    """One client's socket, from its being accepted to its end."""

    __slots__ = ("_sockets", "_taken", "_under_way")

    def __init__(self, sockets: "OpenSockets") -> None:
        self._sockets = sockets
        self._taken = True
        self._under_way = True
        sockets.open += 1
        sockets.under_way += 1

    def known(self) -> None:
        """It brought a whole request, or showed who it is."""
        if self._under_way:
            self._under_way = False
            self._sockets.under_way -= 1

    def refused(self, code: str) -> None:
        """It is about to be closed, and why."""
        self._sockets.refused(code)

    def leave(self) -> None:
        """It is closed."""
        self.known()
        if self._taken:
            self._taken = False
            self._sockets.open -= 1


NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Errors of the system that say that there is no room for one more socket, now."""


class OpenSockets:
    """Those of one service."""

    def __init__(self, metrics: Metrics, *, descriptors: int, reserve: int) -> None:
        """`descriptors` that the process may have; `reserve` of them are not for clients."""
        self.open = 0
        self.under_way = 0
        self.idle = 0
        self.most = max(descriptors - reserve, descriptors // 2)
        """Above it clients are refused."""
        self.read_most = self.most + (descriptors - self.most) // 2
        """Above it they are not even read."""
        self._refused = metrics.tick_family(
            "sockets_refused_total", "Clients' sockets closed without an answer to a request, by reason.", ["code"]
        )
        self._accept_failures = metrics.tick_family(
            "accept_failures_total", "Connections that the system did not let this process accept, by error.", ["error"]
        )
        for number in NO_ROOM:
            self._accept_failures.labels(errno.errorcode[number])  # from 0, or the first would be no increase
        self._log = RateLimitedLog(get_logger(__name__))
        self.on_refused: Callable[[str], None] = self.say_refused
        """Told what is refused before there is a request; a service with more to say about it puts its own here."""
        self.waiting: Callable[[], tuple[int, int]] = lambda: (0, 0)
        """How many wait in the kernel to be accepted, and how many may: whoever listens puts its own here."""
        gauge = metrics.sampled_gauge
        gauge("open_sockets", "Sockets of clients.", lambda: float(self.open))
        gauge("open_sockets_most", "Sockets of clients at most: descriptors, less a reserve.", lambda: float(self.most))
        gauge("handshakes_under_way", "Sockets not known yet to be any client's.", lambda: float(self.under_way))
        gauge(
            "sockets_waiting",
            "Sockets that the kernel holds until they are accepted.",
            lambda: float(self.waiting()[0]),
        )
        gauge(
            "sockets_waiting_most",
            "Of these at most; what more of them send is dropped.",
            lambda: float(self.waiting()[1]),
        )
        gauge("idle_http_connections", "Sockets of clients between two requests.", lambda: float(self.idle))

    @property
    def full(self) -> bool:
        """Whether there are more than there should be."""
        return self.open > self.most

    def refused(self, code: str) -> None:
        """One was closed, and why."""
        self._refused.labels(code).n += 1
        self.on_refused(code)

    def say_refused(self, code: str) -> None:
        """In the log, not once for each."""
        self._log.warning("socket_refused", key=code, code=code)

    def accept_failed(self, error: str) -> None:
        """The system has no descriptor or memory for one more."""
        self._accept_failures.labels(error).n += 1
        self._log.warning("accept_failed", key=error, error=error, open_sockets=self.open, most=self.most)


def tcp_info(of: socket.socket, size: int) -> bytes | None:
    """The first bytes of what the kernel knows of a TCP socket (tcp(7), TCP_INFO); None where it can't tell."""
    option: int | None = getattr(socket, "TCP_INFO", None)
    if option is None:
        return None
    try:
        return of.getsockopt(socket.IPPROTO_TCP, option, size)
    except OSError:  # no TCP
        return None


def descriptor_limit() -> int:
    """File descriptors that this process may have."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return WANTED_DESCRIPTORS if limit == resource.RLIM_INFINITY else limit


def raise_descriptor_limit() -> int:
    """Take what the system grants, up to what is of use; the limit then. Soft limits are often 1,024 by habit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, WANTED_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return descriptor_limit()
