"""Pressure: levels don't flap, come back down, and mean what the table says."""

import itertools
import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.core.messages import MessageClass
from heliograph.core.pressure import (
    CALM,
    LEVELS,
    LOG_COPY,
    TABLE,
    Change,
    Level,
    Marks,
    Pressure,
    Sampler,
    Signal,
    Source,
    Verdict,
    Verdicts,
    verdicts,
)

MARKS = Marks(1.0, 2.0, 4.0, release=0.5, confirm_s=2.0, calm_s=5.0)
NORMAL, ELEVATED, HIGH, CRITICAL = Level


def made(marks: tuple[float, float, float], release: float, confirm_s: float, calm_s: float) -> Marks:
    low, middle, high = sorted(marks)
    return Marks(low, middle, high, release, confirm_s, calm_s)


values = st.floats(0, 10)
steps = st.lists(st.tuples(st.floats(0, 4), values, values), max_size=60)
levels = st.fixed_dictionaries({source: st.sampled_from(Level) for source in Source})
some_marks = st.builds(
    made,
    st.tuples(*[st.floats(0.1, 10)] * 3),
    st.floats(0.1, 1),
    st.floats(0, 5),
    st.floats(0, 5),
)


def through(signal: Signal, trace: Sequence[tuple[float, float]]) -> list[Level]:
    """Levels after each (seconds later, value)."""
    now, found = 100.0, []
    for later_s, value in trace:
        now += later_s
        found.append(signal.observe(now, value))
    return found


# ---- one signal -----------------------------------------------------------------------------------------------------


def test_a_value_counts_once_it_was_there_for_the_time_to_confirm_it() -> None:
    assert through(Signal(MARKS), [(0, 3), (1, 3), (1, 3)]) == [NORMAL, NORMAL, HIGH]
    assert through(Signal(MARKS), [(0, 3), (1, 3), (0.5, 0), (1, 3), (1.9, 3)])[-1] is NORMAL


def test_without_a_time_to_confirm_it_counts_at_once() -> None:
    assert through(Signal(Marks(1, 2, 4)), [(0, 4)]) == [CRITICAL]


def test_only_as_much_is_confirmed_as_was_there_all_the_time() -> None:
    assert through(Signal(MARKS), [(0, 1), (1, 9), (1, 9), (1, 9)]) == [NORMAL, NORMAL, ELEVATED, CRITICAL]


def test_it_comes_down_after_a_calm_time_below_the_lower_mark() -> None:
    signal = Signal(MARKS)
    through(signal, [(0, 3), (2, 3)])
    between = [signal.observe(200.0 + later_s, 1.5) for later_s in (0, 10, 100)]
    assert between == [HIGH] * 3, "below its mark, not below half of it"
    assert [signal.observe(301.0 + later_s, 0.7) for later_s in (0, 4.9, 5)] == [HIGH, HIGH, ELEVATED]
    assert [signal.observe(401.0 + later_s, 0.4) for later_s in (0, 4.9, 5)] == [ELEVATED, ELEVATED, NORMAL]


@given(some_marks, values, st.lists(st.floats(0, 3), max_size=40))
def test_a_constant_value_never_flaps(marks: Marks, value: float, later_s: list[float]) -> None:
    found = through(Signal(marks), [(one, value) for one in later_s])
    assert found == sorted(found)


@given(some_marks, steps)
def test_a_value_that_is_never_lower_means_a_level_that_is_never_lower(
    marks: Marks, trace: list[tuple[float, float, float]]
) -> None:
    lower = through(Signal(marks), [(later_s, min(a, b)) for later_s, a, b in trace])
    higher = through(Signal(marks), [(later_s, max(a, b)) for later_s, a, b in trace])
    assert all(one <= other for one, other in zip(lower, higher, strict=True))


@given(some_marks, steps)
def test_whatever_it_was_it_is_normal_after_a_calm_time(marks: Marks, trace: list[tuple[float, float, float]]) -> None:
    signal = Signal(marks)
    through(signal, [(later_s, value) for later_s, value, _ in trace])
    assert through(signal, [(1000, 0), (marks.calm_s + 1, 0)])[-1] is NORMAL


@given(some_marks, steps)
def test_it_changes_at_most_so_often(marks: Marks, trace: list[tuple[float, float, float]]) -> None:
    """A level that was left comes back no sooner than both times allow."""
    signal, now = Signal(marks), 100.0
    ups: list[float] = []
    before = NORMAL
    for later_s, value, _ in trace:
        now += later_s
        level = signal.observe(now, value)
        if level >= HIGH > before:
            ups.append(now)
        before = level
    for one, other in itertools.pairwise(ups):
        assert other - one >= marks.calm_s + marks.confirm_s - 1e-9


def test_marks_that_make_no_sense_are_refused() -> None:
    for wrong in (
        (0, 1, 2),
        (2, 1, 3),
        (1, 2, 1.5),
        (1, 2, math.nan),
        (1, 2, 3, 0),
        (1, 2, 3, 1.1),
        (1, 2, 3, 0.5, -1),
    ):
        with pytest.raises(ValueError, match=r"must|can't"):
            Marks(*wrong)


def test_a_level_may_be_out_of_reach() -> None:
    assert through(Signal(Marks(1, 2, math.inf)), [(0, 1e300)]) == [HIGH]


# ---- the table ------------------------------------------------------------------------------------------------------


