"""quotas: what a tenant's publishers may send over all edges."""

import math
import random
from bisect import bisect_left
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliograph.core.buckets import UNLIMITED, Rate, SenderLimits
from heliograph.core.quotas import (
    ASK_AGAIN_MS,
    CHUNK_S,
    CREDIT_S,
    LEASE_S,
    SURGE,
    SURGE_PER_S,
    THIN_S,
    LeasedQuota,
    lease,
)


@dataclass
class Store:
    """The shared bucket."""

    limits: SenderLimits
    messages_full_at_s: float = -math.inf
    bytes_full_at_s: float = -math.inf
    given: float = 0.0

    def lease(self, now: float, messages: float, bytes_: float) -> tuple[float, float, float]:
        granted, self.messages_full_at_s, wait_s = lease(self.messages_full_at_s, now, self.limits.messages, messages)
        of_bytes, self.bytes_full_at_s, bytes_wait_s = lease(self.bytes_full_at_s, now, self.limits.bytes, bytes_)
        self.given += granted
        return granted, of_bytes, max(wait_s, bytes_wait_s)


@dataclass
class Edge:
    """One edge; answers come `delay_s` after they were asked for."""

    limits: SenderLimits
    store: Store
    delay_s: float = 0.002
    due_s: float | None = None
    wanting: list[LeasedQuota] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.quota = LeasedQuota(self.limits, self.wanting.append)

    def take(self, now: float, size_bytes: int = 0) -> int:
        self.answer(now)
        told = self.quota.take(now, size_bytes)
        if self.wanting and self.due_s is None:
            self.due_s = now + self.delay_s
        return told

    def answer(self, now: float) -> None:
        if self.due_s is not None and now >= self.due_s:
            self.wanting.clear()
            self.quota.granted(now, *self.store.lease(now, *self.quota.ask(now)))
            self.due_s = None


def messages(per_s: float, burst: float) -> SenderLimits:
    return SenderLimits(Rate(per_s, burst))


def test_the_first_message_of_a_tenant_does_not_wait_for_the_store() -> None:
    edge = Edge(messages(1, 1), Store(messages(1, 1)))
    assert edge.take(0.0) == 0


def test_a_tenant_within_its_rate_is_never_refused() -> None:
    limits = messages(1_000, 1_000)
    edge, now = Edge(limits, Store(limits)), 0.0
    for _ in range(5_000):
        now += 1 / 900
        assert edge.take(now) == 0


def test_over_its_rate_it_gets_the_rate_and_is_told_when() -> None:
    limits = messages(100, 100)
    edge, now, admitted = Edge(limits, Store(limits)), 0.0, 0
    for _ in range(100_000):
        now += 0.0005
        told = edge.take(now)
        admitted += told == 0
        assert told <= 1_000
    assert admitted == pytest.approx(100 + 100 * now, rel=0.02)


def test_over_its_rate_it_spends_little_at_once() -> None:
    """Ten times its quota: what is admitted in one go is what everybody else on the edge waits behind."""
    limits = messages(500, 1_000)
    edge, now, admitted = Edge(limits, Store(limits)), 0.0, list[float]()
    while now < 20.0:
        now += 1 / 5_000
        if edge.take(now) == 0:
            admitted.append(now)
    late = [at for at in admitted if at > 1.0]  # behind the burst, which is allowed at once
    most = max(bisect_left(late, at + THIN_S / 2) - index for index, at in enumerate(late))
    assert most <= 500 * 2 * THIN_S + 1, "a thin lease, and as much on credit"
    assert len(late) == pytest.approx(500 * 19, rel=0.03), "and all of its rate it gets"


def test_what_was_saved_up_is_spent_as_a_surge_not_in_one_go() -> None:
    limits = messages(500, 1_000)
    edge, now, admitted, done_s = Edge(limits, Store(limits)), 0.0, 0, 0.0
    most = 0.0
    while now < 2.0:
        now += 1 / 5_000
        if edge.take(now) == 0:
            admitted += 1
            most = max(most, admitted - (SURGE * 500 * (now + CHUNK_S)))
        if admitted <= 1_000:
            done_s = now
    assert most <= 500 * CREDIT_S + 1, "a tenth of a second of a surge at once, and what is lent"
    assert done_s <= 1.1 * 1_000 / (SURGE * 500), "all of it, soon"


@pytest.mark.parametrize("per_s", [100.0, 20_000.0])
def test_a_burst_that_an_edge_does_not_notice_is_taken_at_once(per_s: float) -> None:
    """A small tenant's whole burst, and of a large one what it sends in a tenth of a second at four times its rate."""
    limits = messages(per_s, 2 * per_s)
    edge, now = Edge(limits, Store(limits)), 0.0
    waits = 0
    count = int(min(2 * per_s, SURGE_PER_S * CHUNK_S if per_s < 1_000 else per_s * SURGE * CHUNK_S))
    for _ in range(count):
        now += 0.0005 if per_s < 1_000 else 1e-5
        waits += edge.take(now) != 0
    assert waits <= 0.1 * count


