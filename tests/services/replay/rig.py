"""Replay in this process, on memory stores or real ones, and what stands around it in a whole system.

It is composed as its process composes it and listens on a port of its own; only the stores are the test's.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec

from heliograph.core.messages import MessageClass
from heliograph.core.partitions import partition_of
from heliograph.core.positions import Position
from heliograph.local.tenant import DevelopmentTenant
from heliograph.protocol.messages import Message, frame, frame_content, frame_rest, record_headers, record_value
from heliograph.protocol.tenants import Tenant, encode_tenant
from heliograph.replay.bootstrap import Stores, compose
from heliograph.replay.settings import ReplaySettings
from heliograph.service.lifecycle import Service, serve
from heliograph.stores.keys import Topics
from heliograph.stores.memory.live import MemoryLiveStore
from heliograph.stores.memory.live_server import MemoryLiveServer
from heliograph.stores.memory.log import MemoryLog, MemoryLogReader
from heliograph.stores.memory.metadata import (
    MemoryPositionIndex,
    MemoryRehydration,
    MemorySessionExpiries,
    MemoryTenantStore,
)
from heliograph.stores.ports import Append, Appended, Bounds, IndexEntry, LogRecord, StoreError, TopicSpec

DEADLINE_S = 20.0
"""For a state to be reached; a busy machine is slow, never this slow."""

PARTITIONS = 3
SESSION = "acme:planner:trip-42"
E1, E2, OTHER_RUN = "1764000000000-1a2b3c4d", "1764000100000-1a2b3c4d", "1764000200000-00000001"
BEGUN_MS = 1_764_000_000_000
BOUNDS = Bounds(1_000, 8 << 20, 8 << 20, 1_000, 8 << 20)


async def until(state: Callable[[], object], what: str = "the state", deadline_s: float = DEADLINE_S) -> None:
    """Wait for a state that has no event."""
    deadline = time.monotonic() + deadline_s
    while not state():
        assert time.monotonic() < deadline, f"{what} was not reached in {deadline_s:g} s"
        await asyncio.sleep(0.005)


def message(seq: int, epoch: str = E1, session: str = SESSION, **changes: Any) -> Message:
    fields: dict[str, Any] = {
        "session": session,
        "message_id": f"m{seq}",
        "time_ms": BEGUN_MS + seq * 1_000,
        "producer": "planner/main",
        "class_": MessageClass.EVENT,
        "payload": b'{"n":%d}' % seq,
        "position": str(Position(epoch, seq)),
        "incarnation": "4fGh0pQ2xY7a",
        "producer_seq": seq,
    }
    return Message(**{**fields, **changes})


def frames_of(*messages: Message) -> list[bytes]:
    return [frame(one) for one in messages]


class World:
    """Everything around replay."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.now_ms = BEGUN_MS + 500_000
        self.log = MemoryLog(lambda: self.now_ms)
        self.live = MemoryLiveServer(lambda: self.now_ms)
        self.tenants = MemoryTenantStore()
        self.index = MemoryPositionIndex()
        self.rehydration = MemoryRehydration()
        self.expiries = MemorySessionExpiries()
        self.http_log = MemoryLogReader(self.log)
        self.edge_log = MemoryLogReader(self.log)
        self.topics = Topics("heliograph")
        self.service: Service | None = None
        self.client = httpx.AsyncClient()
        self._live_client = MemoryLiveStore(self.live)
        self._signers: dict[str, DevelopmentTenant] = {}
        self._ends = contextlib.AsyncExitStack()

    # ---- tenants ----------------------------------------------------------------------------------------------------

    def signer(self, tenant: str) -> DevelopmentTenant:
        if tenant not in self._signers:
            self._signers[tenant] = DevelopmentTenant(self._directory / tenant, tenant)
        return self._signers[tenant]

    async def put_tenant(self, name: str, **record: Any) -> None:
        """Make or change a tenant and its topic."""
        wanted = msgspec.convert({"tenant": name, "auth": {"jwks": self.signer(name).jwks()}, **record}, Tenant)
        self.log.create(TopicSpec(self.topics.log(name), PARTITIONS, 1, {}))
        await self.tenants.put(name, encode_tenant(wanted))

    def headers(self, tenant: str = "acme", scope: str = "history:*:*") -> dict[str, str]:
        return {"authorization": f"Bearer {self.signer(tenant).token(scopes=[scope])}"}

    # ---- the log and the live path ----------------------------------------------------------------------------------

    @property
    def topic(self) -> str:
        return self.topics.log("acme")

    def write(self, *messages: Message, partition: int | None = None) -> list[LogRecord]:
        """Into the log, as an edge or a router does."""
        return [self.write_record(record_value(one), record_headers(one), one.session, partition) for one in messages]

    def write_record(
        self, value: bytes | None, headers: Any, session: str = SESSION, partition: int | None = None
    ) -> LogRecord:
        key = session.encode()
        number = partition_of(key, PARTITIONS) if partition is None else partition
        return self.log.append(LogRecord(self.topic, number, -1, 0, key, value, list(headers)))

    async def add_to_index(self, record: LogRecord, position: str, session: str = SESSION) -> None:
        topic_id = self.log.topics[record.topic].topic_id
        await self.index.add([(session, IndexEntry(position, topic_id, record.partition, record.offset))], 3_600)

    async def append(self, count: int, session: str = SESSION, partition: int = 0) -> list[Message]:
        """Publish on the live path: sequenced, not in the log."""
        if not self._live_client.available:
            await self._live_client.start()
        sent: list[Message] = []
        for number in range(count):
            one = message(number + 1, session=session, position=None)
            answered: asyncio.Future[Appended | StoreError] = asyncio.get_running_loop().create_future()
            rest = frame_rest(one, frame_content(one))
            self._live_client.append(
                Append(session, rest, b"", 512, partition, number.to_bytes(8, "big")), BOUNDS, answered.set_result
            )
            answer = await answered
            assert isinstance(answer, Appended), answer
            one.position = str(Position(answer.epoch, answer.seq))
            sent.append(one)
        return sent

    async def confirm(self, *messages: Message) -> None:
        for one in messages:
            position = Position.parse(one.position or "")
            await self._live_client.confirm(one.session, position.epoch, [(position.seq, 512)])

    # ---- replay -----------------------------------------------------------------------------------------------------

    async def start(self, stores: Stores | None = None, **settings: Any) -> None:
        async def nothing() -> None:
            """Memory needs no connection."""

        memory = Stores(
            MemoryLiveStore(self.live),
            self.http_log,
            self.edge_log,
            self.tenants,
            self.index,
            self.rehydration,
            self.expiries,
            nothing,
            nothing,
        )
        service = compose(ReplaySettings(port=0, drain_timeout_s=0.2, **settings), stores or memory)
        listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        stop = asyncio.Event()
        task = asyncio.create_task(
            serve(service, stop=stop, on_listening=lambda host, port: listening.set_result(f"http://{host}:{port}"))
        )

        async def end() -> None:
            stop.set()
            await task

        self._ends.push_async_callback(end)
        async with asyncio.timeout(DEADLINE_S):
            url = await listening
            await service.readiness.wait_ready()
            await until(lambda: service.readiness.condition("live").state.value != "waiting")
        self.service = service
        self.client = await self._ends.enter_async_context(httpx.AsyncClient(base_url=url, timeout=DEADLINE_S))

    async def close(self) -> None:
        await self._live_client.close()
        await self._ends.aclose()

    async def get(
        self, session: str = SESSION, *, token: dict[str, str] | None = None, **params: Any
    ) -> httpx.Response:
        path = "/v1/history/" + session.replace(":", "/")
        return await self.client.get(path, params=params, headers=token if token is not None else self.headers())

    async def page(self, session: str = SESSION, **params: Any) -> "Page":
        answer = await self.get(session, **params)
        assert answer.status_code == 200, answer.text
        return Page(answer.content)

    async def lines(self, session: str = SESSION, **params: Any) -> list[bytes]:
        answer = await self.get(session, format="ndjson", **params)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/x-ndjson"
        assert answer.content.endswith(b"\n")
        return answer.content[:-1].split(b"\n")

    def value(self, name: str, **labels: str) -> float:
        """A metric of replay, by its name without the prefix."""
        assert self.service is not None
        return self.service.metrics.value(name, labels)


class _Raw(msgspec.Struct):
    messages: list[msgspec.Raw]


class Page:
    """A JSON page: its parts decoded, and its messages as the bytes they came as."""

    def __init__(self, body: bytes) -> None:
        self.content: dict[str, Any] = json.loads(body)
        self.frames = [bytes(raw) for raw in msgspec.json.decode(body, type=_Raw).messages]
        self.next: str | None = self.content["next"]
        self.complete: bool = self.content["complete"]
        self.resume: str | None = self.content["resume"]
        self.gaps: list[dict[str, Any]] = self.content["gaps"]
        self.epochs: list[dict[str, Any]] = self.content["epochs"]


@contextlib.asynccontextmanager
async def world_in(directory: Path) -> AsyncIterator[World]:
    """A world with the tenants `acme` and `other`."""
    world = World(directory)
    try:
        await world.put_tenant("acme")
        await world.put_tenant("other")
        yield world
    finally:
        await world.close()
