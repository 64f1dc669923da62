"""How many edges a fleet needs."""

import math
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from heliograph.core.fleet.behaviour import Direction, PolicyKind, ScalingPolicy
from heliograph.core.fleet.sizing import (
    EdgeLoad,
    Limit,
    Memory,
    Mode,
    Observed,
    Reason,
    Size,
    Sizing,
    Targets,
    growth_per_s,
    holding,
    size,
)

AT_ONCE = Direction(0, (ScalingPolicy(PolicyKind.PERCENT, 10_000, 1),))
PLAIN = Sizing(1, 100, Targets(1_000), up=AT_ONCE, down=AT_ONCE)

loads = st.builds(
    EdgeLoad, st.integers(0, 50_000), st.none() | st.floats(0, 4), st.none() | st.floats(0, 1e6, allow_nan=False)
)
observed = st.builds(
    Observed,
    st.integers(0, 60),
    st.lists(loads, max_size=20),
    silent=st.integers(0, 3),
    absent=st.integers(0, 5),
    known=st.booleans(),
)
durations = st.sampled_from([0.0, 15.0, 60.0, 300.0])
directions = st.builds(
    Direction,
    durations,
    st.lists(
        st.builds(ScalingPolicy, st.sampled_from(PolicyKind), st.integers(1, 200), st.sampled_from([15.0, 60.0])),
        max_size=2,
    ).map(tuple),
)
sizings = st.builds(
    lambda bounds, **others: Sizing(min(bounds), max(bounds), **others),
    st.tuples(st.integers(1, 50), st.integers(1, 50)),
    targets=st.builds(
        Targets, st.integers(1, 20_000), st.none() | st.floats(0.1, 1), st.none() | st.floats(1, 1e5, allow_nan=False)
    ),
    tolerance=st.sampled_from([0.0, 0.1, 0.3]),
    ahead_s=st.sampled_from([0.0, 30.0, 120.0]),
    up=directions,
    down=directions,
    mode=st.sampled_from([Mode.AUTO, Mode.AUTO, Mode.EXTERNAL]),
    replicas=st.none() | st.integers(0, 60),
    fallback=st.none() | st.integers(0, 60),
)


