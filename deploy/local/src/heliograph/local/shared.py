"""Kafka shared by the processes of one test run."""

import sys
from pathlib import Path

from heliograph.local.cache import file_lock
from heliograph.local.errors import NotReadyError
from heliograph.local.identity import ProcessIdentity
from heliograph.local.kafka import FORMAT_TIMEOUT_S, READY_TIMEOUT_S
from heliograph.local.processes import ServerProcess


class SharedKafka:
    """The Kafka of the run that `owner_pid` controls. Started by whoever asks first, ended with the owner."""

    def __init__(self, run_directory: Path, owner_pid: int) -> None:
        self._directory = run_directory / "kafka"
        self._owner_pid = owner_pid

    @property
    def _address(self) -> Path:
        return self._directory / "address"

    @property
    def _keeper(self) -> Path:
        return self._directory / "keeper"

    def bootstrap_servers(self) -> str:
        """Start it where nobody has yet; others wait for the one who does."""
        with file_lock(self._directory / "lock"):
            if not self._address.exists():
                self._start()
            return self._address.read_text(encoding="utf-8")

    def _start(self) -> None:
        command = [sys.executable, "-m", "heliograph.local.keeper", str(self._owner_pid), str(self._directory)]
        keeper = ServerProcess("kafka's keeper", command, self._directory / "keeper.log", detached=True)
        keeper.start()
        identity = keeper.identity()
        self._keeper.write_text(f"{identity.pid} {identity.started}", encoding="utf-8")
        try:
            keeper.wait_until(self._address.exists, FORMAT_TIMEOUT_S + READY_TIMEOUT_S)
        except NotReadyError as error:
            keeper.stop()
            log = self._directory / "kafka.log"
            raise (NotReadyError(error.what, error.why, log) if log.exists() else error) from None

    def stop(self) -> None:
        """End it, for the owner; nothing happens where nobody started it."""
        try:
            pid, _, started = self._keeper.read_text(encoding="utf-8").partition(" ")
        except FileNotFoundError:
            return
        ProcessIdentity(int(pid), started).end(timeout_s=10.0)
