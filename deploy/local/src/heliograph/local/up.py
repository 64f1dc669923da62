"""`make up`, `make down` and `make status`: one stack of the checkout in the background.

Only what `up` wrote down is ever ended, and only while pid and start time are those of then.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from heliograph.local.cache import file_lock
from heliograph.local.compose import ComposeKafka, ComposeRedis, ComposeServer
from heliograph.local.errors import LocalError, NotReadyError, PortTakenError, tail
from heliograph.local.kafka import KafkaServer
from heliograph.local.ports import LOOPBACK, is_taken
from heliograph.local.providers import Kafka, Redis, provide_kafka, provide_redis
from heliograph.local.record import Record, StartedContainer, StartedProcess
from heliograph.local.redis import RedisServer
from heliograph.local.services import STOP_TIMEOUT_S, ask, service_command, service_environment
from heliograph.local.stack import Stack
from heliograph.local.tenant import DEMO_TENANT, DevelopmentTenant

TENANT_TIMEOUT_S = 60
KAFKA_STOP_TIMEOUT_S = 20.0
VARIABLE_PREFIX = "HELIOGRAPH_LOCAL_"

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the stack listens on loopback."""

    kafka: int = 19092
    redis: int = 16379
    edge: int = 8080
    replay: int = 8081
    registry: int = 8082
    router: int = 8083

    @classmethod
    def chosen(cls, flags: dict[str, int | None]) -> "Ports":
        """Flags before HELIOGRAPH_LOCAL_…_PORT variables before the defaults."""
        ports = {}
        for entry in fields(cls):
            variable = port_variable(entry.name)
            value = flags.get(entry.name) or os.environ.get(variable)
            if value is None or value == "":
                continue
            if not str(value).isdecimal() or not 0 < int(value) < 65536:
                raise LocalError(f"{variable} is {value!r}, not a port from 1 to 65535")
            ports[entry.name] = int(value)
        chosen = cls(**ports)
        values = [getattr(chosen, entry.name) for entry in fields(cls)]
        if len(set(values)) < len(values):
            raise LocalError(f"each port can be used once, chosen were {sorted(values)}")
        return chosen


def port_variable(name: str) -> str:
    return f"{VARIABLE_PREFIX}{name.upper()}_PORT"