def spread(connections: int, replicas: int) -> list[EdgeLoad]:
    """So many, evenly."""
    return [EdgeLoad(connections // replicas + (index < connections % replicas)) for index in range(replicas)]


def fleet(connections: int, replicas: int) -> Observed:
    return Observed(replicas, spread(connections, replicas))


def sized(policy: Sizing, *looks: Observed, every_s: float = 15.0, memory: Memory | None = None) -> Size:
    """The answer to the last of these looks."""
    memory, answer = memory or Memory(), None
    for index, look in enumerate(looks):
        answer, memory = size(policy, look, memory, 1_000 + index * every_s)
    assert answer is not None
    return answer


def calm(policy: Sizing, look: Observed) -> Size:
    """The answer once nothing before is remembered."""
    memory = Memory(seen=look.replicas)
    return size(policy, look, memory, 10_000)[0]


# ---- rules that hold for whatever is seen ---------------------------------------------------------------------------


@given(sizings, st.lists(observed, min_size=1, max_size=6))
def test_never_below_the_minimum_or_above_the_maximum(policy: Sizing, looks: Sequence[Observed]) -> None:
    memory = Memory()
    for index, look in enumerate(looks):
        answer, memory = size(policy, look, memory, index * 15.0)
        assert answer.replicas >= min(policy.minimum, look.replicas)
        assert answer.replicas <= max(policy.maximum, look.replicas)
        if policy.minimum <= look.replicas <= policy.maximum:
            assert policy.minimum <= answer.replicas <= policy.maximum


@given(sizings, st.lists(observed, min_size=1, max_size=6))
def test_never_fewer_on_missing_data(policy: Sizing, looks: Sequence[Observed]) -> None:
    memory = Memory()
    for index, look in enumerate(looks):
        answer, memory = size(policy, look, memory, index * 15.0)
        if not look.known or look.silent:
            assert answer.replicas >= look.replicas


@given(sizings, st.lists(observed, min_size=1, max_size=6))
def test_never_fewer_than_hold_the_present_connections(policy: Sizing, looks: Sequence[Observed]) -> None:
    memory = Memory()
    for index, look in enumerate(looks):
        answer, memory = size(policy, look, memory, index * 15.0)
        if answer.replicas < look.replicas:
            assert answer.replicas >= min(holding(policy, look), policy.maximum)


@given(sizings, st.integers(0, 200_000), st.floats(0, 30), st.floats(0, 1e6), st.integers(1, 60))
def test_constant_load_comes_to_rest(
    policy: Sizing, connections: int, cpu: float, messages_per_s: float, replicas: int
) -> None:
    """It goes one way, and stays where it comes to."""
    memory, seen = Memory(), [replicas]
    for look in range(400):
        each = EdgeLoad(0, cpu / replicas, messages_per_s / replicas) if replicas else EdgeLoad(0)
        carried = [EdgeLoad(load.connections, each.cpu, each.messages_per_s) for load in spread(connections, replicas)]
        answer, memory = size(policy, Observed(replicas, carried), memory, look * 15.0)
        replicas = max(answer.replicas, 1)
        seen.append(replicas)
    steps = [after - before for before, after in pairwise(seen) if after != before]
    assert all(step > 0 for step in steps) or all(step < 0 for step in steps)
    assert seen[-1] == seen[-50]


@given(sizings, observed, st.integers(0, 5))
def test_what_is_remembered_is_bounded(policy: Sizing, look: Observed, step: int) -> None:
    memory = Memory()
    for index in range(500):
        _, memory = size(policy, look, memory, index * 15.0)
    assert len(memory.wishes) <= 300 / 15 * 2 + 2
    assert len(memory.changes) <= 2
    assert len(memory.counts) <= 30 / 15 + 2


# ---- targets --------------------------------------------------------------------------------------------------------


def test_as_many_as_bring_the_mean_back_to_its_target() -> None:
    assert calm(PLAIN, fleet(4_500, 2)) == Size(5, Reason.CONNECTIONS, Limit.NONE, 5)
    assert calm(PLAIN, fleet(4_500, 9)) == Size(5, Reason.CONNECTIONS, Limit.NONE, 5)
    assert calm(PLAIN, fleet(4_500, 5)) == Size(5, Reason.STEADY, Limit.NONE, 5)


def test_nothing_within_the_tolerance() -> None:
    assert calm(PLAIN, fleet(5_500, 5)).replicas == 5
    assert calm(PLAIN, fleet(5_501, 5)).replicas == 6
    assert calm(PLAIN, fleet(4_501, 5)).replicas == 5


def test_the_target_that_asks_for_most_counts() -> None:
    policy = Sizing(1, 100, Targets(1_000, cpu=0.5, messages_per_s=2_000), up=AT_ONCE, down=AT_ONCE)
    busy = [EdgeLoad(100, 0.9, 100.0), EdgeLoad(100, 0.9, 100.0)]
    assert calm(policy, Observed(2, busy)) == Size(4, Reason.CPU, Limit.NONE, 4)
    talkative = [EdgeLoad(100, 0.2, 5_000.0), EdgeLoad(100, 0.2, 5_000.0)]
    assert calm(policy, Observed(2, talkative)) == Size(5, Reason.MESSAGES, Limit.NONE, 5)


def test_an_edge_that_does_not_say_its_cpu_lets_the_fleet_grow_but_not_shrink() -> None:
    policy = Sizing(1, 100, Targets(1_000, cpu=0.5), up=AT_ONCE, down=AT_ONCE)
    assert calm(policy, Observed(2, [EdgeLoad(0, 1.5), EdgeLoad(0, None)])).replicas == 3
    assert calm(policy, Observed(4, [EdgeLoad(0, 0.0)] * 3 + [EdgeLoad(0, None)])).replicas == 4


def test_growth_is_met_before_it_is_there() -> None:
    policy = Sizing(1, 100, Targets(1_000), ahead_s=30, up=AT_ONCE)
    looks = [fleet(1_000 + 100 * index, 2) for index in range(0, 10, 5)]  # 100 a second
    assert sized(policy, *looks, every_s=5) == Size(3, Reason.GROWTH, Limit.NONE, 3)
    policy = Sizing(1, 100, Targets(1_000), ahead_s=0, up=AT_ONCE)
    assert sized(policy, *looks, every_s=5).replicas == 2


def test_growth_is_believed_up_to_twice_what_is_there() -> None:
    policy = Sizing(1, 1_000, Targets(1_000), ahead_s=600, up=AT_ONCE)
    assert sized(policy, fleet(0, 2), fleet(3_000, 2), every_s=15).replicas == 6


def test_growth_needs_two_looks_some_time_apart() -> None:
    _, memory = size(PLAIN, fleet(0, 2), Memory(), 0.0)
    _, memory = size(PLAIN, fleet(5_000, 2), memory, 0.5)
    assert growth_per_s(memory) == 0


def test_a_storm_waits_for_no_window() -> None:
    slow_up = Direction(600, (ScalingPolicy(PolicyKind.PERCENT, 900, 15),))
    policy = Sizing(1, 100, Targets(1_000, cpu=0.5), up=slow_up)
    quiet, storm = Observed(2, [EdgeLoad(500, 0.1)] * 2), Observed(2, [EdgeLoad(4_000, 0.1)] * 2)
    assert sized(policy, quiet, quiet, storm).replicas >= 8
    busy = Observed(2, [EdgeLoad(500, 1.0)] * 2)
    assert sized(policy, quiet, quiet, busy) == Size(2, Reason.CPU, Limit.UP_WINDOW, 4), "CPU is not connections"


def test_edges_that_are_not_there_yet_are_taken_for_full_when_it_comes_to_fewer() -> None:
    assert calm(PLAIN, Observed(5, spread(1_000, 3), absent=2)).replicas == 3
    assert calm(PLAIN, Observed(3, [], absent=3)).replicas == 3, "a fleet that just starts is not empty"


# ---- limits ---------------------------------------------------------------------------------------------------------


def test_why_a_size_is_not_what_the_load_asks_for_is_said() -> None:
    policy = Sizing(2, 6, Targets(1_000), up=AT_ONCE, down=AT_ONCE)
    assert calm(policy, fleet(9_000, 4)) == Size(6, Reason.CONNECTIONS, Limit.MAXIMUM, 9)
    assert calm(policy, fleet(100, 4)) == Size(2, Reason.CONNECTIONS, Limit.MINIMUM, 1)
    one = Direction(0, (ScalingPolicy(PolicyKind.PODS, 1, 60),))
    policy = Sizing(1, 100, Targets(1_000), up=one, down=one)
    assert calm(policy, fleet(9_000, 4)) == Size(5, Reason.CONNECTIONS, Limit.UP_POLICY, 9)
    assert calm(policy, fleet(100, 4)) == Size(3, Reason.CONNECTIONS, Limit.DOWN_POLICY, 1)


def test_a_dip_shorter_than_the_window_moves_nothing() -> None:
    policy = Sizing(1, 100, Targets(1_000), up=AT_ONCE)
    looks = [fleet(5_000, 5)] + [fleet(500, 5)] * 19
    assert sized(policy, *looks) == Size(5, Reason.CONNECTIONS, Limit.DOWN_WINDOW, 1)
    assert sized(policy, *looks, fleet(500, 5), fleet(500, 5)).replicas == 4


def test_who_just_started_shrinks_nothing_before_a_window_has_passed() -> None:
    policy = Sizing(1, 100, Targets(1_000), up=AT_ONCE)
    assert sized(policy, fleet(500, 5)).replicas == 5
    assert sized(policy, *[fleet(500, 5)] * 20).replicas == 5
    assert sized(policy, *[fleet(500, 5)] * 22).replicas == 4


def test_a_fleet_outside_its_bounds_is_brought_back_at_once() -> None:
    policy = Sizing(3, 6, Targets(1_000))
    assert sized(policy, fleet(0, 1)) == Size(3, Reason.BOUNDS, Limit.MINIMUM, 3)
    assert sized(policy, fleet(0, 9)) == Size(6, Reason.BOUNDS, Limit.MAXIMUM, 6)
    assert sized(policy, Observed(9, spread(0, 8), silent=1)).replicas == 9, "but never on missing data"
    assert sized(policy, Observed(0, [])).replicas == 3


@pytest.mark.parametrize(("minimum", "maximum", "connections"), [(0, 5, 100), (5, 4, 100), (1, 2, 0)])
def test_bounds_that_make_no_sense_are_refused(minimum: int, maximum: int, connections: int) -> None:
    with pytest.raises(ValueError, match=r"minimum|target"):
        Sizing(minimum, maximum, Targets(connections))


# ---- unknown load ---------------------------------------------------------------------------------------------------


def test_unknown_load_moves_nothing_until_the_fallback() -> None:
    policy = Sizing(1, 10, Targets(1_000), fallback=6, fallback_after_s=60)
    away = Observed(4, [], known=False)
    assert sized(policy, *[away] * 4) == Size(4, Reason.LOAD_UNKNOWN, Limit.NONE, 4)
    assert sized(policy, *[away] * 5) == Size(6, Reason.FALLBACK, Limit.NONE, 6)
    assert sized(policy, *[away] * 4, fleet(3_900, 4), *[away] * 4).replicas == 4, "since when begins anew"
    assert sized(policy, *[Observed(8, [], known=False)] * 9).replicas == 8, "a fallback is no ceiling"
    assert sized(Sizing(1, 5, Targets(1), fallback=9), *[away] * 9).replicas == 5
    assert sized(PLAIN, *[away] * 99).replicas == 4


def test_edges_that_all_say_nothing_are_as_unknown_as_a_store_that_is_away() -> None:
    policy = Sizing(1, 10, Targets(1_000), fallback=6, fallback_after_s=60)
    assert sized(policy, *[Observed(4, [], silent=4)] * 5).reason is Reason.FALLBACK


def test_with_some_edges_unknown_a_fleet_may_grow() -> None:
    some = Observed(3, [EdgeLoad(2_500), EdgeLoad(2_500)], silent=1)
    assert calm(PLAIN, some).replicas == 5
    few = Observed(3, [EdgeLoad(0), EdgeLoad(0)], silent=1)
    assert calm(PLAIN, few) == Size(3, Reason.LOAD_UNKNOWN, Limit.NONE, 0)


def test_after_the_load_was_unknown_a_whole_window_passes_before_fewer() -> None:
    policy = Sizing(1, 100, Targets(1_000), up=AT_ONCE)
    away = Observed(5, [], known=False)
    assert sized(policy, *[away] * 50, *[fleet(500, 5)] * 19).replicas == 5
    assert sized(policy, *[away] * 50, *[fleet(500, 5)] * 21).replicas == 4


# ---- somebody else says how many ------------------------------------------------------------------------------------


def external(replicas: int | None, **others: int) -> Sizing:
    return Sizing(others.get("minimum", 2), 10, Targets(1_000), mode=Mode.EXTERNAL, replicas=replicas)


def test_what_is_asked_for_from_outside_counts_within_bounds_and_above_what_holds_the_connections() -> None:
    assert sized(external(7), fleet(0, 4)) == Size(7, Reason.REQUESTED, Limit.NONE, 7)
    assert sized(external(70), fleet(0, 4)) == Size(10, Reason.REQUESTED, Limit.MAXIMUM, 70)
    assert sized(external(0), fleet(0, 4)) == Size(2, Reason.REQUESTED, Limit.MINIMUM, 0)
    assert sized(external(2), fleet(2_900, 4)) == Size(3, Reason.REQUESTED, Limit.CONNECTIONS, 2)
    assert sized(external(2), fleet(9_000, 4)).replicas == 4, "it is not for us to grow"
    assert sized(external(None), fleet(0, 4)).replicas == 4
    assert sized(external(2), Observed(4, [], known=False)) == Size(4, Reason.LOAD_UNKNOWN, Limit.NONE, 2)
    assert sized(external(6), Observed(4, [], known=False)).replicas == 6


def test_what_a_person_asks_for_counts() -> None:
    policy = Sizing(2, 10, Targets(1_000), mode=Mode.MANUAL, replicas=1)
    assert sized(policy, fleet(4_000, 4)) == Size(1, Reason.REQUESTED, Limit.NONE, 1)
    assert sized(Sizing(2, 10, Targets(1), mode=Mode.MANUAL), fleet(4_000, 4)).replicas == 4


def test_when_the_load_decides_again_it_does_not_do_so_at_once() -> None:
    memory, auto = Memory(), Sizing(1, 10, Targets(1_000), up=AT_ONCE)
    for index in range(50):
        _, memory = size(external(5), fleet(500, 5), memory, index * 15.0)
    assert size(auto, fleet(500, 5), memory, 750.0)[0].replicas == 5


@given(st.integers(1, 100), st.integers(1, 10_000), st.integers(1, 500))
def test_sums_that_come_out_a_little_above_a_whole_number_ask_for_no_more(
    edges: int, thousandths: int, each: int
) -> None:
    """0.1 + 0.2 is above 0.3."""
    assume(edges * each < 10_000)
    target = thousandths / 1_000
    policy = Sizing(1, 1_000, Targets(10**6, cpu=target), tolerance=0.0, up=AT_ONCE, down=AT_ONCE)
    answer = calm(policy, Observed(edges, [EdgeLoad(0, target)] * edges))
    assert answer.replicas == edges
    assert math.isfinite(answer.wanted)
