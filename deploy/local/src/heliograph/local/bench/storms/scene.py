"""What every storm needs on the stage: edges with the settings of an installation, tenants, and a bystander.

The bystander is a tenant that behaves: some sessions, a steady rate, open-loop. What a storm costs is what happens to
its latency, judged against the same bystander's in the quiet before, in the same run.
"""

import secrets
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from heliograph.local.bench.machine import wait_settled
from heliograph.local.bench.report import HELIOGRAPH, Report
from heliograph.local.bench.rig import AGENT_TYPE, Rig, pid_of
from heliograph.local.bench.storms.actors import Actor, StormError
from heliograph.local.bench.storms.judging import Latencies, Loss, Stretch, excess, loss_of
from heliograph.local.bench.storms.party import Party, Plan
from heliograph.local.ports import LOOPBACK
from heliograph.local.providers import Kafka, Redis
from heliograph.local.services import ServiceProcess
from heliograph.local.tenant import DevelopmentTenant

OPEN_PER_S = 400.0
"""Below what an edge admits."""
OPEN_TIMEOUT_S = 60.0
ONE_TOKEN: Mapping[str, Any] = {"limits": {"connections_per_subject": 20_000}}
"""Settings of a tenant all of whose clients show the same token."""

BYSTANDER_SESSIONS = 10
BYSTANDER_PER_S = 200.0
SETTLE_S = 1.0
LATE_S = 20.0
"""For what is late, once a storm is over."""


@dataclass(frozen=True, slots=True)
class Options:
    """How long and how often."""

    repeat: int = 5
    """Pairs of a quiet and a stormy run, where a ratio of times is judged."""
    scale: float = 1.0
    """Of sizes and times: below 1 for a quick look, whose numbers mean little."""

    def count(self, number: int) -> int:
        return max(1, round(number * self.scale))

    def seconds(self, seconds: float, at_least: float = 1.0) -> float:
        return max(at_least, seconds * self.scale)


@dataclass(slots=True)
class Scene:
    """One rig's stage; storms are functions of it."""

    rig: Rig
    report: Report
    options: Options
    tenants: dict[str, DevelopmentTenant] = field(default_factory=dict)

    # ---- servers ----------------------------------------------------------------------------------------------------

    def behind(self) -> None:
        """All services but edges."""
        for name in ("router", "registry", "replay"):
            self.rig.service(name)

    def edge(self, name: str, settings: Mapping[str, str] | None = None, *, elsewhere: bool = False) -> ServiceProcess:
        """An edge with an installation's settings, as a fresh process; `elsewhere`: not on the server's core."""
        edge = self.reserve(name, settings, elsewhere=elsewhere)
        self.say(f"starting {name}")
        edge.start()
        return edge

    def reserve(
        self, name: str, settings: Mapping[str, str] | None = None, *, elsewhere: bool = False
    ) -> ServiceProcess:
        """The same, not started: where it will be is known."""
        self.rig.stop(name)
        return self.rig.prepare(name, {"edge_name": name, **(settings or {})}, like="edge", elsewhere=elsewhere)

    def tenant(self, name: str, settings: Mapping[str, Any] | None = None) -> DevelopmentTenant:
        """One of the rig's tenants, made when first asked for; services know it."""
        found = self.tenants.get(name)
        if found is None:
            found = DevelopmentTenant(self.rig.directory / "tenants" / name, name, settings)
            self.rig.add_tenant(found)
            self.tenants[name] = found
        return found

    def say(self, line: str) -> None:
        self.rig.progress(line)

    # ---- load -------------------------------------------------------------------------------------------------------

    @contextmanager
    def party(self, plan: Plan, per_s: float = OPEN_PER_S, *, measures: bool = False) -> Iterator[Actor]:
        """A plan's peers, all connected."""
        with Actor(plan.name, self.rig.cores, Party, plan, measures=measures) as actor:
            timeout_s = OPEN_TIMEOUT_S + plan.size / per_s
            up = actor.ask("open", per_s, OPEN_TIMEOUT_S, timeout_s=2 * timeout_s)
            if up < plan.size:
                errors = actor.ask("accounts").errors
                raise StormError(f"{plan.name}: {up} of {plan.size} were connected in time {errors[:1]}")
            yield actor

    @contextmanager
    def bystander(self, *edges: ServiceProcess, per_s: float = BYSTANDER_PER_S) -> Iterator[Actor]:
        """A tenant that behaves, fed all the time."""
        tenant = self.tenant("calm")
        names = sessions("calm", BYSTANDER_SESSIONS)
        plan = Plan("calm", urls(*edges), tenant.token("calm"), reads=names, feeds=tuple((one,) for one in names))
        with self.party(plan, measures=True) as actor:
            actor.ask("feed", per_s)
            yield actor

    def interleave(
        self, what: str, probe: Actor, quiet_s: float, storm: Callable[[int], Stretch], pids: Sequence[int] = ()
    ) -> "Pairs":
        """Quiet and storm in turns; the probe is fed through all of it."""
        pairs = Pairs(what)
        for number in range(1, self.options.repeat + 1):
            wait_settled(list(pids), timeout_s=5.0)
            probe.ask("samples")
            quiet = stretch(quiet_s)
            stormy = storm(number)
            time.sleep(SETTLE_S)
            latencies = Latencies(probe.ask("samples"))
            pairs.add(latencies, quiet, stormy)
            self.say(f"{what} {number}/{self.options.repeat}: {pairs.last()}")
        return pairs

    def bystander_loss(self, probe: Actor) -> Loss:
        """Stop feeding it, wait for what is late, and count."""
        probe.ask("stop_feeding")
        probe.ask("settle", LATE_S)
        accounts = probe.ask("accounts")
        probe.ask("wait_read", {one.session: one.published for one in accounts.fed}, LATE_S)
        accounts = probe.ask("accounts")
        return loss_of(accounts, accounts)

    def judge_pairs(self, section: str, work: str, pairs: "Pairs", more: Mapping[str, float]) -> None:
        """A row of the pairs and the gate on them."""
        runs = [
            {"quiet_p99_ms": quiet, "storm_p99_ms": stormy, **more}
            for quiet, stormy in zip(pairs.quiet_ms, pairs.stormy_ms, strict=True)
        ]
        self.report.row(section, work, HELIOGRAPH, runs)
        name = f"{pairs.what}: p99 in the storm, × what it may be"
        self.report.gate(name, excess(pairs.quiet_ms, pairs.stormy_ms), 1.0, "1.5 × the quiet p99, or 10 ms more")

    def judge_loss(self, what: str, loss: Loss) -> None:
        self.say(f"{what}: {loss}")
        if loss.total or loss.unanswered:
            self.report.faults.append(f"{what}: {loss}")

    def judge_alive(self, what: str) -> None:
        trouble = self.rig.trouble()
        if trouble:
            self.report.faults.append(f"{what}: {trouble}")


