"""One rig for all tests of this folder that run in one process."""

from collections.abc import Iterator

import pytest
from tests.system.rig import Rig

from heliograph.local.providers import throwaway_kafka, throwaway_redis


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Kafka, two Redis and two of each service, started once."""
    directory = tmp_path_factory.mktemp("system")
    with (
        throwaway_kafka(directory / "kafka") as kafka,
        throwaway_redis(directory / "redis", appendonly=True) as redis,
        throwaway_redis(directory / "metadata", appendonly=True) as metadata,
    ):
        rig = Rig(directory, kafka, redis, metadata)
        try:
            rig.start()
            yield rig
        finally:
            rig.end()


@pytest.fixture
async def rig(stack: Rig) -> Rig:
    """The rig, whole before the test, whatever the one before did to it."""
    await stack.heal()
    return stack
