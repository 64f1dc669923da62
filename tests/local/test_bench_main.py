"""What `make bench` is asked for, and what it answers."""

from pathlib import Path

import pytest

from heliograph.local.bench import __main__ as bench
from heliograph.local.bench.report import Report
from heliograph.local.errors import LocalError


def test_without_a_choice_all_sections_are_measured() -> None:
    assert bench.chosen("") == bench.SECTIONS


def test_sections_come_in_their_usual_order() -> None:
    assert bench.chosen("fanout, session") == ("session", "fanout")


def test_an_unknown_section_is_refused_with_those_there_are() -> None:
    with pytest.raises(LocalError, match=r"no section weather; there are session, rooms"):
        bench.chosen("session,weather")


def test_storms_are_measured_where_they_are_asked_for() -> None:
    assert not set(bench.chosen("")) & set(bench.STORM_SECTIONS)
    assert bench.chosen("storms") == bench.STORM_SECTIONS
    assert bench.chosen("storms.drain,session") == ("session", "storms.drain")


def test_without_a_reference_there_is_nothing_to_compare_with() -> None:
    assert bench.reference_files({"HELIOGRAPH_BENCH_LOAD": "/load"}) is None


def test_the_reference_is_talked_to_as_the_file_beside_the_generator_says(tmp_path: Path) -> None:
    file, folder = tmp_path / "reference.py", tmp_path / "load"
    folder.mkdir()
    environment = {"HELIOGRAPH_BENCH_REFERENCE": str(file), "HELIOGRAPH_BENCH_LOAD": str(folder)}
    assert bench.reference_files(environment) == (file, folder / "sketch.json")
    environment["HELIOGRAPH_BENCH_LOAD"] = str(folder / "load")
    assert bench.reference_files(environment) == (file, folder / "sketch.json")
    environment["HELIOGRAPH_BENCH_REFERENCE_PROTOCOL"] = str(tmp_path / "own.json")
    assert bench.reference_files(environment) == (file, tmp_path / "own.json")


def test_the_gate_can_be_set_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOGRAPH_BENCH_EDGE_CPU_RATIO", "1.5")
    assert bench.parser().parse_args([]).edge_cpu_ratio == 1.5
    assert bench.parser().parse_args(["--edge-cpu-ratio", "2"]).edge_cpu_ratio == 2


@pytest.mark.parametrize(("reached", "status"), [(1.2, 0), (1.4, 1)])
def test_a_failed_gate_is_the_exit_status(
    reached: float, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Report()
    report.row("Fan-out", "1 × 1", "heliograph", [{"lost": 0.0}])
    report.gate("fanout: CPU per delivery", reached, 1.3, "reason")
    latest, file = tmp_path / "made" / "latest.md", tmp_path / "all.json"
    monkeypatch.setattr(bench, "LATEST", latest)
    monkeypatch.setattr(bench, "run", lambda _arguments, _directory: report)
    monkeypatch.setattr("sys.argv", ["bench", "--json", str(file)])
    assert bench.main() == status
    assert latest.read_text() == report.markdown()
    assert latest.read_text().strip() in capsys.readouterr().out
    assert file.read_text() == report.json()


def test_what_can_not_be_measured_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["bench", "--only", "nothing"])
    assert bench.main() == 2
    assert capsys.readouterr().err.startswith("error: there is no section nothing")
