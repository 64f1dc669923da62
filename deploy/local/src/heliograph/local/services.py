"""Heliograph's own processes: `python -m heliograph.edge` and the others, each awaited at its `/readyz`."""

import http.client
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from heliograph.local.errors import NotReadyError
from heliograph.local.identity import ProcessIdentity
from heliograph.local.ports import LOOPBACK, free_port
from heliograph.local.processes import ServerProcess

READY_TIMEOUT_S = 60.0
"""Two seconds alone; four at once on two busy cores import their libraries far longer."""
STOP_TIMEOUT_S = 45.0
"""More than a service's own drain, which is 25 s unless set."""
ASK_TIMEOUT_S = 2.0


def service_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with `settings` as the only HELIOGRAPH_ variables, so that a shell's don't leak in."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HELIOGRAPH_")}
    return {**inherited, **settings}


def service_command(service: str) -> list[str]:
    return [sys.executable, "-m", f"heliograph.{service}"]


class ServiceProcess:
    """One service on a port of its own. Settings are HELIOGRAPH_ variables without their prefix, in lower case."""

    def __init__(
        self,
        service: str,
        directory: Path,
        settings: Mapping[str, str],
        *,
        name: str | None = None,
        port: int | None = None,
        command: Sequence[str] | None = None,
        environment: Mapping[str, str] | None = None,
        detached: bool = False,
    ) -> None:
        """`environment`: variables besides its settings, which are nobody else's."""
        self.service = service
        self.name = name or service
        self.port = port or free_port()
        variables = {f"HELIOGRAPH_{key.upper()}": value for key, value in settings.items()}
        variables |= {"HELIOGRAPH_HOST": LOOPBACK, "HELIOGRAPH_PORT": str(self.port)}
        variables |= environment or {}
        self._process = ServerProcess(
            self.name,
            command or service_command(service),
            directory / f"{self.name}.log",
            env=service_environment(variables),
            detached=detached,
        )

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def log(self) -> Path:
        return self._process.log

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.running

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    def identity(self) -> ProcessIdentity:
        return self._process.identity()

    def launch(self) -> None:
        """Start without waiting; services wait for each other by themselves."""
        self._process.start()

    def start(self) -> None:
        self.launch()
        self.wait_ready()

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Return when `/readyz` says 200; else raise with what it said instead, and the end of the log."""
        try:
            self._process.wait_until(self.ready, timeout_s)
        except NotReadyError as error:
            answer = ask(self.port, "/readyz")
            said = f"; /readyz: {answer[0]} {answer[1].strip()}" if answer else ""
            raise NotReadyError(error.what, error.why + said, error.log) from None

    def ready(self) -> bool:
        answer = ask(self.port, "/readyz")
        return answer is not None and answer[0] == http.HTTPStatus.OK

    def metrics(self) -> str:
        """The text at `/metrics`."""
        answer = ask(self.port, "/metrics")
        if answer is None:
            raise NotReadyError(self.name, "does not answer at /metrics", self.log)
        return answer[1]

    def signal(self, number: signal.Signals) -> None:
        """SIGSTOP and SIGCONT make a process that hangs; SIGTERM one that drains."""
        self._process.signal(number)

    def terminate(self) -> None:
        """SIGTERM without waiting: the beginning of a drain."""
        self._process.signal(signal.SIGTERM)

    def wait(self, timeout_s: float) -> int | None:
        """Its exit status, or None when it still runs after `timeout_s`."""
        return self._process.wait(timeout_s)

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """SIGTERM and wait for the drain."""
        self._process.stop(timeout_s)

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    def restart(self) -> None:
        """Stop in order where it runs, start on the same port."""
        self.stop()
        self.start()


def ask(port: int, path: str) -> tuple[int, str] | None:
    """Status and text of a GET on loopback; None when nobody answers. Never through a proxy of the environment."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=ASK_TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode("utf-8", errors="replace")
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
