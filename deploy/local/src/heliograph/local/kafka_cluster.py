"""Three Kafka brokers and a controller, each a process: for tests that hurt some of them.

Small, and quick to notice: heaps are 256 MiB, a broker that says nothing for six seconds is fenced and its partitions
get other leaders. The controller is a node of its own, as in large installations, so that brokers can be taken away one
by one, down to the last, with somebody left to say who is in sync.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

from confluent_kafka import ElectionType, TopicPartition
from confluent_kafka.admin import AdminClient

from heliograph.local.errors import NotReadyError
from heliograph.local.kafka import READY_TIMEOUT_S, KafkaServer, Seat, takes_requests
from heliograph.local.ports import accepts, free_port

BROKERS = 3
CONTROLLER_ID = 100
HEAP_MB = 256
CONTROLLER_HEAP_MB = 128
ASK_TIMEOUT_S = 15.0
ELECT_TIMEOUT_S = 30.0

SETTINGS = {
    # A broker that was killed loses its leaderships after this; 9 s and 2 s elsewhere.
    "broker.session.timeout.ms": 6_000,
    "broker.heartbeat.interval.ms": 1_000,
    # Four JVMs share the machine with what is tested.
    "num.network.threads": 1,
    "num.io.threads": 2,
    "background.threads": 2,
    "num.recovery.threads.per.data.dir": 1,
    # A follower that is away leaves the set of those in sync after this; 30 s elsewhere.
    "replica.lag.time.max.ms": 6_000,
}


class KafkaCluster:
    """`directory` holds a folder for each node. Everything is replicated to all three; two have to be in sync."""

    def __init__(self, directory: Path) -> None:
        voters = {CONTROLLER_ID: free_port()}

        def node(node_id: int, roles: str, heap_mb: int) -> KafkaServer:
            seat = Seat(node_id, roles, voters, BROKERS, heap_mb, SETTINGS)
            return KafkaServer(directory / f"kafka-{node_id}", seat=seat)

        self.controller = node(CONTROLLER_ID, "controller", CONTROLLER_HEAP_MB)
        self.brokers = [node(number, "broker", HEAP_MB) for number in range(1, BROKERS + 1)]

    @property
    def bootstrap_servers(self) -> str:
        return ",".join(broker.bootstrap_servers for broker in self.brokers)

    @property
    def running(self) -> bool:
        return all(node.running for node in self._nodes)

    @property
    def _nodes(self) -> list[KafkaServer]:
        return [self.controller, *self.brokers]

    # ---- all of them -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start those that don't run, side by side."""
        _each(self._nodes, KafkaServer.launch)

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Return when every broker answers and all are known to be alive."""
        for broker in self.brokers:
            process = broker.process
            if process is None:
                raise NotReadyError("kafka", "was not started")
            process.wait_until(lambda broker=broker: self._sees_all(broker), timeout_s)  # type: ignore[misc]

    def _sees_all(self, broker: KafkaServer) -> bool:
        return accepts(broker.port) and takes_requests(broker.bootstrap_servers, brokers=BROKERS)

    def stop(self) -> None:
        """All at once. In order is only possible for some of them: the last would wait for the others."""
        self.kill()

    def kill(self) -> None:
        _each(self._nodes, KafkaServer.kill)

    def restart(self) -> None:
        self.stop()
        self.start()

    # ---- one of them -------------------------------------------------------------------------------------------------

    def leaders(self, topic: str) -> dict[int, int]:
        """The leader's node id of each partition; -1 where there is none."""
        found = self._admin.list_topics(topic, timeout=ASK_TIMEOUT_S).topics[topic]
        return {number: partition.leader for number, partition in found.partitions.items()}

    def in_sync(self, topic: str) -> dict[int, set[int]]:
        """By partition, the nodes that have all of it."""
        found = self._admin.list_topics(topic, timeout=ASK_TIMEOUT_S).topics[topic]
        return {number: set(partition.isrs) for number, partition in found.partitions.items()}

    def broker(self, node_id: int) -> KafkaServer:
        return next(broker for broker in self.brokers if broker.seat.node_id == node_id)

    def elect_preferred(self, topic: str) -> None:
        """Give every partition to the leader that it is meant to have, as operators do after a restart."""
        partitions = [TopicPartition(topic, number) for number in self.leaders(topic)]
        self._admin.elect_leaders(ElectionType.PREFERRED, partitions).result(ELECT_TIMEOUT_S)

    @cached_property
    def _admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})


def _each(nodes: Iterable[KafkaServer], do: Callable[[KafkaServer], None]) -> None:
    """To all nodes side by side; the first error is raised when all are done."""
    with ThreadPoolExecutor() as threads:
        for done in [threads.submit(do, node) for node in nodes]:
            done.result()
