"""The servers that a benchmark uses: Kafka, Redis and services of its own, on free ports, gone afterwards."""

import asyncio
import json
import secrets
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from heliograph.local.bench.machine import Cores
from heliograph.local.compose import ComposeServer
from heliograph.local.errors import LocalError, tail
from heliograph.local.providers import Kafka, Redis, throwaway_kafka, throwaway_redis
from heliograph.local.services import ServiceProcess, service_command
from heliograph.local.tenant import DevelopmentTenant
from heliograph.protocol.tenants import encode_tenant, parse_tenant
from heliograph.service.applying import wait_in_force
from heliograph.stores.kafka import KafkaLogAdmin
from heliograph.stores.keys import Topics
from heliograph.stores.ports import TopicSpec
from heliograph.stores.redis.metadata import MetadataClient, RedisTenantStore

TENANT = "bench"
AGENT_TYPE = "planner"
PARTITIONS = 6
"""What a tenant gets by default."""

IN_FORCE_TIMEOUT_S = 20.0
"""Services look for tenants once a second, on a machine that is kept busy; one that died is forgotten after 3 s."""

LIMITS_OUT_OF_THE_WAY: dict[str, Any] = {
    "limits": {
        "connection_messages_per_s": 1e9,
        "connection_burst_messages": 1_000_000_000,
        "connection_bytes_per_s": 1e12,
        "connection_burst_bytes": 1_000_000_000_000,
        "unconfirmed_bytes": 1_000_000_000_000,
        "connections": 1_000_000,
        "connections_per_subject": 1_000_000,
        "sessions": 100_000_000,
    }
}
"""Costs are measured here, not bounds: no bucket may run empty."""

EDGE_SETTINGS = {
    "handshakes_per_s": "100000",
    "handshakes_cap_per_s": "100000",
    "concurrent_handshakes": "100000",
    "concurrent_handshakes_cap": "100000",
}
"""As fast as it can: the connect rate is what it takes, not what it is paced to."""

Progress = Callable[[str], None]


