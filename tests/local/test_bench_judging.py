"""What becomes of samples and accounts: stretches of time, exact losses, and gates that fail when they should."""

import math
from array import array

import pytest

from heliograph.local.bench.report import Report
from heliograph.local.bench.storms.judging import (
    NS_PER_S,
    Latencies,
    Stretch,
    allowed_ms,
    excess,
    loss,
    per_second,
    percentile,
    steepest,
)
from heliograph.local.bench.storms.streams import Fed, Read


def latencies(samples: list[tuple[float, float]]) -> Latencies:
    """Of (seconds, ms)."""
    at = array("q", (int(at_s * NS_PER_S) for at_s, _ in samples))
    late = array("d", (late_ms for _, late_ms in samples))
    return Latencies((at.tobytes(), late.tobytes()))


def seconds(begin_s: float, end_s: float) -> Stretch:
    return Stretch(int(begin_s * NS_PER_S), int(end_s * NS_PER_S))


def fed(published: int, unanswered: int = 0) -> Fed:
    return Fed("s", published, published, published, 0, 0, unanswered, {})


def read(received: int, *, late: int = 0, gaps: int = 0, repeated: int = 0) -> Read:
    return Read("s", received, received, repeated, 0, late, gaps, 0)


def test_a_stretch_has_the_samples_that_were_meant_to_be_sent_in_it() -> None:
    found = latencies([(0.5, 1.0), (1.0, 2.0), (1.9, 3.0), (2.0, 4.0)])
    assert found.within(seconds(1, 2)) == [2.0, 3.0]


def test_nothing_measured_is_above_every_bound() -> None:
    assert percentile([], 0.99) == math.inf
    assert latencies([]).p99_ms(seconds(0, 1)) == math.inf


def test_one_bad_window_is_found_in_a_long_good_time() -> None:
    samples = [(number / 200, 500.0 if 30 <= number / 200 < 30.5 else 2.0) for number in range(200 * 60)]
    found = latencies(samples)
    assert found.p99_ms(seconds(0, 60)) == 2.0
    assert found.worst_p99_ms(seconds(0, 60), 5.0) == 500.0


@pytest.mark.parametrize(("quiet", "allowed"), [(1.0, 11.0), (20.0, 30.0), (40.0, 60.0)])
def test_a_storm_may_cost_half_as_much_again_or_ten_milliseconds(quiet: float, allowed: float) -> None:
    assert allowed_ms(quiet) == allowed


def test_the_median_of_the_pairs_is_judged_so_that_one_disturbed_run_decides_nothing() -> None:
    assert excess([1.0] * 5, [3.0, 3.0, 900.0, 3.0, 3.0]) < 1
    assert excess([1.0] * 5, [12.0, 12.0, 3.0, 12.0, 3.0]) > 1
    assert excess([], []) == math.inf


def test_every_published_message_that_a_subscriber_lacks_is_lost() -> None:
    found = loss([fed(10, unanswered=2)], [read(10), read(8)])
    assert (found.lost, found.unanswered, found.total) == (2, 2, 2)


def test_disorder_and_gaps_are_losses_and_repeats_are_not() -> None:
    assert loss([fed(10)], [read(10, late=1, gaps=1)]).total == 2
    assert loss([fed(10)], [read(10, repeated=3)]).total == 0


def test_a_session_that_was_not_fed_owes_nothing() -> None:
    other = Read("other", 0, 0, 0, 0, 0, 0, 0)
    assert loss([fed(10)], [read(10), other]).total == 0


def test_a_wave_is_steeper_than_a_steady_pace() -> None:
    steady = [number * NS_PER_S // 100 for number in range(2_000)]
    assert per_second(steady) == [100] * 20
    assert steepest(steady) == pytest.approx(1.0, abs=0.01)
    wave = steady[:1_000] + [steady[1_000]] * 1_000
    assert steepest(wave) > 4
    assert steepest([]) == math.inf


def test_a_gate_that_is_passed_by_makes_the_report_fail() -> None:
    report = Report()
    report.gate("flood", excess([1.0], [12.0]), 1.0, "why")
    assert report.failed
    assert "flood: 1.09 is above 1" in report.verdict()
