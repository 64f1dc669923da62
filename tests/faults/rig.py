"""The rig of `tests/system` with every link behind the proxy, and services that start under other conditions."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from tests.faults.links import Links, running_links
from tests.system.rig import Rig

from heliograph.local.kafka import KafkaServer
from heliograph.local.ports import LOOPBACK, free_ports
from heliograph.local.redis import RedisServer
from heliograph.local.services import ServiceProcess, service_command

EDGES = ("edge-1", "edge-2")
ROUTERS = ("router-1", "router-2")

READER_BUFFER_BYTES = 16 * 1024
"""Of the sockets of a reader that is to be slow: what the edge writes to it soon waits at the edge."""

Hurtable = ServiceProcess | RedisServer | KafkaServer


class FaultRig(Rig):
    """Links are named `who>whom`: `clients>edge-1`, `edge-1>redis`, `edge-1>metadata`, `edge-1>kafka`, `routers>…`;
    `reader>edge-1` is for one reader alone.
    """

    redis: RedisServer
    metadata: RedisServer
    kafka: KafkaServer

    def __init__(
        self, directory: Path, links: Links, kafka: KafkaServer, redis: RedisServer, metadata: RedisServer
    ) -> None:
        self.links = links
        own: dict[str, dict[str, str]] = {}
        for who, services in (*((edge, (edge,)) for edge in EDGES), ("routers", ROUTERS)):
            settings = {
                "redis_url": _url(links.add(f"{who}>redis", redis.port).port),
                "metadata_redis_url": _url(links.add(f"{who}>metadata", metadata.port).port),
                "kafka_bootstrap_servers": f"{LOOPBACK}:{links[f'{who}>kafka'].port}",
            }
            own |= dict.fromkeys(services, settings)
        super().__init__(directory, kafka, redis, metadata, own=own)
        self._doors = [links.add(f"clients>{edge.name}", edge.port) for edge in self.stack.edges]
        own_door = links.add("reader>edge-1", self.stack.edges[0].port, buffer_bytes=READER_BUFFER_BYTES)
        self.own_edge = f"http://{LOOPBACK}:{own_door.port}"

    @property
    def clock_file(self) -> Path:
        """What libfaketime reads, in services that are started with it."""
        return self.directory / "clock"

    @property
    def edges(self) -> list[str]:
        """Where clients connect: the proxy, before each edge."""
        return [f"http://{LOOPBACK}:{door.port}" for door in self._doors]

    def named(self, name: str) -> Hurtable:
        """`edge-1`, `router-2`, `redis`, `metadata`, `kafka`."""
        stores: dict[str, Hurtable] = {"redis": self.redis, "metadata": self.metadata, "kafka": self.kafka}
        return stores.get(name) or self.service(name)

    def service(self, name: str) -> ServiceProcess:
        return next(service for service in self.stack.services if service.name == name)

    def signal(self, name: str, number: signal.Signals) -> None:
        one = self.named(name)
        process = one if isinstance(one, ServiceProcess) else one.process
        assert process is not None
        process.signal(number)

    async def heal(self) -> None:
        """Everything up, ready, awake and reachable again."""
        self.links.heal()
        for name in (*(service.name for service in self.stack.services), "redis", "metadata", "kafka"):
            self.signal(name, signal.SIGCONT)
        await super().heal()

    @asynccontextmanager
    async def altered(
        self,
        name: str,
        *,
        settings: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
    ) -> AsyncIterator[ServiceProcess]:
        """One service under other conditions, and afterwards as it was. `before`: what its command is given to run."""
        was = self.service(name)
        other = ServiceProcess(
            was.service,
            self.stack.directory,
            {**self.stack.settings_of(name), **(settings or {})},
            name=name,
            port=was.port,
            command=[*before, *service_command(was.service)],
            environment=environment,
        )
        await self._swap(was, other)
        try:
            yield other
        finally:
            await self._swap(other, was)

    async def _swap(self, old: ServiceProcess, new: ServiceProcess) -> None:
        def swap() -> None:
            old.kill()
            for group in (self.stack.edges, self.stack.routers, self.stack.replays, self.stack.registries):
                if old in group:
                    group[group.index(old)] = new
            new.start()

        await asyncio.to_thread(swap)


def _url(port: int) -> str:
    return f"redis://{LOOPBACK}:{port}/0"


@contextmanager
def running_rig(directory: Path, **redis_settings: str) -> Iterator[FaultRig]:
    """All of it, started; `redis_settings` are the live Redis'."""
    with running_links(directory) as links:
        users = (*EDGES, "routers")
        ports = free_ports(len(users))
        listeners = {}
        for user, port in zip(users, ports, strict=True):
            name = user.upper().replace("-", "")
            listeners[name] = (port, links.add(f"{user}>kafka", port).port)
        kafka = KafkaServer(directory / "kafka", listeners=listeners)
        redis = RedisServer(directory / "redis", appendonly=True, settings=redis_settings)
        metadata = RedisServer(directory / "metadata", appendonly=True)
        stores = (kafka, redis, metadata)
        rig: FaultRig | None = None
        try:
            for store in stores:
                store.launch()
            for store in stores:
                store.wait_ready()
            rig = FaultRig(directory, links, kafka, redis, metadata)
            rig.start()
            yield rig
        finally:
            if rig is not None:
                rig.end()
            for store in stores:
                store.kill()
