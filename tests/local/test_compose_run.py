"""What the compose file tells its containers, told to processes: that it works, but for what only containers can show.

That is the images, which tests/kubernetes runs as the same user on the same file system, and Compose itself: names that
lead to containers, published ports, volumes. Names and ports are those of this machine here; nothing else is changed.
"""

import asyncio
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import confluent_kafka.admin
import pytest
import redis
import yaml

from heliograph.client import Client, Message
from heliograph.local.compose import FILE
from heliograph.local.kafka import KafkaServer
from heliograph.local.ports import LOOPBACK, free_port, free_ports
from heliograph.local.processes import ServerProcess
from heliograph.local.redis import answers_ping, prepare_redis
from heliograph.local.services import ServiceProcess, service_environment
from heliograph.local.tenant import DevelopmentTenant

_library: Any = confluent_kafka.admin  # has no types

COMMAND_TIMEOUT_S = 60.0
NOT_PROPERTIES = {"KAFKA_HEAP_OPTS"}
"""For the program that starts the broker. https://hub.docker.com/r/apache/kafka"""
AUTHORIZERS = {"super.users"}
"""Settings that the authorizer reads, not the broker, which therefore does not tell their values."""


def defaulted(text: str) -> str:
    """As Compose puts in variables that nobody has set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


SERVICES: dict[str, Any] = yaml.safe_load(defaulted(FILE.read_text(encoding="utf-8")))["services"]


class ComposedKafka(KafkaServer):
    """A broker that is told what the image's would be: KAFKA_NODE_ID is node.id."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        host, controller = free_ports(2)
        self._ports = {"9092": self.port, "19092": host, "9093": controller}

    @property
    def told(self) -> dict[str, str]:
        """Names are of Kafka, ports of this machine."""
        found = {}
        for name, value in SERVICES["kafka"]["environment"].items():
            if name not in NOT_PROPERTIES:
                here = re.sub(
                    r"(?<=:)\d+", lambda port: str(self._ports[port[0]]), value.replace("kafka:", f"{LOOPBACK}:")
                )
                found[name.removeprefix("KAFKA_").lower().replace("_", ".")] = here
        return found

    def _properties(self) -> str:
        settings = {**self.told, "log.dirs": str(self.directory / "data")}
        return "".join(f"{name}={value}\n" for name, value in settings.items())


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposedKafka]:
    server = ComposedKafka(tmp_path_factory.mktemp("composed-kafka"))
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    prepare_redis()
    directory, port = tmp_path_factory.mktemp("composed-redis"), free_port()
    command = [*shlex.split(SERVICES["redis"]["command"]), "--bind", LOOPBACK, "--port", str(port)]
    server = ServerProcess("redis", command, directory / "redis.log", cwd=directory)
    try:
        server.start()
        server.wait_until(lambda: answers_ping(LOOPBACK, port), COMMAND_TIMEOUT_S)
        yield port
    finally:
        server.kill()


def environment(service: str, kafka: ComposedKafka, redis_port: int) -> dict[str, str]:
    """The container's, on this machine."""
    places = {"kafka:9092": kafka.bootstrap_servers, "redis:6379": f"{LOOPBACK}:{redis_port}"}
    told: Mapping[str, str] = SERVICES[service]["environment"]
    return {name: re.sub("|".join(places), lambda place: places[place[0]], value) for name, value in told.items()}


def healthy(service: str, port: int) -> bool:
    """What the health check says that the container is."""
    how, python, *arguments = SERVICES[service]["healthcheck"]["test"]
    assert (how, python) == ("CMD", "python3")
    done = subprocess.run(
        [sys.executable, *arguments],
        env=service_environment({"HELIOGRAPH_PORT": str(port)}),
        capture_output=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    return done.returncode == 0


def test_the_broker_has_each_setting_that_it_is_given(kafka: ComposedKafka) -> None:
    admin = _library.AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    broker = _library.ConfigResource(_library.ResourceType.BROKER, "1")
    (known,) = (future.result(COMMAND_TIMEOUT_S) for future in admin.describe_configs([broker]).values())
    told = {name: value for name, value in kafka.told.items() if name not in AUTHORIZERS}
    assert len(told) > 20
    assert {
        name: known[name].value for name in told
    } == told  # no value is told of a name that the broker has no use for


def test_the_redis_has_what_the_services_want_of_it(redis_port: int) -> None:
    with redis.Redis(LOOPBACK, redis_port, decode_responses=True) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("appendonly") == {"appendonly": "yes"}


async def test_tenant_is_applied_and_the_services_are_healthy_and_serve_it(
    kafka: ComposedKafka, redis_port: int, tmp_path: Path
) -> None:
    tenant = DevelopmentTenant(tmp_path)
    volume = SERVICES["tenant"]["volumes"][0]
    words = [str(tenant.write()) if word == volume["target"] else word for word in SERVICES["tenant"]["command"]]
    assert (FILE.parent / volume["source"]).is_file()
    applied = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "heliograph.cli", *words],
        env=service_environment(environment("tenant", kafka, redis_port)),
        timeout=COMMAND_TIMEOUT_S,
    )
    assert applied.returncode == 0
    services = {}
    with ExitStack() as ending:
        for name in ("edge", "router", "replay", "registry"):
            port = free_port()
            told = {**environment(name, kafka, redis_port), "HELIOGRAPH_PORT": str(port), "HELIOGRAPH_HOST": LOOPBACK}
            assert not healthy(name, port)
            services[name] = ServiceProcess(name, tmp_path, {}, port=port, environment=told)
            ending.callback(services[name].kill)
            services[name].launch()
        for service in services.values():
            await asyncio.to_thread(service.wait_ready)
            assert await asyncio.to_thread(healthy, service.name, service.port)
        async with (
            asyncio.timeout(COMMAND_TIMEOUT_S),
            Client(services["edge"].url, token=tenant.token(), proxy=None) as client,
        ):
            await (await client.publish("demo:planner:1", "composed")).durable()
            item = await anext(aiter(client.subscribe("demo:planner:1", "earliest")))
            assert isinstance(item, Message)
            assert item.data == "composed"
