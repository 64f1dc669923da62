"""`make soak`: half of what the stack can do, for a long time, and a look at what grows.

Memory of every service, its descriptors, and Redis's memory are sampled; a line is laid through the samples behind the
warm-up by least squares, and its slope is what they grow in ten minutes. The load comes and goes as clients do:
connections are cut and come back, readers move from session to session, so that what is not given back shows.
"""

import argparse
import json
import shutil
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from urllib.parse import urlsplit

from heliograph.core.limits import WINDOW_MESSAGES
from heliograph.local.bench import gates
from heliograph.local.bench.machine import Cores, describe, descriptors, raise_file_limit, rss_kb
from heliograph.local.bench.report import Report
from heliograph.local.bench.rig import Rig
from heliograph.local.bench.storms.actors import Actor
from heliograph.local.bench.storms.judging import Latencies, Loss, loss_of
from heliograph.local.bench.storms.party import Plan
from heliograph.local.bench.storms.scene import Options, Scene, sessions, stretch, urls
from heliograph.local.errors import LocalError

MINUTES = 30.0
SAMPLE_S = 2.0
WARM_UP_SHARE = 1 / 3
"""Of the whole time: windows, dedupe rings, caches and allocators fill up to their bounds first."""
WARM_UP_MOST_S = 600.0
SESSIONS = 120
"""So many that none gets to 100,000 messages: a digit more in every message of every window was 1.5 % of Redis, and is
no growth."""
PAYLOAD_BYTES = 230
"""Eight messages fill a node of Redis's stream (4 KiB) well, and nine don't fit by far. With 200 bytes nine just did,
until their numbers got another digit: then each node took the allocator's next size, 25 % more, for no message more.
"""
CHURN = 10
"""Peers that are cut, one after the other, all the time."""
CHURN_PER_S = 20.0
FILL_PER_S = 1_000.0
"""Before the time begins, until every hot window is full: a window that fills up is no growth."""
FILL_CHURN_PER_S = 200.0
CUT_EVERY_S = 0.5
CAPACITY_STEPS_PER_S = (500, 1_000, 1_500, 2_000, 3_000, 4_000, 6_000, 8_000)
CAPACITY_STEP_S = 4.0
CAPACITY_P99_MS = 100.0
"""A rate at which one of a hundred messages takes longer is more than it can do."""
TEN_MINUTES_S = 600.0
LATE_S = 60.0
_BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Growth:
    """One quantity over the time behind the warm-up."""

    name: str
    mean: float
    percent_per_10_min: float
    samples: int

    @property
    def kept(self) -> bool:
        return self.percent_per_10_min <= gates.SOAK_GROWTH_PERCENT


@dataclass(slots=True)
class Samples:
    """Every quantity at every time."""

    at_s: list[float] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, at_s: float, found: dict[str, float]) -> None:
        self.at_s.append(at_s)
        for name, value in found.items():
            self.values.setdefault(name, []).append(value)

    def growths(self, from_s: float) -> list[Growth]:
        kept = [index for index, at in enumerate(self.at_s) if at >= from_s]
        times = [self.at_s[index] for index in kept]
        found = []
        for name, values in self.values.items():
            behind = [values[index] for index in kept]
            mean = sum(behind) / len(behind) if behind else 0.0
            percent = slope(times, behind) * TEN_MINUTES_S / mean * 100 if mean else 0.0
            found.append(Growth(name, mean, percent, len(behind)))
        return found

    def csv(self) -> str:
        names = list(self.values)
        lines = [",".join(["s", *names])]
        for index, at in enumerate(self.at_s):
            lines.append(",".join([f"{at:.1f}", *(f"{self.values[name][index]:g}" for name in names)]))
        return "\n".join(lines) + "\n"


def slope(times: Sequence[float], values: Sequence[float]) -> float:
    """Of the line of least squares, per second; 0 where there is none."""
    count = len(times)
    if count < 2:
        return 0.0
    middle_t, middle_v = sum(times) / count, sum(values) / count
    spread = sum((at - middle_t) ** 2 for at in times)
    together = sum((at - middle_t) * (value - middle_v) for at, value in zip(times, values, strict=True))
    return together / spread if spread else 0.0


