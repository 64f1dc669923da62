"""Accepting connections, in the place of the event loop's own way.

With no descriptor left uvloop takes each connection and drops it without a word, and asyncio's own loop tries again in
a storm of log lines. Here it is counted and said, once in a while, and the kernel keeps who comes until there is room.
"""

import asyncio
import errno
import socket
import ssl
import struct
from collections.abc import Callable

from heliograph.service.logs import get_logger
from heliograph.service.sockets import NO_ROOM, OpenSockets, tcp_info

PAUSE_S = 0.25
"""Until the next try after the system said no: somebody may have left."""

AT_ONCE = 2
"""Accepted in one turn of the event loop. Each is a handshake in the turns that follow, a millisecond of them: a storm
of clients then holds up who is connected by a few of them, and waits in the kernel meanwhile."""

BACKLOG = 65_535
"""That may wait in the kernel: as many as the system allows (net.core.somaxconn, 4,096 on most). Of more, the kernel
drops what they send without a word. They send again after 1, 2, 4 s, all of a crowd in the same moments, and in between
nobody comes in.
"""

_WAITING = struct.Struct("<24x2I")
"""Of a listening socket's TCP_INFO: how many wait, and how many may (Linux, tcp_get_info)."""

log = get_logger(__name__)


class Acceptor:
    """One listening socket."""

    def __init__(
        self,
        listener: socket.socket,
        make_protocol: Callable[[], asyncio.Protocol],
        sockets: OpenSockets,
        *,
        backlog: int = BACKLOG,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._make_protocol = make_protocol
        self._sockets = sockets
        self._tls = tls
        self._starting: set[asyncio.Task[object]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._closed = False
        listener.setblocking(False)
        listener.listen(backlog)
        self._loop.add_reader(listener.fileno(), self._accept)

    def close(self) -> None:
        """Accept no more; the socket is its owner's to close."""
        if self._closed:
            return
        self._closed = True
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listener.fileno())

    @property
    def waiting(self) -> tuple[int, int]:
        """How many wait in the kernel, and how many may; zeros where the system can't tell."""
        info = None if self._closed else tcp_info(self._listener, _WAITING.size)
        if info is None:
            return 0, 0
        waiting, most = _WAITING.unpack(info)
        return waiting, most

    async def wait_closed(self) -> None:
        """Until what was accepted has begun."""
        await asyncio.gather(*self._starting, return_exceptions=True)

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                accepted, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue  # it went away while it waited
            except OSError as error:
                self._sockets.accept_failed(errno.errorcode.get(error.errno or 0, "other"))
                if error.errno in NO_ROOM:
                    self._rest()
                    return
                continue
            if self._sockets.open + len(self._starting) >= self._sockets.read_most:
                accepted.close()
                self._sockets.refused("descriptors")
                continue
            accepted.setblocking(False)
            task: asyncio.Task[object] = self._loop.create_task(self._start(accepted))
            self._starting.add(task)
            task.add_done_callback(self._starting.discard)

    async def _start(self, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make_protocol, accepted, ssl=self._tls)
        except OSError:
            accepted.close()  # it is gone already
        except Exception:
            accepted.close()
            log.exception("connection_not_begun")

    def _rest(self) -> None:
        self._loop.remove_reader(self._listener.fileno())
        self._pause = self._loop.call_later(PAUSE_S, self._again)

    def _again(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listener.fileno(), self._accept)