@dataclass(slots=True)
class Pairs:
    """p99 of quiet and stormy runs, in order."""

    what: str
    quiet_ms: list[float] = field(default_factory=list)
    stormy_ms: list[float] = field(default_factory=list)

    def add(self, latencies: Latencies, quiet: Stretch, stormy: Stretch) -> None:
        self.quiet_ms.append(latencies.p99_ms(quiet))
        self.stormy_ms.append(latencies.p99_ms(stormy))

    def last(self) -> str:
        return f"p99 {self.quiet_ms[-1]:.2f} ms quiet, {self.stormy_ms[-1]:.2f} ms in the storm"


def stretch(seconds: float) -> Stretch:
    """Let time pass."""
    begin_ns = time.monotonic_ns()
    time.sleep(seconds)
    return Stretch(begin_ns, time.monotonic_ns())


def urls(*edges: ServiceProcess) -> tuple[str, ...]:
    return tuple(f"ws://{LOOPBACK}:{edge.port}/v1/connect" for edge in edges)


def sessions(tenant: str, count: int) -> tuple[str, ...]:
    """New ones: nothing of another run is in their windows."""
    run = secrets.token_hex(4)
    return tuple(f"{tenant}:{AGENT_TYPE}:{run}-{number}" for number in range(count))


def shared(names: Sequence[str], publishers: int) -> tuple[tuple[str, ...], ...]:
    """Sessions over so many publishers, evenly."""
    return tuple(tuple(names[at::publishers]) for at in range(publishers))


@contextmanager
def stopped(server: Kafka | Redis) -> Iterator[None]:
    """SIGSTOP: it keeps its connections and answers nobody, which is harder to notice than an end."""
    if not pid_of(server):
        raise StormError("this storm stops a Kafka or Redis that runs as this machine's own program; Docker's can't be")
    process = getattr(server, "process")  # noqa: B009 - one of two unrelated classes has it
    process.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.signal(signal.SIGCONT)
