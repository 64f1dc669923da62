"""choosing: which address to try first."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.core.choosing import Choice, ChoicePolicy

POLICY = ChoicePolicy(half_life_s=10.0, forgotten=0.1)
NAMES = ("a", "b", "c", "d")


def choice(seed: int = 1) -> Choice:
    return Choice(Random(seed).random, POLICY)


def test_a_thousand_clients_spread_evenly() -> None:
    first = Counter(choice(seed).order(NAMES, 0.0)[0] for seed in range(1_000))
    assert set(first) == set(NAMES)
    assert max(first.values()) < 320


def test_home_comes_first() -> None:
    one = choice()
    one.succeeded("c")
    assert {one.order(NAMES, float(now))[0] for now in range(50)} == {"c"}


def test_a_home_that_fails_is_not_tried_first_again() -> None:
    one = choice()
    one.succeeded("c")
    one.failed("c", 0.0)
    assert one.order(NAMES, 0.0)[-1] == "c"


def test_home_may_have_several_names() -> None:
    one = choice()
    one.succeeded("b", "10.0.0.1:80")
    assert one.order(NAMES, 0.0)[0] == "b"
    assert one.order(["10.0.0.2:80", "10.0.0.1:80"], 0.0)[0] == "10.0.0.1:80"


@given(st.integers(0, 10_000), st.lists(st.floats(0.0, 0.5), min_size=8, max_size=8))
def test_each_is_tried_once_before_any_is_tried_again(seed: int, waits_s: list[float]) -> None:
    one, now, tried = choice(seed), 0.0, []
    for wait_s in waits_s:
        first = one.order(NAMES, now)[0]
        tried.append(first)
        one.failed(first, now)
        now += wait_s
    assert set(tried[:4]) == set(NAMES)
    assert set(tried[4:]) == set(NAMES)


def test_a_dead_one_is_tried_last_for_a_while_and_then_like_any_other() -> None:
    spoilt = choice()
    spoilt.failed("a", 0.0)
    assert {spoilt.order(NAMES, 30.0)[-1] for _ in range(50)} == {"a"}
    assert {spoilt.order(NAMES, 34.0)[0] for _ in range(200)} == set(NAMES)


def test_one_that_failed_more_often_stays_back_for_longer() -> None:
    one = choice()
    one.failed("a", 0.0)
    one.failed("a", 0.0)
    one.failed("b", 0.0)
    assert one.order(["a", "b"], 30.0) == ["b", "a"]
    assert one.order(["a", "c"], 40.0) == ["c", "a"]
    one.succeeded("a")
    assert one.order(["a", "c"], 40.0) == ["a", "c"]


@given(st.lists(st.sampled_from(NAMES)), st.floats(0.0, 1e6))
def test_nobody_is_left_out(failures: list[str], now: float) -> None:
    one = choice()
    for at, name in enumerate(failures):
        one.failed(name, float(at))
    assert sorted(one.order(NAMES, len(failures) + now)) == sorted(NAMES)


def test_names_that_no_resolver_says_any_more_are_forgotten() -> None:
    one = choice()
    for number in range(10_000):
        one.failed(f"10.0.0.{number}", float(number))
    assert len(one._spoilt) < 100


@pytest.mark.parametrize("wrong", [{"half_life_s": 0.0}, {"forgotten": 0.0}, {"forgotten": 1.0}])
def test_a_policy_without_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="half_life_s"):
        ChoicePolicy(**wrong)
