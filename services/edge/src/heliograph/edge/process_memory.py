"""How much memory this process uses, and how much it may: as Linux and its cgroups tell. Elsewhere it is not known."""

import os
from pathlib import Path

NO_LIMIT_BYTES = 1 << 60
"""cgroup v1 says "no limit" by a number near 2^63."""

PROC = Path("/proc/self")
CGROUPS = Path("/sys/fs/cgroup")


def resident_bytes(proc: Path = PROC) -> int:
    """Resident set size (proc(5), statm); 0 where it can't be told. Some ten microseconds."""
    try:
        return int((proc / "statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def cgroup_limit_bytes(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """The lowest memory limit of the process' cgroup and those above it (cgroups(7), v2 and v1); 0: none is known."""
    try:
        lines = (proc / "cgroup").read_text().splitlines()
    except OSError:
        return 0
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, name = cgroups, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = cgroups / "memory", "memory.limit_in_bytes"
        else:
            continue
        own = Path(path.lstrip("/"))
        found += [_limit(root / one / name) for one in (own, *own.parents)]  # `.` is the last: a container's own root
    limits = [limit for limit in found if limit is not None]
    return min(limits, default=0)


def _limit(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() and int(text) < NO_LIMIT_BYTES else None
