"""A TCP proxy that misbehaves when told to, as a process of its own: what netem does elsewhere, without the kernel.

Run as a script, `python proxy.py CONTROL_PORT`: nothing but the standard library, so that it starts at
once, and a process, so that what it carries holds up nobody's test. It serves any number of links; a link listens on a
port and carries each connection to a target. Told so over its control port (one JSON object a line, one back), a link

- is *cut*: its connections are reset, new ones are reset as soon as they are made;
- *holds* a direction: not a byte passes, no end of a connection is told to the other side. Nothing is lost, as TCP
  loses nothing: what was held passes once it is let go, if both ends still want it;
- *freezes* the connections that it has, both ways, as a middlebox that forgot them; who comes anew is carried;
- *delays* a direction, with jitter; bytes keep their order;
- *throttles* a direction to so many bytes a second, over all its connections.

It never looks into what it carries, and never drops or changes a byte of a connection that lives.
"""

import asyncio
import json
import random
import socket
import struct
import sys
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

LOOPBACK = "127.0.0.1"
SLICE_S = 0.05
"""A throttled direction passes what it may pass in so long at a time."""
SQUEEZED_BYTES = 16 * 1024
"""Held here at most of a connection that is held or throttled: the sender's own buffers are what must fill."""
DELAYED_BYTES = 4 * 1024 * 1024
"""Held here at most of one that is only delayed: a line's capacity, not its end."""
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of zero seconds: closing sends RST."""


@dataclass(slots=True)
class Shape:
    """What happens to one direction of a link."""

    hold: bool = False
    delay_s: float = 0.0
    jitter_s: float = 0.0
    bytes_per_s: float = 0.0
    """0: as fast as it goes."""
    free_s: float = 0.0
    """When a throttled direction has passed what it was given."""

    @property
    def straight(self) -> bool:
        return not (self.hold or self.delay_s or self.jitter_s or self.bytes_per_s)

    @property
    def room_bytes(self) -> int:
        return SQUEEZED_BYTES if self.hold or self.bytes_per_s else DELAYED_BYTES


@dataclass(slots=True, eq=False)
class Link:
    """One listening port, its target and what it does to what it carries."""

    name: str
    target: int
    buffer_bytes: int = 0
    """Of its sockets, both ways; 0: as the kernel likes. Small, a slow reader shows at once."""
    shapes: dict[str, Shape] = field(default_factory=lambda: {"up": Shape(), "down": Shape()})
    cut: bool = False
    pairs: set["Pair"] = field(default_factory=set)
    made: int = 0
    """Connections, since it began."""
    bytes_: dict[str, int] = field(default_factory=lambda: {"up": 0, "down": 0})
    server: asyncio.Server | None = None

    def told(self) -> dict[str, Any]:
        port = self.server.sockets[0].getsockname()[1] if self.server is not None else 0
        return {"port": port, "open": len(self.pairs), "made": self.made, **self.bytes_}

    def reset(self) -> None:
        for pair in list(self.pairs):
            pair.reset()


class Way:
    """One direction of one connection: from what one end sends to the other end."""

    def __init__(self, link: Link, direction: str, pair: "Pair") -> None:
        self._link, self._direction, self._pair = link, direction, pair
        self._shape = link.shapes[direction]
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[float, bytes | None]] = deque()
        self._queued = 0
        self._due_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._stalled = False
        self._source_paused = False
        self.source: End | None = None
        self.sink: End | None = None

    def take(self, data: bytes | None) -> None:
        """What the source sent; None: it has ended."""
        if data is not None:
            self._link.bytes_[self._direction] += len(data)
        if self._shape.straight and not self._queue and self.sink is not None and not self._stalled:
            self._give(data)
            return
        now = self._loop.time()
        if data is None:
            self._queue.append((max(now, self._due_s), None))
        elif self._shape.bytes_per_s:
            size = max(1, int(self._shape.bytes_per_s * SLICE_S))
            for start in range(0, len(data), size):
                self._enqueue(now, data[start : start + size])
        else:
            self._enqueue(now, data)
        self.pump()
        self._press()

    def _enqueue(self, now: float, data: bytes) -> None:
        shape, due_s = self._shape, now
        if shape.bytes_per_s:
            due_s = max(now, shape.free_s) + len(data) / shape.bytes_per_s
            shape.free_s = due_s
        due_s += max(0.0, shape.delay_s + random.uniform(-shape.jitter_s, shape.jitter_s))
        self._due_s = max(self._due_s, due_s)
        self._queue.append((self._due_s, data))
        self._queued += len(data)

    def reshaped(self) -> None:
        """The link does something else now: what waits is due by the new rules."""
        waiting, self._due_s, self._queued = list(self._queue), 0.0, 0
        self._queue.clear()
        for _, data in waiting:
            self.take(data)
        if not waiting:
            self._press()

    def freeze(self, frozen: bool) -> None:
        """Pass nothing, whatever the link does to others; or be as they are again."""
        self._shape = Shape(hold=True) if frozen else self._link.shapes[self._direction]

    def stall(self, stalled: bool) -> None:
        """The sink takes no more, or takes again."""
        self._stalled = stalled
        if not stalled:
            self.pump()
        self._press()

    def pump(self) -> None:
        """Hand on what is due."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._queue and self.sink is not None and not self._shape.hold and not self._stalled:
            due_s, data = self._queue[0]
            if due_s > self._loop.time():
                self._timer = self._loop.call_at(due_s, self._due)
                return
            self._queue.popleft()
            self._queued -= len(data or b"")
            self._give(data)

    def _due(self) -> None:
        self._timer = None
        self.pump()
        self._press()

    def _give(self, data: bytes | None) -> None:
        assert self.sink is not None
        if data is None:
            self._pair.ended(self)
        else:
            self.sink.write(data)

    def _press(self) -> None:
        """Read no more from a source that has sent more than there is room for."""
        full = self._stalled or self.sink is None or self._queued > self._shape.room_bytes
        if full != self._source_paused and self.source is not None:
            self._source_paused = full
            self.source.pause(full)

    def close(self) -> None:
        self._queue.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Pair:
    """One connection: the client's end here, ours at the target, and both ways between."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.ways = {"up": Way(link, "up", self), "down": Way(link, "down", self)}
        self.ends: list[End] = []
        self._over: set[Way] = set()
        link.pairs.add(self)

    def ended(self, way: Way) -> None:
        """One side's end has reached the other."""
        self._over.add(way)
        assert way.sink is not None
        if way.source is not None and way.source.broken:
            self.reset()
        elif len(self._over) == len(self.ways) or not way.sink.half_close():
            self.close()

    def close(self) -> None:
        self._forget()
        for end in self.ends:
            end.close()

    def reset(self) -> None:
        """RST to both sides."""
        self._forget()
        for end in self.ends:
            end.abort()

    def _forget(self) -> None:
        self.link.pairs.discard(self)
        for way in self.ways.values():
            way.close()


