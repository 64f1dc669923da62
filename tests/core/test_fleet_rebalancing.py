"""Spreading clients over edges that joined later."""

import random
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from heliograph.core.fleet.rebalancing import REBALANCE_FOR_S, Edge, sheddings


def edges(*connections: int, youngest_s: float = 60.0) -> list[Edge]:
    """The last one joined last."""
    last = len(connections) - 1
    return [
        Edge(f"edge-{index}", "inc", count, youngest_s if index == last else 90_000.0)
        for index, count in enumerate(connections)
    ]


def shed(found: Sequence[Edge], share: float = 0.1, tolerance: float = 0.1) -> dict[str, int]:
    return {shedding.edge.name: shedding.connections for shedding in sheddings(found, share, tolerance)}


def test_the_fullest_shed_a_share_of_what_they_have_above_the_mean() -> None:
    assert shed(edges(1_000, 1_300, 100)) == {"edge-0": 20, "edge-1": 50}
    assert shed(edges(1_000, 1_300, 100), share=1.0) == {"edge-0": 200, "edge-1": 500}


def test_off_is_off() -> None:
    assert shed(edges(1_000, 1_000, 0), share=0.0) == {}


def test_nobody_is_moved_for_a_difference_within_the_tolerance_or_that_chance_explains() -> None:
    assert shed(edges(10_500, 10_000, 9_500)) == {}
    assert shed(edges(12, 9, 6)) == {}, "twelve of nine is what chance does"


def test_it_begins_when_an_edge_has_settled_and_does_not_go_on_for_ever() -> None:
    """Where a balancer sends clients back to where they were, shedding would never end."""
    assert shed(edges(1_000, 0, youngest_s=1.0)) == {}
    assert shed(edges(1_000, 0, youngest_s=10.0)) != {}
    assert shed(edges(1_000, 0, youngest_s=REBALANCE_FOR_S + 1)) == {}


def test_one_edge_has_nowhere_to_send_anybody() -> None:
    assert shed(edges(1_000)) == {}
    assert shed([]) == {}


@given(st.lists(st.integers(0, 100_000), min_size=2, max_size=30), st.floats(0.01, 1), st.floats(0, 0.5))
def test_no_edge_sheds_more_than_its_surplus_and_nobody_below_the_mean_sheds(
    counts: list[int], share: float, tolerance: float
) -> None:
    mean = sum(counts) / len(counts)
    for shedding in sheddings(edges(*counts), share, tolerance):
        assert 1 <= shedding.connections < shedding.edge.connections - mean + 1
        assert shedding.edge.connections > mean


@given(st.lists(st.integers(0, 10_000), min_size=2, max_size=12), st.floats(0.05, 1))
def test_spread_evenly_again_it_comes_to_rest(counts: list[int], share: float) -> None:
    """Those that were shed land anywhere, evenly: nothing is shed after a while, and nobody was lost."""
    total, looks, dice = sum(counts), 0, random.Random(0)
    while found := sheddings(edges(*counts), share, 0.1):
        moved = 0
        for shedding in found:
            index = int(shedding.edge.name.partition("-")[2])
            counts[index] -= shedding.connections
            moved += shedding.connections
        counts = [count + moved // len(counts) for count in counts]
        for _ in range(moved % len(counts)):
            counts[dice.randrange(len(counts))] += 1
        looks += 1
        assert looks < 1_000
    assert sum(counts) == total
