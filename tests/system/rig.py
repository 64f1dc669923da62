"""The whole system as real processes: Kafka, a live and a metadata Redis, two of each service; and what hurts it.

One rig serves many tests: each brings sessions of its own, and `heal` puts right whatever a test broke. Blocking calls
(starting, killing, waiting for processes) have async faces here, so that load goes on while they run.
"""

import asyncio
import random
import secrets
import signal
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from redis.asyncio import Redis as Client
from tests.system import log_reading
from tests.system.history import History

from heliograph.local import RedisServer
from heliograph.local.providers import Kafka, Redis
from heliograph.local.services import ServiceProcess
from heliograph.local.stack import Stack
from heliograph.local.tenant import DevelopmentTenant
from heliograph.local.up import apply_tenant
from heliograph.stores.keys import Topics
from heliograph.stores.ports import Head, StoreError
from heliograph.stores.redis.live import RedisLiveStore
from heliograph.stores.redis.metadata import MetadataClient, RedisTenantStore

TENANT = "acme"
OTHER_TENANT = "globex"

DELIVERY_TIMEOUT_S = 3.0
"""Of the log's producers: short, so that a Kafka that is away for longer is no rarity here."""

SETTINGS = {
    "log_delivery_timeout_s": str(DELIVERY_TIMEOUT_S),
    "reconcile_margin_s": "1",
    "reconcile_interval_s": "0.3",
    "lease_s": "3",
    "edge_lease_s": "3",
    "dispatch_lease_s": "2",
    "serve_check_s": "1",
    "heartbeat_interval_s": "1",
    "heads_interval_s": "1",
    "group_protocol": "classic",
    "group_session_timeout_s": "6",
    "topics_check_s": "1",
    "settle_s": str(DELIVERY_TIMEOUT_S + 2),
    "drain_timeout_s": "4",
    "log_level": "info",
}
"""Times shortened, so that a test sees in seconds what takes minutes elsewhere; nothing else is changed."""

TENANT_SETTINGS = {
    "limits": {"connection_messages_per_s": 2_000.0, "connection_burst_messages": 4_000},
    "topics": {"telemetry": {}},
}


