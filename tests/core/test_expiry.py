"""Expiry: what is gone stays gone, whatever order states are met in."""

from functools import reduce

from hypothesis import given
from hypothesis import strategies as st

from heliograph.core.expiry import Expiry

TIMES = st.integers(0, 50)
STATES = st.builds(Expiry, TIMES, TIMES, TIMES)


def test_nothing_is_gone_before_the_moment_and_everything_up_to_it_after() -> None:
    state = Expiry(100, 50)
    assert state.gone_until(99) == 0
    assert state.gone_until(100) == state.gone_until(1_000) == 100


def test_a_moment_that_has_not_come_can_be_moved() -> None:
    assert Expiry(100, 50).replaced(200, now_ms=60).gone_until(150) == 0
    assert Expiry(100, 50).replaced(70, now_ms=60).gone_until(75) == 70


@given(st.lists(st.tuples(TIMES, TIMES), min_size=1), TIMES)
def test_what_is_gone_stays_gone_however_often_it_is_set_again(orders: list[tuple[int, int]], later: int) -> None:
    now, state, gone = 0, Expiry(0, 0), 0
    for expires_at, passes in orders:
        now += passes
        gone = max(gone, state.gone_until(now))
        before, state = state, state.replaced(expires_at, now)
        assert state.set_at_ms > before.set_at_ms
        assert state.gone_until(now) >= gone
    assert state.gone_until(now + later) >= gone


@given(STATES, STATES, STATES)
def test_merging_asks_for_no_order(one: Expiry, two: Expiry, three: Expiry) -> None:
    assert one.merged(two) == two.merged(one)
    assert one.merged(one) == one
    assert one.merged(two).merged(three) == one.merged(two.merged(three))


@given(st.lists(st.tuples(TIMES, TIMES), min_size=1))
def test_a_history_of_states_merges_to_its_last(orders: list[tuple[int, int]]) -> None:
    now, states = 0, [Expiry(0, 0)]
    for expires_at, passes in orders:
        now += passes
        states.append(states[-1].replaced(expires_at, now))
    assert reduce(Expiry.merged, reversed(states)) == states[-1]
