"""What a soak makes of its samples."""

import os

import pytest

from heliograph.local.bench.machine import descriptors
from heliograph.local.bench.soak import Samples, redis_memory_bytes, slope, sparkline


def grown(percent_per_10_min: float, warm_up_s: float = 0.0) -> Samples:
    samples = Samples()
    for second in range(0, 1_200, 2):
        steep = 50.0 if second < warm_up_s else 0.0
        samples.add(second, {"rss": 1_000.0 + percent_per_10_min * 10 * second / 600 + steep})
    return samples


def test_the_slope_is_that_of_least_squares() -> None:
    assert slope([0, 1, 2, 3], [1, 3, 5, 7]) == pytest.approx(2.0)
    assert slope([0, 1, 2], [4, 4, 4]) == 0
    assert slope([], []) == 0


@pytest.mark.parametrize(("percent", "kept"), [(0.0, True), (0.9, True), (1.5, False), (-3.0, True)])
def test_growth_above_one_percent_in_ten_minutes_is_too_much(percent: float, kept: bool) -> None:
    (growth,) = grown(percent).growths(0.0)
    assert growth.percent_per_10_min == pytest.approx(percent, rel=0.05, abs=0.01)
    assert growth.kept is kept


def test_what_is_warming_up_does_not_count() -> None:
    (growth,) = grown(0.0, warm_up_s=400).growths(400)
    assert growth.percent_per_10_min == pytest.approx(0)


def test_samples_are_a_table_for_whoever_plots_them() -> None:
    samples = Samples()
    samples.add(0.0, {"a": 1.0, "b": 2.5})
    samples.add(2.0, {"a": 3.0, "b": 4.0})
    assert samples.csv() == "s,a,b\n0.0,1,2.5\n2.0,3,4\n"


def test_a_line_of_bars_shows_where_it_rose() -> None:
    assert sparkline([1, 1, 5, 5], width=4) == "▁▁██"
    assert sparkline([3, 3], width=4) == "▁▁"
    assert sparkline([]) == ""


def test_memory_is_what_redis_says_and_descriptors_what_the_kernel_says(redis_url: str) -> None:
    assert redis_memory_bytes(redis_url) > 100_000
    before = descriptors(os.getpid())
    reading, writing = os.pipe()
    assert descriptors(os.getpid()) >= before + 2
    os.close(reading)
    os.close(writing)
    assert descriptors(2**22 + 1) == 0
