"""Load generators as processes: found or built, run against one server, their report read.

Two kinds with the same flags and the same report: an outside one (`HELIOGRAPH_BENCH_LOAD`: a program, or a folder with
its Go source) that costs little of the machine it shares with the server, and `load.py`, which needs nothing.
"""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Timer

from heliograph.local.bench.machine import Cores, Meter, Usage
from heliograph.local.cache import cache_dir, file_lock
from heliograph.local.errors import TAIL_LINES, LocalError

BUILD_TIMEOUT_S = 300
PATIENCE_S = 120.0
"""For connecting and for what is late, beyond the time of publishing."""
NUMBER = r"([-+]?(?:[\d.]+|[Ii]nf)|[Nn]a[Nn])"
_CONNECTED = re.compile(rf"connected (\d+) in {NUMBER}s \({NUMBER}/s, {NUMBER} CPU us each\), {NUMBER} KB RSS each")
_SENT = re.compile(rf"sent (\d+) \({NUMBER}/s\) delivered (\d+) of (\d+) \({NUMBER}%\) {NUMBER}/s .*errors (\d+)")
_LATENCY = re.compile(rf"latency ms p50 {NUMBER} p90 {NUMBER} p99 {NUMBER} p99.9 {NUMBER} max {NUMBER}")
_CPU = re.compile(rf"server CPU us per delivery {NUMBER}, per publication {NUMBER}, busy {NUMBER}%")


class LoadError(LocalError):
    """The generator ended without a report."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Who talks to whom: subscriber i listens to channel i mod channels, publishers take channels in turn."""

    name: str
    work: str
    subscribers: int
    channels: int
    publishers: int
    rate_per_s: float
    """Publications, over all publishers."""


@dataclass(frozen=True, slots=True)
class Target:
    """The server to load: where it is, how it is talked to, whose CPU is whose."""

    url: str
    protocol_file: Path
    pid: int
    behind: Mapping[str, list[int]]
    """Processes that work for it, by name; reported apart."""
    header: str = ""
    prefix: str = "bench-"


@dataclass(frozen=True, slots=True)
class LoadResult:
    """One run. Server figures are of the server's process alone."""

    connections_per_s: float
    cpu_per_connection_us: float
    kb_per_connection: float
    sent: int
    delivered: int
    expected: int
    refused: int
    deliveries_per_s: float
    cpu_per_publication_us: float
    cpu_per_delivery_us: float
    busy_percent: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    first_error: str
    usage: Usage
    """Of the processes behind the server and of the rest of the machine, from the last connect to the end."""

    @property
    def lost(self) -> int:
        """Deliveries that did not come; below zero: more than there should be."""
        return self.expected - self.delivered


def parse_report(lines: list[str], usage: Usage) -> LoadResult:
    """The generator's report. Raises LoadError with its last words where there is none."""
    text = "\n".join(lines)
    found = [pattern.search(text) for pattern in (_CONNECTED, _SENT, _LATENCY, _CPU)]
    connected, sent, latency, cpu = found
    if connected is None or sent is None or latency is None or cpu is None:
        last = "".join(f"\n  | {line}" for line in lines[-TAIL_LINES:]) or " it said nothing"
        raise LoadError(f"the load generator ended without a report:{last}")
    first_error = next((line for line in lines if line.startswith("first error:")), "")
    return LoadResult(
        connections_per_s=float(connected[3]),
        cpu_per_connection_us=float(connected[4]),
        kb_per_connection=float(connected[5]),
        sent=int(sent[1]),
        delivered=int(sent[3]),
        expected=int(sent[4]),
        refused=int(sent[7]),
        deliveries_per_s=float(sent[6]),
        cpu_per_publication_us=float(cpu[2]),
        cpu_per_delivery_us=float(cpu[1]),
        busy_percent=float(cpu[3]),
        p50_ms=float(latency[1]),
        p90_ms=float(latency[2]),
        p99_ms=float(latency[3]),
        max_ms=float(latency[5]),
        first_error=first_error,
        usage=usage,
    )


@dataclass(frozen=True, slots=True)
class LoadGenerator:
    """A command that takes the generator's flags."""

    command: tuple[str, ...]
    own: bool

    @classmethod
    def find(cls, path: str | None) -> "LoadGenerator":
        """The one named, built where it is source; else ours. Raises LoadError where it can't be had."""
        if not path:
            return cls((sys.executable, "-m", "heliograph.local.bench.load"), own=True)
        given = Path(path).expanduser().resolve()
        if given.is_dir():
            return cls((str(_build(given)),), own=False)
        if not given.is_file() or not os.access(given, os.X_OK):
            raise LoadError(f"the load generator {given} is neither a program nor a folder with Go source")
        return cls((str(given),), own=False)

    def run(self, target: Target, shape: Shape, seconds: float, cores: Cores, payload_bytes: int = 200) -> LoadResult:
        """One run, to its end. Raises LoadError where the generator fails or hangs."""
        behind = [pid for pids in target.behind.values() for pid in pids]
        flags: dict[str, object] = {
            "protocol": target.protocol_file,
            "url": target.url,
            "header": target.header,
            "prefix": target.prefix,
            "pid": target.pid,
            "backing": ",".join(map(str, behind)),
            "subs": shape.subscribers,
            "channels": shape.channels,
            "pubs": shape.publishers,
            "rate": shape.rate_per_s,
            "seconds": seconds,
            "size": payload_bytes,
        }
        arguments = [part for name, value in flags.items() if value != "" for part in (f"-{name}", str(value))]
        command = cores.for_load([*self.command, *arguments])
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip
        watchdog = Timer(seconds + PATIENCE_S, lambda: os.killpg(process.pid, signal.SIGKILL))
        watchdog.start()
        pids = {**target.behind, "server": [target.pid]}
        meter, lines = Meter(pids), []
        try:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line.rstrip())
                if line.startswith("connected"):
                    meter = Meter(pids)
            process.wait()
        finally:
            watchdog.cancel()
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
        return parse_report(lines, meter.read())


def _build(source: Path) -> Path:
    """Compile once for each state of the source, into the cache folder."""
    if shutil.which("go") is None:
        raise LoadError(f"{source} is Go source, and there is no `go` on PATH; name a built program instead")
    digest = hashlib.sha256()
    for file in sorted(source.glob("*.go")) + sorted(source.glob("go.*")):
        digest.update(file.read_bytes())
    built = cache_dir() / "bench" / f"load-{digest.hexdigest()[:16]}"
    with file_lock(built.with_suffix(".lock")):
        if not built.exists():
            done = subprocess.run(
                ["go", "build", "-o", str(built), "."],
                cwd=source, capture_output=True, text=True, check=False, timeout=BUILD_TIMEOUT_S,
            )  # fmt: skip
            if done.returncode != 0:
                raise LoadError(f"`go build` in {source} failed:\n{done.stderr.strip()[-2000:]}")
    return built
