"""A status says what was found, and counts only now and then."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.operator.conditions import Condition, Truth
from heliograph.operator.tenants.status import NOT_PAUSED, Findings, patch_of, ready, rounded, status_of, told

TOPICS = Condition("TopicsReady", Truth.TRUE, "TopicsAsWanted", "")
QUOTAS = Condition("QuotasApplied", Truth.TRUE, "Applied", "")
KEYS = Condition("KeysReady", Truth.TRUE, "KeysLoaded", "")


def unknown(one: Condition) -> Condition:
    return Condition(one.type, Truth.UNKNOWN, "Away", "")


@pytest.mark.parametrize(("count", "shown"), [(0, 0), (7, 7), (42, 42), (123, 120), (1_250_000, 1_200_000)])
def test_counts_are_told_to_two_digits(count: int, shown: int) -> None:
    assert rounded(count) == shown


@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_a_count_is_told_anew_only_where_it_moved(before: int, now: int) -> None:
    shown = told(None, before)
    again = told(shown, now)
    assert told(again, now) == again
    assert (again == 0) == (now == 0)
    assert abs(again - now) <= max(1, 0.2 * max(again, now, 10))


def test_a_count_that_creeps_is_told_seldom() -> None:
    shown, writes = told(None, 100_000), 0
    for count in range(100_000, 200_000, 100):
        again = told(shown, count)
        writes += again != shown
        shown = again
    assert writes < 10


def test_ready_is_what_clients_would_say() -> None:
    assert ready([TOPICS, QUOTAS, KEYS], suspended=False).status is Truth.TRUE
    assert ready([TOPICS, QUOTAS, KEYS], suspended=True).reason == "Suspended"
    assert ready([TOPICS, QUOTAS, unknown(KEYS)], suspended=False).status is Truth.TRUE
    assert ready([unknown(TOPICS), QUOTAS, KEYS], suspended=False).status is Truth.UNKNOWN
    broken = Condition("KeysReady", Truth.FALSE, "NoKeys", "none")
    assert ready([unknown(TOPICS), QUOTAS, broken], suspended=False).reason == "NoKeys"


def test_the_same_found_again_is_no_change() -> None:
    found = Findings([TOPICS, QUOTAS, KEYS, NOT_PAUSED], "acme", [{"name": "t", "partitions": 1}], 3, ("k1",))
    first = status_of({}, found, 1, "t1")
    assert status_of(first, found, 1, "t2") == first
    assert patch_of(first, first) == {}


def test_what_is_taken_away_is_taken_out_of_the_stored_status() -> None:
    access = {"user": "hg.acme", "secretVersion": "1"}
    condition = Condition("AccessReady", Truth.TRUE, "AccessGranted", "")
    first = status_of({}, Findings([condition], access=access), 1, "t1")
    after = status_of(first, Findings([TOPICS], access={}), 2, "t2")
    assert "access" not in after
    assert [one["type"] for one in after["conditions"]] == ["TopicsReady"]
    assert patch_of(first, after)["access"] is None
