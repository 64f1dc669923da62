"""Redis and Kafka are killed, frozen and full: control is deferred, the rest waits, nothing durable is lost."""

import pytest
from tests.faults.expectations import answered, deferred_is_delivered, delivery_goes_on, publishes_are_answered
from tests.faults.faults import disk_full, freeze, kill, stop
from tests.faults.loads import steady
from tests.faults.rig import FaultRig
from tests.faults.scenario import Scenario, play
from tests.system.history import Outcome

pytestmark = pytest.mark.xdist_group("faults")

DEFERS = (answered(Outcome.DEFERRED, 20), deferred_is_delivered(within_s=30))

SCENARIOS = [
    Scenario("redis is killed", steady(per_s=200), kill("redis"), during_s=2, expect=DEFERS),
    Scenario("redis is frozen", steady(per_s=200), freeze("redis"), during_s=3, expect=DEFERS),
    Scenario("redis has no disk left", steady(per_s=200), disk_full("redis"), during_s=2, expect=DEFERS),
    Scenario(
        "kafka is restarted",
        load=steady(per_s=60),
        fault=stop("kafka"),
        during_s=2,
        expect=[answered(Outcome.PENDING, 10), publishes_are_answered, delivery_goes_on],
    ),
    Scenario(
        "kafka is frozen for longer than producers wait",
        load=steady(per_s=60),
        fault=freeze("kafka"),
        during_s=8,
        expect=[answered(Outcome.PENDING, 10), publishes_are_answered, delivery_goes_on],
    ),
    Scenario(
        "the metadata redis is killed",
        load=steady(per_s=200),
        fault=kill("metadata"),
        during_s=2,
        expect=[publishes_are_answered, delivery_goes_on],
    ),
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
async def test_nothing_is_lost_when(rig: FaultRig, scenario: Scenario) -> None:
    await play(scenario, rig)
