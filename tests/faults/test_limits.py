"""What a process may use runs out, and its clock is wrong: it goes on, refuses what it can't take, and says so."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from tests.faults.clocks import preloads, with_a_clock
from tests.faults.expectations import clock_is_off, counted, delivery_goes_on, publishing_goes_on, stays_alive
from tests.faults.faults import (
    Fault,
    callers,
    clock_step,
    crowd,
    cut,
    few_descriptors,
    kill,
    set_clock,
    throttle,
    together,
)
from tests.faults.loads import steady, with_a_slow_reader
from tests.faults.rig import ROUTERS, FaultRig
from tests.faults.scenario import Conditions, Scenario, play

from heliograph.local.errors import CannotProvideError

pytestmark = pytest.mark.xdist_group("faults")

GOES_ON = (publishing_goes_on, delivery_goes_on)
HOUR_S = 3600.0


def short_of_memory(_rig: FaultRig) -> Conditions:
    """What it needs to stand still is above its critical mark: it lets nobody in, instead of being killed."""
    return Conditions(settings={"memory_limit_bytes": str(64 * 1024 * 1024)})


def clocks(
    name: str, step_s: float, *services: str, also: Sequence[Fault] = (), per_s: float = 200, during_s: float = 3
) -> Scenario:
    """The clocks of these services step by so much at once, and back."""
    return Scenario(
        name,
        load=steady(per_s=per_s),
        fault=together(clock_step(", ".join(services), step_s), *also),
        during_s=during_s,
        expect=[*(clock_is_off(service, step_s) for service in services), *GOES_ON],
        under=dict.fromkeys(services, with_a_clock),
    )


def an_hour_ahead(rig: FaultRig) -> Conditions:
    """From its start on: what it publishes seems to come from the future."""
    conditions = with_a_clock(rig)
    set_clock(rig, HOUR_S)
    return conditions


SCENARIOS = [
    Scenario(
        "a reader takes less than there is telemetry",
        load=with_a_slow_reader(per_s=10, telemetry_per_s=200, telemetry_bytes=8_000),
        fault=throttle("reader>edge-1", bytes_per_s=100_000, directions=("down",)),
        during_s=1,
        expect=[counted("edge-1", "heliograph_edge_telemetry_shed_total", at_least=50), publishing_goes_on],
    ),
    Scenario(
        "a reader takes less than there are events, and catches up from the window",
        load=with_a_slow_reader(per_s=60, event_bytes=30_000, telemetry_per_s=20),
        fault=throttle("reader>edge-1", bytes_per_s=100_000, directions=("down",)),
        during_s=1,
        expect=[counted("edge-1", "heliograph_edge_catch_ups_total"), publishing_goes_on],
    ),
    clocks("an edge's clock steps an hour ahead, and back", HOUR_S, "edge-1"),
    clocks("an edge's clock steps an hour back, and ahead again", -HOUR_S, "edge-1"),
    clocks("both routers' clocks step an hour ahead, and back", HOUR_S, *ROUTERS, also=[kill("edge-2")], during_s=8),
    Scenario(
        "an edge dies whose clock is an hour ahead",
        load=steady(per_s=400),
        fault=replace(together(cut("edge-2>kafka"), kill("edge-2")), clock=True),
        during_s=3,
        expect=GOES_ON,
        under={"edge-2": an_hour_ahead},
    ),
    clocks(
        "both routers' clocks step an hour back, and ahead again", -HOUR_S, *ROUTERS, also=[kill("edge-2")], during_s=8
    ),
    clocks(
        "the clocks of replay and registry step an hour ahead, and back", HOUR_S, "replay-1", "registry-1", per_s=100
    ),
    Scenario(
        "an edge has no descriptor left for its next clients",
        load=steady(per_s=100),
        fault=together(few_descriptors("edge-1", 8), crowd("edge-1", 40)),
        during_s=2,
        expect=[
            stays_alive("edge-1"),
            counted("edge-1", "heliograph_edge_accept_failures_total", label="EMFILE", later=True),
            *GOES_ON,
        ],
    ),
    Scenario(
        "an edge is short of memory when clients come",
        load=steady(per_s=100, only="edge-1"),
        fault=callers("edge-2", 20),
        during_s=1,
        expect=[
            stays_alive("edge-2"),
            counted("edge-2", "heliograph_edge_admission_refused_total", label="pressure", at_least=20),
            *GOES_ON,
        ],
        under={"edge-2": short_of_memory},
    ),
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
async def test_nothing_is_lost_when(rig: FaultRig, scenario: Scenario) -> None:
    if {with_a_clock, an_hour_ahead} & set(scenario.under.values()):
        try:
            preloads(rig.directory)
        except CannotProvideError as error:
            pytest.skip(str(error))
    await play(scenario, rig)
