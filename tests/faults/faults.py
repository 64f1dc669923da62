"""Faults: each says what it does, does it, and undoes it. Real ones, on processes and on what is between them."""

import asyncio
import random
import resource
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from redis.asyncio import Redis as Client
from tests.faults.rig import FaultRig
from tests.system.load import Run
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from heliograph.local.ports import LOOPBACK
from heliograph.local.redis import RedisServer
from heliograph.local.services import ServiceProcess
from heliograph.protocol.frames import CONNECT_PATH

BUSY_S = 20.0
CALL_TIMEOUT_S = 30.0


@dataclass(slots=True)
class Stage:
    """What a scenario plays on."""

    rig: FaultRig
    run: Run
    dice: random.Random
    before: dict[str, str] = field(default_factory=dict)
    """Metrics of each service, as they were before the fault; a service that was started since begins at nothing."""
    busy_s: float = BUSY_S
    """How long a moment when much is under way is waited for."""
    must_be_busy: bool = True

    async def moment(self) -> None:
        """The worst one for somebody to die: much is under way."""
        try:
            await self.run.busy(timeout_s=self.busy_s)
        except AssertionError:
            if self.must_be_busy:
                raise


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that breaks, for as long as its `on` is entered."""

    what: str
    on: Callable[[Stage], AbstractAsyncContextManager[None]]
    kafka: bool = False
    """A broker may have written what it did not answer: its producers write at once again."""
    live: bool = False
    """The live path loses what is on its way, which nobody can count."""
    clock: bool = False
    """Times in records say nothing about when they were written."""


def together(*faults: Fault) -> Fault:
    """All of them at once."""

    @asynccontextmanager
    async def on(stage: Stage) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for fault in faults:
                await stack.enter_async_context(fault.on(stage))
            yield

    what = ", ".join(fault.what for fault in faults)
    return Fault(
        what,
        on,
        kafka=any(one.kafka for one in faults),
        live=any(one.live for one in faults),
        clock=any(one.clock for one in faults),
    )


# ---- processes ------------------------------------------------------------------------------------------------------


async def kill_now(stage: Stage, name: str) -> None:
    """kill -9, at a moment when much is under way."""
    one = stage.rig.named(name)
    await stage.moment()
    if one in stage.rig.stack.edges:
        assert isinstance(one, ServiceProcess)
        await stage.run.tallies.ends(one, stage.rig.kill(one))
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
            await stage.run.tallies.ends(one, stage.rig.stop(one))
        else:
            await stage.rig.stop(one)
        yield
        await stage.rig.launch(one)

    return Fault(f"stop {name}", on, kafka=name == "kafka", live=name == "redis")


def lose_redis() -> Fault:
    """It ends together with its data, as one without persistence does."""

    @asynccontextmanager
    async def on(stage: Stage) -> AsyncIterator[None]:
        await stage.moment()
        await stage.rig.lose_live_store(stage.run.history)
        yield
        await stage.rig.launch(stage.rig.redis)

    return Fault("redis is gone with its data", on, live=True)


def freeze(*names: str) -> Fault:
    """SIGSTOP and SIGCONT: it answers nobody, and then goes on with what it had in its hands."""

    @asynccontextmanager
    async def on(stage: Stage) -> AsyncIterator[None]:
        await stage.moment()
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


# ---- limits and clocks ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def limited(pid: int, what: int, soft: int) -> AsyncIterator[None]:
    """A running process with another soft limit (prlimit(2)), and then with the one it had."""
    before = resource.prlimit(pid, what)
    resource.prlimit(pid, what, (soft, before[1]))
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # it died of it, and whoever expects otherwise says so
            resource.prlimit(pid, what, before)


def disk_full(name: str = "redis") -> Fault:
    """Its append-only file may not grow by a byte. With `appendfsync everysec` it refuses writes (MISCONF) until it
    may; with `always`, which else is ours, it would rather end.
    """

    @asynccontextmanager
    async def on(stage: Stage) -> AsyncIterator[None]:
        server = stage.rig.named(name)
        assert isinstance(server, RedisServer)
        assert server.process is not None
        async with Client.from_url(server.url) as client:
            await client.config_set("appendfsync", "everysec")
            async with limited(server.process.pid, resource.RLIMIT_FSIZE, 0):
                yield
            await client.config_set("appendfsync", "always")

    return Fault(f"the disk of {name} is full", on, live=True)


def few_descriptors(name: str, spare: int) -> Fault:
    """It may open so many more than it has open; clients that want more than that are the scenario's load."""

    @asynccontextmanager
    async def on(stage: Stage) -> AsyncIterator[None]:
        pid = stage.rig.service(name).pid
        numbers = [int(one.name) for one in Path(f"/proc/{pid}/fd").iterdir()]
        async with limited(pid, resource.RLIMIT_NOFILE, max(numbers) + 1 + spare):
            yield

    return Fault(f"{spare} descriptors left for {name}", on)


def clock_step(names: str, step_s: float) -> Fault:
    """The wall clock of all services that were started `with_a_clock`, these, is another; monotonic time goes on."""

    @asynccontextmanager
    async def on(stage: Stage) -> AsyncIterator[None]:
        set_clock(stage.rig, step_s)
        yield
        set_clock(stage.rig, 0.0)

    return Fault(f"the clock of {names} steps by {step_s:+g} s", on, clock=True)


def set_clock(rig: FaultRig, offset_s: float) -> None:
    """As one rename, so that nobody reads half of it."""
    made = rig.clock_file.with_suffix(".new")
    made.write_text(f"{offset_s:+g}\n")
    made.rename(rig.clock_file)


def crowd(name: str, count: int) -> Fault:
    """So many clients connect to an edge, stay, and say nothing."""

    @asynccontextmanager
    async def on(stage: Stage) -> AsyncIterator[None]:
        sockets = [socket.socket() for _ in range(count)]
        try:
            for one in sockets:
                one.setblocking(False)
                with suppress(ConnectionError):
                    await asyncio.get_running_loop().sock_connect(one, (LOOPBACK, stage.rig.service(name).port))
            yield
        finally:
            for one in sockets:
                one.close()

    return Fault(f"{count} clients come to {name}", on)


def callers(name: str, count: int) -> Fault:
    """So many clients try to connect to an edge, one upon the other, until each was let in or turned away."""

    @asynccontextmanager
    async def on(stage: Stage) -> AsyncIterator[None]:
        url = stage.rig.service(name).url.replace("http", "ws", 1) + CONNECT_PATH
        headers = {"Authorization": f"Bearer {stage.run.token('caller')}"}
        for _ in range(count):
            with suppress(InvalidStatus):
                async with connect(url, additional_headers=headers, proxy=None, open_timeout=CALL_TIMEOUT_S):
                    pass
        yield

    return Fault(f"{count} clients call {name}", on)
