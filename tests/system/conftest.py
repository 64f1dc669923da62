"""One rig for all tests of this folder that run in one process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.system.rig import Rig, started
from tests.systems import Systems

from heliograph.local.providers import throwaway_kafka, throwaway_redis


@contextmanager
def running_rig(directory: Path) -> Iterator[Rig]:
    """Kafka, two Redis and two of each service."""
    with (
        throwaway_kafka(directory / "kafka") as kafka,
        throwaway_redis(directory / "redis", appendonly=True) as redis,
        throwaway_redis(directory / "metadata", appendonly=True) as metadata,
        started(Rig(directory, kafka, redis, metadata)) as rig,
    ):
        yield rig


@pytest.fixture
def stack(systems: Systems, tmp_path_factory: pytest.TempPathFactory) -> Rig:
    """Started once, for as long as no other system is wanted."""
    return systems.take("system", lambda: running_rig(tmp_path_factory.mktemp("system")))


@pytest.fixture
async def rig(stack: Rig) -> Rig:
    """The rig, whole before the test, whatever the one before did to it."""
    await stack.heal()
    return stack