def test_over_its_rate_it_is_not_told_to_come_back_the_more_often() -> None:
    limits = messages(500, 500)
    edge, now, told_ms = Edge(limits, Store(limits)), 0.0, list[int]()
    while now < 10.0:
        now += 1 / 5_000
        told_ms.append(edge.take(now))
    told_ms = [told for told in told_ms[5_000:] if told > ASK_AGAIN_MS]
    assert min(told_ms) >= 1000 * (CHUNK_S - THIN_S)
    assert len(told_ms) > 1_000


def test_within_its_rate_again_it_leases_as_before() -> None:
    limits = messages(1_000, 100)
    store = Store(limits)
    edge, now = Edge(limits, store), 0.0
    while now < 5.0:
        now += 1 / 5_000
        edge.take(now)
    calls = 0
    while now < 10.0:
        now += 1 / 500
        asked = edge.due_s is None
        told = edge.take(now)
        calls += asked and edge.due_s is not None
        assert told == 0 or now < 6.5
    assert calls <= 2 * 2 / THIN_S + 3 * 2 / CHUNK_S, "thin for a second or two, then no more"


def test_edges_together_admit_the_rate_and_once_their_credit() -> None:
    limits = messages(200, 200)
    store = Store(limits)
    edges = [Edge(limits, store) for _ in range(5)]
    now, admitted = 0.0, 0
    for step in range(100_000):
        now += 0.0002
        admitted += edges[step % 5].take(now) == 0
    assert admitted <= 200 + 200 * now + 5 * (1 + 200 * CREDIT_S)
    assert admitted >= 0.9 * 200 * now


def test_an_edge_with_a_trickle_leaves_the_rate_to_a_busy_one() -> None:
    limits = messages(1_000, 100)
    store = Store(limits)
    quiet, busy = [Edge(limits, store) for _ in range(9)], Edge(limits, store)
    now, admitted = 0.0, 0
    for step in range(40_000):
        now += 0.0005
        if step % 2_000 == 0:
            for edge in quiet:
                edge.take(now)
        admitted += busy.take(now) == 0
    assert admitted >= 0.85 * 1_000 * now


def test_leased_tokens_do_not_outlive_their_second() -> None:
    limits = messages(1_000, 1_000)
    edge = Edge(limits, Store(limits))
    for step in range(100):
        assert edge.take(step * 0.001) == 0
    edge.answer(0.2)
    late = 0.2 + LEASE_S + 0.01
    credit = 0
    while edge.quota.take(late, 0) == 0:
        credit += 1
    assert credit <= 1_000 * CREDIT_S
    assert edge.quota.take(late, 0) == ASK_AGAIN_MS


def test_bytes_are_bounded_as_messages_are() -> None:
    limits = SenderLimits(UNLIMITED, Rate(10_000, 10_000))
    edge, now, sent = Edge(limits, Store(limits)), 0.0, 0
    for _ in range(20_000):
        now += 0.001
        if edge.take(now, 700) == 0:
            sent += 700
    assert sent == pytest.approx(10_000 + 10_000 * now, rel=0.05)


def test_a_message_above_the_burst_passes_at_last() -> None:
    limits = SenderLimits(UNLIMITED, Rate(1_000, 1_000))
    edge, now = Edge(limits, Store(limits)), 0.0
    passed = 0
    for _ in range(60_000):
        now += 0.001
        passed += edge.take(now, 5_000) == 0
    assert 10 <= passed <= 14


def test_without_the_store_an_edge_spends_its_share() -> None:
    limits = messages(100, 100)
    quota = LeasedQuota(limits, lambda _quota: None)
    quota.fall_back(edges=4)
    assert quota.on_share
    now, admitted = 0.0, 0
    for _ in range(20_000):
        now += 0.001
        admitted += quota.take(now, 0) == 0
    assert admitted == pytest.approx(25 + 25 * now, abs=2)
    quota.granted(now, 10, 0, 0.0)
    assert not quota.on_share


def test_a_lease_gives_what_there_is_and_says_when_the_rest_could_be_had() -> None:
    rate = Rate(per_s=10, burst=5)
    granted, full_at_s, wait_s = lease(-math.inf, 0.0, rate, 8)
    assert granted == 5
    assert wait_s == pytest.approx(0.3, abs=1e-3)
    granted, full_at_s, wait_s = lease(full_at_s, 0.1, rate, 1)
    assert (granted, wait_s) == (1, 0)


@given(st.floats(1, 1_000), st.floats(1, 500), st.integers(1, 6), st.floats(0.0005, 0.05), st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_whatever_the_load_all_edges_admit_no_more_than_bucket_and_credit(
    per_s: float, burst: float, count: int, delay_s: float, seed: int
) -> None:
    limits = messages(per_s, burst)
    store, dice = Store(limits), random.Random(seed)
    edges = [Edge(limits, store, delay_s) for _ in range(count)]
    now, admitted = 0.0, 0
    for _ in range(2_000):
        now += dice.expovariate(2 * per_s)
        admitted += dice.choice(edges).take(now) == 0
    assert admitted <= burst + per_s * now + count * (1 + max(1.0, per_s * CREDIT_S)) + 1