class Rig:
    """The processes, and what a test needs to know of them."""

    def __init__(
        self,
        directory: Path,
        kafka: Kafka,
        redis: Redis,
        metadata: Redis,
        *,
        readers: int = 2,
        own: Mapping[str, Mapping[str, str]] | None = None,
        **settings: str,
    ) -> None:
        """All running; both Redis with an append-only file, so that they forget nothing unless a test makes them.

        `readers`: replays, and registries. `own`: settings of single services, by their names.
        """
        self.directory = directory
        self.kafka = kafka
        self.redis = redis
        self.metadata = metadata
        self.prefix = f"t{secrets.token_hex(4)}"
        self.topics = Topics(self.prefix)
        self.stack = Stack(
            directory / "logs",
            kafka,
            self.redis,
            edges=2,
            routers=2,
            replays=readers,
            registries=readers,
            settings={**SETTINGS, **settings, "topic_prefix": self.prefix, "metadata_redis_url": self.metadata.url},
            own=own,
        )
        self.tenants: dict[str, DevelopmentTenant] = {}

    # ---- start and end ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        for tenant in (TENANT, OTHER_TENANT):
            self.apply(tenant)
        for _ in self.stack.launch_services():
            pass
        self.stack.wait_ready()

    def end(self) -> None:
        self.stack.kill()

    def apply(self, tenant: str, **settings: Any) -> DevelopmentTenant:
        """`heliograph tenant apply`, for a tenant with a key of its own."""
        made = DevelopmentTenant(self.directory / "tenants" / tenant, tenant, {**TENANT_SETTINGS, **settings})
        apply_tenant(made.write(), self.variables)
        self.tenants[tenant] = made
        return made

    @asynccontextmanager
    async def tenant_store(self) -> AsyncIterator[RedisTenantStore]:
        """The records that the services read."""
        metadata = MetadataClient(self.metadata.url)
        try:
            yield RedisTenantStore(metadata)
        finally:
            await metadata.close()

    @property
    def variables(self) -> dict[str, str]:
        """The services' environment, for commands."""
        return {f"HELIOGRAPH_{name.upper()}": value for name, value in self.stack.settings.items()}

    async def heal(self) -> None:
        """Everything up and ready again."""

        def heal() -> None:
            for server in (self.metadata, self.redis, self.kafka):
                server.launch()
            for server in (self.metadata, self.redis, self.kafka):
                server.wait_ready()
            for service in self.stack.services:
                service.launch()
            self.stack.wait_ready()

        await asyncio.to_thread(heal)

    # ---- where things are -------------------------------------------------------------------------------------------

    @property
    def edges(self) -> list[str]:
        return [edge.url for edge in self.stack.edges]

    @property
    def replays(self) -> list[str]:
        return [replay.url for replay in self.stack.replays]

    def token(self, tenant: str = TENANT, **options: Any) -> str:
        return self.tenants[tenant].token(**options)

    def session(self, tenant: str = TENANT, agent_type: str = "planner") -> str:
        """A session that nobody used before."""
        return f"{tenant}:{agent_type}:{secrets.token_hex(5)}"

    def sessions(self, count: int, tenant: str = TENANT) -> list[str]:
        return [self.session(tenant) for _ in range(count)]

    # ---- hurting ----------------------------------------------------------------------------------------------------

    async def kill(self, process: ServiceProcess | Redis | Kafka) -> None:
        await asyncio.to_thread(process.kill)

    async def launch(self, process: ServiceProcess | Redis | Kafka) -> None:
        """Start it again, not waiting until it is ready."""
        await asyncio.to_thread(process.launch)

    async def ready(self, process: ServiceProcess | Redis | Kafka) -> None:
        await asyncio.to_thread(process.wait_ready)

    async def stop(self, process: ServiceProcess | Redis | Kafka) -> None:
        """In order (SIGTERM), and return when it has ended."""
        await asyncio.to_thread(process.stop)

    @asynccontextmanager
    async def frozen(self, server: Redis) -> AsyncIterator[None]:
        """It answers nobody, and its clock goes on."""
        if not isinstance(server, RedisServer) or server.process is None:
            pytest.skip("only a Redis started here as a process can be stopped by a signal")
        server.process.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            server.process.signal(signal.SIGCONT)

    async def lose_live_store(self, history: History) -> None:
        """End the live Redis together with its data and functions: what one without persistence does."""
        history.lost_runs.add(await self.live_run())
        await self._lose(self.redis)

    async def lose_metadata(self) -> None:
        """End the metadata Redis together with its data and functions."""
        await self._lose(self.metadata)

    async def _lose(self, redis: Redis) -> None:
        async with Client.from_url(redis.url) as client, client.pipeline(transaction=True) as together:
            together.execute_command("CLIENT", "PAUSE", "10000", "ALL")  # nobody writes between this and the end
            together.flushall()
            together.function_flush()
            await together.execute()
        await self.kill(redis)

    async def live_run(self) -> str:
        """The `run` part of epochs that the live Redis gives now."""
        async with self.live() as live:
            head = (await live.heads([self.session()]))[0]
        return head.next_epoch[-8:]

    # ---- looking ----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def live(self) -> AsyncIterator[RedisLiveStore]:
        """The live store, as a service sees it."""
        store = RedisLiveStore(self.redis.url, virtual_shards=256, uniform=random.random)
        await store.start()
        try:
            yield store
        finally:
            await store.close()

    def log_topics(self, sessions: Collection[str]) -> list[str]:
        return sorted({self.topics.log(session.partition(":")[0]) for session in sessions})

    async def log_ends(self, sessions: Collection[str]) -> log_reading.Ends:
        return await asyncio.to_thread(log_reading.ends, self.kafka.bootstrap_servers, self.log_topics(sessions))

    async def read_log(self, history: History, begin: log_reading.Ends) -> None:
        """What the log holds of the history's sessions, put into it."""
        sessions = history.sessions()
        topics = self.log_topics(sessions)
        records = await asyncio.to_thread(log_reading.read, self.kafka.bootstrap_servers, begin, topics)
        history.log = log_reading.entries_of(records, sessions)

    async def confirmed(self, sessions: Sequence[str], timeout_s: float = 30.0) -> None:
        """Return when the live store knows that the log has everything of these sessions."""
        open_: list[tuple[str, Head]] = []
        deadline = time.monotonic() + timeout_s
        async with self.live() as live:
            while time.monotonic() < deadline:
                try:
                    heads = await live.heads(sessions)
                    unconfirmed = [await live.unconfirmed(session, 1) for session in sessions]
                except StoreError:
                    await asyncio.sleep(0.1)
                    continue
                both = zip(sessions, heads, unconfirmed, strict=True)
                open_ = [(session, head) for session, head, left in both if head.confirmed < head.seq or left]
                if not open_:
                    return
                await asyncio.sleep(0.1)
        shown = ", ".join(f"{session} at {head.seq}, confirmed {head.confirmed}" for session, head in open_[:5])
        raise AssertionError(f"{len(open_)} sessions are not confirmed after {timeout_s:g} s: {shown}")

    def metric(self, service: ServiceProcess, name: str, label: str = "") -> float:
        """A metric's sum over its labels, or over those with `label`; 0 where it has none."""
        lines = [line for line in service.metrics().splitlines() if line.split("{")[0].split(" ")[0] == name]
        return sum(float(line.rpartition(" ")[2]) for line in lines if label in line)


AnyRig = TypeVar("AnyRig", bound=Rig)


@contextmanager
def started(rig: AnyRig) -> Iterator[AnyRig]:
    """The rig, running; its processes are killed in the end, also where it did not come up."""
    try:
        rig.start()
        yield rig
    finally:
        rig.end()


async def until(
    what: str, holds: Callable[[], bool], timeout_s: float = 30.0, instead: Callable[[], str] = lambda: ""
) -> None:
    """Return once `holds()`; raise with `what`, and what is so `instead`, after the deadline."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"after {timeout_s:g} s still not so: {what}; {instead()}")
        await asyncio.sleep(0.02)
