"""Faults: each says what it does, does it, and undoes it. Real ones, on processes and on what is between them."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from tests.faults.rig import FaultRig
from tests.system.load import Run

from heliograph.local.services import ServiceProcess


@dataclass(slots=True)
class Stage:
    """What a scenario plays on."""

    rig: FaultRig
    run: Run
    dice: random.Random
    before: dict[str, str] = field(default_factory=dict)
    """Metrics of each service, as they were before the fault; a service that was started since begins at nothing."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that breaks, for as long as its `on` is entered."""

    what: str
    on: Callable[[Stage], AbstractAsyncContextManager[None]]
    kafka: bool = False
    """A broker may have written what it did not answer: its producers write at once again."""
    live: bool = False
    """The live path loses what is on its way, which nobody can count."""


def together(*faults: Fault) -> Fault:
    """All of them at once."""

    @asynccontextmanager
    async def on(stage: Stage) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for fault in faults:
                await stack.enter_async_context(fault.on(stage))
            yield

    what = ", ".join(fault.what for fault in faults)
    return Fault(what, on, kafka=any(one.kafka for one in faults), live=any(one.live for one in faults))


# ---- processes ------------------------------------------------------------------------------------------------------


async def kill_now(stage: Stage, name: str) -> None:
    """kill -9, at a moment when much is under way."""
    one = stage.rig.named(name)
    await stage.run.busy()
    if one in stage.rig.stack.edges:
        assert isinstance(one, ServiceProcess)
        await stage.run.tallies.read_one(one)
        await stage.rig.kill(one)
        stage.run.tallies.died(one)
    else:
        await stage.rig.kill(one)


def kill(name: str) -> Fault:
    """kill -9, and started again."""

    @asynccontextmanager
    async def on(stage: Stage) -> AsyncIterator[None]:
        await kill_now(stage, name)
        yield
        await stage.rig.launch(stage.rig.named(name))

    return Fault(f"kill -9 {name}", on, kafka=name == "kafka", live=name == "redis")


def stop(name: str) -> Fault:
    """SIGTERM, waited for, and started again."""

    @asynccontextmanager
    async def on(stage: Stage) -> AsyncIterator[None]:
        one = stage.rig.named(name)
        if one in stage.rig.stack.edges:
            assert isinstance(one, ServiceProcess)
            await stage.run.tallies.read_one(one)
            await stage.rig.stop(one)
            stage.run.tallies.died(one)
        else:
            await stage.rig.stop(one)
        yield
        await stage.rig.launch(one)

    return Fault(f"stop {name}", on, kafka=name == "kafka", live=name == "redis")


def freeze(*names: str) -> Fault:
    """SIGSTOP and SIGCONT: it answers nobody, and then goes on with what it had in its hands."""

    @asynccontextmanager
    async def on(stage: Stage) -> AsyncIterator[None]:
        await stage.run.busy()
        for name in names:
            stage.rig.signal(name, signal.SIGSTOP)
        try:
            yield
        finally:
            for name in names:
                stage.rig.signal(name, signal.SIGCONT)

    return Fault(f"SIGSTOP {', '.join(names)}", on, kafka="kafka" in names, live="redis" in names)


# ---- links ----------------------------------------------------------------------------------------------------------


def _link(what: str, links: tuple[str, ...], deed: Callable[[FaultRig, str], None]) -> Fault:
    @asynccontextmanager
    async def on(stage: Stage) -> AsyncIterator[None]:
        for link in links:
            await asyncio.to_thread(deed, stage.rig, link)
        try:
            yield
        finally:
            for link in links:
                await asyncio.to_thread(stage.rig.links[link].heal)

    ends = {link.partition(">")[2] for link in links}
    return Fault(f"{what} {', '.join(links)}", on, kafka="kafka" in ends, live="redis" in ends)


def cut(*links: str) -> Fault:
    """Reset, and reset again whoever comes."""
    return _link("cut", links, lambda rig, link: rig.links[link].cut())


def black_hole(*links: str, directions: tuple[str, ...] = ()) -> Fault:
    """Nothing passes and nobody is told; `directions` (`up`, `down`): only so."""
    return _link("black hole", links, lambda rig, link: rig.links[link].hold(*directions))


def delay(*links: str, delay_s: float, jitter_s: float = 0.0) -> Fault:
    return _link(
        f"delay of {delay_s:g} ± {jitter_s:g} s on", links, lambda rig, link: rig.links[link].delay(delay_s, jitter_s)
    )


def throttle(*links: str, bytes_per_s: float, directions: tuple[str, ...] = ()) -> Fault:
    return _link(
        f"{bytes_per_s:g} bytes/s on", links, lambda rig, link: rig.links[link].throttle(bytes_per_s, *directions)
    )
