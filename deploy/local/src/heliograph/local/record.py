"""What `make up` started, written down for `make down`: `.local/up/state.json`."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from heliograph.local.identity import ProcessIdentity


@dataclass(frozen=True, slots=True)
class StartedProcess:
    """A process of ours, by pid and start time."""

    name: str
    port: int
    log: str
    pid: int
    started: str

    @property
    def identity(self) -> ProcessIdentity:
        return ProcessIdentity(self.pid, self.started)

    @property
    def is_service(self) -> bool:
        return self.name not in {"kafka", "redis"}


@dataclass(frozen=True, slots=True)
class StartedContainer:
    """A service of a compose project."""

    service: str
    project: str
    port: int


@dataclass
class Record:
    """Saved after each start, so that an interrupted `up` leaves nothing that `down` doesn't know."""

    path: Path
    processes: list[StartedProcess] = field(default_factory=list)
    containers: list[StartedContainer] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)
    complete: bool = False

    @classmethod
    def load(cls, path: Path) -> "Record":
        """What is written there; nothing where there is no file, or one that can't be read."""
        try:
            stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                path,
                [StartedProcess(**entry) for entry in stored["processes"]],
                [StartedContainer(**entry) for entry in stored["containers"]],
                stored["settings"],
                stored["complete"],
            )
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return cls(path)

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        stored = asdict(self)
        del stored["path"]
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")
        partial.rename(self.path)

    def add_process(self, process: StartedProcess) -> None:
        self.processes.append(process)
        self.save()

    def add_container(self, container: StartedContainer) -> None:
        self.containers.append(container)
        self.save()

    def ended(self) -> Iterator[StartedProcess]:
        """Processes that should run and don't."""
        return (process for process in self.processes if not process.identity.alive())

    @property
    def empty(self) -> bool:
        return not self.processes and not self.containers

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