class Rig:
    """Start what a section needs by `service`; leave the context to end all of it."""

    def __init__(self, directory: Path, cores: Cores, progress: Progress) -> None:
        self.directory = directory
        self.cores = cores
        self.progress = progress
        self._stack = ExitStack()
        self._services: dict[str, ServiceProcess] = {}
        self.tenant = DevelopmentTenant(directory / "tenant", TENANT, LIMITS_OUT_OF_THE_WAY)
        self.kafka: Kafka
        self.redis: Redis

    def __enter__(self) -> "Rig":
        with ExitStack() as stack:
            self.progress("starting kafka and redis")
            self.kafka = stack.enter_context(throwaway_kafka(self.directory / "kafka"))
            self.redis = stack.enter_context(throwaway_redis(self.directory / "redis"))
            stack.callback(self._end_services)
            self._stack = stack.pop_all()
        self.add_tenant(self.tenant)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _end_services(self) -> None:
        for service in self._services.values():
            service.kill()

    @property
    def settings(self) -> dict[str, str]:
        return {"kafka_bootstrap_servers": self.kafka.bootstrap_servers, "redis_url": self.redis.url}

    def another_redis(self, name: str) -> Redis:
        """A second Redis, ended with the rig."""
        return self._stack.enter_context(throwaway_redis(self.directory / name))

    def at_the_end(self, work: Callable[[], None]) -> None:
        """Run when the rig is left."""
        self._stack.callback(work)

    def service(self, name: str, settings: Mapping[str, str] | None = None, *, like: str = "") -> ServiceProcess:
        """A service that is up and ready; started on first use. `like`: what it is, where several of it have names."""
        found = self.prepare(name, settings, like=like)
        if not found.running:
            self.progress(f"starting {name}")
            found.start()
        return found

    def prepare(
        self, name: str, settings: Mapping[str, str] | None = None, *, like: str = "", elsewhere: bool = False
    ) -> ServiceProcess:
        """The same, not started: its port is known. An edge is held to the server's core, or `elsewhere` to the load's:
        one of another machine.
        """
        found = self._services.get(name)
        if found is None:
            kind = like or name
            command = bench_command(kind)
            if kind == "edge":
                command = self.cores.for_load(command) if elsewhere else self.cores.for_server(command)
            found = self._services[name] = ServiceProcess(
                kind,
                self.directory / "logs",
                {**self.settings, "log_level": "warning", **(settings or {})},
                name=name,
                command=command,
            )
        return found

    def stop(self, name: str) -> None:
        """End a service that a section has no use for, so that it costs nothing."""
        if name in self._services:
            self._services.pop(name).kill()

    def trouble(self) -> str:
        """Which service ended by itself, and its last words; empty where none did."""
        ended = [service for service in self._services.values() if not service.running]
        return "; ".join(
            f"{service.name} ended with status {service.returncode}\n{tail(service.log)}" for service in ended
        )

    def edge(self) -> ServiceProcess:
        return self.service("edge", EDGE_SETTINGS)

    def behind(self) -> dict[str, list[int]]:
        """Pids of what works for an edge, by name. What Docker runs is not ours to look into."""
        found = {name: pid_of(server) for name, server in (("redis", self.redis), ("kafka", self.kafka))}
        found |= {name: [s.pid] for name, s in self._services.items() if s.service != "edge" and s.running}
        return {name: pids for name, pids in found.items() if pids}

    def add_tenant(self, tenant: DevelopmentTenant) -> None:
        """Make the tenant's topics, then the tenant; every service that runs obeys it then."""
        asyncio.run(_install(self.kafka.bootstrap_servers, self.redis.url, tenant.tenant, tenant.write().read_text()))

    def add_topic(self, name: str, partitions: int = PARTITIONS) -> None:
        asyncio.run(_create(self.kafka.bootstrap_servers, [TopicSpec(name, partitions, None, {})]))

    def token(self) -> str:
        return self.tenant.token("bench")


def bench_command(service: str) -> list[str]:
    """The same program as `service_command`, spelled so that a benchmark's process is told from a stack's in `ps`."""
    return [f"{part}.__main__" if part == f"heliograph.{service}" else part for part in service_command(service)]


def pid_of(server: Kafka | Redis) -> list[int]:
    """Its process, where it is one of this machine's."""
    process = None if isinstance(server, ComposeServer) else getattr(server, "process", None)
    return [] if process is None else [process.pid]


def unique_prefix() -> str:
    """Sessions of one run: nothing of another run's is in their windows."""
    return f"b{secrets.token_hex(4)}-"


async def _create(bootstrap_servers: str, topics: list[TopicSpec]) -> None:
    admin = KafkaLogAdmin({"bootstrap.servers": bootstrap_servers})
    try:
        for topic in topics:
            await admin.create(topic)
    finally:
        await admin.close()


async def _install(bootstrap_servers: str, redis_url: str, tenant: str, text: str) -> None:
    names = Topics("heliograph")
    log, deferred, dead = names.log(tenant), names.deferred(tenant), names.dead
    specs = [TopicSpec(log, PARTITIONS, None, {}), TopicSpec(deferred, PARTITIONS, None, {})]
    await _create(bootstrap_servers, [*specs, TopicSpec(dead, 1, None, {})])
    record = parse_tenant(json.loads(text))
    client = MetadataClient(redis_url)
    await client.start()
    try:
        store = RedisTenantStore(client)
        await store.put(tenant, encode_tenant(record))
        behind = await wait_in_force(store, IN_FORCE_TIMEOUT_S)
        if behind:
            raise LocalError(f"tenant {tenant}: {', '.join(behind)} did not notice it in {IN_FORCE_TIMEOUT_S:g} s")
    finally:
        await client.close()
