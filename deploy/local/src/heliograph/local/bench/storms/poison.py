"""A client that sends what nobody should, in turns and at a pace, and comes back each time it is thrown out."""

import asyncio
import itertools
import json
import secrets
from collections.abc import Callable, Sequence

from confluent_kafka import Producer

from heliograph.core import limits
from heliograph.local.bench.client import HandshakeError, LoadClient, connect
from heliograph.local.bench.storms.streams import hello

DEEP = 30_000
"""Levels of nesting: as many as fit into the largest payload."""
FLUSH_S = 5.0

Poison = Callable[["Poisoner"], None]


class Poisoner:
    """An actor's handler. Each kind has a connection of its own, so that one's end doesn't spare the others."""

    def __init__(
        self, url: str, token: str, sessions: Sequence[str], bootstrap_servers: str, topics: Sequence[str]
    ) -> None:
        self._url = url
        self._token = token
        self._sessions = itertools.cycle(sessions)
        self._topics = itertools.cycle(topics)
        self._kafka = Producer({"bootstrap.servers": bootstrap_servers})
        self._clients: dict[str, LoadClient] = {}
        self._sent = dict.fromkeys((*FRAMES, *RECORDS), 0)
        self._task: asyncio.Task[None] | None = None

    async def begin(self, per_s: float) -> None:
        """All kinds in turns, so many a second, until `end`."""
        self._task = asyncio.create_task(self._run(per_s))

    async def end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        await asyncio.to_thread(self._kafka.flush, FLUSH_S)

    async def sent(self) -> dict[str, int]:
        """How many of each kind."""
        return self._sent

    async def close(self) -> None:
        await self.end()
        for client in self._clients.values():
            client.close()

    async def _run(self, per_s: float) -> None:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        for number, kind in enumerate(itertools.cycle((*FRAMES, *RECORDS))):
            ahead_s = number / per_s - (loop.time() - begin)
            if ahead_s > 0:
                await asyncio.sleep(ahead_s)
            try:
                if kind in FRAMES:
                    await self._frame(kind)
                else:
                    key, value = RECORDS[kind](next(self._sessions))
                    self._kafka.produce(next(self._topics), key=key, value=value, headers=HEADERS)
                    self._kafka.poll(0)
            except (HandshakeError, OSError):
                continue
            self._sent[kind] += 1

    async def _frame(self, kind: str) -> None:
        client = self._clients.get(kind)
        if client is None or client.lost:
            client = self._clients[kind] = await connect(self._url, "", lambda _client, _text: None)
            client.send(hello(self._token, f"poison-{kind.replace(' ', '-')}", secrets.token_hex(6), None, ""))
        opcode, data = FRAMES[kind](next(self._sessions))
        client.send_raw(opcode, data)


def publish(session: str, payload: bytes) -> bytes:
    head = json.dumps({"type": "publish", "id": 1, "session": session}, separators=(",", ":")).encode()
    return b'%b,"payload":%b}' % (head[:-1], payload)


def _largest(session: str) -> tuple[int, bytes]:
    return TEXT, publish(session, b'"%b"' % (b"x" * (limits.MAX_PAYLOAD_BYTES - 2)))


def _too_large(session: str) -> tuple[int, bytes]:
    return TEXT, publish(session, b'"%b"' % (b"x" * limits.MAX_PAYLOAD_BYTES))


def _far_too_large(session: str) -> tuple[int, bytes]:
    return TEXT, publish(session, b'"%b"' % (b"x" * 2 * limits.MAX_PAYLOAD_BYTES_CEILING))


def _deep(session: str) -> tuple[int, bytes]:
    return TEXT, publish(session, b"[" * DEEP + b"]" * DEEP)


def _deep_object(session: str) -> tuple[int, bytes]:
    levels = limits.MAX_PAYLOAD_BYTES // 7
    return TEXT, publish(session, b'{"a":' * levels + b"1" + b"}" * levels)


def _no_utf8(session: str) -> tuple[int, bytes]:
    return TEXT, publish(session, b'"\xff\xfe\xc0\xaf"')


def _no_json(_session: str) -> tuple[int, bytes]:
    return TEXT, b'{"type":"publish","session":'


def _no_frame(_session: str) -> tuple[int, bytes]:
    return TEXT, b'{"type":"dance","steps":[1,2,3]}'


def _binary(_session: str) -> tuple[int, bytes]:
    return BINARY, secrets.token_bytes(1024)


def _reserved_opcode(_session: str) -> tuple[int, bytes]:
    return RESERVED, b"?"


def _huge_number(session: str) -> tuple[int, bytes]:
    return TEXT, publish(session, b"1" * 60_000)


TEXT, BINARY, RESERVED = 0x81, 0x82, 0x83
FRAMES: dict[str, Callable[[str], tuple[int, bytes]]] = {
    "largest payload": _largest,
    "too large payload": _too_large,
    "frame above any bound": _far_too_large,
    "deep array": _deep,
    "deep object": _deep_object,
    "not UTF-8": _no_utf8,
    "half a frame": _no_json,
    "unknown frame": _no_frame,
    "binary frame": _binary,
    "reserved opcode": _reserved_opcode,
    "number of 60,000 digits": _huge_number,
}
"""What goes to the edge: opcode and data, for a session."""

HEADERS: list[tuple[str, str | bytes | None]] = [("ce_id", b"\xff\xfe"), ("ce_sequence", b"not a position")]
RECORDS: dict[str, Callable[[str], tuple[bytes | None, bytes | None]]] = {
    "record of noise": lambda _session: (secrets.token_bytes(16), secrets.token_bytes(2048)),
    "record without a key": lambda _session: (None, b"{}"),
    "record without a value": lambda session: (session.encode(), None),
    "deep record": lambda session: (session.encode(), b"[" * DEEP),
}
"""What goes past the edge, to the tenant's log and its deferred topic: key and value."""
