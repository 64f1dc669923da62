"""Real Kafka and Redis for the tests that want them, started only when the first such test runs.

One Kafka serves the whole run and all pytest-xdist workers: use topic names and groups of your own. Each worker has a
Redis of its own: use keys of your own, or flush it where a test must see it empty. Both end with the run, also when it
is interrupted or killed. Servers for a single test, to be killed and restarted: `redis_server`, `redis_sentinel`,
`redis_cluster` and `kafka_server`.
"""

import os
import shutil
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import mkdtemp

import pytest
from hypothesis import HealthCheck, settings
from tests.failing import services_say
from tests.secured import SecureKafka, secure_kafka
from tests.systems import Systems

from heliograph.local.providers import (
    KAFKA_VARIABLE,
    REDIS_VARIABLE,
    Kafka,
    Redis,
    throwaway_kafka,
    throwaway_redis,
    throwaway_redis_cluster,
    throwaway_redis_sentinel,
)
from heliograph.local.redis_cluster import RedisCluster
from heliograph.local.redis_sentinel import RedisSentinel
from heliograph.local.shared import SharedKafka
from heliograph.local.stack import Stack

settings.register_profile("heliograph", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("heliograph")
"""How long an example takes says how busy the machine is, not whether the rule holds."""

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A run in the background of a script ignores SIGINT, and so would all that it starts; tests press Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)

RUN_DIRECTORY = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    """Give the run one directory: made by the controller (or the only process), known to every worker."""
    worker_input: dict[str, str] | None = getattr(config, "workerinput", None)
    if worker_input is None:
        config.stash[RUN_DIRECTORY] = Path(mkdtemp(prefix="heliograph-tests-"))
    else:
        config.stash[RUN_DIRECTORY] = Path(worker_input["heliograph_directory"])


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: object) -> None:
    """Called by pytest-xdist in the controller for each worker, before it starts."""
    config: pytest.Config = node.config  # type: ignore[attr-defined]
    node.workerinput["heliograph_directory"] = str(config.stash[RUN_DIRECTORY])  # type: ignore[attr-defined]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where a test fails that has services running, what they say belongs to why."""
    report = yield
    stack = getattr(getattr(item, "funcargs", {}).get("rig"), "stack", None)
    if report.failed and isinstance(stack, Stack):
        report.sections.append(("what the services say", services_say(stack, call.start)))
    return report


def pytest_unconfigure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput") or RUN_DIRECTORY not in config.stash:
        return
    directory = config.stash[RUN_DIRECTORY]
    SharedKafka(directory, os.getpid()).stop()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def kafka_bootstrap(pytestconfig: pytest.Config) -> str:
    """`host:port` of a real Kafka, shared by all workers of the run; `KAFKA_BOOTSTRAP_SERVERS` where that is given."""
    given = os.environ.get(KAFKA_VARIABLE)
    if given:
        return given
    controller = os.getppid() if hasattr(pytestconfig, "workerinput") else os.getpid()
    return SharedKafka(pytestconfig.stash[RUN_DIRECTORY], controller).bootstrap_servers()


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real Redis that only this worker uses; `REDIS_URL` where that is given, and then everybody's."""
    given = os.environ.get(REDIS_VARIABLE)
    if given:
        yield given
        return
    with throwaway_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture(scope="session")
def redis_cluster_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real Redis Cluster of three that only this worker uses; not to be hurt."""
    with throwaway_redis_cluster(tmp_path_factory.mktemp("redis-cluster")) as cluster:
        yield cluster.url


@pytest.fixture(scope="session")
def systems() -> Iterator[Systems]:
    """For systems that serve the tests of many modules; who makes one of its own ends the other first."""
    made = Systems()
    yield made
    made.end()


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[Callable[..., Redis]]:
    """Makes Redis servers for this test alone: `redis_server(appendonly=True, settings={"maxmemory": "1mb"})`."""
    with ExitStack() as servers:
        yield lambda **options: servers.enter_context(throwaway_redis(Path(mkdtemp(dir=tmp_path)), **options))


@pytest.fixture(scope="session")
def kafka_with_users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    """A Kafka with TLS and users, for all tests of this worker: add users of your own."""
    with secure_kafka(tmp_path_factory.mktemp("kafka-with-users")) as kafka:
        yield kafka


@pytest.fixture
def redis_sentinel(tmp_path: Path) -> Iterator[Callable[..., RedisSentinel]]:
    """Makes a primary, its replica and three sentinels for this test alone: `redis_sentinel(password="x")`."""
    with ExitStack() as servers:
        yield lambda **options: servers.enter_context(throwaway_redis_sentinel(Path(mkdtemp(dir=tmp_path)), **options))


@pytest.fixture
def redis_cluster(tmp_path: Path) -> Iterator[Callable[..., RedisCluster]]:
    """Makes Redis Clusters for this test alone (about 3 s each): `redis_cluster(replicas=1)`."""
    with ExitStack() as servers:
        yield lambda **options: servers.enter_context(throwaway_redis_cluster(Path(mkdtemp(dir=tmp_path)), **options))


@pytest.fixture
def kafka_server(tmp_path: Path) -> Iterator[Callable[[], Kafka]]:
    """Makes started Kafka nodes for this test alone (about 5 s each), to be killed and restarted."""
    with ExitStack() as servers:
        yield lambda: servers.enter_context(throwaway_kafka(Path(mkdtemp(dir=tmp_path))))
