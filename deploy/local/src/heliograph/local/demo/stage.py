"""Where the demo plays: Kafka, Redis, two edges, a router, a replay, a registry and a tenant of its own.

Everything is on loopback, and gone afterwards: processes and containers in any case, the directory (data, logs, the
tenant's key) unless something went wrong, and then it is named. On a Kafka or Redis given by the environment the demo
uses names of its own and removes them.
"""

import asyncio
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from redis.exceptions import RedisError

from heliograph.local.compose import ComposeServer
from heliograph.local.errors import LocalError
from heliograph.local.providers import GivenKafka, GivenRedis, Kafka, Redis, provide_kafka, provide_redis
from heliograph.local.services import ServiceProcess
from heliograph.local.stack import Stack
from heliograph.local.tenant import DEMO_TENANT, DevelopmentTenant
from heliograph.local.up import apply_tenant
from heliograph.stores.kafka.admin import KafkaLogAdmin
from heliograph.stores.keys import Topics
from heliograph.stores.ports import StoreError
from heliograph.stores.redis.metadata import MetadataClient, RedisTenantStore

QUICK = {
    # What an edge takes with it when it dies is written by the router after these two, and after 15 s by default.
    "log_delivery_timeout_s": "2",
    "reconcile_margin_s": "1",
    # An edge that died is known dead after this, and its workers' sessions are given to others.
    "lease_s": "3",
    "edge_lease_s": "3",
    "dispatch_lease_s": "2",
    # Processes that are killed at the end need no long memory of each other.
    "drain_timeout_s": "1",
}

Progress = Callable[[str], None]


class Stage:
    """The running stack, and how a client finds it."""

    def __init__(self, stack: Stack, tenant: DevelopmentTenant, topics: Topics) -> None:
        self.stack = stack
        self.tenant = tenant
        self.topics = topics

    @property
    def edges(self) -> list[ServiceProcess]:
        return self.stack.edges

    @property
    def urls(self) -> list[str]:
        """Of both edges: what every client is given."""
        return [edge.url for edge in self.edges]

    @property
    def replay_url(self) -> str:
        return self.stack.replays[0].url

    @property
    def bootstrap_servers(self) -> str:
        return self.stack.kafka.bootstrap_servers

    @property
    def log_topic(self) -> str:
        return self.topics.log(self.tenant.tenant)

    def session(self, agent_type: str, session_id: str) -> str:
        return f"{self.tenant.tenant}:{agent_type}:{session_id}"

    def edge_of(self, url: str | None) -> ServiceProcess | None:
        """The edge that a client's connection goes to."""
        port = urlsplit(url).port if url else None
        return next((edge for edge in self.edges if edge.port == port), None)


@contextmanager
def set_up(directory: Path, progress: Progress) -> Iterator[Stage]:
    """A stage to play on, taken down in any case. `directory` stays where something was raised."""
    directory.mkdir(parents=True)
    try:
        with _set_up(directory, progress) as stage:
            yield stage
    except KeyboardInterrupt:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    shutil.rmtree(directory)


@contextmanager
def _set_up(directory: Path, progress: Progress) -> Iterator[Stage]:
    run = secrets.token_hex(3)
    with ExitStack() as cleaning:
        kafka = provide_kafka(directory / "kafka", progress=progress)
        redis_ = provide_redis(directory / "redis", appendonly=True, progress=progress)
        for server in (kafka, redis_):
            if isinstance(server, ComposeServer):
                cleaning.callback(_remove, server)
        topics = Topics(f"heliograph-demo-{run}" if isinstance(kafka, GivenKafka) else "heliograph")
        name = f"{DEMO_TENANT}-{run}" if isinstance(redis_, GivenRedis) else DEMO_TENANT
        tenant = DevelopmentTenant(directory / "tenant", name)
        stack = Stack(directory / "logs", kafka, redis_, edges=2, settings={"topic_prefix": topics.prefix, **QUICK})
        cleaning.callback(_forget, kafka, redis_, topics, name)
        cleaning.callback(stack.kill)
        _start(stack, tenant, progress)
        yield Stage(stack, tenant, topics)


def _start(stack: Stack, tenant: DevelopmentTenant, progress: Progress) -> None:
    progress("starting Kafka and Redis")
    for _ in stack.launch_stores():
        pass
    progress("starting two edges, a router, a replay and a registry")
    for _ in stack.launch_services():
        pass
    progress(f"applying the tenant {tenant.tenant}")
    apply_tenant(tenant.write(), {f"HELIOGRAPH_{name.upper()}": value for name, value in stack.settings.items()})
    progress("waiting until everything is ready")
    stack.wait_ready()


def _remove(server: ComposeServer) -> None:
    with suppress(LocalError):
        server.remove()


def _forget(kafka: Kafka, redis_: Redis, topics: Topics, tenant: str) -> None:
    """Leave nothing in a Kafka or Redis that was given; one that is gone by now keeps what it has."""
    if isinstance(kafka, GivenKafka):
        with suppress(StoreError):
            asyncio.run(_forget_topics(kafka.bootstrap_servers, topics, tenant))
    if isinstance(redis_, GivenRedis):
        with suppress(StoreError, RedisError):
            asyncio.run(_forget_keys(redis_.url, tenant))


async def _forget_topics(bootstrap_servers: str, topics: Topics, tenant: str) -> None:
    admin = KafkaLogAdmin({"bootstrap.servers": bootstrap_servers})
    try:
        for topic in (topics.log(tenant), topics.deferred(tenant), topics.dead):
            with suppress(StoreError):
                await admin.delete(topic)
    finally:
        await admin.close()


async def _forget_keys(url: str, tenant: str) -> None:
    """The name is this run's own, so whatever carries it is ours."""
    metadata = MetadataClient(url)
    await metadata.start()
    try:
        await RedisTenantStore(metadata).delete(tenant)
        for server in await metadata.servers():
            async for key in server.scan_iter(match=f"*{tenant}:*", count=1000):
                await server.unlink(key)
    finally:
        await metadata.close()
