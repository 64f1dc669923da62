"""How much of everything a load needs: edges, routers, partitions, Redis shards, and bytes in Redis and Kafka.

Arithmetic on what one unit of work costs (`Costs`), measured by `make bench`, and on how full each part may be in plain
times (below), so that what goes wrong (a pod less, a backlog, a storm of reconnects) still finds room. It says where to
begin; the metrics of the running system say where to go on.
"""

import math
from dataclasses import dataclass, field

from heliograph.core.errors import InvalidValueError
from heliograph.core.limits import RECORD_OVERHEAD_BYTES, WINDOW_BYTES, WINDOW_MESSAGES

EDGE_BUSY = 0.5
"""Of an edge's core, in plain times. At 0.7 the fleet adds edges; what is between is for taking over clients."""
EDGE_CONNECTIONS = 5_000
"""Of an edge: EdgeFleet's default target. A dead edge's clients are back within 20 s (`storms.lost-edge`)."""
EDGE_SPARE = 1
"""Edges more than the load needs: one is on its way out, or was lost."""
LEAST_EDGES = 2
ROUTER_BUSY = 0.4
"""Of a router's core: a backlog shrinks faster than it grew, and one less still keeps up."""
LEAST_ROUTERS = 2
REDIS_BUSY = 0.4
"""Of a Redis shard's only core: pages of history and reconnects come on top, and latency rises from a half on."""
REDIS_FULL = 0.6
"""Of `maxmemory`: from 0.8 on edges are under pressure, and while Kafka is away windows grow past their size."""
PARTITIONS_OF_A_ROUTER = 3
"""At least so many for each router: with one router less the others still share evenly enough."""
LEAST_PARTITIONS = 6
SESSION_BYTES = 5_000
"""Of a session in the live Redis besides its messages, measured (Redis 7.0): state, a producer's ring, an empty stream.
A message takes its payload and 270 to 390 bytes; what it counts in bounds is taken, which is more."""
DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Costs:
    """What one unit of work costs, by `make bench`: on two cores of an AMD EPYC that Kafka, Redis and the load shared.

    The CPU of a message falls with the rate, as more of them share a write, a read and a round trip. So each is taken
    where the part is about as busy as it may be.
    """

    publish_us: float = 205.0
    """CPU of an edge: a publication to one subscriber, written to the log (`session`, 2,000/s: 40 % busy)."""
    delivery_us: float = 5.4
    """CPU of an edge: each further subscriber (`fanout`)."""
    connection_kb: float = 18.0
    """Memory of an edge: an idle, subscribed connection (`connect`)."""
    router_us: float = 66.0
    """CPU of a router: a message confirmed and indexed (`session`, 5,000/s: 33 % busy)."""
    redis_us: float = 60.0
    """CPU of the live Redis: all that one publication causes (`session`, 5,000/s: 30 % busy)."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What is to be carried, at the busiest time of the day."""

    connections: int
    messages_per_s: float
    subscribers: float = 1.0
    """Of a message, on average."""
    payload_bytes: int = 1_000
    sessions: int | None = None
    """That have a message within a day. None: one for each connection."""
    retention_days: float = 7.0
    replication: int = 3

    def __post_init__(self) -> None:
        for name in ("messages_per_s", "subscribers", "retention_days"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InvalidValueError("value_invalid", name, value, "0 or more")
        for name, least in (("connections", 0), ("payload_bytes", 0), ("replication", 1), ("sessions", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InvalidValueError("value_invalid", name, value, f"{least} or more")


@dataclass(frozen=True, slots=True)
class Need:
    """So many of something, and what decides it."""

    count: int
    because: str


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a workload needs."""

    edges: Need
    routers: Need
    partitions: Need
    """Of the log topics of all tenants together; a tenant that makes most of the load needs about as many itself."""
    redis_shards: Need
    edge_memory_bytes: int
    """Of one edge, for connections; the process and what waits for slow readers come on top."""
    redis_memory_bytes: int
    """`maxmemory` of all shards together."""
    kafka_bytes_per_s: int
    """Written to all brokers together, before compression."""
    kafka_disk_bytes: int
    costs: Costs = field(repr=False)


def capacity(load: Workload, costs: Costs | None = None) -> Capacity:
    """What `load` needs, by the costs of one unit of work."""
    costs = costs or Costs()
    edges = _edges(load, costs)
    routers = _most(
        ("the messages", math.ceil(load.messages_per_s * costs.router_us / 1e6 / ROUTER_BUSY)),
        ("one may be lost", LEAST_ROUTERS),
    )
    partitions = _most(
        ("the routers", routers.count * PARTITIONS_OF_A_ROUTER), ("room to add routers", LEAST_PARTITIONS)
    )
    stored = load.payload_bytes + RECORD_OVERHEAD_BYTES
    redis_memory = round(_window_bytes(load) / REDIS_FULL)
    shards = _most(
        ("one is enough", 1), ("the messages", math.ceil(load.messages_per_s * costs.redis_us / 1e6 / REDIS_BUSY))
    )
    written = load.messages_per_s * stored * load.replication
    return Capacity(
        edges=edges,
        routers=routers,
        partitions=partitions,
        redis_shards=shards,
        edge_memory_bytes=round(load.connections / max(1, edges.count - EDGE_SPARE) * costs.connection_kb * 1024),
        redis_memory_bytes=redis_memory,
        kafka_bytes_per_s=round(written),
        kafka_disk_bytes=round(written * DAY_S * load.retention_days),
        costs=costs,
    )


def _edges(load: Workload, costs: Costs) -> Need:
    message_us = costs.publish_us + max(0.0, load.subscribers - 1) * costs.delivery_us
    needed = _most(
        ("the messages", math.ceil(load.messages_per_s * message_us / 1e6 / EDGE_BUSY)),
        ("the connections", math.ceil(load.connections / EDGE_CONNECTIONS)),
        ("one may be lost", LEAST_EDGES - EDGE_SPARE),
    )
    return Need(needed.count + EDGE_SPARE, needed.because)


def _window_bytes(load: Workload) -> float:
    """Of all hot windows: what each session has of a day, up to the bounds of one."""
    sessions = load.sessions if load.sessions is not None else max(1, load.connections)
    messages = min(float(WINDOW_MESSAGES), load.messages_per_s * DAY_S / sessions)
    stored = load.payload_bytes + RECORD_OVERHEAD_BYTES
    return sessions * (min(float(WINDOW_BYTES), messages * stored) + SESSION_BYTES)


def _most(*needs: tuple[str, int]) -> Need:
    """The highest; of equal ones the first."""
    because, count = max(needs, key=lambda need: need[1])
    return Need(count, because)
