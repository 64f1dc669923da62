"""One rig for all scenarios that run in one process."""

from collections.abc import Iterator

import pytest
from tests.faults.rig import FaultRig, running_rig

from heliograph.local.errors import CannotProvideError
from heliograph.local.java import prepare_jars
from heliograph.local.redis import prepare_redis


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultRig]:
    """Kafka, two Redis and two of each service, as processes: signals and limits are for processes."""
    try:
        prepare_jars()
        prepare_redis()
    except CannotProvideError as error:
        pytest.skip(f"faults are for Kafka and Redis as processes: {error}")
    with running_rig(tmp_path_factory.mktemp("faults")) as rig:
        yield rig


@pytest.fixture
async def rig(stack: FaultRig) -> FaultRig:
    """The rig, whole before the test, whatever the one before did to it."""
    await stack.heal()
    return stack
