"""One server process: started in a session of its own with its output in a file, awaited, stopped, killed, restarted.

Ctrl-C in the terminal reaches the program that started it, not the server, so that whoever owns the server decides how
it ends. Attached servers die with their owner even when it gets SIGKILL; detached ones are meant to stay (`make up`).
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from heliograph.local.errors import NotReadyError
from heliograph.local.identity import ProcessIdentity

POLL_S = 0.02
"""How often readiness is looked at: short against the fastest start (Redis, 30 ms)."""

_CHILD = str(Path(__file__).with_name("child.py"))
# The kernel's death signal follows the *thread* that forked. All servers are forked by this one, which lives as long as
# the process does, so that a server started from a short-lived worker thread stays.
_forks = ThreadPoolExecutor(max_workers=1, thread_name_prefix="heliograph-local-forks")


class _DetachedPopen(subprocess.Popen[bytes]):
    """Meant to be left running, so nothing to warn of when Python forgets it."""

    def __del__(self) -> None:
        return


class ServerProcess:
    """A command, its environment and its log file. Subclasses or callers say when it is ready."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        detached: bool = False,
    ) -> None:
        self.name = name
        self.command = list(command)
        self.log = log
        self.env = env
        self.cwd = cwd
        self.detached = detached
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        if self._popen is None:
            raise NotReadyError(self.name, "was not started")
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    @property
    def returncode(self) -> int | None:
        return None if self._popen is None else self._popen.poll()

    def identity(self) -> ProcessIdentity:
        identity = ProcessIdentity.of(self.pid)
        if identity is None:
            raise NotReadyError(self.name, "ended at once", self.log)
        return identity

    def start(self) -> None:
        """Start it; the log is appended to, so that a restart keeps what came before."""
        if self.running:
            return
        self.log.parent.mkdir(parents=True, exist_ok=True)
        command = self.command
        if not self.detached:
            command = [sys.executable, "-I", "-S", _CHILD, str(os.getpid()), *command]
        env = None if self.env is None else dict(self.env)

        def fork() -> None:
            with self.log.open("ab") as out:
                made = _DetachedPopen if self.detached else subprocess.Popen
                self._popen = made(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env=env,
                    cwd=self.cwd,
                    start_new_session=True,
                )

        forking = _forks.submit(fork)
        try:
            forking.result()
        finally:
            wait([forking])  # an interrupt ends the waiting, not the fork: whoever ends us must know what it made

    def wait_until(self, ready: Callable[[], bool], timeout_s: float) -> None:
        """Return once `ready()`; raise with the end of the log when it ended or was not ready in time."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            if not self.running:
                raise NotReadyError(self.name, f"ended with status {self.returncode} before it was ready", self.log)
            if time.monotonic() >= deadline:
                raise NotReadyError(self.name, f"was not ready after {timeout_s:g} s", self.log)
            time.sleep(POLL_S)

    def signal(self, number: signal.Signals) -> None:
        """Signal its whole group; nothing happens when it has ended."""
        if self._popen is not None and self._popen.poll() is None:
            try:
                os.killpg(self._popen.pid, number)
            except ProcessLookupError:
                self._popen.poll()

    def wait(self, timeout_s: float) -> int | None:
        """Its exit status, or None when it still runs after `timeout_s`."""
        if self._popen is None:
            return None
        try:
            return self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def stop(self, timeout_s: float = 10.0) -> None:
        """SIGTERM, then SIGKILL for what did not end in time."""
        self.signal(signal.SIGTERM)
        if self._popen is not None and self.wait(timeout_s) is None:
            self.kill()

    def kill(self) -> None:
        """SIGKILL: what a crash or a pulled plug looks like to everyone else."""
        self.signal(signal.SIGKILL)
        if self._popen is not None:
            self._popen.wait()
