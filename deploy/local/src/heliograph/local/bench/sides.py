"""Who is measured: the edge, and a reference beside it where one is given."""

import json
import secrets
import sys
from pathlib import Path
from typing import Protocol

from heliograph.local.bench.loads import Target
from heliograph.local.bench.report import HELIOGRAPH
from heliograph.local.bench.rig import AGENT_TYPE, TENANT, Rig, pid_of, unique_prefix
from heliograph.local.errors import LocalError, tail
from heliograph.local.ports import LOOPBACK, accepts, free_port
from heliograph.local.processes import ServerProcess
from heliograph.local.services import service_environment

REFERENCE_TOPIC = "t1"
"""What the reference writes to."""
REFERENCE_PATH = "/ws"
REFERENCE_READY_TIMEOUT_S = 60.0


class Side(Protocol):
    """A server under load."""

    name: str

    def start(self) -> None:
        """Up and ready, as a fresh process: nothing of earlier work in its memory."""

    def target(self) -> Target:
        """For one run: sessions of its own."""

    @property
    def pids(self) -> list[int]:
        """All processes that work when it is loaded."""

    def trouble(self) -> str:
        """Which of its processes ended though it should not have, and what it said last; empty where none did."""


class Heliograph:
    """The edge, with the router that confirms what it writes."""

    name = HELIOGRAPH

    def __init__(self, rig: Rig, *, with_router: bool = True) -> None:
        self._rig = rig
        self._with_router = with_router
        self._header = f"Authorization: Bearer {rig.token()}"

    def start(self) -> None:
        if self._with_router:
            self._rig.service("router")
        self._rig.service("registry")
        edge = self._rig.edge()
        edge.kill()
        edge.start()

    def target(self) -> Target:
        edge = self._rig.edge()
        return Target(
            url=f"ws://{LOOPBACK}:{edge.port}/v1/connect",
            protocol_file=write_protocol(self._rig.directory / "heliograph.json"),
            pid=edge.pid,
            behind=self._rig.behind(),
            header=self._header,
            prefix=unique_prefix(),
        )

    @property
    def pids(self) -> list[int]:
        return [self._rig.edge().pid, *(pid for pids in self._rig.behind().values() for pid in pids)]

    def trouble(self) -> str:
        return self._rig.trouble()


class Reference:
    """A server that does the bare minimum: `python FILE PORT REDIS_PORT KAFKA`, WebSockets at `/ws`, a topic `t1`."""

    name = "reference"

    def __init__(self, rig: Rig, file: Path, protocol_file: Path) -> None:
        for given in (file, protocol_file):
            if not given.is_file():
                raise LocalError(f"the reference needs {given}, which is no file")
        self._rig = rig
        self._protocol_file = protocol_file
        self._redis = rig.another_redis("reference-redis")
        rig.add_topic(REFERENCE_TOPIC)
        self._port = free_port()
        redis_port = self._redis.url.rpartition(":")[2].partition("/")[0]
        self._process = ServerProcess(
            "reference",
            rig.cores.for_server([sys.executable, str(file), str(self._port), redis_port, rig.kafka.bootstrap_servers]),
            rig.directory / "logs" / "reference.log",
            env=service_environment({}),
        )
        rig.at_the_end(self._process.kill)

    def start(self) -> None:
        self._process.kill()
        self._process.start()
        self._process.wait_until(lambda: accepts(self._port), REFERENCE_READY_TIMEOUT_S)

    def target(self) -> Target:
        return Target(
            url=f"ws://{LOOPBACK}:{self._port}{REFERENCE_PATH}",
            protocol_file=self._protocol_file,
            pid=self._process.pid,
            behind=self._behind,
            prefix=unique_prefix(),
        )

    @property
    def _behind(self) -> dict[str, list[int]]:
        found = {"redis": pid_of(self._redis), "kafka": pid_of(self._rig.kafka)}
        return {name: pids for name, pids in found.items() if pids}

    @property
    def pids(self) -> list[int]:
        return [self._process.pid, *(pid for pids in self._behind.values() for pid in pids)]

    def trouble(self) -> str:
        return "" if self._process.running else f"the reference ended\n{tail(self._process.log)}"


def write_protocol(file: Path) -> Path:
    """Our frames as the generator's templates: each connection a producer, each run an incarnation of it."""
    session = f"{TENANT}:{AGENT_TYPE}:%CHANNEL%"
    hello = {"type": "hello", "id": 1, "producer": "p%CONN%", "incarnation": f"r{secrets.token_hex(6)}-%CONN%"}
    publish = '{"type":"publish","id":%N%,"session":"' + session + '","seq":%SEQ%,"payload":%PAYLOAD%}'
    content = {
        "Hello": [json.dumps(hello, separators=(",", ":"))],
        "Subscribe": json.dumps({"type": "subscribe", "id": 2, "session": session}, separators=(",", ":")),
        "Publish": publish,
        "Ping": '"ping"',
        "Pong": '{"type":"pong"}',
    }
    file.write_text(json.dumps(content), encoding="utf-8")
    return file
