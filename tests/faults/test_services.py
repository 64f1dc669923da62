"""Services are killed and frozen under load: nothing is lost, out of order or silently missing."""

import pytest
from tests.faults.expectations import delivery_goes_on, publishes_are_answered, publishing_goes_on
from tests.faults.faults import freeze, kill, together
from tests.faults.loads import steady
from tests.faults.rig import FaultRig
from tests.faults.scenario import Scenario, play

pytestmark = pytest.mark.xdist_group("faults")

GOES_ON = (publishing_goes_on, delivery_goes_on)

SCENARIOS = [
    Scenario("an edge is killed", steady(per_s=200), kill("edge-1"), during_s=2, expect=GOES_ON),
    Scenario("a router is killed", steady(per_s=200), kill("router-1"), during_s=2, expect=GOES_ON),
    Scenario("a replay is killed", steady(per_s=100), kill("replay-1"), during_s=1, expect=GOES_ON),
    Scenario("a registry is killed", steady(per_s=100), kill("registry-1"), during_s=1, expect=GOES_ON),
    Scenario(
        "both routers and an edge are killed",
        load=steady(per_s=100),
        fault=together(kill("router-1"), kill("router-2"), kill("edge-2")),
        during_s=2,
        expect=[publishes_are_answered, delivery_goes_on],
    ),
    Scenario(
        "an edge is frozen for longer than clients wait and its lease lasts",
        load=steady(per_s=200),
        fault=freeze("edge-2"),
        during_s=5,
        expect=GOES_ON,
    ),
    Scenario(
        "a router is frozen for longer than its lease and its group's patience",
        load=steady(per_s=200),
        fault=freeze("router-1"),
        during_s=8,
        expect=GOES_ON,
    ),
    Scenario(
        "a replay and a registry are frozen",
        load=steady(per_s=100),
        fault=freeze("replay-1", "registry-1"),
        during_s=2,
        expect=GOES_ON,
    ),
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
async def test_nothing_is_lost_when(rig: FaultRig, scenario: Scenario) -> None:
    await play(scenario, rig)
