"""Load generators as processes: which is taken, what is made of its report."""

import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from heliograph.local.bench.live import describe, figures
from heliograph.local.bench.loads import LoadError, LoadGenerator, Shape, Target, parse_report
from heliograph.local.bench.machine import Cores, Usage

USAGE = Usage(8.0, {"server": 2.0, "redis": 1.0, "kafka": 3.0}, 0.25)
REPORT = """connected 1000 in 1.63s (612/s, 1290 CPU us each), -1.5 KB RSS each
sent 16000 (2000/s) delivered 15999 of 16000 (99.99%) 1999/s in 15999 frames; errors 2
latency ms p50 0.51 p90 0.90 p99 2.38 p99.9 3.00 max 9.75
server CPU us per delivery 136.00, per publication 135.9, busy 27%; backing CPU us per publication 60.1"""
IDLE = """connected 3000 in 2.0s (1500/s, 570 CPU us each), 31.0 KB RSS each
sent 0 (0/s) delivered 0 of 0 (NaN%) 0/s in 0 frames; errors 0
latency ms p50 0.00 p90 0.00 p99 0.00 p99.9 0.00 max 0.00
server CPU us per delivery +Inf, per publication NaN, busy 1%; backing CPU us per publication NaN"""
NO_PINS = Cores(None, None)
SHAPE = Shape("small", "2 × 1", 2, 2, 1, 10)

Script = Callable[[str], Path]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    def write(content: str) -> Path:
        path = tmp_path / "load"
        path.write_text(f"#!/bin/sh\n{content}\n")
        path.chmod(0o755)
        return path

    return write


def target(tmp_path: Path) -> Target:
    return Target("ws://127.0.0.1:1/", tmp_path / "protocol.json", os.getpid(), {}, prefix="run-")


def test_a_report_is_read() -> None:
    result = parse_report(REPORT.splitlines(), USAGE)
    assert (result.sent, result.delivered, result.expected, result.refused) == (16000, 15999, 16000, 2)
    assert (result.cpu_per_publication_us, result.cpu_per_delivery_us) == (135.9, 136.0)
    assert (result.p50_ms, result.p99_ms, result.max_ms) == (0.51, 2.38, 9.75)
    assert (result.connections_per_s, result.cpu_per_connection_us, result.kb_per_connection) == (612, 1290, -1.5)
    assert result.lost == 1


def test_processes_behind_the_server_are_told_apart() -> None:
    values = figures(parse_report(REPORT.splitlines(), USAGE))
    assert values["redis_cpu_us"] == pytest.approx(1.0 / 16000 * 1e6)
    assert values["kafka_cpu_us"] == pytest.approx(3.0 / 16000 * 1e6)


def test_a_run_without_a_publication_is_about_connecting() -> None:
    result = parse_report(IDLE.splitlines(), USAGE)
    assert math.isnan(result.cpu_per_publication_us)
    values = figures(result)
    assert values["kb_per_connection"] == 31.0
    assert "cpu_per_publication_us" not in values
    assert "1,500 connections/s" in describe(result)


def test_a_loss_is_shouted() -> None:
    assert "LOST 1, 2 refused" in describe(parse_report(REPORT.splitlines(), USAGE))


def test_without_a_report_the_last_words_are_told() -> None:
    with pytest.raises(LoadError, match="connection refused"):
        parse_report(["connected 1 in 0.1s", "error: connection refused"], USAGE)


def test_without_a_name_the_generator_is_our_own() -> None:
    found = LoadGenerator.find("")
    assert found.own
    assert found.command[-1] == "heliograph.local.bench.load"


def test_a_program_is_taken_as_it_is(script: Script) -> None:
    path = script("exit 0")
    found = LoadGenerator.find(str(path))
    assert found.command == (str(path),)
    assert not found.own


def test_what_is_no_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no program")
    with pytest.raises(LoadError, match=r"notes\.txt is neither a program nor a folder"):
        LoadGenerator.find(str(tmp_path / "notes.txt"))


def test_source_is_built_once_for_each_of_its_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bin_, source = tmp_path / "bin", tmp_path / "source"
    bin_.mkdir()
    source.mkdir()
    go = bin_ / "go"
    go.write_text('#!/bin/sh\necho built >> "$PWD/builds"\necho "#!/bin/sh" > "$3"\n')
    go.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (source / "main.go").write_text("package main")
    first = LoadGenerator.find(str(source))
    assert LoadGenerator.find(str(source)) == first
    (source / "main.go").write_text("package main // changed")
    assert LoadGenerator.find(str(source)) != first
    assert (source / "builds").read_text() == "built\nbuilt\n"


def test_source_without_a_compiler_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LoadError, match="no `go` on PATH"):
        LoadGenerator.find(str(tmp_path))


def test_the_generator_is_told_whom_to_load_and_how(script: Script, tmp_path: Path) -> None:
    path = script(f'echo "$@" > {tmp_path}/flags\ncat <<END\n{REPORT}\nEND')
    result = LoadGenerator.find(str(path)).run(target(tmp_path), SHAPE, 1.5, NO_PINS)
    flags = (tmp_path / "flags").read_text()
    for expected in ("-subs 2", "-channels 2", "-pubs 1", "-rate 10", "-seconds 1.5", "-prefix run-"):
        assert expected in flags
    assert "-header" not in flags
    assert result.expected == 16000


def test_a_generator_that_fails_is_an_error(script: Script, tmp_path: Path) -> None:
    path = script("echo error: no such host; exit 1")
    with pytest.raises(LoadError, match="no such host"):
        LoadGenerator.find(str(path)).run(target(tmp_path), SHAPE, 1.0, NO_PINS)


def test_a_generator_that_hangs_is_ended(script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heliograph.local.bench.loads.PATIENCE_S", 0.2)
    path = script("echo waiting; sleep 600")
    with pytest.raises(LoadError, match="waiting"):
        LoadGenerator.find(str(path)).run(target(tmp_path), SHAPE, 0.1, NO_PINS)