def sparkline(values: Sequence[float], width: int = 48) -> str:
    """A row of bars, lowest to highest."""
    if not values:
        return ""
    per = max(1, len(values) // width)
    means = [sum(values[at : at + per]) / len(values[at : at + per]) for at in range(0, len(values), per)]
    low, high = min(means), max(means)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((value - low) * scale)] for value in means)


def redis_memory_bytes(url: str) -> float:
    """What Redis says it uses."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 6379), timeout=5.0) as connection:
        connection.sendall(b"INFO memory\r\n")
        with connection.makefile("rb") as answers:
            for line in answers:
                if line.startswith(b"used_memory:"):
                    return float(line.partition(b":")[2])
    return 0.0


class Soak:
    """One run."""

    def __init__(self, scene: Scene, minutes: float, rate_per_s: float | None) -> None:
        self._scene = scene
        self._seconds = minutes * 60
        self._rate_per_s = rate_per_s
        self.samples = Samples()
        self.facts: dict[str, float] = {}
        self.growths: list[Growth] = []
        self.loss: Loss | None = None
        self.faults: list[str] = []

    def run(self) -> None:
        scene = self._scene
        scene.behind()
        edge = scene.edge("edge-soak")
        tenant = scene.tenant("soak")
        names, moving = sessions("soak", SESSIONS), sessions("soak", CHURN)
        token = tenant.token("soak")
        feeds = tuple((one,) for one in names)
        steady = Plan("steady", urls(edge), token, reads=names, feeds=feeds, payload_bytes=PAYLOAD_BYTES)
        churn = Plan(
            "churn", urls(edge), token, moving, tuple((one,) for one in moving), "control", payload_bytes=PAYLOAD_BYTES
        )
        pids = {"edge": edge.pid} | {name: those[0] for name, those in scene.rig.behind().items() if name != "kafka"}
        with scene.party(steady) as load, scene.party(churn) as comers:
            rate = self._rate_per_s or self._capacity(load) / 2
            scene.say(f"soak: {rate:,.0f}/s for {self._seconds / 60:g} minutes")
            self._fill(load, FILL_PER_S, SESSIONS)
            self._fill(comers, FILL_CHURN_PER_S, CHURN)
            load.ask("feed", rate)
            comers.ask("feed", CHURN_PER_S)
            comers.ask("cut_in_turns", CUT_EVERY_S)
            begin = time.monotonic()
            while (gone := time.monotonic() - begin) < self._seconds:
                self.samples.add(gone, self._sample(pids))
                if len(self.samples.at_s) % 30 == 0:
                    scene.say(f"soak: {gone / 60:.0f} minutes, {self._told(gone)}")
                    load.ask("samples")
                    comers.ask("samples")
                time.sleep(SAMPLE_S)
            comers.ask("cut_in_turns", 0.0)
            self._count(load, comers)
        warm_up_s = min(self._seconds * WARM_UP_SHARE, WARM_UP_MOST_S)
        self.growths = self.samples.growths(warm_up_s)
        self.facts |= {"rate_per_s": rate, "minutes": self._seconds / 60, "warm_up_s": warm_up_s}
        trouble = scene.rig.trouble()
        if trouble:
            self.faults.append(trouble)

    def _fill(self, party: Actor, per_s: float, streams: int) -> None:
        """A window's worth of messages for each of a party's sessions."""
        seconds = WINDOW_MESSAGES * streams / per_s
        self._scene.say(f"soak: filling {streams} windows, {seconds:.0f} s")
        party.ask("feed", per_s, seconds)
        party.ask("fed", timeout_s=3 * seconds)
        party.ask("settle", LATE_S)
        party.ask("samples")

    def _capacity(self, load: Actor) -> float:
        """The highest of some rates at which nearly all messages come soon."""
        reached = float(CAPACITY_STEPS_PER_S[0])
        for rate in CAPACITY_STEPS_PER_S:
            load.ask("samples")
            load.ask("feed", float(rate))
            found = stretch(CAPACITY_STEP_S)
            load.ask("stop_feeding")
            load.ask("settle", LATE_S)
            p99_ms = Latencies(load.ask("samples")).p99_ms(found)
            self._scene.say(f"capacity: {rate:,}/s, p99 {p99_ms:.1f} ms")
            if p99_ms > CAPACITY_P99_MS:
                break
            reached = float(rate)
        self.facts["capacity_per_s"] = reached
        return reached

    def _sample(self, pids: dict[str, int]) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, pid in pids.items():
            if name == "redis":
                found["redis memory, bytes"] = redis_memory_bytes(self._scene.rig.redis.url)
            else:
                found[f"{name} RSS, KiB"] = rss_kb(pid)
                found[f"{name} descriptors"] = float(descriptors(pid))
        return found

    def _told(self, gone_s: float) -> str:
        growths = self.samples.growths(min(gone_s / 2, WARM_UP_MOST_S))
        return ", ".join(f"{one.name} {one.mean:,.0f} ({one.percent_per_10_min:+.1f} %)" for one in growths)

    def _count(self, *parties: Actor) -> None:
        lost = unanswered = 0
        for party in parties:
            party.ask("stop_feeding")
            party.ask("settle", LATE_S)
            fed = party.ask("accounts")
            party.ask("wait_read", {one.session: one.published for one in fed.fed}, LATE_S)
            found = loss_of(fed, party.ask("accounts"))
            lost, unanswered = lost + found.total, unanswered + found.unanswered
        self.loss = Loss(lost, 0, 0, 0, unanswered)
        if lost or unanswered:
            self.faults.append(f"soak: {lost} lost or out of order, {unanswered} without an answer")

    @property
    def failed(self) -> bool:
        return bool(self.faults) or any(not one.kept for one in self.growths)

    def text(self) -> str:
        lines = ["| what | mean | % in 10 minutes | at most | | |", "| --- | ---: | ---: | ---: | --- | --- |"]
        for one in self.growths:
            kept = "kept" if one.kept else "**FAILED**"
            line = sparkline(self.samples.values[one.name])
            limit = f"{gates.SOAK_GROWTH_PERCENT:g}"
            lines.append(
                f"| {one.name} | {one.mean:,.0f} | {one.percent_per_10_min:+.2f} | {limit} | {kept} | {line} |"
            )
        lines += ["", *self.faults, "**FAILED**" if self.failed else "**passed**"]
        return "\n".join([*(f"- {name}: {value:g}" for name, value in self.facts.items()), "", *lines]) + "\n"

    def json(self) -> str:
        growths = [{**asdict(one), "kept": one.kept} for one in self.growths]
        found = {
            "facts": self.facts, "growth": growths, "faults": self.faults, "failed": self.failed,
            "samples": {"s": self.samples.at_s, **self.samples.values},
        }  # fmt: skip
        return json.dumps(found, ensure_ascii=False) + "\n"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m heliograph.local.bench.soak", description=__doc__)
    made.add_argument("--minutes", type=float, default=MINUTES, help=f"of load (default: {MINUTES:g})")
    made.add_argument("--rate", type=float, help="messages a second (default: half of what is measured first)")
    made.add_argument("--json", type=Path, metavar="FILE", help="write all samples and the verdict there")
    made.add_argument("--csv", type=Path, metavar="FILE", help="write all samples there, for a plot")
    return made


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def main() -> int:
    arguments = parser().parse_args()
    directory = Path(mkdtemp(prefix="heliograph-soak-"))
    raise_file_limit()
    cores = Cores.choose()
    say(f"{describe()}; {cores}")
    try:
        with Rig(directory, cores, say) as rig:
            soak = Soak(Scene(rig, Report(), Options()), arguments.minutes, arguments.rate)
            soak.run()
    except LocalError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what was started is ended", file=sys.stderr)
        return 130
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if arguments.json is not None:
        arguments.json.write_text(soak.json(), encoding="utf-8")
    if arguments.csv is not None:
        arguments.csv.write_text(soak.samples.csv(), encoding="utf-8")
    print(soak.text())
    return 1 if soak.failed else 0


if __name__ == "__main__":
    sys.exit(main())
