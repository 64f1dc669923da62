"""One rig for all scenarios that run in one process."""

import pytest
from tests.faults.rig import FaultRig, running_rig
from tests.systems import Systems

from heliograph.local.errors import CannotProvideError
from heliograph.local.java import prepare_jars
from heliograph.local.redis import prepare_redis


@pytest.fixture
def stack(systems: Systems, tmp_path_factory: pytest.TempPathFactory) -> FaultRig:
    """Kafka, two Redis and two of each service, as processes: signals and limits are for processes."""
    try:
        prepare_jars()
        prepare_redis()
    except CannotProvideError as error:
        pytest.skip(f"faults are for Kafka and Redis as processes: {error}")
    return systems.take("faults", lambda: running_rig(tmp_path_factory.mktemp("faults")))


@pytest.fixture
async def rig(stack: FaultRig) -> FaultRig:
    """The rig, whole before the test, whatever the one before did to it."""
    await stack.heal()
    return stack
