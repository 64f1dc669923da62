"""The section on the router, beside a loop that does only what can't be left out."""

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

import redis

from heliograph.core.limits import VIRTUAL_SHARDS
from heliograph.local.bench import gates
from heliograph.local.bench.fill import fill_sessions
from heliograph.local.bench.machine import Meter, Usage, wait_settled
from heliograph.local.bench.report import HELIOGRAPH, Report, paired_ratio
from heliograph.local.bench.rig import LIMITS_OUT_OF_THE_WAY, Rig
from heliograph.local.errors import LocalError
from heliograph.local.tenant import DevelopmentTenant
from heliograph.stores.keys import ShardKeys, Topics

ROUTER_SESSIONS = 10_000
ROUTER_RECORDS = 100_000
"""Of one run: some seconds of work, so that /proc's 10 ms don't matter."""
ROUTER_SETTINGS = {"reconcile_margin_s": "3600"}
"""What waits here is older than anything an edge would still be writing; nobody is to look for it meanwhile, as nobody
would were it fresh."""
BEHIND = ("redis", "kafka")
INDEXED_METRIC = "heliograph_router_indexed_total "
LOOK_S = 0.02
STALL_TIMEOUT_S = 60.0
"""Without progress for so long the service is taken for stuck."""
BARE_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class RouterBench:
    """Passes over the same amount of work, in turns."""

    rig: Rig
    report: Report
    repeat: int
    records: int = ROUTER_RECORDS
    sessions: int = ROUTER_SESSIONS

    def router(self) -> None:
        """Each run has messages of its own, accepted and in the log; the router learns of their tenant, and works."""
        self.rig.stop("edge")
        self.rig.stop("router")
        self.rig.service("router", ROUTER_SETTINGS)
        ours: list[dict[str, float]] = []
        bare: list[dict[str, float]] = []
        for number in range(1, self.repeat + 1):
            bare.append(self._bare_route(f"bench-loop-{number}"))
            self.rig.progress(f"router {number}/{self.repeat} bare loop: {_described(bare[-1])}")
            ours.append(self._route(f"bench-route-{number}"))
            self.rig.progress(f"router {number}/{self.repeat} {HELIOGRAPH}: {_described(ours[-1])}")
        section, work = "Router", f"{self.records:,} records over {self.sessions:,} sessions"
        row, base = self.report.row(section, work, HELIOGRAPH, ours), self.report.row(section, work, "bare loop", bare)
        ratio = paired_ratio(row, base, "cpu_per_record_us")
        why = "median of the runs' ratios to a consume loop with the same Redis commands"
        self.report.gate("router: CPU per record, × bare loop", ratio, gates.ROUTER_COST_RATIO, why)

    def _fill(self, tenant: str) -> str:
        topic = Topics("heliograph").log(tenant)
        self.rig.add_topic(topic)
        self.rig.progress(f"filling {self.records:,} messages of tenant {tenant}")
        servers, url = self.rig.kafka.bootstrap_servers, self.rig.redis.url
        fill_sessions(servers, url, topic, tenant, records=self.records, sessions=self.sessions)
        wait_settled([pid for pids in self.rig.behind().values() for pid in pids])
        return topic

    def _bare_route(self, tenant: str) -> dict[str, float]:
        topic = self._fill(tenant)
        meter = Meter(self.rig.behind())
        options = {"redis": self.rig.redis.url, "topic": topic, "group": tenant, "records": self.records}
        found = run_bare("router", self.rig.kafka.bootstrap_servers, options)
        values = _figures(found["records"], found["took_s"], found["cpu_s"], meter.read())
        return {
            **values,
            "lost": float(self._unconfirmed()),
            "indexed_share": found["indexed"] / found["records"] * 100,
        }

    def _route(self, tenant: str) -> dict[str, float]:
        self._fill(tenant)
        meter, indexed = Meter(self.rig.behind()), self._indexed()
        self.rig.add_tenant(DevelopmentTenant(self.rig.directory / tenant, tenant, LIMITS_OUT_OF_THE_WAY))
        first = left = before = self._unconfirmed()
        began = moved = time.monotonic()
        while left:
            time.sleep(LOOK_S)
            now, left = time.monotonic(), self._unconfirmed()
            if left < first:
                first, moved = left, now
            elif left == before:
                began = now
            if now - moved > STALL_TIMEOUT_S:
                self.report.faults.append(f"router: {left} sessions of {tenant} are still not confirmed")
                break
        usage = meter.read()
        values = _figures(self.records, moved - began, usage.cpu_s["router"], usage)
        return {**values, "lost": float(left), "indexed_share": (self._indexed() - indexed) / self.records * 100}

    def _indexed(self) -> float:
        """Entries that the router has written to the index so far."""
        lines = self.rig.service("router").metrics().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(INDEXED_METRIC))

    def _unconfirmed(self) -> int:
        """Sessions with messages that Redis does not know to be in the log."""
        with redis.Redis.from_url(self.rig.redis.url) as client, client.pipeline(transaction=False) as pipeline:
            for number in range(VIRTUAL_SHARDS):
                pipeline.zcard(ShardKeys.of(number).dirty.decode())
            return sum(pipeline.execute())


def run_bare(work: str, bootstrap_servers: str, options: Mapping[str, object]) -> dict[str, float]:
    """Run one of `bare.py`'s loops to its end; what it measured."""
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    done = subprocess.run(
        [sys.executable, "-m", "heliograph.local.bench.bare", work, "--kafka", bootstrap_servers, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=BARE_TIMEOUT_S,
    )
    if done.returncode != 0:
        raise LocalError(f"the bare {work} loop failed:\n{done.stderr.strip()[-1500:]}")
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _figures(records: float, took_s: float, cpu_s: float, usage: Usage) -> dict[str, float]:
    return {
        "records_per_s": records / max(took_s, 1e-6),
        "cpu_per_record_us": cpu_s / records * 1e6,
        **{f"{name}_cpu_us": usage.cpu_s[name] / records * 1e6 for name in BEHIND if name in usage.cpu_s},
        "took_s": took_s,
        "others_cores": usage.others_cores,
    }


def _described(values: Mapping[str, float]) -> str:
    return (
        f"{values['records_per_s']:,.0f} records/s, {values['cpu_per_record_us']:.1f} µs each;"
        f" others used {values['others_cores']:.1f} cores"
    )
