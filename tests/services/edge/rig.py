"""A real edge in this process, on memory stores or real ones, and what stands around it in a whole system.

The edge is composed as its process composes it and listens on a port of its own; only the stores are the test's. What
the router and replay would do is done here when a test says so: `confirm_log` and `answer_history`.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
from tests.services.edge.client import Client, RawClient

from heliograph.core.limits import RECORD_OVERHEAD_BYTES
from heliograph.edge.bootstrap import Stores, compose
from heliograph.edge.settings import EdgeSettings
from heliograph.edge.websocket import ClientSocket
from heliograph.local.tenant import DevelopmentTenant
from heliograph.protocol.messages import frame, message_from_record, record_value
from heliograph.protocol.tenants import Tenant, TopicSettings, encode_tenant
from heliograph.service.command_line import ExitCode
from heliograph.service.lifecycle import Service, serve
from heliograph.stores.keys import Topics
from heliograph.stores.memory.live import MemoryLiveStore
from heliograph.stores.memory.live_server import MemoryLiveServer
from heliograph.stores.memory.log import MemoryLog, MemoryLogAdmin, MemoryLogWriter
from heliograph.stores.memory.metadata import (
    MemoryConnectionStore,
    MemoryEdgeOrders,
    MemoryQuotaStore,
    MemoryRehydration,
    MemoryServeStore,
    MemorySessionExpiries,
    MemoryTenantStore,
    MemoryUsageStore,
)
from heliograph.stores.ports import ConnectionStore, EdgeOrders, QuotaStore, RehydratedPage, StoreError, TopicSpec
from heliograph.stores.usage import UsageStore

DEADLINE_S = 20.0
"""For a state to be reached; a busy machine is slow, never this slow."""
PARTITIONS = TopicSettings().partitions


async def until(state: Callable[[], object], what: str = "the state", deadline_s: float = DEADLINE_S) -> None:
    """Wait for a state that has no event."""
    deadline = time.monotonic() + deadline_s
    while not state():
        assert time.monotonic() < deadline, f"{what} was not reached in {deadline_s:g} s"
        await asyncio.sleep(0.005)


async def until_told(state: Callable[[], Awaitable[bool]], deadline_s: float = DEADLINE_S) -> None:
    """Wait until asking for a state gives True."""
    deadline = time.monotonic() + deadline_s
    while not await state():
        assert time.monotonic() < deadline, f"it did not become so in {deadline_s:g} s"
        await asyncio.sleep(0.02)


class RoutedLog(MemoryLogWriter):
    """A log behind which a router stands: what it has is confirmed. `held`: topics whose partitions have no leader."""

    def __init__(self, world: "World") -> None:
        super().__init__(world.log, delivery_timeout_s=world.log_delivery_timeout_s)
        self._world = world
        self.held: set[str] = set()
        self._waiting: list[Callable[[], None]] = []

    def write(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]],
        done: Callable[[StoreError | None], None] | None,
    ) -> None:
        assert key is not None
        assert value is not None

        def routed(error: StoreError | None) -> None:
            position = (dict(headers).get("ce_sequence") or b"").decode()
            if error is None and position:
                seqs = [(int(position[23:]), len(value) + RECORD_OVERHEAD_BYTES)]
                self._world.live.confirm(key.decode(), position[:22], seqs)
            if done is not None:
                done(error)

        def store() -> None:
            super(RoutedLog, self).write(topic, partition, key, value, headers, routed)

        if topic in self.held:
            self._waiting.append(store)
        else:
            store()

    def release(self) -> None:
        """The partitions have leaders again."""
        self.held.clear()
        waiting, self._waiting = self._waiting, []
        for store in waiting:
            store()


class Edge:
    """A running edge."""

    def __init__(self, service: Service, world: "World", stores: Stores) -> None:
        self.service = service
        self.world = world
        self.service_live: Any = stores.live
        self.host, self.port = "", 0
        self.exit_code: ExitCode | None = None
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._clients: list[Client] = []

    async def start(self, *, ready: bool = True) -> Self:
        listening = asyncio.Event()

        def on_listening(host: str, port: int) -> None:
            self.host, self.port = host, port
            listening.set()

        async def life() -> None:
            self.exit_code = await serve(self.service, stop=self._stop, on_listening=on_listening)

        self._task = asyncio.create_task(life())
        async with asyncio.timeout(DEADLINE_S):
            await listening.wait()
            if ready:
                await self.service.readiness.wait_ready()
                # `log` and `registry` are not needed for that, but tests are about an edge that has all.
                await until(lambda: self._state("log") != "waiting" and self._state("registry") != "waiting")
        return self

    def begin_stop(self) -> None:
        """As SIGTERM does."""
        self._stop.set()

    async def stopped(self) -> None:
        assert self._task is not None
        async with asyncio.timeout(DEADLINE_S):
            await self._task

    async def stop(self) -> None:
        """Let its clients go, then end it."""
        for client in self._clients:
            await client.close()
        self.begin_stop()
        await self.stopped()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def address(self) -> str:
        return f"ws://{self.host}:{self.port}/v1/connect"

    @property
    def sockets(self) -> list[ClientSocket]:
        """The sockets of its connections."""
        return [connection._socket for connection in self.service.app._connect._connections]

    def value(self, name: str, **labels: str) -> float:
        """A metric of this edge, by its name without the prefix."""
        return self.service.metrics.value(name, labels)

    def _state(self, condition: str) -> str:
        return self.service.readiness.condition(condition).state.value

    async def connect(
        self, tenant: str | None = "acme", *, token: str | None = None, answers_pings: bool = True, **options: Any
    ) -> Client:
        """A client after the handshake, before `hello`; with `tenant` None and no token it has none to show."""
        if token is None and tenant is not None:
            token = self.world.token(tenant)
        client = await Client.connect(self.address, token=token, answers_pings=answers_pings, **options)
        self._clients.append(client)
        return client

    async def client(self, tenant: str = "acme", **hello: Any) -> Client:
        """A client that was welcomed."""
        options = {name: hello.pop(name) for name in ("token", "answers_pings", "max_queue") if name in hello}
        client = await self.connect(tenant, **options)
        await client.hello(**hello)
        return client


class World:
    """What edges of one test share: the stores, tenants and their keys."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.live = MemoryLiveServer(lambda: time.time_ns() // 1_000_000)
        self.log = MemoryLog()
        self.tenants = MemoryTenantStore()
        self.connections: ConnectionStore = MemoryConnectionStore()
        self.rehydration = MemoryRehydration()
        self.expiries = MemorySessionExpiries()
        self.quotas: QuotaStore = MemoryQuotaStore()
        self.usage: UsageStore = MemoryUsageStore()
        self.serving = MemoryServeStore()
        self.orders: EdgeOrders = MemoryEdgeOrders()
        self.topics = Topics("heliograph")
        self.log_delivery_timeout_s = 10.0
        self._signers: dict[str, DevelopmentTenant] = {}
        self._edges: list[Edge] = []
        self._tasks = contextlib.AsyncExitStack()
        self.history_requests = 0
        self.retained_from: dict[str, str] = {}
        """By session: the first position that retention left in the log."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        RawClient.abort_all()
        for edge in self._edges:
            await edge.stop()
        await self._tasks.aclose()

    # ---- tenants ----------------------------------------------------------------------------------------------------

    def signer(self, tenant: str) -> DevelopmentTenant:
        """Its keys: made when first asked for."""
        if tenant not in self._signers:
            self._signers[tenant] = DevelopmentTenant(self._directory / tenant, tenant)
        return self._signers[tenant]

    def token(self, tenant: str = "acme", /, **claims: Any) -> str:
        return self.signer(tenant).token(**claims)

    async def put_tenant(self, name: str = "acme", **record: Any) -> None:
        """Make or change a tenant; the signing key is in its record unless `auth` says otherwise."""
        record.setdefault("auth", {"jwks": self.signer(name).jwks()})
        tenant = msgspec.convert({"tenant": name, **record}, Tenant)
        for topic in (self.topics.log(name), self.topics.deferred(name), self.topics.telemetry(name)):
            self.make_topic(topic)
        await self.tenants.put(name, encode_tenant(tenant))

    def make_topic(self, name: str) -> None:
        self.log.create(TopicSpec(name, PARTITIONS, 1, {}))

    # ---- edges ------------------------------------------------------------------------------------------------------

    def stores(self, **given: Any) -> Stores:
        async def nothing() -> None:
            """Memory needs no connection."""

        chosen: dict[str, Any] = {
            "live": MemoryLiveStore(self.live),
            "log": MemoryLogWriter(self.log, delivery_timeout_s=self.log_delivery_timeout_s),
            "admin": MemoryLogAdmin(self.log),
            "tenants": self.tenants,
            "connections": self.connections,
            "rehydration": self.rehydration,
            "expiries": self.expiries,
            "quotas": self.quotas,
            "usage": self.usage,
            "serving": self.serving,
            "orders": self.orders,
            "start": nothing,
            "stop": nothing,
            **given,
        }
        return Stores(**chosen)

    async def edge(self, *, ready: bool = True, stores: Stores | None = None, **settings: Any) -> Edge:
        """A running edge with these settings."""
        defaults: dict[str, Any] = {
            "port": 0,
            "edge_name": f"edge-{len(self._edges) + 1}",
            "drain_timeout_s": 0.2,
            "rehydration_timeout_s": 2.0,
        }
        return await self.edge_of(EdgeSettings(**{**defaults, **settings}), stores or self.stores(), ready=ready)

    async def edge_of(self, settings: EdgeSettings, stores: Stores, *, ready: bool = True) -> Edge:
        """A running edge with these settings and no others, on these stores."""
        edge = Edge(compose(settings, stores), self, stores)
        self._edges.append(edge)
        return await edge.start(ready=ready)

    # ---- the router's and replay's part -----------------------------------------------------------------------------

    def confirm_log(self, tenant: str = "acme") -> None:
        """Confirm what the log has, as the router would."""
        for record in self.log.records(self.topics.log(tenant)):
            message = message_from_record(record.key, record.value, record.headers)
            if message.position is None:
                continue
            epoch, seq = message.position[:22], int(message.position[23:])
            self.live.confirm(message.session, epoch, [(seq, len(record_value(message)) + RECORD_OVERHEAD_BYTES)])

    def answer_history(self) -> None:
        """Answer edges' questions from the log, as replay would, from here on."""
        task = asyncio.create_task(self._answer_history())

        async def end() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self._tasks.push_async_callback(end)

    async def _answer_history(self) -> None:
        async for request in self.rehydration.requests("test"):
            self.history_requests += 1
            frames: list[tuple[str, bytes]] = []
            for record in self.log.records(self.topics.log(request.session.partition(":")[0])):
                message = message_from_record(record.key, record.value, record.headers)
                if message.time_ms <= await self._gone_until(request.session):
                    continue
                if message.session == request.session and (message.position or "") > (request.after or ""):
                    frames.append((message.position or "", frame(message)))
            frames.sort()
            gap = None
            retained = self.retained_from.get(request.session)
            if retained is not None and request.after is not None and request.after < retained:
                frames = [one for one in frames if one[0] >= retained]
                first = request.after[:23] + f"{int(request.after[23:]) + 1:016d}"
                last = retained[:23] + f"{int(retained[23:]) - 1:016d}"
                gap = [first, last, "retention"]
            await self.rehydration.answer(
                request, RehydratedPage([data for _, data in frames], more=False, gap_before=gap)
            )

    async def _gone_until(self, session: str) -> int:
        (state,) = await self.expiries.get([session])
        return 0 if state is None else state.gone_until(time.time_ns() // 1_000_000)

    def positions_in_log(self, session: str) -> list[str]:
        """Positions of a session that the log has, in order."""
        found = []
        for record in self.log.records(self.topics.log(session.partition(":")[0])):
            message = message_from_record(record.key, record.value, record.headers)
            if message.session == session and message.position is not None:
                found.append(message.position)
        return sorted(found)


@contextlib.asynccontextmanager
async def world_in(directory: Path) -> AsyncIterator[World]:
    """A world with the tenants `acme` and `other`."""
    async with World(directory) as world:
        await world.put_tenant("acme")
        await world.put_tenant("other")
        yield world
