"""Where Kafka and Redis come from: given by the environment, else Docker Compose, else this machine's programs."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from heliograph.local.compose import ComposeKafka, ComposeRedis, ComposeServer, compose_problem
from heliograph.local.errors import CannotProvideError, NotReadyError
from heliograph.local.java import prepare_jars
from heliograph.local.kafka import KafkaServer, takes_requests
from heliograph.local.kafka_cluster import KafkaCluster
from heliograph.local.redis import RedisServer, answers_ping, prepare_redis, redis_problem
from heliograph.local.redis_cluster import RedisCluster
from heliograph.local.redis_sentinel import RedisSentinel
from heliograph.stores.redis.address import RedisLocation

KAFKA_VARIABLE = "KAFKA_BOOTSTRAP_SERVERS"
REDIS_VARIABLE = "REDIS_URL"
GIVEN_TIMEOUT_S = 30.0
POLL_S = 0.2

Progress = Callable[[str], None]


class Server(Protocol):
    """What can be done with a Kafka or a Redis, wherever it came from."""

    def start(self) -> None: ...
    def launch(self) -> None: ...
    def wait_ready(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def restart(self) -> None: ...
    @property
    def running(self) -> bool: ...


class Kafka(Server, Protocol):
    @property
    def bootstrap_servers(self) -> str: ...


class Redis(Server, Protocol):
    @property
    def url(self) -> str: ...


class _Given:
    """Somebody else's server: it is awaited, never started, never ended."""

    def __init__(self, name: str, address: str, answers: Callable[[], bool]) -> None:
        self._name = name
        self._address = address
        self._answers = answers

    @property
    def running(self) -> bool:
        return self._answers()

    def start(self) -> None:
        self.wait_ready()

    def launch(self) -> None:
        """Nothing to start."""

    def wait_ready(self) -> None:
        deadline = time.monotonic() + GIVEN_TIMEOUT_S
        while not self._answers():
            if time.monotonic() >= deadline:
                raise NotReadyError(self._name, f"at {self._address} does not answer")
            time.sleep(POLL_S)

    def stop(self) -> None:
        """Not ours to stop."""

    def kill(self) -> None:
        raise CannotProvideError(f"{self._name} was given by the environment and is not ours to kill")

    def restart(self) -> None:
        raise CannotProvideError(f"{self._name} was given by the environment and is not ours to restart")


class GivenKafka(_Given):
    def __init__(self, bootstrap_servers: str) -> None:
        super().__init__("kafka", bootstrap_servers, lambda: takes_requests(bootstrap_servers))
        self.bootstrap_servers = bootstrap_servers


class GivenRedis(_Given):
    def __init__(self, url: str) -> None:
        location = RedisLocation.parse(url)

        def answers() -> bool:
            # Over TLS a bare PING can't be asked; whoever connects next finds out.
            return location.tls or any(answers_ping(host, port) for host, port in location.seeds)

        super().__init__("redis", str(location), answers)  # never the URL, which may hold a password
        self.url = url


def project_name(directory: Path) -> str:
    """A compose project for this folder: the same each time, another one for another folder."""
    return f"heliograph-{hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:10]}"


@contextmanager
def throwaway_kafka(directory: Path) -> Iterator[KafkaServer | ComposeKafka]:
    """A started Kafka of one's own, to be hurt: never the one given by the environment. Gone afterwards."""
    server = ComposeKafka(project_name(directory)) if compose_problem() is None else KafkaServer(directory)
    with _removed_afterwards(server):
        server.start()
        yield server


@contextmanager
def throwaway_kafka_cluster(directory: Path) -> Iterator[KafkaCluster]:
    """Three started brokers of one's own, to be hurt one by one. Processes of this machine, whatever else there is.

    Raises CannotProvideError where it has no Java.
    """
    prepare_jars()
    with _killed_afterwards(KafkaCluster(directory)) as cluster:
        yield cluster


