"""A real Prometheus for tests: what the alerts and the dashboards say is asked of the program that will be asked.

`prometheus` and `promtool` of PATH, else those of Debian's package, which are all of it that is kept in the cache
folder: nothing is installed, and no service is started.
"""

import json
import os
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from heliograph.local.cache import cache_dir, file_lock
from heliograph.local.errors import CannotProvideError, NotReadyError
from heliograph.local.ports import LOOPBACK, free_port
from heliograph.local.processes import ServerProcess

FETCH_TIMEOUT_S = 300
"""Of one apt-get: 19 MB, and the lists of packages where there are none."""
READY_TIMEOUT_S = 30.0
CALL_TIMEOUT_S = 20.0

PACKAGE = "prometheus"

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Programs:
    """Where they are."""

    prometheus: Path
    promtool: Path


def provide_prometheus(progress: Progress = lambda _line: None) -> Programs:
    """The programs, fetched where they are absent. Raises CannotProvideError, saying what to do."""
    on_path = [shutil.which(name) for name in ("prometheus", "promtool")]
    if on_path[0] and on_path[1]:
        return Programs(Path(on_path[0]), Path(on_path[1]))
    kept = cache_dir() / "prometheus"
    with file_lock(cache_dir() / "prometheus.lock"):
        if not (kept / "promtool").exists():
            if shutil.which("apt-get") is None:
                raise CannotProvideError("prometheus and promtool are not on PATH: install Prometheus 2.40 or newer")
            progress("fetching Debian's prometheus (once)")
            _fetch(kept)
    return Programs(kept / "prometheus", kept / "promtool")


def _fetch(into: Path) -> None:
    with TemporaryDirectory(dir=cache_dir()) as name:
        directory = Path(name)
        if _run(["apt-get", "-qq", "download", PACKAGE], directory) and os.geteuid() == 0:
            _run(["apt-get", "-qq", "update"], directory)
            _run(["apt-get", "-qq", "download", PACKAGE], directory)
        packages = list(directory.glob("*.deb"))
        if not packages:
            raise CannotProvideError(f"apt-get can't download {PACKAGE}: install Prometheus 2.40 or newer")
        problem = _run(["dpkg-deb", "--extract", str(packages[0]), "."], directory)
        if problem:
            raise CannotProvideError(f"{packages[0].name} can't be unpacked: {problem}")
        into.mkdir(parents=True, exist_ok=True)
        for program in ("prometheus", "promtool"):  # promtool last: it says that all is there
            (directory / "usr" / "bin" / program).replace(into / program)


def _run(command: list[str], directory: Path) -> str:
    """What it said where it failed."""
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, timeout=FETCH_TIMEOUT_S)
    return (done.stderr or f"status {done.returncode}").strip() if done.returncode else ""


class PrometheusServer:
    """One on loopback, with a configuration file of the caller's; its data is in `directory`."""

    def __init__(self, programs: Programs, directory: Path, configuration: Path) -> None:
        self.port = free_port()
        self.url = f"http://{LOOPBACK}:{self.port}"
        self._process = ServerProcess(
            "prometheus",
            [
                str(programs.prometheus),
                f"--config.file={configuration}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address={LOOPBACK}:{self.port}",
                "--log.level=warn",
            ],
            directory / "prometheus.log",
            cwd=directory,
        )

    def start(self) -> None:
        self._process.start()
        self._process.wait_until(self._ready, READY_TIMEOUT_S)

    def stop(self) -> None:
        self._process.stop()

    def get(self, path: str, **parameters: str) -> Any:
        """`data` of an answer of its HTTP API (`/api/v1` + path). Raises NotReadyError with what it says else."""
        asked = f"{self.url}/api/v1{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(asked, timeout=CALL_TIMEOUT_S) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise NotReadyError("prometheus", f"says {error.read().decode()[:500]} to {parameters}") from None

    def query(self, expression: str, time_s: float | None = None) -> list[dict[str, Any]]:
        """The series of an instant query; those of a number are none."""
        at = {} if time_s is None else {"time": f"{time_s:.3f}"}
        found = self.get("/query", query=expression, **at)
        return list(found["result"]) if found["resultType"] == "vector" else []

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=CALL_TIMEOUT_S) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False
