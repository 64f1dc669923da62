"""Who a process is: its pid together with when it started, so that a reused pid is never taken for it."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

POLL_S = 0.02
"""How often an end is looked for. A process that is not our child can't be waited for."""


def started_at(pid: int) -> str | None:
    """An opaque text that differs between two processes that had the same pid; None where there is no such process.

    A zombie counts as gone: it does nothing any more and only waits for its parent to read its result.
    """
    if sys.platform == "linux":
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        except (FileNotFoundError, ProcessLookupError):
            return None
        fields = stat.rpartition(")")[2].split()  # proc(5): the name in parentheses may hold spaces
        return None if fields[0] in {"Z", "X"} else f"{boot}/{fields[19]}"
    shown = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state, _, start = shown.stdout.strip().partition(" ")
    return None if not start or state.startswith("Z") else start.strip()


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process that may be signalled later, by somebody who did not start it."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> "ProcessIdentity | None":
        started = started_at(pid)
        return None if started is None else cls(pid, started)

    def alive(self) -> bool:
        return started_at(self.pid) == self.started

    def signal_group(self, number: signal.Signals) -> bool:
        """Signal the process group it leads; False, and no signal, where it is gone or the pid is another's now."""
        if not self.alive():
            return False
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    def wait_gone(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while self.alive():
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_S)
        return True

    def terminate(self) -> bool:
        """Ask it to end, without waiting."""
        return self.signal_group(signal.SIGTERM)

    def end(self, timeout_s: float) -> bool:
        """Ask it to end, insist after `timeout_s`; False where it was gone already."""
        if not self.terminate():
            return False
        if not self.wait_gone(timeout_s):
            self.signal_group(signal.SIGKILL)
            self.wait_gone(timeout_s)
        return True
