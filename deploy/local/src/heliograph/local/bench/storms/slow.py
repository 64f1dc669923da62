"""One reader that takes next to nothing, in a room whose others take all: what it costs its edge, and them."""

import base64
import os
import socket
import threading
import time
from contextlib import suppress
from urllib.parse import urlsplit

from heliograph.local.bench import gates
from heliograph.local.bench.machine import rss_kb
from heliograph.local.bench.storms.judging import Stretch, loss_of
from heliograph.local.bench.storms.party import Plan
from heliograph.local.bench.storms.scene import LATE_S, Scene, sessions, urls
from heliograph.local.bench.storms.streams import hello

ROOM = 100
SENT_BYTES = 100_000_000
"""To each of the room, in each stormy run."""
PAYLOAD_BYTES = 32_000
PER_S = 100.0
READ_BYTES_PER_S = 1_000
RECEIVE_BUFFER_BYTES = 4_096
QUIET_S = 10.0
SAMPLE_S = 0.1
READ_S = 90.0
"""For what is late to the room: on a machine that others use, hundreds of megabytes."""
SECTION = "Storms: a slow reader"
HARD_MARK_KIB = 1_024.0
"""The edge's default: `outbound_hard_bytes`."""
LIMITS = {
    "limits": {
        "connection_bytes_per_s": 1e9,
        "connection_burst_bytes": 1_000_000_000,
        "connection_messages_per_s": 10_000,
        "connection_burst_messages": 20_000,
    }
}
"""One connection sends what a hundred would."""


def slow(scene: Scene) -> None:
    """The edge grows by the reader's queue and no more; the others notice nothing."""
    scene.behind()
    edge = scene.edge("edge-slow")
    tenant = scene.tenant("room", LIMITS)
    (name,) = sessions("room", 1)
    token = tenant.token("room")
    room = Plan("room", urls(edge), token, reads=(name,) * (ROOM - 1), payload_bytes=PAYLOAD_BYTES)
    source = Plan("source", urls(edge), token, feeds=((name,),), payload_bytes=PAYLOAD_BYTES)
    seconds = scene.options.seconds(SENT_BYTES / (PER_S * PAYLOAD_BYTES), at_least=3.0)
    with scene.party(room) as others, scene.party(source) as feeder:
        feeder.ask("feed", PER_S)
        time.sleep(scene.options.seconds(QUIET_S))  # memory that the load itself takes
        quiet_kib, stormy_kib, ended = [rss_kb(edge.pid)], [], []

        def storm(_number: int) -> Stretch:
            quiet_kib.append(rss_kb(edge.pid))
            reader = SlowReader(urls(edge)[0], token, name)
            begin_ns = time.monotonic_ns()
            while (time.monotonic_ns() - begin_ns) / 1e9 < seconds:
                stormy_kib.append(rss_kb(edge.pid))
                time.sleep(SAMPLE_S)
            found = Stretch(begin_ns, time.monotonic_ns())
            ended.append(reader.ended)
            scene.say(f"slow: it has read {reader.read_bytes:,} bytes, edge at {max(stormy_kib):,.0f} KiB")
            reader.close()
            return found

        pairs = scene.interleave("slow", others, scene.options.seconds(QUIET_S), storm)
        feeder.ask("stop_feeding")
        feeder.ask("settle", LATE_S)
        fed = feeder.ask("accounts")
        others.ask("wait_read", {name: fed.fed[0].published}, READ_S)
        loss = loss_of(fed, others.ask("accounts"))
        grown_kib = max(stormy_kib) - max(quiet_kib)
        work = f"{ROOM} readers, {seconds * PER_S * PAYLOAD_BYTES / 1e6:.0f} MB to each, one takes 1 KB/s"
        scene.judge_pairs(SECTION, work, pairs, {"grown_kib": grown_kib, "lost": float(loss.lost)})
        scene.judge_loss("slow, the others", loss)
        if any(ended):
            scene.report.faults.append("slow: the slow reader was disconnected although it made progress")
        gate = "slow: growth of the edge, hard marks"
        scene.report.gate(gate, grown_kib / HARD_MARK_KIB, gates.SLOW_READER_MARKS, "")
    scene.rig.stop("edge-slow")
    scene.judge_alive("slow")


class SlowReader:
    """A subscriber on a thread: it reads some bytes, sleeps, reads on. Kernel buffers are as small as can be."""

    def __init__(self, url: str, token: str, session: str) -> None:
        parts = urlsplit(url)
        self.read_bytes = 0
        self.ended = False
        self._closing = False
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        self._socket.connect((parts.hostname, parts.port))
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        head = b""
        while b"\r\n\r\n" not in head:
            head += self._socket.recv(1)
        text = hello(token, "slow", os.urandom(6).hex(), session, "")
        length = len(text).to_bytes(2) if len(text) < 65_536 else b""
        self._socket.sendall(bytes((0x81, 0x80 | 126)) + length + b"\0\0\0\0" + text)
        self._thread = threading.Thread(target=self._read, name="slow reader", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _read(self) -> None:
        step_s = 0.1
        while not self._closing:
            try:
                data = self._socket.recv(int(READ_BYTES_PER_S * step_s))
            except OSError:
                data = b""
            if not data:
                self.ended = self.ended or not self._closing
                return
            self.read_bytes += len(data)
            time.sleep(step_s)
