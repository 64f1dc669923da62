"""What the machine says about itself: CPU and memory of processes from /proc, and which core somebody is held to."""

import os
import resource
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
"""Unit of /proc/PID/stat: 10 ms on Linux, so a run should use some hundred of them."""

SETTLED_SHARE = 0.1
"""Of a core: a process below it is done with what the last run left it. An idle Kafka uses some 4 %."""
SETTLE_WINDOW_S = 0.4
SETTLE_TIMEOUT_S = 10.0


def cpu_s(pid: int) -> float:
    """User and system time of a process and all its threads so far; 0 where it is gone (proc(5))."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def rss_kb(pid: int) -> float:
    """Resident memory; 0 where the process is gone."""
    with suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("VmRSS:"):
                return float(line.split()[1])
    return 0.0


def descriptors(pid: int) -> int:
    """Open files, sockets and the like; 0 where the process is gone."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - a number is wanted, not paths
    except (FileNotFoundError, ProcessLookupError):
        return 0


def busy_s() -> float:
    """CPU time the whole machine has spent on anything but idling, over all cores."""
    with suppress(FileNotFoundError):
        user, nice, system, _idle, _wait, irq, soft, steal = (
            int(field) for field in Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()[1:9]
        )
        return (user + nice + system + irq + soft + steal) / TICKS_PER_S
    return 0.0


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU of named processes, and of everybody else, over a stretch of time."""

    took_s: float
    cpu_s: Mapping[str, float]
    others_cores: float
    """Cores that processes which are not ours kept busy: what made the run noisy."""


class Meter:
    """Measures from its making to `read`. `pids` are told by name; several of one name are added up."""

    def __init__(self, pids: Mapping[str, list[int]]) -> None:
        self._pids = pids
        self._from = {name: sum(map(cpu_s, those)) for name, those in pids.items()}
        self._busy, self._at = busy_s(), time.monotonic()
        self._children = _children_s()

    def read(self) -> Usage:
        """Children that ended meanwhile count as ours."""
        took_s = max(time.monotonic() - self._at, 1e-6)
        spent = {name: sum(map(cpu_s, those)) - self._from[name] for name, those in self._pids.items()}
        ours = sum(spent.values()) + _children_s() - self._children
        return Usage(took_s, spent, max(0.0, (busy_s() - self._busy - ours) / took_s))


def _children_s() -> float:
    own, ended = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime


def wait_settled(
    pids: list[int],
    timeout_s: float = SETTLE_TIMEOUT_S,
    *,
    read: Callable[[int], float] = cpu_s,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Wait until these processes do next to nothing, so that one run doesn't pay for the one before; False if never."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        before, at = [read(pid) for pid in pids], time.monotonic()
        sleep(SETTLE_WINDOW_S)
        took_s = max(time.monotonic() - at, SETTLE_WINDOW_S)
        if all((read(pid) - was) / took_s <= SETTLED_SHARE for pid, was in zip(pids, before, strict=True)):
            return True
    return False


@dataclass(frozen=True, slots=True)
class Cores:
    """Who is held where: the server measured to one core, the load to another, what is behind to any."""

    server: str | None
    load: str | None

    @classmethod
    def choose(cls) -> "Cores":
        """No pinning where there is no `taskset` or only one core."""
        allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        if shutil.which("taskset") is None or len(allowed) < 2:
            return cls(None, None)
        return cls(str(allowed[0]), ",".join(map(str, allowed[1:])))

    def for_server(self, command: list[str]) -> list[str]:
        return _pinned(self.server, command)

    def for_load(self, command: list[str]) -> list[str]:
        return _pinned(self.load, command)

    def __str__(self) -> str:
        if self.server is None:
            return "no process is held to a core"
        return f"server on core {self.server}, load on {self.load}, Kafka, Redis and the other services on any"


def _pinned(cores: str | None, command: list[str]) -> list[str]:
    return command if cores is None else ["taskset", "--cpu-list", cores, *command]


def raise_file_limit() -> int:
    """Thousands of sockets on either end: the soft limit becomes the hard one, also for processes started later."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def describe() -> str:
    """The machine in one line."""
    model = "unknown CPU"
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return f"{os.cpu_count()} cores, {model}, load average {os.getloadavg()[0]:.1f}"
