"""What is between processes is cut, held, delayed and throttled: a network that is worse than its ends believe."""

import pytest
from tests.faults.expectations import answered, delivery_goes_on, publishes_are_answered, publishing_goes_on
from tests.faults.faults import black_hole, cut, delay, throttle
from tests.faults.loads import steady
from tests.faults.rig import FaultRig
from tests.faults.scenario import Scenario, play
from tests.system.history import Outcome

pytestmark = pytest.mark.xdist_group("faults")

GOES_ON = (publishing_goes_on, delivery_goes_on)

SCENARIOS = [
    Scenario("clients are cut off from an edge", steady(per_s=200), cut("clients>edge-1"), during_s=1, expect=GOES_ON),
    Scenario(
        "clients and an edge don't hear each other any more, and nobody tells them",
        load=steady(per_s=200),
        fault=black_hole("clients>edge-2"),
        during_s=4,
        expect=GOES_ON,
    ),
    Scenario(
        "an edge hears its clients, who don't hear it",
        load=steady(per_s=200),
        fault=black_hole("clients>edge-1", directions=("down",)),
        during_s=4,
        expect=GOES_ON,
    ),
    Scenario(
        "an edge is cut off from redis",
        load=steady(per_s=200),
        fault=cut("edge-1>redis"),
        during_s=3,
        expect=[answered(Outcome.DEFERRED, 10)],
    ),
    Scenario(
        "an edge's line to redis is dead, and nobody tells it",
        load=steady(per_s=200),
        fault=black_hole("edge-1>redis"),
        during_s=3,
        expect=[answered(Outcome.DEFERRED, 10)],
    ),
    Scenario(
        "everybody's lines to redis are slow and uneven",
        load=steady(per_s=200),
        fault=delay("edge-1>redis", "edge-2>redis", "routers>redis", delay_s=0.15, jitter_s=0.1),
        during_s=3,
        expect=GOES_ON,
    ),
    Scenario(
        "nobody reaches the metadata redis",
        load=steady(per_s=200),
        fault=black_hole("edge-1>metadata", "edge-2>metadata", "routers>metadata"),
        during_s=5,
        expect=GOES_ON,
    ),
    Scenario(
        "an edge is cut off from kafka",
        load=steady(per_s=100),
        fault=cut("edge-1>kafka"),
        during_s=4,
        expect=[answered(Outcome.PENDING, 10), publishes_are_answered, delivery_goes_on],
    ),
    Scenario(
        "the routers' lines to kafka are dead, and nobody tells them",
        load=steady(per_s=100),
        fault=black_hole("routers>kafka"),
        during_s=8,
        expect=GOES_ON,
    ),
    Scenario(
        "an edge's line to kafka is narrow",
        load=steady(per_s=200),
        fault=throttle("edge-2>kafka", bytes_per_s=8_000),
        during_s=4,
        expect=[publishes_are_answered, delivery_goes_on],
    ),
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
async def test_nothing_is_lost_when(rig: FaultRig, scenario: Scenario) -> None:
    await play(scenario, rig)
