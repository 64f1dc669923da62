"""Kafka or Redis from deploy/docker-compose.yaml, with the same verbs as the servers that run without Docker."""

import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from heliograph.local.errors import CannotProvideError, NotReadyError
from heliograph.local.kafka import takes_requests
from heliograph.local.ports import LOOPBACK, free_port
from heliograph.local.redis import answers_ping

FILE = Path(__file__).parents[4] / "docker-compose.yaml"
ASK_TIMEOUT_S = 15
"""For `docker info`: a daemon that takes longer is as good as none."""
COMMAND_TIMEOUT_S = 900
"""Includes pulling an image over a slow line."""
READY_TIMEOUT_S = 120.0
POLL_S = 0.1


@cache
def compose_problem() -> str | None:
    """Why Docker Compose can't be used here; None where it can."""
    docker = shutil.which("docker")
    if docker is None:
        return "docker is not on PATH"
    for arguments, problem in (
        (["info"], "docker is on PATH, but `docker info` gets no answer from a daemon"),
        (["compose", "version"], "docker answers, but has no `docker compose` command"),
    ):
        try:
            done = subprocess.run([docker, *arguments], capture_output=True, check=False, timeout=ASK_TIMEOUT_S)
        except (OSError, subprocess.TimeoutExpired):
            return problem
        if done.returncode != 0:
            return problem
    return None


class ComposeServer:
    """One service of the compose file in a project of its own, so that stacks don't meet."""

    def __init__(self, service: str, project: str, port: int | None = None) -> None:
        self.service = service
        self.project = project
        self.port = port or free_port()

    @property
    def running(self) -> bool:
        shown = self._compose("ps", "--status", "running", "--services", check=False)
        return self.service in shown.split()

    def start(self) -> None:
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        self._compose("up", "--detach", "--no-deps", self.service)

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        deadline = time.monotonic() + timeout_s
        while not self.answers():
            if time.monotonic() >= deadline:
                logs = self._compose("logs", "--tail", "25", self.service, check=False)
                raise NotReadyError(self.service, f"was not ready after {timeout_s:g} s:\n{logs}")
            time.sleep(POLL_S)

    def answers(self) -> bool:
        raise NotImplementedError

    def stop(self) -> None:
        self._compose("stop", self.service)

    def kill(self) -> None:
        self._compose("kill", self.service, check=False)

    def restart(self) -> None:
        self.stop()
        self.start()

    def remove(self) -> None:
        """End it and remove its container; other services of the project stay."""
        self._compose("rm", "--stop", "--force", "--volumes", self.service)

    def pull(self) -> None:
        """Have the image, so that a later start is quick. Asks no registry where it is here already."""
        image = self._compose("config", "--images", self.service).strip()
        if subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode != 0:
            self._compose("pull", "--quiet", self.service)

    def _compose(self, *arguments: str, check: bool = True) -> str:
        command = ["docker", "compose", "--file", str(FILE), "--project-name", self.project, *arguments]
        done = subprocess.run(
            command, env=self._environment(), capture_output=True, text=True, check=False, timeout=COMMAND_TIMEOUT_S
        )
        if check and done.returncode != 0:
            lines = "\n".join(done.stderr.strip().splitlines()[-10:])
            raise CannotProvideError(f"docker compose {arguments[0]} {self.service} failed:\n{lines}")
        return done.stdout

    def _environment(self) -> Mapping[str, str]:
        return {**os.environ, f"HELIOGRAPH_LOCAL_{self.service.upper()}_PORT": str(self.port)}


class ComposeKafka(ComposeServer):
    def __init__(self, project: str, port: int | None = None) -> None:
        super().__init__("kafka", project, port)

    @property
    def bootstrap_servers(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    def answers(self) -> bool:
        return takes_requests(self.bootstrap_servers)


class ComposeRedis(ComposeServer):
    """`settings` are added to the command line that the compose file gives."""

    def __init__(
        self,
        project: str,
        port: int | None = None,
        *,
        appendonly: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__("redis", project, port)
        chosen = {"appendonly": "yes" if appendonly else "no", **(settings or {})}
        self._arguments = " ".join(f"--{name} {value}" for name, value in chosen.items())

    def _environment(self) -> Mapping[str, str]:
        return {**super()._environment(), "HELIOGRAPH_LOCAL_REDIS_ARGUMENTS": self._arguments}

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}/0"

    def answers(self) -> bool:
        return answers_ping(LOOPBACK, self.port)