@contextmanager
def throwaway_redis(
    directory: Path, *, port: int | None = None, appendonly: bool = False, settings: dict[str, str] | None = None
) -> Iterator[RedisServer | ComposeRedis]:
    """A started Redis of one's own, to be hurt: never the one given by the environment. Gone afterwards.

    A redis-server on PATH comes before Docker here: it starts in 30 ms, and there is one for each test.
    """
    server: RedisServer | ComposeRedis
    if redis_problem() is not None and compose_problem() is None:
        server = ComposeRedis(project_name(directory), port, appendonly=appendonly, settings=settings)
    else:
        prepare_redis()
        server = RedisServer(directory, port, appendonly=appendonly, settings=settings)
    with _removed_afterwards(server):
        server.start()
        yield server


@contextmanager
def throwaway_redis_sentinel(directory: Path, **options: Any) -> Iterator[RedisSentinel]:
    """A primary, its replica and three sentinels of one's own, to be hurt one by one: processes of this machine.

    `options` are those of RedisSentinel. Raises CannotProvideError where there is no redis-server.
    """
    prepare_redis()
    with _killed_afterwards(RedisSentinel(directory, **options)) as server:
        yield server


@contextmanager
def throwaway_redis_cluster(directory: Path, **options: Any) -> Iterator[RedisCluster]:
    """A started Redis Cluster of one's own, to be hurt node by node: processes of this machine.

    `options` are those of RedisCluster. Raises CannotProvideError where there is no redis-server.
    """
    prepare_redis()
    with _killed_afterwards(RedisCluster(directory, **options)) as cluster:
        yield cluster


S = TypeVar("S", KafkaCluster, RedisCluster, RedisSentinel)


@contextmanager
def _killed_afterwards(server: S) -> Iterator[S]:
    try:
        server.start()
        yield server
    finally:
        server.kill()


@contextmanager
def _removed_afterwards(server: "KafkaServer | RedisServer | ComposeServer") -> Iterator[None]:
    try:
        yield
    finally:
        if isinstance(server, ComposeServer):
            server.remove()
        else:
            server.kill()


def provide_kafka(
    directory: Path, port: int | None = None, *, detached: bool = False, progress: Progress = lambda _line: None
) -> Kafka:
    """The Kafka to use, prepared but not started. Raises with all that is missing where none can be had."""
    given = os.environ.get(KAFKA_VARIABLE)
    if given:
        return GivenKafka(given)
    problem = compose_problem()
    if problem is None:
        server = ComposeKafka(project_name(directory), port)
        progress("kafka: image apache/kafka from Docker")
        server.pull()
        return server
    try:
        prepare_jars(progress)
    except CannotProvideError as error:
        raise CannotProvideError(_missing("Kafka", KAFKA_VARIABLE, problem, str(error))) from None
    return KafkaServer(directory, port, detached=detached)


def provide_redis(
    directory: Path,
    port: int | None = None,
    *,
    appendonly: bool = False,
    detached: bool = False,
    progress: Progress = lambda _line: None,
) -> Redis:
    """The Redis to use, prepared but not started. Raises with all that is missing where none can be had."""
    given = os.environ.get(REDIS_VARIABLE)
    if given:
        return GivenRedis(given)
    problem = compose_problem()
    if problem is None:
        server = ComposeRedis(project_name(directory), port, appendonly=appendonly)
        progress("redis: image redis from Docker")
        server.pull()
        return server
    try:
        prepare_redis(progress)
    except CannotProvideError as error:
        raise CannotProvideError(_missing("Redis", REDIS_VARIABLE, problem, str(error))) from None
    # everysec: a developer's data may lose a second when the machine goes down.
    settings = {"appendfsync": "everysec"}
    return RedisServer(directory, port, appendonly=appendonly, settings=settings, detached=detached)


def _missing(what: str, variable: str, *problems: str) -> str:
    ways = "\n".join(f"  - {problem}" for problem in (f"{variable} is not set", *problems))
    return f"no {what} to be had:\n{ways}\nAny one of these put right is enough."
