"""How much a load needs: by hand for single parts, and as rules for any load."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.core.capacity import (
    EDGE_BUSY,
    EDGE_CONNECTIONS,
    PARTITIONS_OF_A_ROUTER,
    REDIS_BUSY,
    ROUTER_BUSY,
    SESSION_BYTES,
    Capacity,
    Costs,
    Workload,
    capacity,
)
from heliograph.core.errors import InvalidValueError
from heliograph.core.limits import RECORD_OVERHEAD_BYTES, WINDOW_BYTES, WINDOW_MESSAGES

COSTS = Costs(publish_us=100.0, delivery_us=10.0, connection_kb=32.0, router_us=50.0, redis_us=40.0)

workloads = st.builds(
    Workload,
    connections=st.integers(0, 10_000_000),
    messages_per_s=st.floats(0, 10_000_000),
    subscribers=st.floats(0, 10_000),
    payload_bytes=st.integers(0, 512 * 1024),
    sessions=st.none() | st.integers(1, 100_000_000),
    retention_days=st.floats(0, 3_650),
    replication=st.integers(1, 7),
)


def test_the_least_is_two_edges_and_two_routers() -> None:
    least = capacity(Workload(connections=0, messages_per_s=0), COSTS)
    assert (least.edges.count, least.routers.count, least.redis_shards.count) == (2, 2, 1)
    assert least.partitions.count == 6
    assert (least.kafka_bytes_per_s, least.kafka_disk_bytes) == (0, 0)


def test_edges_follow_connections_or_messages_and_one_is_spare() -> None:
    many = capacity(Workload(connections=4 * EDGE_CONNECTIONS, messages_per_s=10), COSTS)
    assert (many.edges.count, many.edges.because) == (5, "the connections")
    busy = capacity(Workload(connections=10, messages_per_s=10_000), COSTS)
    assert (busy.edges.count, busy.edges.because) == (math.ceil(10_000 * 100 / 1e6 / EDGE_BUSY) + 1, "the messages")


def test_each_further_subscriber_costs_a_delivery() -> None:
    fan_out = capacity(Workload(connections=10, messages_per_s=1_000, subscribers=101), COSTS)
    assert fan_out.edges.count == math.ceil(1_000 * (100 + 100 * 10) / 1e6 / EDGE_BUSY) + 1


def test_routers_redis_and_partitions_follow_messages() -> None:
    found = capacity(Workload(connections=0, messages_per_s=50_000), COSTS)
    assert found.routers.count == math.ceil(50_000 * 50 / 1e6 / ROUTER_BUSY)
    assert found.redis_shards.count == math.ceil(50_000 * 40 / 1e6 / REDIS_BUSY)
    assert found.partitions.count == PARTITIONS_OF_A_ROUTER * found.routers.count


def test_windows_hold_a_day_up_to_their_bounds() -> None:
    few = capacity(Workload(connections=0, messages_per_s=1, sessions=86_400, payload_bytes=1_000), COSTS)
    full = capacity(Workload(connections=0, messages_per_s=10_000, sessions=1_000, payload_bytes=1_000), COSTS)
    large = capacity(Workload(connections=0, messages_per_s=10_000, sessions=1_000, payload_bytes=64 * 1024), COSTS)
    stored = 1_000 + RECORD_OVERHEAD_BYTES
    assert few.redis_memory_bytes == pytest.approx(86_400 * (stored + SESSION_BYTES) / 0.6, rel=1e-6)
    assert full.redis_memory_bytes == pytest.approx(1_000 * (WINDOW_MESSAGES * stored + SESSION_BYTES) / 0.6, rel=1e-6)
    assert large.redis_memory_bytes == pytest.approx(1_000 * (WINDOW_BYTES + SESSION_BYTES) / 0.6, rel=1e-6)


def test_the_log_keeps_every_copy_for_its_time() -> None:
    found = capacity(Workload(0, 100, payload_bytes=1_000, retention_days=2, replication=3), COSTS)
    assert found.kafka_bytes_per_s == 100 * 1_512 * 3
    assert found.kafka_disk_bytes == 100 * 1_512 * 3 * 2 * 86_400


@given(workloads, workloads)
def test_more_load_never_needs_less(one: Workload, other: Workload) -> None:
    sessions = max(one.sessions or one.connections, other.sessions or other.connections, 1)
    more = Workload(
        connections=max(one.connections, other.connections),
        messages_per_s=max(one.messages_per_s, other.messages_per_s),
        subscribers=max(one.subscribers, other.subscribers),
        payload_bytes=max(one.payload_bytes, other.payload_bytes),
        sessions=sessions,
        retention_days=max(one.retention_days, other.retention_days),
        replication=max(one.replication, other.replication),
    )
    for less in (one, other):
        assert all(a <= b for a, b in zip(counts(capacity(less)), counts(capacity(more)), strict=True))


@given(workloads)
def test_what_is_needed_is_enough_with_an_edge_less(load: Workload) -> None:
    found = capacity(load, COSTS)
    left = found.edges.count - 1
    message_us = COSTS.publish_us + max(0.0, load.subscribers - 1) * COSTS.delivery_us
    assert load.messages_per_s * message_us / 1e6 <= left * EDGE_BUSY * (1 + 1e-9)
    assert load.connections <= left * EDGE_CONNECTIONS


def counts(found: Capacity) -> list[int]:
    return [
        found.edges.count,
        found.routers.count,
        found.partitions.count,
        found.redis_shards.count,
        found.kafka_disk_bytes,
    ]


@pytest.mark.parametrize(
    "wrong",
    [{"connections": -1}, {"messages_per_s": math.nan}, {"subscribers": -1.0}, {"sessions": 0}, {"replication": 0},
     {"retention_days": math.inf}, {"payload_bytes": -1}],
)  # fmt: skip
def test_what_is_no_load_is_refused_with_its_name(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidValueError, match=next(iter(wrong))):
        Workload(**{"connections": 1, "messages_per_s": 1.0, **wrong})  # type: ignore[arg-type]
