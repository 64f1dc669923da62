"""What is read from /proc, and who is held to which core."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from heliograph.local.bench.machine import Cores, Meter, cpu_s, rss_kb, wait_settled

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")

BURN = "import time\nwhile time.process_time() < 0.3: pass\nprint('burnt', flush=True)\nimport sys; sys.stdin.read()"


def test_the_cpu_of_a_process_is_counted_and_not_its_neighbours() -> None:
    with subprocess.Popen([sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        meter = Meter({"burner": [process.pid], "init": [1]})
        assert process.stdout is not None
        assert process.stdout.readline() == b"burnt\n"
        usage = meter.read()
        assert 0.25 <= usage.cpu_s["burner"] < 2.0
        assert usage.cpu_s["burner"] > usage.cpu_s["init"]
        assert rss_kb(process.pid) > 1000
        process.communicate(b"")


def test_a_process_that_is_gone_used_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert cpu_s(process.pid) == 0.0
    assert rss_kb(process.pid) == 0.0


def test_waiting_ends_when_all_do_next_to_nothing() -> None:
    spent, looks = {1: 0.0, 2: 0.0}, []

    def sleep(duration_s: float) -> None:
        looks.append(duration_s)
        if len(looks) < 3:
            spent[2] += duration_s  # busy for two windows

    assert wait_settled([1, 2], read=spent.__getitem__, sleep=sleep)
    assert len(looks) == 3


def test_waiting_for_one_that_never_rests_gives_up() -> None:
    spent = [0.0]

    def sleep(duration_s: float) -> None:
        spent[0] += duration_s

    assert not wait_settled([1], 0.01, read=lambda _pid: spent[0], sleep=sleep)


def test_server_and_load_are_held_to_different_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taskset = tmp_path / "taskset"
    taskset.write_text("#!/bin/sh\n")
    taskset.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {2, 5, 7})
    cores = Cores.choose()
    assert cores.for_server(["edge"]) == ["taskset", "--cpu-list", "2", "edge"]
    assert cores.for_load(["load"]) == ["taskset", "--cpu-list", "5,7", "load"]


@pytest.mark.parametrize("cores", [{0}, {0, 1}])
def test_nobody_is_held_where_there_is_one_core_or_no_taskset(
    cores: set[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: cores)
    assert Cores.choose().for_server(["edge"]) == ["edge"]
