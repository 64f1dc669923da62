"""One Apache Kafka node (KRaft, broker and controller in one) from jars, on loopback."""

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from heliograph.local.errors import NotReadyError
from heliograph.local.java import prepare_jars
from heliograph.local.ports import LOOPBACK, accepts, free_port
from heliograph.local.processes import ServerProcess

READY_TIMEOUT_S = 90.0
"""5 s on an idle machine; a machine with two busy cores takes far longer to load a JVM."""
STOP_TIMEOUT_S = 20.0
FORMAT_TIMEOUT_S = 90.0
CLUSTER_ID = "4L6g3nShT-eMCtK--X86sw"

# A quick start matters more here than peak speed: one compiler tier, no parallel collector, a small heap.
JVM_FLAGS = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


@dataclass(frozen=True, slots=True)
class Seat:
    """A node's place in its cluster: by default it is all of it."""

    node_id: int = 1
    roles: str = "broker,controller"
    voters: Mapping[int, int] = field(default_factory=dict)
    """Controllers: port by node id. None: this one, on a port that is found when it starts."""
    replicas: int = 1
    """Of everything, unless somebody asks for other ones; all but one have to be in sync."""
    heap_mb: int = 512
    settings: Mapping[str, object] = field(default_factory=dict)
    """More of them, or others."""


class KafkaServer:
    """`dir` holds its configuration, data and log; `port` is the clients', the controller's is found when it starts."""

    def __init__(
        self,
        directory: Path,
        port: int | None = None,
        *,
        detached: bool = False,
        listeners: Mapping[str, tuple[int, int]] | None = None,
        seat: Seat | None = None,
    ) -> None:
        """`listeners`: more of them, by name (upper case), each with the port where it listens and the one that it
        advertises. Kafka tells its clients where to go, so whoever stands between a client and Kafka stands at an
        address that a listener advertises.
        """
        self.directory = directory.resolve()
        self.port = port or free_port()
        self.listeners = dict(listeners or {})
        self.seat = seat or Seat()
        self._detached = detached
        self.process: ServerProcess | None = None

    @property
    def bootstrap_servers(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.running

    @property
    def log(self) -> Path:
        return self.directory / "kafka.log"

    def start(self) -> None:
        """Format the data folder where it is new, start, return when the broker takes requests."""
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start without waiting, for callers that start other things meanwhile."""
        if self.running:
            return
        classpath = f"{prepare_jars()}/*"
        self.directory.mkdir(parents=True, exist_ok=True)
        properties = self.directory / "server.properties"
        properties.write_text(self._properties(), encoding="utf-8")
        heap = f"-Xmx{self.seat.heap_mb}m", f"-Xms{min(256, self.seat.heap_mb)}m"
        quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
        java = ["java", *heap, *JVM_FLAGS, quiet, "-cp", classpath]
        if not (self.directory / "data" / "meta.properties").exists():
            storage = ["kafka.tools.StorageTool", "format", "--ignore-formatted", "-t", CLUSTER_ID]
            self._format([*java, *storage, "-c", str(properties)])
        self.process = ServerProcess(
            "kafka", [*java, "kafka.Kafka", str(properties)], self.log, cwd=self.directory, detached=self._detached
        )
        self.process.start()

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        if self.process is None:
            raise NotReadyError("kafka", "was not started")
        self.process.wait_until(lambda: takes_requests(self.bootstrap_servers), timeout_s)

    def stop(self) -> None:
        if self.process is not None:
            self.process.stop(STOP_TIMEOUT_S)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()

    def restart(self) -> None:
        """Stop in order where it runs, start on the same port with the same data."""
        self.stop()
        self.start()

    def _format(self, command: list[str]) -> None:
        with self.log.open("ab") as out:
            done = subprocess.run(command, stdout=out, stderr=out, check=False, timeout=FORMAT_TIMEOUT_S)
        if done.returncode != 0:
            raise NotReadyError("kafka", "could not format its data folder", self.log)

    def _properties(self) -> str:
        seat = self.seat
        voters = seat.voters or {seat.node_id: free_port()}
        names = ["PLAINTEXT", *self.listeners]
        bound, advertised = {}, {}
        if "broker" in seat.roles:
            bound = {"PLAINTEXT": self.port, **{name: port for name, (port, _) in self.listeners.items()}}
            advertised = {"PLAINTEXT": self.port, **{name: port for name, (_, port) in self.listeners.items()}}
        if "controller" in seat.roles:
            bound["CONTROLLER"] = voters[seat.node_id]
        in_sync = max(1, seat.replicas - 1)
        settings = {
            "node.id": seat.node_id,
            "process.roles": seat.roles,
            "controller.quorum.voters": ",".join(f"{node}@{LOOPBACK}:{port}" for node, port in voters.items()),
            "controller.listener.names": "CONTROLLER",
            "listeners": _addresses(bound),
            "advertised.listeners": _addresses(advertised),
            "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in (*names, "CONTROLLER")),
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": self.directory / "data",
            "default.replication.factor": seat.replicas,
            "min.insync.replicas": in_sync,
            "offsets.topic.replication.factor": seat.replicas,
            "transaction.state.log.replication.factor": seat.replicas,
            "transaction.state.log.min.isr": in_sync,
            "share.coordinator.state.topic.replication.factor": seat.replicas,
            "share.coordinator.state.topic.min.isr": in_sync,
            # Internal topics of 50 partitions take seconds to create and hundreds of open files.
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.num.partitions": 4,
            "group.initial.rebalance.delay.ms": 0,
            # KIP-848 leaves both to the brokers, whose defaults of 45 and 5 s forbid less. Routers ask for 10 and 2 s.
            "group.consumer.min.session.timeout.ms": 3000,
            "group.consumer.min.heartbeat.interval.ms": 500,
            # Rights are kept as where clients have names; here nobody has one, and so may do everything.
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            # What installations are recommended to have.
            "auto.create.topics.enable": "false",
            "unclean.leader.election.enable": "false",
            "log.message.timestamp.type": "LogAppendTime",
            **seat.settings,
        }
        if not advertised:
            settings.pop("advertised.listeners")
        return "".join(f"{name}={value}\n" for name, value in settings.items())


def _addresses(ports: Mapping[str, int]) -> str:
    return ",".join(f"{name}://{LOOPBACK}:{port}" for name, port in ports.items())


def takes_requests(bootstrap_servers: str, timeout_s: float = 2.0, brokers: int = 1) -> bool:
    """Whether the cluster answers and lists so many brokers that aren't fenced."""
    host, _, port = bootstrap_servers.split(",", maxsplit=1)[0].rpartition(":")
    if host == LOOPBACK and not accepts(int(port)):
        return False  # spares librdkafka's own retry pause
    admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0, "socket.timeout.ms": 2000})
    try:
        return len(admin.list_topics(timeout=timeout_s).brokers) >= brokers
    except KafkaException:
        return False
