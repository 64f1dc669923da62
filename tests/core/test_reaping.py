"""When a lease that ran out may be taken for a loss."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.core.reaping import HORIZON_S, StoreAnswers

LEASE_S = 6.0


def answered(*times: float) -> StoreAnswers:
    answers = StoreAnswers()
    for now in times:
        answers.answered(now)
    return answers


def every(interval_s: float, begin: float, end: float) -> list[float]:
    return [begin + interval_s * number for number in range(round((end - begin) / interval_s) + 1)]


def test_nobody_is_reaped_before_the_store_has_answered_for_a_whole_lease() -> None:
    answers = StoreAnswers()
    assert not answers.may_reap(LEASE_S, 100.0)
    for now in every(0.5, 100.0, 105.5):
        answers.answered(now)
        assert not answers.may_reap(LEASE_S, now)
    answers.answered(106.0)
    assert answers.may_reap(LEASE_S, 106.0)


def test_a_failed_question_begins_the_wait_anew() -> None:
    answers = answered(*every(0.5, 100.0, 110.0))
    assert answers.may_reap(LEASE_S, 110.0)
    answers.failed()
    for now in every(0.5, 110.5, 116.0):
        answers.answered(now)
        assert not answers.may_reap(LEASE_S, now)
    answers.answered(116.5)
    assert answers.may_reap(LEASE_S, 116.5)


def test_an_answer_that_was_long_in_coming_begins_the_wait_anew() -> None:
    """The store was stopped and the question waited: everybody's renewals did as well."""
    answers = answered(*every(0.5, 100.0, 110.0), *every(0.5, 114.0, 119.5))
    assert not answers.may_reap(LEASE_S, 119.5)
    answers.answered(120.0)
    assert answers.may_reap(LEASE_S, 120.0)


def test_a_process_that_was_stopped_itself_waits_as_long() -> None:
    answers = answered(*every(0.5, 100.0, 110.0))
    assert not answers.may_reap(LEASE_S, 170.0)


def test_a_silence_shorter_than_between_two_renewals_interrupts_nothing() -> None:
    assert answered(100.0, 101.9, 103.8, 105.7, 106.5).may_reap(LEASE_S, 106.5)
    assert not answered(100.0, 102.1, 103.8, 105.7, 106.5).may_reap(LEASE_S, 106.5)


@pytest.mark.parametrize("lease_s", [1.0, 6.0, 60.0])
def test_each_lease_is_judged_by_its_own_length(lease_s: float) -> None:
    answers = answered(*every(0.25, 100.0, 100.0 + lease_s))
    assert answers.may_reap(lease_s, 100.0 + lease_s)
    assert not answers.may_reap(lease_s * 1.01, 100.0 + lease_s)


def test_memory_is_bounded_and_a_lease_beyond_it_is_judged_by_what_is_left() -> None:
    answers = StoreAnswers()
    for now in every(10.0, 0.0, 3 * HORIZON_S):
        answers.answered(now)
    assert len(answers._at) <= HORIZON_S / 10 + 1
    assert answers.may_reap(10 * HORIZON_S, 3 * HORIZON_S)


@given(st.lists(st.floats(0.01, 5.0), min_size=1, max_size=60), st.floats(0.5, 20.0))
def test_whoever_may_be_reaped_had_time_to_renew(gaps: list[float], lease_s: float) -> None:
    """However the answers came: for a whole lease there was one within every third of it."""
    now, times = 0.0, [0.0]
    for gap in gaps:
        now += gap
        times.append(now)
    inside = [at for at in times if at > now - lease_s]
    before = [at for at in times if at <= now - lease_s][-1:]
    whole = bool(before) and all(
        later - earlier <= lease_s / 3 for earlier, later in zip(before + inside, [*inside, now], strict=True)
    )
    assert answered(*times).may_reap(lease_s, now) == whole