def test_the_table_has_a_row_for_everything() -> None:
    assert set(TABLE) == set(LOG_COPY) == set(Source)
    for rows in TABLE.values():
        assert set(rows) == set(MessageClass)
        assert all(len(row) == len(Level) and row[0] is Verdict.ADMIT for row in rows.values())


@given(levels)
def test_control_is_never_shed_and_never_refused(given_levels: dict[Source, Level]) -> None:
    verdict = verdicts(given_levels).control
    assert verdict is (Verdict.DEFER if given_levels[Source.LIVE] is CRITICAL else Verdict.ADMIT)


@given(levels)
def test_events_are_refused_only_where_the_live_path_or_the_edge_is_critical(given_levels: dict[Source, Level]) -> None:
    critical = CRITICAL in (given_levels[Source.LIVE], given_levels[Source.EDGE])
    assert verdicts(given_levels).event is (Verdict.REFUSE if critical else Verdict.ADMIT)


@given(levels)
def test_telemetry_is_sampled_when_elevated_and_shed_from_high(given_levels: dict[Source, Level]) -> None:
    worst = max(given_levels[Source.LIVE], given_levels[Source.EDGE])
    assert verdicts(given_levels).telemetry is (Verdict.ADMIT, Verdict.SAMPLE, Verdict.SHED, Verdict.SHED)[worst]


@given(levels)
def test_its_copy_in_the_log_goes_by_the_log_and_the_edge_not_by_the_live_path(
    given_levels: dict[Source, Level],
) -> None:
    worst = max(given_levels[Source.LOG], given_levels[Source.EDGE])
    assert verdicts(given_levels).log_copy is (Verdict.ADMIT, Verdict.SAMPLE, Verdict.SHED, Verdict.SHED)[worst]


@given(st.sampled_from(Level))
def test_the_log_alone_costs_telemetrys_copy_and_nothing_else(level: Level) -> None:
    assert verdicts({Source.LOG: level}) == Verdicts(log_copy=LOG_COPY[Source.LOG][level])


@given(levels, levels)
def test_higher_levels_never_mean_milder_verdicts(one: dict[Source, Level], other: dict[Source, Level]) -> None:
    low = verdicts({source: min(one[source], other[source]) for source in Source})
    high = verdicts({source: max(one[source], other[source]) for source in Source})
    for name in ("control", "event", "telemetry", "log_copy"):
        assert getattr(low, name).value <= getattr(high, name).value


def test_levels_have_the_names_of_the_protocol() -> None:
    assert LEVELS == {"normal": NORMAL, "elevated": ELEVATED, "high": HIGH, "critical": CRITICAL}


# ---- all signals ----------------------------------------------------------------------------------------------------

MEMORY, LATENCY, LAG = (Source.LIVE, "memory"), (Source.LIVE, "latency"), (Source.EDGE, "lag")


def test_a_source_stands_where_its_worst_signal_does() -> None:
    pressure = Pressure({key: Marks(1, 2, 4) for key in (MEMORY, LATENCY, LAG)})
    assert pressure.observe(0, {MEMORY: 0, LATENCY: 0, LAG: 0}) == []
    assert pressure.verdicts is CALM
    assert pressure.observe(1, {MEMORY: 1, LATENCY: 4}) == [Change(Source.LIVE, NORMAL, CRITICAL, "latency", 4)]
    assert pressure.observe(2, {MEMORY: 4, LATENCY: 4}) == [], "both are, and nothing has changed"
    assert (pressure.level, pressure.sources) == (CRITICAL, [Source.LIVE])
    assert pressure.verdicts == Verdicts(Verdict.DEFER, Verdict.REFUSE, Verdict.SHED)
    pressure.observe(3, {MEMORY: 1, LATENCY: 0})
    assert pressure.observe(8, {MEMORY: 1, LATENCY: 0}) == [Change(Source.LIVE, CRITICAL, ELEVATED, "memory", 1)]
    assert pressure.verdicts == Verdicts(telemetry=Verdict.SAMPLE)


def test_sources_stand_by_themselves() -> None:
    pressure = Pressure({MEMORY: Marks(1, 2, 4), LAG: Marks(1, 2, 4)})
    pressure.observe(0, {MEMORY: 1, LAG: 2})
    assert pressure.levels == {Source.LIVE: ELEVATED, Source.LOG: NORMAL, Source.EDGE: HIGH}
    assert (pressure.level, pressure.sources) == (HIGH, [Source.LIVE, Source.EDGE])


# ---- sampling -------------------------------------------------------------------------------------------------------


@given(st.floats(0, 1), st.integers(1, 20), st.integers(0, 19))
def test_of_any_regular_pattern_the_same_share_is_taken(share: float, period: int, at: int) -> None:
    """Ten agents that publish in turn are each sampled: none is always the one that is left out."""
    sampler = Sampler(share)
    taken = [sampler.take() for _ in range(2_000 * period)]
    assert sum(taken[at % period :: period]) / 2_000 == pytest.approx(share, abs=0.05)


def test_the_same_sequence_gives_the_same_sample() -> None:
    one, other = Sampler(0.1), Sampler(0.1)
    assert [one.take() for _ in range(1_000)] == [other.take() for _ in range(1_000)]


def test_none_and_all() -> None:
    sampler = Sampler(0)
    assert not any(sampler.take() for _ in range(10_000))
    sampler = Sampler(1)
    assert all(sampler.take() for _ in range(10_000))


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="0 to 1"):
        Sampler(share)