class End(asyncio.Protocol):
    """One socket of a pair."""

    def __init__(self, pair: Pair, side: str) -> None:
        self._pair = pair
        self._out = pair.ways["up" if side == "client" else "down"]
        self._in = pair.ways["down" if side == "client" else "up"]
        self._transport: asyncio.Transport | None = None
        self._told = False
        self.broken = False
        """It ended by a reset, or can take nothing more."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._pair not in self._pair.link.pairs:  # reset while this end came about
            self.abort()
            return
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pair.ends.append(self)
        self._out.source = self
        self._in.sink = self
        self._out.stall(False)
        self._in.stall(False)

    def data_received(self, data: bytes) -> None:
        self._out.take(data)

    def eof_received(self) -> bool:
        self._end()
        return True  # the other direction may go on

    def connection_lost(self, exc: Exception | None) -> None:
        self.broken = exc is not None
        self._end()

    def _end(self) -> None:
        if not self._told:
            self._told = True
            self._out.take(None)
        elif self.broken:
            self._out.take(None)

    def pause_writing(self) -> None:
        self._in.stall(True)

    def resume_writing(self) -> None:
        self._in.stall(False)

    def pause(self, paused: bool) -> None:
        if self._transport is not None and not self._transport.is_closing():
            with suppress(RuntimeError):
                (self._transport.pause_reading if paused else self._transport.resume_reading)()

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def half_close(self) -> bool:
        """Pass an end on; False where the socket is gone."""
        if self._transport is None or self._transport.is_closing():
            return False
        with suppress(OSError):
            self._transport.write_eof()
        return True

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            sock = self._transport.get_extra_info("socket")
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self._transport.abort()


class Proxy:
    """All links, and what is asked of them."""

    def __init__(self) -> None:
        self.links: dict[str, Link] = {}
        self._connecting: set[asyncio.Task[None]] = set()

    async def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Do what is asked of one link and say how it stands."""
        name = str(asked["link"])
        if "target" in asked:
            await self._add(name, int(asked["port"]), int(asked["target"]), int(asked.get("buffer_bytes", 0)))
        link = self.links[name]
        link.cut = bool(asked.get("cut", link.cut))
        for direction, shape in link.shapes.items():
            for key, value in asked.get(direction, {}).items():
                setattr(shape, key, value)
            shape.free_s = 0.0
        if link.cut or asked.get("reset"):
            link.reset()
        for pair in list(link.pairs):
            for way in pair.ways.values():
                if "freeze" in asked:
                    way.freeze(bool(asked["freeze"]))
                way.reshaped()
        return link.told()

    async def _add(self, name: str, port: int, target: int, buffer_bytes: int) -> None:
        link = self.links[name] = Link(name, target, buffer_bytes=buffer_bytes)

        def accept() -> End:
            pair = Pair(link)
            link.made += 1
            task = asyncio.ensure_future(self._connect(pair))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)
            return End(pair, "client")

        link.server = await asyncio.get_running_loop().create_server(
            accept, sock=_socket(buffer_bytes, port), backlog=1024
        )

    async def _connect(self, pair: Pair) -> None:
        if pair.link.cut:
            pair.reset()
            return
        loop, sock = asyncio.get_running_loop(), _socket(pair.link.buffer_bytes)
        try:
            await loop.sock_connect(sock, (LOOPBACK, pair.link.target))
            await loop.create_connection(lambda: End(pair, "target"), sock=sock)
        except OSError:
            sock.close()
            pair.reset()

    async def control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            try:
                said = await self.answer(json.loads(line))
            except (KeyError, ValueError, OSError) as error:
                said = {"error": f"{type(error).__name__}: {error}"}
            writer.write(json.dumps(said).encode() + b"\n")
            await writer.drain()
        writer.close()


def _socket(buffer_bytes: int, port: int | None = None) -> socket.socket:
    """A socket, bound where a port is given. Buffers are set before it has a peer: then they bound the window."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    if buffer_bytes:
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, buffer_bytes)
    if port is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((LOOPBACK, port))
    return sock


async def main(control_port: int) -> None:
    proxy = Proxy()
    server = await asyncio.start_server(proxy.control, LOOPBACK, control_port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
