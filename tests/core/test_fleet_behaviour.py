"""How fast a fleet may grow and shrink."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.core.fleet.behaviour import (
    DOWN,
    UP,
    Change,
    Direction,
    PolicyKind,
    ScalingPolicy,
    Select,
    Wish,
    fewest,
    most,
    stabilised,
)

NOW = 1_000.0
policies = st.lists(
    st.builds(ScalingPolicy, st.sampled_from(PolicyKind), st.integers(1, 200), st.floats(1, 1_800)), max_size=4
).map(tuple)
directions = st.builds(Direction, st.floats(0, 3_600), policies, st.sampled_from(Select))
changes = st.lists(st.builds(Change, st.floats(0, NOW), st.integers(-20, 20)), max_size=8).map(tuple)
wishes = st.lists(st.builds(Wish, st.floats(0, NOW), st.integers(0, 100)), max_size=8).map(tuple)


def pods(value: int, period_s: float = 60) -> ScalingPolicy:
    return ScalingPolicy(PolicyKind.PODS, value, period_s)


def percent(value: int, period_s: float = 60) -> ScalingPolicy:
    return ScalingPolicy(PolicyKind.PERCENT, value, period_s)


@given(st.integers(0, 1_000), directions, changes)
def test_policies_never_turn_a_direction_round(current: int, direction: Direction, before: tuple[Change, ...]) -> None:
    assert most(current, direction, before, NOW) >= current
    assert 0 <= fewest(current, direction, before, NOW) <= current


@given(st.integers(0, 100), st.integers(0, 100), wishes, directions, directions)
def test_a_window_moves_the_size_no_further_than_the_wish(
    current: int, wish: int, before: tuple[Wish, ...], up: Direction, down: Direction
) -> None:
    calm = stabilised(current, wish, before, up, down, NOW)
    assert min(current, wish) <= calm <= max(current, wish)


def test_the_policy_that_allows_most_counts_or_least_or_none() -> None:
    both = (pods(4), percent(100))
    assert most(2, Direction(0, both), (), NOW) == 6
    assert most(10, Direction(0, both), (), NOW) == 20
    assert most(10, Direction(0, both, Select.MIN), (), NOW) == 14
    assert most(10, Direction(0, both, Select.DISABLED), (), NOW) == 10
    assert fewest(10, Direction(0, (pods(4), percent(10))), (), NOW) == 6
    assert fewest(10, Direction(0, (pods(4), percent(10)), Select.MIN), (), NOW) == 9
    assert fewest(10, Direction(0, both, Select.DISABLED), (), NOW) == 10


def test_what_changed_within_the_period_counts() -> None:
    up, down = Direction(0, (pods(4, 60),)), Direction(0, (pods(2, 60),))
    assert most(7, up, (Change(NOW - 30, 3),), NOW) == 8
    assert most(9, up, (Change(NOW - 30, 5),), NOW) == 9, "more than allowed is there: no further, and not back"
    assert most(7, up, (Change(NOW - 61, 3),), NOW) == 11
    assert fewest(5, down, (Change(NOW - 10, -1),), NOW) == 4
    assert fewest(5, down, (Change(NOW - 10, -2),), NOW) == 5


def test_a_percentage_takes_at_least_one() -> None:
    """Kubernetes' rounding would leave 9 pods for ever at 10 %: its 8.1 is 8, and so is this."""
    assert fewest(9, Direction(0, (percent(10),)), (), NOW) == 8
    assert fewest(2, Direction(0, (percent(1),)), (), NOW) == 1
    assert most(2, Direction(0, (percent(1),)), (), NOW) == 3


def test_the_highest_wish_within_the_window_holds_a_fleet_up_and_the_lowest_down() -> None:
    up, down = Direction(60, (pods(100),)), Direction(300, (pods(100),))
    assert stabilised(8, 3, (Wish(NOW - 200, 7),), up, down, NOW) == 7
    assert stabilised(8, 3, (Wish(NOW - 301, 7),), up, down, NOW) == 3
    assert stabilised(8, 12, (Wish(NOW - 30, 9),), up, down, NOW) == 9
    assert stabilised(8, 12, (Wish(NOW - 61, 9),), up, down, NOW) == 12
    assert stabilised(8, 12, (Wish(NOW - 30, 2),), up, down, NOW) == 8, "never the other way"


def test_the_defaults_grow_at_once_and_shrink_slowly() -> None:
    assert stabilised(2, 40, (Wish(NOW - 1, 2),), UP, DOWN, NOW) == 40
    assert most(2, UP, (), NOW) == 6
    assert most(100, UP, (), NOW) == 200
    assert stabilised(40, 2, (Wish(NOW - 299, 40),), UP, DOWN, NOW) == 40
    assert fewest(40, DOWN, (), NOW) == 36
    assert fewest(5, DOWN, (), NOW) == 4


@pytest.mark.parametrize(("value", "period_s"), [(0, 60), (-1, 60), (1, 0)])
def test_a_policy_that_allows_nothing_is_refused(value: int, period_s: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        pods(value, period_s)
