"""backoff: when to try again."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliograph.core.backoff import Backoff, BackoffPolicy

POLICY = BackoffPolicy(base_s=1, cap_s=8, healthy_s=10, server_cap_s=60)


def largest() -> float:
    """The largest draw, so that a delay is its ceiling."""
    return 1 - 2**-53


def ceilings(backoff: Backoff, count: int) -> list[float]:
    return [round(backoff.failed(0.0), 6) for _ in range(count)]


def test_the_ceiling_doubles_up_to_the_cap() -> None:
    assert ceilings(Backoff(POLICY, largest), 6) == [1, 2, 4, 8, 8, 8]


def test_the_jitter_is_full() -> None:
    assert Backoff(POLICY, lambda: 0.0).failed(0.0) == 0.0
    delays = [Backoff(POLICY, Random(seed).random).failed(0.0) for seed in range(500)]
    assert min(delays) < 0.05
    assert max(delays) > 0.95
    assert 0.4 < sum(delays) / len(delays) < 0.6


def test_a_short_success_does_not_reset_the_counter() -> None:
    backoff = Backoff(POLICY, largest)
    ceilings(backoff, 2)
    backoff.succeeded(100.0)
    assert backoff.failed(109.9) == pytest.approx(4)


def test_a_healthy_time_resets_the_counter() -> None:
    backoff = Backoff(POLICY, largest)
    ceilings(backoff, 5)
    backoff.succeeded(100.0)
    backoff.succeeded(109.0)  # told again: the first counts
    assert backoff.failed(110.0) == pytest.approx(1)
    assert backoff.failed(200.0) == pytest.approx(2)  # a time without a connection is not a healthy one


def test_the_servers_time_is_a_floor_and_the_jitter_comes_on_top() -> None:
    assert Backoff(POLICY, lambda: 0.0).failed(0.0, after_ms=2_500) == 2.5
    assert Backoff(POLICY, largest).failed(0.0, after_ms=2_500) == pytest.approx(3.5)


def test_the_server_is_not_believed_without_bound() -> None:
    assert Backoff(POLICY, lambda: 0.0).failed(0.0, after_ms=10**12) == 60
    assert Backoff(POLICY, lambda: 0.0).failed(0.0, after_ms=-5) == 0


@pytest.mark.parametrize("wrong", [{"base_s": 0}, {"base_s": 9, "cap_s": 8}, {"healthy_s": -1}, {"server_cap_s": -1}])
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BackoffPolicy(**wrong)


@given(
    st.integers(),
    st.lists(st.tuples(st.floats(0, 30), st.booleans(), st.none() | st.floats(0, 1e6)), max_size=200),
)
@settings(deadline=None)
def test_a_delay_is_never_before_the_server_said_nor_past_the_ceiling(
    seed: int, steps: list[tuple[float, bool, float | None]]
) -> None:
    backoff, now = Backoff(POLICY, Random(seed).random), 0.0
    for lasted_s, connected, after_ms in steps:
        if connected:
            backoff.succeeded(now)
            now += lasted_s
        before = backoff.attempt
        delay_s = backoff.failed(now, after_ms)
        floor_s = min((after_ms or 0) / 1000, POLICY.server_cap_s)
        assert floor_s <= delay_s <= floor_s + POLICY.cap_s
        healthy = connected and lasted_s > POLICY.healthy_s + 1e-6
        assert backoff.attempt == 1 if healthy else backoff.attempt in {1, before + 1}
        now += delay_s


def test_a_million_failures_do_not_overflow() -> None:
    backoff = Backoff(POLICY, largest)
    backoff.attempt = 10**6
    assert backoff.failed(0.0) == pytest.approx(8)
