"""outbox: how much one connection may have waiting, and what happens when it is more."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliograph.core.messages import MessageClass
from heliograph.core.outbox import FATES, TRANSITIONS, Action, Fate, Flow, Level, Outbox, OutboxMarks

MARKS = OutboxMarks(drained_bytes=10, soft_bytes=100, hard_bytes=1_000, no_progress_s=30)


def test_the_tables_have_a_row_for_everything() -> None:
    assert {(flow, level) for flow in TRANSITIONS for level in TRANSITIONS[flow]} == set(product(Flow, Level))
    assert {(flow, each) for flow in FATES for each in FATES[flow]} == set(product(Flow, MessageClass))


def test_only_telemetry_is_ever_shed() -> None:
    assert {each for flow in Flow for each, fate in FATES[flow].items() if fate is Fate.SHED} == {
        MessageClass.TELEMETRY
    }


def test_over_the_soft_mark_telemetry_is_shed_until_it_has_drained() -> None:
    outbox = Outbox(MARKS)
    assert outbox.observe(101) is Action.NONE
    assert outbox.fate(MessageClass.TELEMETRY) is Fate.SHED
    assert outbox.fate(MessageClass.EVENT) is Fate.SEND
    outbox.observe(50)
    assert outbox.fate(MessageClass.TELEMETRY) is Fate.SHED
    outbox.observe(10)
    assert outbox.fate(MessageClass.TELEMETRY) is Fate.SEND


def test_over_the_hard_mark_it_catches_up_and_reads_on_once_drained() -> None:
    outbox = Outbox(MARKS)
    assert outbox.observe(1_001) is Action.CATCH_UP
    assert outbox.fate(MessageClass.CONTROL) is Fate.LATER
    assert outbox.fate(MessageClass.TELEMETRY) is Fate.SHED
    assert [outbox.observe(left) for left in (900, 90, 11)] == [Action.NONE] * 3
    assert outbox.observe(10) is Action.READ_ON
    assert outbox.fate(MessageClass.CONTROL) is Fate.SEND


def test_no_progress_for_thirty_seconds_closes() -> None:
    outbox = Outbox(MARKS)
    assert [outbox.look(500, 200, now) for now in (100, 129.9, 130)] == [Action.NONE, Action.NONE, Action.CLOSE]


def test_the_slowest_progress_keeps_it_open() -> None:
    outbox, now = Outbox(MARKS), 0.0
    for taken in range(1, 500):
        now += 29
        assert outbox.look(taken, 500, now) is Action.NONE


def test_who_was_offered_nothing_is_not_stuck() -> None:
    """We were: a pass that comes after our own stall."""
    outbox = Outbox(MARKS)
    assert [outbox.look(500, offered, now) for offered, now in ((200, 10), (0, 100))] == [Action.NONE] * 2
    assert outbox.look(500, 200, 129) is Action.NONE
    assert outbox.look(500, 200, 130) is Action.CLOSE


def test_what_the_peer_took_only_counts_once() -> None:
    """Frames of our own that are under way make the count fall for a moment: rising back is no progress."""
    outbox = Outbox(MARKS)
    assert [outbox.look(taken, 200, now) for taken, now in ((500, 0), (494, 20), (500, 25))] == [Action.NONE] * 3
    assert outbox.look(500, 200, 30) is Action.CLOSE


@pytest.mark.parametrize("wrong", [{"drained_bytes": -1}, {"soft_bytes": 0}, {"hard_bytes": 1}, {"no_progress_s": 0.0}])
def test_marks_that_make_no_sense_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        OutboxMarks(**wrong)


@given(
    st.lists(st.tuples(st.floats(0, 25), st.integers(0, 600), st.integers(0, 600), st.integers(0, 600)), max_size=80)
)
@settings(deadline=None)
def test_closed_exactly_when_nothing_was_taken_for_so_long(steps: list[tuple[float, int, int, int]]) -> None:
    """Against two buffers, ours and the kernel's: `wrote` in, `passed` from one to the other, `took` out."""
    outbox, now, ours, kernels, taken, moved_s = Outbox(MARKS), 0.0, 0, 0, 0, 0.0
    outbox.look(0, 0, now)
    paused = False
    for wait_s, wrote, passed, took in steps:
        now += wait_s
        took = min(took, kernels)  # noqa: PLW2901
        taken, kernels = taken + took, kernels - took
        ours += wrote
        passed = min(passed, ours)  # noqa: PLW2901
        ours, kernels = ours - passed, kernels + passed
        if took or not kernels:
            moved_s = now
        action = outbox.observe(ours)
        # It pauses once, over the hard mark, and reads on once, when drained.
        assert (action is Action.CATCH_UP) == (not paused and ours > MARKS.hard_bytes)
        assert (action is Action.READ_ON) == (paused and ours <= MARKS.drained_bytes)
        paused = (paused or action is Action.CATCH_UP) and action is not Action.READ_ON
        assert (outbox.flow is Flow.CATCHING_UP) == paused
        closes = outbox.look(taken, kernels, now) is Action.CLOSE
        assert closes == (now - moved_s >= MARKS.no_progress_s)
        if closes:
            break