class Background:
    """The checkout's stack. `directory` is `.local/up`."""

    def __init__(
        self,
        directory: Path,
        progress: Progress = print,
        *,
        command: Callable[[str], Sequence[str]] = service_command,
        apply: Callable[[Path, Mapping[str, str]], None] | None = None,
    ) -> None:
        self.directory = directory
        self.progress = progress
        self._command = command
        self._apply = apply or apply_tenant
        self.tenant = DevelopmentTenant(directory / "tenant")

    @property
    def _record(self) -> Path:
        return self.directory / "state.json"

    def up(self, ports: Ports) -> None:
        """Start what isn't up; says so and does nothing where all of it is."""
        with file_lock(self.directory / "lock"):
            record = Record.load(self._record)
            ended = [process.name for process in record.ended()]
            if record.complete and not ended:
                self.progress("already up")
                self._say_where(record)
                return
            if not record.empty:
                what = f"{', '.join(ended)} ended" if ended else "the last start was interrupted"
                self.progress(f"{what}: stopping the rest and starting afresh")
                self._end(record)
            record = Record(self._record)
            try:
                self._start(record, ports)
            except BaseException:
                self._end(record)
                raise
            self._say_where(record)

    def _start(self, record: Record, ports: Ports) -> None:
        kafka = provide_kafka(self.directory / "kafka", ports.kafka, detached=True, progress=self.progress)
        redis = provide_redis(
            self.directory / "redis", ports.redis, appendonly=True, detached=True, progress=self.progress
        )
        for name in ("edge", "replay", "registry", "router"):
            _require_free(name, getattr(ports, name))
        for name, server in (("kafka", kafka), ("redis", redis)):
            if isinstance(server, KafkaServer | RedisServer) or (
                isinstance(server, ComposeServer) and not server.running
            ):
                _require_free(name, getattr(ports, name))
        stack = Stack(
            self.directory / "logs",
            kafka,
            redis,
            edges=[ports.edge],
            routers=[ports.router],
            replays=[ports.replay],
            registries=[ports.registry],
            command=self._command,
            detached=True,
        )
        record.settings = stack.settings
        self.progress("starting kafka and redis")
        for server in stack.launch_stores(self.progress):
            _write_down(record, server)
        self.progress("starting edge, router, replay and registry")
        for service in stack.launch_services():
            identity = service.identity()
            log = str(service.log)
            record.add_process(StartedProcess(service.service, service.port, log, identity.pid, identity.started))
        self._apply_tenant(stack)
        stack.wait_ready(self.progress)
        record.complete = True
        record.save()

    def _apply_tenant(self, stack: Stack) -> None:
        variables = {f"HELIOGRAPH_{name.upper()}": value for name, value in stack.settings.items()}
        self._apply(self.tenant.write(), variables)
        self.progress(f"tenant {DEMO_TENANT} is applied")

    def down(self) -> None:
        """End exactly what `up` started."""
        with file_lock(self.directory / "lock"):
            record = Record.load(self._record)
            if record.empty:
                self.progress("nothing is up")
                return
            self._end(record)
            self.progress("down")

    def _end(self, record: Record) -> None:
        services = [process for process in record.processes if process.is_service]
        stores = [process for process in record.processes if not process.is_service]
        for process in services:  # all drain at once
            process.identity.terminate()
        for process in [*services, *reversed(stores)]:
            if process.identity.end(STOP_TIMEOUT_S if process.is_service else KAFKA_STOP_TIMEOUT_S):
                self.progress(f"{process.name} is stopped")
        for container in record.containers:
            make = ComposeKafka if container.service == "kafka" else ComposeRedis
            make(container.project, container.port).remove()
            self.progress(f"{container.service} is stopped")
        record.remove()

    def status(self) -> bool:
        """Print each part and whether it is ready; True when all are."""
        record = Record.load(self._record)
        if record.empty:
            self.progress("nothing is up")
            return False
        all_ready = record.complete
        for process in record.processes:
            state = "ready"
            if not process.identity.alive():
                state = "ended\n" + tail(Path(process.log))
            elif process.is_service:
                answer = ask(process.port, "/readyz")
                if answer is None or answer[0] != 200:
                    state = f"not ready: {answer[1].strip() if answer else 'no answer'}"
            all_ready = all_ready and state == "ready"
            self.progress(f"{process.name:<9} {LOOPBACK}:{process.port:<6} pid {process.pid:<8} {state}")
        for container in record.containers:
            self.progress(f"{container.service:<9} {LOOPBACK}:{container.port:<6} compose project {container.project}")
        return all_ready

    def _say_where(self, record: Record) -> None:
        port = {process.name: process.port for process in record.processes}
        token = self.tenant.token()
        edge, replay = f"http://{LOOPBACK}:{port['edge']}", f"http://{LOOPBACK}:{port['replay']}"
        session = f"{DEMO_TENANT}:planner:hello"
        path = session.replace(":", "/")
        self.progress(
            f"""
edge       {edge}   ws://{LOOPBACK}:{port["edge"]}/v1/connect
replay     {replay}
registry   http://{LOOPBACK}:{port["registry"]}
router     http://{LOOPBACK}:{port["router"]}/metrics
kafka      {record.settings["kafka_bootstrap_servers"]}
redis      {_without_password(record.settings["redis_url"])}
logs       {self.directory / "logs"}
tenant     {DEMO_TENANT}

Try it: a token for {DEMO_TENANT}, good for a day, then a publish, and the session's history.

  export HELIOGRAPH_URL={edge}
  export HELIOGRAPH_TOKEN={token}
  curl -s $HELIOGRAPH_URL/v1/sessions/{path}/messages -H "Authorization: Bearer $HELIOGRAPH_TOKEN" \\
    -H 'Content-Type: application/json' -d '{{"payload": {{"text": "hello"}}}}'
  curl -s {replay}/v1/history/{path} -H "Authorization: Bearer $HELIOGRAPH_TOKEN"

  uv run heliograph tail {session}

`make down` ends it."""
        )


def apply_tenant(file: Path, variables: Mapping[str, str]) -> None:
    """`heliograph tenant apply FILE` against the stack that `variables` (HELIOGRAPH_…) name."""
    command = [sys.executable, "-m", "heliograph.cli", "tenant", "apply", str(file)]
    done = subprocess.run(
        command,
        env=service_environment(variables),
        capture_output=True,
        text=True,
        check=False,
        timeout=TENANT_TIMEOUT_S,
    )
    if done.returncode != 0:
        raise LocalError(f"`heliograph tenant apply {file}` failed:\n{(done.stdout + done.stderr).strip()}")


def _write_down(record: Record, server: Kafka | Redis) -> None:
    if isinstance(server, ComposeServer):
        record.add_container(StartedContainer(server.service, server.project, server.port))
    elif isinstance(server, KafkaServer | RedisServer):
        if server.process is None:
            raise NotReadyError("kafka or redis", "was not started")
        identity = server.process.identity()
        name, log = server.process.name, str(server.log)
        record.add_process(StartedProcess(name, server.port, log, identity.pid, identity.started))


def _require_free(name: str, port: int) -> None:
    if is_taken(port):
        raise PortTakenError(name, port, f"{port_variable(name)} or --{name}-port")


def _without_password(url: str) -> str:
    """Nor what may follow a `?`, where sentinels' one is."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"
