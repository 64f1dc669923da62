"""A scenario: a load, a fault, how long it lasts and what is expected; run by one runner, judged by one checker."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from tests.faults.expectations import Expectation
from tests.faults.faults import Fault, Stage
from tests.faults.keeping import kept
from tests.faults.loads import Load
from tests.faults.rig import FaultRig
from tests.system.load import running


@dataclass(frozen=True, slots=True)
class Conditions:
    """Under which one service is started for a scenario, instead of how it is otherwise."""

    settings: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    before: Sequence[str] = ()
    """What its command is given to run: `prlimit …`."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """`expect` is looked at while the fault lasts and afterwards. That nothing is lost, late, doubled or out of order
    is expected of every scenario: the checker judges its history at rest.
    """

    name: str
    load: Load
    fault: Fault
    during_s: float
    """At least: it lasts until what is expected of it has been seen."""
    expect: Sequence[Expectation] = ()
    under: Mapping[str, Callable[[FaultRig], Conditions]] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


async def play(scenario: Scenario, rig: FaultRig, seed: int | None = None) -> None:
    """Run it to rest and judge it; the seed is printed with what it amounted to."""
    seed = random.randrange(2**32) if seed is None else seed
    async with AsyncExitStack() as stack:
        for name, made in scenario.under.items():
            conditions = made(rig)
            await stack.enter_async_context(
                rig.altered(
                    name,
                    settings=conditions.settings,
                    environment=conditions.environment,
                    before=conditions.before,
                )
            )
        run = scenario.load(rig, seed)
        async with kept(run), running(run):
            await run.more()
            await run.telemetry_seen()
            stage = Stage(rig, run, random.Random(seed))
            await look(stage)
            async with happening(stage, scenario.fault):
                began_s = asyncio.get_running_loop().time()
                for expectation in scenario.expect:
                    await expectation.meanwhile(stage)
                left_s = began_s + scenario.during_s - asyncio.get_running_loop().time()
                await asyncio.sleep(max(0.0, left_s))
            for expectation in scenario.expect:
                await expectation.afterwards(stage)


async def look(stage: Stage) -> None:
    """Note every service's metrics as they are."""

    def ask() -> dict[str, str]:
        return {service.name: service.metrics() for service in stage.rig.stack.services}

    stage.before = await asyncio.to_thread(ask)


@asynccontextmanager
async def happening(stage: Stage, fault: Fault) -> AsyncIterator[None]:
    """A fault and its end: the rig is whole again and everybody gets on."""
    run = stage.run
    from_s = run.through_s()
    run.history.note(fault.what)
    if fault.kafka or fault.clock:
        run.history.patience_s = 0.0
    async with fault.on(stage):
        yield
        run.history.note(f"over: {fault.what}")
    await stage.rig.heal()
    run.history.note("healed")
    await run.more()
    await run.seen_more()
    await run.telemetry_seen()
    run.history.note("everybody gets on")
    if fault.live:
        run.tallies.trouble(from_s)
