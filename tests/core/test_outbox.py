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
    outbox = Outbox(MARKS, now=0)
    assert outbox.observe(101, 0) is Action.NONE
    assert outbox.fate(MessageClass.TELEMETRY) is Fate.SHED
    assert outbox.fate(MessageClass.EVENT) is Fate.SEND
    outbox.observe(50, 1)
    assert outbox.fate(MessageClass.TELEMETRY) is Fate.SHED
    outbox.observe(10, 2)
    assert outbox.fate(MessageClass.TELEMETRY) is Fate.SEND


def test_over_the_hard_mark_it_catches_up_and_reads_on_once_drained() -> None:
    outbox = Outbox(MARKS, now=0)
    assert outbox.observe(1_001, 0) is Action.CATCH_UP
    assert outbox.fate(MessageClass.CONTROL) is Fate.LATER
    assert outbox.fate(MessageClass.TELEMETRY) is Fate.SHED
    assert [outbox.observe(left, 1) for left in (900, 90, 11)] == [Action.NONE] * 3
    assert outbox.observe(10, 2) is Action.READ_ON
    assert outbox.fate(MessageClass.CONTROL) is Fate.SEND


def test_no_progress_for_thirty_seconds_closes() -> None:
    outbox = Outbox(MARKS, now=0)
    outbox.wrote(500, 0)
    assert [outbox.observe(500, now) for now in (0, 29.9, 30)] == [Action.NONE, Action.NONE, Action.CLOSE]


def test_the_slowest_progress_keeps_it_open() -> None:
    outbox, now = Outbox(MARKS, now=0), 0.0
    outbox.wrote(500, 0)
    for left in range(499, 0, -1):
        now += 29
        assert outbox.observe(left, now) is not Action.CLOSE


def test_a_buffer_that_is_filled_while_it_drains_makes_progress() -> None:
    outbox, now = Outbox(MARKS, now=0), 0.0
    outbox.wrote(500, now)
    for _ in range(20):
        outbox.observe(500, now)
        now += 20
        outbox.wrote(100, now)  # and the reader took as much


def test_an_idle_connection_is_not_stuck() -> None:
    outbox = Outbox(MARKS, now=0)
    outbox.observe(0, 0)
    outbox.wrote(200, 1_000)
    assert outbox.observe(200, 1_001) is Action.NONE


@pytest.mark.parametrize("wrong", [{"drained_bytes": -1}, {"soft_bytes": 0}, {"hard_bytes": 1}, {"no_progress_s": 0.0}])
def test_marks_that_make_no_sense_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        OutboxMarks(**wrong)


@given(st.lists(st.tuples(st.floats(0, 25), st.integers(0, 600), st.integers(0, 600)), max_size=80))
@settings(deadline=None)
def test_closed_exactly_when_nothing_moved_for_so_long(steps: list[tuple[float, int, int]]) -> None:
    """Against a buffer of its own: `wrote` in, `took` out, seen after each step."""
    outbox, now, buffered, moved_s = Outbox(MARKS, now=0), 0.0, 0, 0.0
    paused = False
    for wait_s, wrote, took in steps:
        now += wait_s
        if buffered == 0 and wrote:
            moved_s = now
        if wrote:
            outbox.wrote(wrote, now)
        buffered += wrote
        if min(took, buffered) > 0 or buffered == 0:
            moved_s = now
        buffered -= min(took, buffered)
        action = outbox.observe(buffered, now)
        assert (action is Action.CLOSE) == (now - moved_s >= MARKS.no_progress_s)
        if action is Action.CLOSE:
            break
        # It pauses once, over the hard mark, and reads on once, when drained.
        assert (action is Action.CATCH_UP) == (not paused and buffered > MARKS.hard_bytes)
        assert (action is Action.READ_ON) == (paused and buffered <= MARKS.drained_bytes)
        paused = (paused or action is Action.CATCH_UP) and action is not Action.READ_ON
        assert (outbox.flow is Flow.CATCHING_UP) == paused
