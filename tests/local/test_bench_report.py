"""What a benchmark's report shows and decides."""

import json
import math

import pytest

from heliograph.local.bench.report import Report, Row, paired_ratio


def runs(*values: float, name: str = "cpu_per_publication_us") -> list[dict[str, float]]:
    return [{name: value} for value in values]


def test_a_row_shows_the_median_of_its_runs() -> None:
    row = Row("s", "w", "heliograph", runs(10, 90, 20))
    assert row.median("cpu_per_publication_us") == 20
    assert row.median("p50_ms") is None


def test_a_value_that_could_not_be_measured_is_left_out() -> None:
    row = Row("s", "w", "heliograph", runs(math.nan, 30, math.inf))
    assert row.median("cpu_per_publication_us") == 30
    assert row.spread("cpu_per_publication_us") is None


def test_the_spread_says_how_far_runs_were_apart() -> None:
    assert Row("s", "w", "a", runs(90, 100, 120)).spread("cpu_per_publication_us") == pytest.approx(0.3)


def test_the_ratio_is_that_of_neighbouring_runs() -> None:
    # A stretch in which everything cost three times as much must not show.
    ours, theirs = Row("s", "w", "a", runs(10, 60, 20)), Row("s", "w", "b", runs(10, 50, 10))
    assert paired_ratio(ours, theirs, "cpu_per_publication_us") == pytest.approx(1.2)


def test_a_ratio_to_nothing_keeps_no_gate() -> None:
    report = Report()
    ratio = paired_ratio(Row("s", "w", "a", runs(10)), Row("s", "w", "b", runs(0)), "cpu_per_publication_us")
    report.gate("cost", ratio, 1.3, "reason")
    assert report.failed


def test_a_failed_gate_is_named_with_what_was_reached() -> None:
    report = Report()
    report.gate("cost", 1.4, 1.3, "reason")
    report.gate("memory", 1.0, 1.1, "reason")
    assert report.failed
    assert report.verdict() == "FAILED: cost: 1.40 is above 1.3"


def test_what_reaches_its_limit_is_kept() -> None:
    report = Report()
    report.gate("cost", 1.3, 1.3, "reason")
    assert not report.failed


def test_a_lost_delivery_fails_the_run_whatever_the_gates_say() -> None:
    report = Report()
    report.gate("cost", 1.0, 1.3, "reason")
    report.faults.append("fanout run 1 of heliograph: 1 of 1000 deliveries lost")
    assert report.failed
    assert "1 of 1000 deliveries lost" in report.verdict()
    assert "1 of 1000 deliveries lost" in report.markdown()


def test_a_table_has_the_columns_that_its_rows_have() -> None:
    report = Report()
    report.row("Fan-out", "1 × 1,000", "heliograph", [{"cpu_per_delivery_us": 5.25, "lost": 0.0}])
    report.row("Fan-out", "1 × 1,000", "reference", [{"cpu_per_delivery_us": 4.75, "lost": 0.0}])
    text = report.markdown()
    assert "CPU µs / delivery" in text
    assert "connections/s" not in text
    assert [line for line in text.splitlines() if "reference" in line and "4.75" in line]


def test_the_side_is_left_out_where_there_is_one() -> None:
    report = Report()
    report.row("Rooms", "100 × 10", "heliograph", [{"lost": 0.0}])
    assert "side" not in report.markdown()


def test_every_run_is_kept_as_json() -> None:
    report = Report(facts={"machine": "2 cores"})
    report.row("s", "w", "heliograph", [{"p50_ms": 1.0, "p99_ms": math.nan}, {"p50_ms": 3.0}])
    report.gate("cost", math.inf, 1.3, "reason")
    found = json.loads(report.json(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found["rows"][0]["runs"] == [{"p50_ms": 1.0}, {"p50_ms": 3.0}]
    assert found["rows"][0]["median"]["p50_ms"] == 2.0
    assert found["gates"][0]["value"] is None
    assert found["failed"] is True


def test_how_busy_others_were_is_the_median_of_the_rows() -> None:
    report = Report()
    for value in (0.1, 0.5, 1.5):
        report.row("s", "w", "heliograph", runs(value, name="others_cores"))
    assert report.disturbance() == 0.5


def test_a_server_that_fell_behind_is_named() -> None:
    report = Report()
    report.row("s", "quick", "heliograph", runs(1.5, name="p50_ms"))
    report.row("s", "slow", "heliograph", runs(80, name="p50_ms"))
    assert [note.split(":")[0] for note in report.behind()] == ["slow, heliograph"]
