"""`heliograph capacity`: what a load needs, on the terminal and as JSON, by costs as they were measured."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from heliograph.cli.capacity import MEASURED, SESSION, size
from heliograph.cli.exit_codes import ExitCode
from heliograph.core.capacity import EDGE_BUSY, EDGE_CONNECTIONS, Costs, Workload, capacity
from heliograph.local.bench import live
from heliograph.local.bench.report import COLUMNS, Report
from heliograph.operator.fleets.spec import TARGET_CONNECTIONS, TARGET_CPU_PERCENT

Invoke = Callable[..., Result]
LOAD = ("capacity", "--connections", "100000", "--messages", "20000")


def test_a_table_says_how_much_and_why(invoke: Invoke) -> None:
    done = invoke(*LOAD)
    assert done.exit_code == 0, done.stderr
    found = capacity(Workload(100_000, 20_000.0))
    assert f"edges                             {found.edges.count}" in done.stdout
    assert "the connections" in done.stdout


def test_json_has_the_load_the_costs_and_what_is_needed(invoke: Invoke) -> None:
    done = json.loads(invoke(*LOAD, "--subscribers", "3", "--sessions", "5000", "--json").stdout)
    found = capacity(Workload(100_000, 20_000.0, subscribers=3, sessions=5_000))
    assert done["edges"] == {"count": found.edges.count, "because": found.edges.because}
    assert done["load"]["subscribers"] == 3
    assert done["costs"]["publish_us"] == Costs().publish_us


def report(path: Path, *rates: dict[str, float]) -> Path:
    """As `make bench` writes it: the session path at rising rates, and no other section."""
    made = Report()
    for values in rates:
        made.row(SESSION, "some work", "heliograph", [values])
        made.row(SESSION, "some work", "reference", [dict.fromkeys(values, 1e9)])
    path.write_text(made.json(), encoding="utf-8")
    return path


def test_costs_come_from_a_benchmark_each_where_its_part_is_busy(invoke: Invoke, tmp_path: Path) -> None:
    slow = {"cpu_per_publication_us": 500.0, "redis_cpu_us": 90.0, "router_cpu_us": 100.0}
    fast = {"cpu_per_publication_us": 300.0, "redis_cpu_us": 50.0, "router_cpu_us": 25.0}
    done = invoke(*LOAD, "--bench", str(report(tmp_path / "bench.json", slow, fast)), "--json")
    costs = json.loads(done.stdout)["costs"]
    assert (costs["publish_us"], costs["redis_us"], costs["router_us"]) == (500.0, 50.0, 25.0)
    assert costs["delivery_us"] == Costs().delivery_us
    assert "says nothing of delivery_us" in done.stderr


def test_the_names_are_those_of_the_benchmarks_report() -> None:
    text = Path(live.__file__).read_text(encoding="utf-8")
    for section, _, value in MEASURED.values():
        assert f'"{section}"' in text
        assert value in COLUMNS


@pytest.mark.parametrize(("connections", "messages"), [("-1", "1"), ("1", "nan")])
def test_what_is_no_load_is_a_usage_error(invoke: Invoke, connections: str, messages: str) -> None:
    done = invoke("capacity", "--connections", connections, "--messages", messages)
    assert done.exit_code == ExitCode.USAGE
    assert "must be 0 or more" in done.stderr


@pytest.mark.parametrize("content", ["", "{}", '{"rows": [1]}'])
def test_a_file_that_is_no_report_is_named(content: str, invoke: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    file.write_text(content, encoding="utf-8")
    done = invoke(*LOAD, "--bench", str(file))
    assert done.exit_code == ExitCode.USAGE
    assert str(file) in done.stderr


def test_sizes_are_for_people() -> None:
    assert [size(count) for count in (0, 1023, 1536, 200 * 1024, 5 * 1024**5)] == [
        "0 B", "1,023 B", "1.5 KiB", "200 KiB", "5,120 TiB",
    ]  # fmt: skip


def test_an_edge_is_planned_as_its_fleet_runs_it() -> None:
    assert EDGE_CONNECTIONS == TARGET_CONNECTIONS
    assert EDGE_BUSY * 100 < TARGET_CPU_PERCENT, "else a fleet of that size would grow at once"
