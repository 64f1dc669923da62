"""One redis-server on loopback."""

import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from heliograph.local.debian import install_package
from heliograph.local.errors import CannotProvideError, NotReadyError
from heliograph.local.ports import LOOPBACK, free_port
from heliograph.local.processes import ServerProcess

READY_TIMEOUT_S = 30.0
"""It takes 30 ms; a loaded append-only file and a busy machine take longer."""
REDIS_NEEDED = (7, 0)
"""Functions and sharded pub/sub came with 7.0."""
SOCKET_TIMEOUT_S = 1.0
NOTHING = '""'
"""An empty value in a file of settings."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Tls:
    """What a server has that speaks TLS and nothing else, to clients and to other servers: files in PEM."""

    certificate: Path
    key: Path
    ca: Path
    host: str = LOOPBACK
    """Whom the certificate is for: clients come by this name, and servers are told to others by it."""

    def settings(self, port: int) -> dict[str, str]:
        return {
            "port": "0",
            "tls-port": str(port),
            "tls-cert-file": str(self.certificate),
            "tls-key-file": str(self.key),
            "tls-ca-cert-file": str(self.ca),
            "tls-auth-clients": "no",
            "tls-replication": "yes",
        }


class RedisServer:
    """`dir` holds its log and, with `appendonly`, its data, which a restart then finds again.

    `keeps_settings`: in a file that the server itself may rewrite, and that a restart then finds as it was left, as
    servers that sentinels make primaries and replicas need. `sentinel`: it is one; then `settings` are all it gets.
    """

    def __init__(
        self,
        directory: Path,
        port: int | None = None,
        *,
        appendonly: bool = False,
        settings: dict[str, str] | None = None,
        detached: bool = False,
        password: str = "",
        keeps_settings: bool = False,
        sentinel: bool = False,
        tls: Tls | None = None,
    ) -> None:
        self.directory = directory.resolve()
        self.port = port or free_port()
        self.password = password
        self.tls = tls
        self._appendonly = appendonly
        self._settings = settings or {}
        self._detached = detached
        self._keeps_settings = keeps_settings or sentinel
        self._sentinel = sentinel
        self.process: ServerProcess | None = None

    @property
    def url(self) -> str:
        if self.tls is None:
            return f"redis://{credentials(self.password)}{LOOPBACK}:{self.port}/0"
        return f"rediss://{credentials(self.password)}{self.tls.host}:{self.port}/0?ssl_ca_certs={self.tls.ca}"

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.running

    @property
    def log(self) -> Path:
        return self.directory / "redis.log"

    def start(self) -> None:
        """Start and return when it answers PING (a loading server does not)."""
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start without waiting, for callers that start other things meanwhile."""
        if self.running:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        if self._keeps_settings:
            arguments = [str(self._kept_settings()), *(("--sentinel",) if self._sentinel else ())]
        else:
            arguments = [part for name, value in self._all_settings().items() for part in (f"--{name}", value)]
        self.process = ServerProcess(
            "redis", [redis_binary(), *arguments], self.log, cwd=self.directory, detached=self._detached
        )
        self.process.start()

    def _all_settings(self) -> dict[str, str]:
        settings = {"bind": LOOPBACK, "port": str(self.port), "dir": str(self.directory), "logfile": ""}
        if self.tls is not None:
            settings |= self.tls.settings(self.port)
        if self.password:
            settings["requirepass"] = self.password
        if not self._sentinel:
            settings |= {
                "save": "",
                "appendonly": "yes" if self._appendonly else "no",
                "appendfsync": "always",  # a killed server must find all it answered for
                "maxmemory-policy": "noeviction",
            }
        return settings | self._settings

    def _kept_settings(self) -> Path:
        path = self.directory / "redis.conf"
        if not path.exists():
            lines = [f"{name} {value or NOTHING}" for name, value in self._all_settings().items()]
            path.write_text("\n".join(lines) + "\n")
        return path

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        if self.process is None:
            raise NotReadyError("redis", "was not started")
        pid = self.process.pid
        self.process.wait_until(lambda: serving_pid(self.port, self.password, self.tls) == pid, timeout_s)

    def stop(self) -> None:
        if self.process is not None:
            self.process.stop()

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()

    def restart(self) -> None:
        """Stop in order where it runs, start on the same port. Without `appendonly` all data is gone."""
        self.stop()
        self.start()


def answers_ping(host: str, port: int) -> bool:
    """Whether a Redis there serves commands (one that loads its data or wants a password says so instead)."""
    try:
        with socket.create_connection((host, port), timeout=SOCKET_TIMEOUT_S) as sock:
            sock.sendall(b"PING\r\n")
            return sock.recv(64).startswith((b"+PONG", b"-NOAUTH"))
    except OSError:
        return False


def credentials(password: str) -> str:
    """Of the default user, as they stand in a URL."""
    return f":{quote(password, safe='')}@" if password else ""


def serving_pid(port: int, password: str = "", tls: Tls | None = None) -> int | None:
    """Pid of the Redis that serves `port`, so that another one which took the port isn't mistaken for ours.

    None while nobody answers, or while it still loads its data.
    """
    try:
        with _connected(port, tls) as sock, sock.makefile("rb") as answers:
            if password:
                sock.sendall(b"*2\r\n$4\r\nAUTH\r\n$%d\r\n%s\r\n" % (len(password.encode()), password.encode()))
                answers.readline()
            sock.sendall(b"PING\r\nINFO server\r\n")
            if not answers.readline().startswith(b"+PONG"):
                return None
            for line in answers:
                if line.startswith(b"process_id:"):
                    return int(line.partition(b":")[2])
    except OSError:
        pass
    return None


def _connected(port: int, tls: Tls | None) -> socket.socket:
    sock = socket.create_connection((LOOPBACK, port), timeout=SOCKET_TIMEOUT_S)
    if tls is None:
        return sock
    try:
        return ssl.create_default_context(cafile=tls.ca).wrap_socket(sock, server_hostname=tls.host)
    except OSError:
        sock.close()
        raise


def redis_problem() -> str | None:
    """Why this machine's redis-server can't be used; None where it can."""
    found = shutil.which("redis-server")
    if found is None:
        return "redis-server is not on PATH (Debian: apt-get install redis-server)"
    shown = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"v=(\d+)\.(\d+)", shown)
    if match is None or (int(match.group(1)), int(match.group(2))) < REDIS_NEEDED:
        version = match.group(0)[2:] if match else "unknown"
        return f"redis-server on PATH is version {version}, {REDIS_NEEDED[0]}.{REDIS_NEEDED[1]} or newer is needed"
    return None


def redis_binary() -> str:
    problem = redis_problem()
    if problem is not None:
        raise CannotProvideError(problem)
    return shutil.which("redis-server") or "redis-server"


def prepare_redis(progress: Progress = lambda _line: None) -> str:
    """The redis-server to run, installed from Debian where it is absent and we may. Safe in many processes."""
    install_package("redis-server", lambda: shutil.which("redis-server") is not None, progress)
    return redis_binary()
