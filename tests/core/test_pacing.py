"""pacing: letting many connections go, or come, without a wave."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliograph.core.buckets import Rate
from heliograph.core.pacing import (
    FOR_GOOD_MS,
    AdmissionPolicy,
    Admit,
    DrainPace,
    HandshakeAdmission,
    RefuseHandshake,
    TellToReconnect,
    hold_off,
    jittered_after_ms,
)


def test_no_second_of_a_drain_gets_much_more_than_its_share() -> None:
    pace, left, per_second = DrainPace(0.0, 20.0), 5_000, [0] * 20
    for tick in range(1, 201):
        told = pace.due(tick / 10, left)
        left -= told
        per_second[(tick - 1) // 10] += told
    assert left == 0
    assert max(per_second) < 1.05 * 250
    assert min(per_second) > 0.95 * 250


def test_passes_too_short_for_one_connection_add_up() -> None:
    pace, left = DrainPace(0.0, 20.0), 30
    for tick in range(1, 101):
        left -= pace.due(tick / 10, left)
    assert left == pytest.approx(15, abs=1)


def test_a_late_pass_makes_up_for_what_it_missed() -> None:
    pace = DrainPace(0.0, 10.0)
    assert pace.due(5.0, 100) == 50
    assert pace.due(7.5, 50) == 25


def test_connections_that_leave_by_themselves_slow_it_down() -> None:
    pace = DrainPace(0.0, 10.0)
    assert pace.due(1.0, 100) == 10
    assert pace.due(2.0, 9) == 1


def test_the_end_of_the_drain_tells_everybody() -> None:
    assert DrainPace(0.0, 10.0).due(10.0, 77) == 77
    assert DrainPace(0.0, 0.0).due(0.0, 77) == 77


@given(
    st.integers(0, 5_000),
    st.floats(0.1, 60),
    st.lists(st.tuples(st.floats(0, 5), st.integers(0, 50)), max_size=100),
)
@settings(deadline=None)
def test_everybody_is_told_and_nobody_twice(connections: int, over_s: float, passes: list[tuple[float, int]]) -> None:
    pace, now, left = DrainPace(100.0, over_s), 100.0, connections
    for wait_s, gone in passes:
        now += wait_s
        left -= min(gone, left)
        told = pace.due(now, left)
        assert 0 <= told <= left
        left -= told
    assert pace.due(max(now, pace.end_s), left) == left


def test_a_drain_cannot_be_negative() -> None:
    with pytest.raises(ValueError, match="over_s"):
        DrainPace(0.0, -1.0)


@given(st.floats(0, 10_000), st.floats(0, 10_000), st.floats(0, 1, exclude_max=True))
@settings(deadline=None)
def test_a_clients_own_time_is_between_floor_and_spread(floor_ms: float, spread_ms: float, draw: float) -> None:
    assert floor_ms <= jittered_after_ms(floor_ms, spread_ms, lambda: draw) <= floor_ms + spread_ms + 1


POLICY = AdmissionPolicy(pace=Rate(10, 10), cap=Rate(40, 40), max_after_s=5, jitter_s=0.5)


def test_a_wave_is_admitted_then_told_then_refused() -> None:
    admission = HandshakeAdmission(POLICY, Random(1).random)
    answers = [admission.judge(0.0) for _ in range(60)]
    kinds = [type(answer) for answer in answers]
    assert kinds == [Admit] * 10 + [TellToReconnect] * 30 + [RefuseHandshake] * 20


def test_those_told_come_back_at_the_pace_they_could_not_come_in_at() -> None:
    admission = HandshakeAdmission(POLICY, lambda: 0.0)
    answers = [admission.judge(0.0) for _ in range(40)]
    after_ms = [answer.after_ms for answer in answers if isinstance(answer, TellToReconnect)]
    assert after_ms == pytest.approx([100 * number for number in range(1, 31)], abs=1)


def test_a_browser_storm_is_over_in_little_more_than_its_pace_allows() -> None:
    """400 clients at once against 40/s, each coming back when told: all in within 1.5 times the least time."""
    random = Random(7)
    admission = HandshakeAdmission(AdmissionPolicy(Rate(40, 40), Rate(160, 160), 30, 1), random.random)
    waiting = [(random.random() * 0.1, client) for client in range(400)]
    admitted: list[float] = []
    while waiting:
        waiting.sort()
        now, client = waiting.pop(0)
        answer = admission.judge(now)
        if isinstance(answer, Admit):
            admitted.append(now)
        elif isinstance(answer, TellToReconnect):
            waiting.append((now + answer.after_ms / 1000, client))
        else:
            waiting.append((now + answer.retry_after_s + random.random(), client))
    assert len(admitted) == 400
    assert admitted[-1] < 15
    assert max(sum(at <= other < at + 1 for other in admitted) for at in admitted) <= 80


def test_too_many_at_once_are_told_then_refused_whatever_their_pace() -> None:
    policy = AdmissionPolicy(pace=Rate(1_000, 1_000), cap=Rate(4_000, 4_000), at_once=10, at_once_cap=20)
    admission = HandshakeAdmission(policy, Random(3).random)
    answers = [admission.judge(0.0, under_way) for under_way in range(1, 31)]
    assert [type(answer) for answer in answers] == [Admit] * 10 + [TellToReconnect] * 10 + [RefuseHandshake] * 10
    assert {answer.cause for answer in answers if not isinstance(answer, Admit)} == {"at_once"}
    assert isinstance(admission.judge(0.0, 5), Admit), "as soon as some are done"


@given(st.integers(), st.lists(st.floats(0, 0.5), min_size=1, max_size=300))
@settings(deadline=None)
def test_every_answer_is_within_its_bounds(seed: int, waits: list[float]) -> None:
    admission, now = HandshakeAdmission(POLICY, Random(seed).random), 1_000.0
    admitted: list[float] = []
    for wait_s in waits:
        now += wait_s
        answer = admission.judge(now)
        longest_s = POLICY.max_after_s + POLICY.jitter_s + POLICY.pace.token_s
        if isinstance(answer, TellToReconnect):
            assert 0 < answer.after_ms <= longest_s * 1000 + 1
        elif isinstance(answer, RefuseHandshake):
            assert 1 <= answer.retry_after_s <= longest_s + 1
        else:
            admitted.append(now)
            assert len(admitted) <= POLICY.pace.burst + POLICY.pace.per_s * (now - 1_000.0) + 1


@pytest.mark.parametrize(
    "wrong",
    [{"cap": Rate(1, 1)}, {"max_after_s": -1.0}, {"jitter_s": -0.1}, {"at_once": 0}, {"at_once": 9_000}],
    ids=["cap", "max_after_s", "jitter_s", "nobody", "above the cap"],
)
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AdmissionPolicy(**wrong)  # type: ignore[arg-type]


# ---- who is refused and goes on -------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0, 5), st.one_of(st.none(), st.integers(1, 5_000))), max_size=30))
def test_only_who_comes_before_every_moment_that_it_was_told_of_comes_too_early(
    refusals: list[tuple[float, int | None]],
) -> None:
    now, told_s, told = 100.0, 0.0, [0.0]
    for later_s, retry_after_ms in refusals:
        now += later_s
        too_early, told_s = hold_off(told_s, now, retry_after_ms)
        assert too_early == (now < max(told))
        told.append(now + (retry_after_ms or FOR_GOOD_MS) / 1000)
        assert told_s == max(told)


def test_who_comes_back_on_the_dot_is_not_too_early() -> None:
    _, told_s = hold_off(0.0, 10.0, 250)
    assert hold_off(told_s, 10.25, None)[0] is False
    assert hold_off(told_s, 10.249, None)[0] is True
