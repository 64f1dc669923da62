"""What the section on serving makes of what it measured."""

from heliograph.local.bench.serving import _figures


def test_waits_are_told_by_percentile_in_ms_and_who_found_no_worker_is_lost() -> None:
    figures = _figures([number / 1000 for number in range(100, 0, -1)], 102)
    assert figures == {"waited_p50_ms": 51.0, "waited_p99_ms": 100.0, "lost": 2.0}


def test_where_nobody_found_a_worker_there_is_no_time_to_tell() -> None:
    assert _figures([], 3) == {"lost": 3.0}
