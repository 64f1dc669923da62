"""Services are killed and frozen under load: nothing is lost, out of order or silently missing."""

import pytest
from tests.faults.expectations import delivery_goes_on, publishing_goes_on
from tests.faults.faults import cut, kill
from tests.faults.loads import steady
from tests.faults.rig import FaultRig
from tests.faults.scenario import Scenario, play

pytestmark = pytest.mark.xdist_group("faults")

SCENARIOS = [
    Scenario(
        "an edge is killed",
        load=steady(per_s=200),
        fault=kill("edge-1"),
        during_s=2,
        expect=[publishing_goes_on, delivery_goes_on],
    ),
    Scenario(
        "an edge loses its line to kafka",
        load=steady(per_s=200),
        fault=cut("edge-1>kafka"),
        during_s=4,
        expect=[delivery_goes_on],
    ),
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
async def test_nothing_is_lost_when(rig: FaultRig, scenario: Scenario) -> None:
    await play(scenario, rig)
