"""Kafka, Redis and any number of each service as one thing to start, use, hurt and stop."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from heliograph.local.errors import LocalError
from heliograph.local.providers import Kafka, Redis
from heliograph.local.services import ServiceProcess, service_command

SERVICES = ("edge", "router", "replay", "registry")

Progress = Callable[[str], None]


class Stack:
    """`n` of each service on free ports, or on the ports listed; `settings` go to all of them, `own` ones only to
    the service of that name (`edge-1`), where they count instead.

    Kafka and Redis are given, not started by it where they run already, and stopped with it only where it started them.
    """

    def __init__(
        self,
        directory: Path,
        kafka: Kafka,
        redis: Redis,
        *,
        edges: int | Sequence[int] = 1,
        routers: int | Sequence[int] = 1,
        replays: int | Sequence[int] = 1,
        registries: int | Sequence[int] = 1,
        settings: Mapping[str, str] | None = None,
        own: Mapping[str, Mapping[str, str]] | None = None,
        command: Callable[[str], Sequence[str]] = service_command,
        detached: bool = False,
    ) -> None:
        self.directory = directory
        self.kafka = kafka
        self.redis = redis
        self.settings = {
            "kafka_bootstrap_servers": kafka.bootstrap_servers,
            "redis_url": redis.url,
            **(settings or {}),
        }
        self._own = own or {}
        self._command = command
        self._detached = detached
        self._started_here: list[Kafka | Redis] = []
        self.edges = self._make("edge", edges)
        self.routers = self._make("router", routers)
        self.replays = self._make("replay", replays)
        self.registries = self._make("registry", registries)

    def _make(self, service: str, wanted: int | Sequence[int]) -> list[ServiceProcess]:
        ports: Sequence[int | None] = [None] * wanted if isinstance(wanted, int) else wanted
        return [self.new_service(service, number, port) for number, port in enumerate(ports, start=1)]

    def new_service(self, service: str, number: int, port: int | None = None) -> ServiceProcess:
        """One more, not started: `edge-3`. Append it to its list for the stack to stop it."""
        name = f"{service}-{number}"
        return ServiceProcess(
            service,
            self.directory,
            self.settings_of(name),
            name=name,
            port=port,
            command=self._command(service),
            detached=self._detached,
        )

    def settings_of(self, name: str) -> dict[str, str]:
        """Everybody's, and those that only the service of that name has."""
        return {**self.settings, **self._own.get(name, {})}

    @property
    def services(self) -> list[ServiceProcess]:
        return [*self.edges, *self.routers, *self.replays, *self.registries]

    def launch_stores(self, progress: Progress = lambda _line: None) -> Iterator[Kafka | Redis]:
        """Start Kafka and Redis where they don't run; yields each as soon as it is started, before it is ready."""
        for server in (self.kafka, self.redis):
            if not server.running:
                self._started_here.append(server)
                server.launch()
                yield server
        for name, server in (("redis", self.redis), ("kafka", self.kafka)):
            server.wait_ready()
            progress(f"{name} is ready")

    def launch_services(self) -> Iterator[ServiceProcess]:
        """Start all services at once; yields each as soon as it is started, before it is ready."""
        for service in self.services:
            service.launch()
            yield service

    def wait_ready(self, progress: Progress = lambda _line: None) -> None:
        for service in self.services:
            service.wait_ready()
            progress(f"{service.name} is ready")

    def start(self, progress: Progress = lambda _line: None) -> None:
        """Everything, in one go; what was started is ended again where something does not come up."""
        try:
            for _ in self.launch_stores(progress):
                pass
            for _ in self.launch_services():
                pass
            self.wait_ready(progress)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Drain the services (all at once), then stop what else this stack started."""
        for service in self.services:
            service.terminate()
        for service in self.services:
            service.stop()
        for server in reversed(self._started_here):
            server.stop()
        self._started_here.clear()

    def kill(self) -> None:
        """End everything at once, for a test that is over."""
        for service in self.services:
            service.kill()
        for server in reversed(self._started_here):
            with suppress(LocalError):
                server.kill()
        self._started_here.clear()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.kill()
