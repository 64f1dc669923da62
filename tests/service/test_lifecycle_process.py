"""A service as a process: signals, exit codes, and what it logs."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from heliograph.service.command_line import ExitCode

PROGRAM = """
    import asyncio
    import threading
    from concurrent.futures import ThreadPoolExecutor
    from heliograph.service.health import Liveness, Readiness
    from heliograph.service.http import create_app
    from heliograph.service.lifecycle import Component, Service, main
    from heliograph.service.logs import get_logger
    from heliograph.service.metrics import Metrics
    from heliograph.service.settings import ServiceSettings

    async def build(settings):
        if settings.trace_spans_per_s == 13:
            raise RuntimeError("no luck")
        metrics, readiness, liveness = Metrics("probe", "1.2"), Readiness(), Liveness()

        async def drain():
            get_logger().info("drain_began")
            if settings.trace_spans_per_s == 7:
                await asyncio.Event().wait()

        async def hang():
            if settings.trace_spans_per_s == 17:
                ThreadPoolExecutor(1).submit(threading.Event().wait)
                liveness.fail("a library does not answer")

        app = create_app(title="p", version="1.2", metrics=metrics, readiness=readiness, liveness=liveness)
        parts = [Component("hang", hang)]
        return Service("probe", "1.2", app, settings, metrics, readiness, liveness, parts, drain=drain)

    if __name__ == "__main__":
        main(ServiceSettings, service="probe", version="1.2", summary="Only a test.", build=build)
"""


class Process:
    """The program as a process, and the events it logged."""

    def __init__(self, path: Path, *arguments: str, **variables: str) -> None:
        path.write_text(textwrap.dedent(PROGRAM))
        environment = {"HELIOGRAPH_PORT": "0", **variables}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HELIOGRAPH_")}
        self.process = subprocess.Popen(
            [sys.executable, str(path), *arguments],
            env={**kept, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, event: str) -> dict[str, Any]:
        assert self.process.stderr is not None
        for text in self.process.stderr:
            line: dict[str, Any] = json.loads(text)
            if line["event"] == event:
                return line
        raise AssertionError(f"it ended without {event}")

    def end(self) -> int:
        return self.process.wait(20)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def make(*arguments: str, **variables: str) -> Process:
        started.append(Process(tmp_path / "program.py", *arguments, **variables))
        return started[-1]

    yield make
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
        one.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_then_ends_with_zero(start: Callable[..., Process], number: signal.Signals) -> None:
    process = start()
    port = process.wait_for("listening")["port"]
    process.wait_for("ready")
    assert httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
    process.process.send_signal(number)
    assert process.wait_for("signal")["signal"] == number.name
    process.wait_for("drain_began")
    assert process.wait_for("stopped")["code"] == 0
    assert process.end() == ExitCode.OK


def test_a_second_signal_skips_the_rest_of_the_drain(start: Callable[..., Process]) -> None:
    process = start(HELIOGRAPH_TRACE_SPANS_PER_S="7")
    process.wait_for("ready")
    process.process.send_signal(signal.SIGTERM)
    process.wait_for("drain_began")
    begin = time.monotonic()
    process.process.send_signal(signal.SIGTERM)
    assert process.wait_for("drain_cut_short")["reason"] == "signal"
    assert process.end() == ExitCode.FORCED
    assert time.monotonic() - begin < 10


def test_a_wrong_setting_is_exit_code_2_and_one_line(start: Callable[..., Process]) -> None:
    process = start(HELIOGRAPH_LOG_LEVEL="loud")
    out, err = process.process.communicate(timeout=20)
    assert process.process.returncode == ExitCode.SETTINGS
    assert not out
    assert err.startswith("HELIOGRAPH_LOG_LEVEL='loud': ")
    assert len(err.splitlines()) == 1


def test_a_misspelt_setting_is_a_warning_with_what_was_meant(start: Callable[..., Process]) -> None:
    process = start(HELIOGRAPH_LOG_LEVL="debug")
    line = process.wait_for("setting_unknown")
    assert (line["variable"], line["did_you_mean"]) == ("HELIOGRAPH_LOG_LEVL", "HELIOGRAPH_LOG_LEVEL")
    process.wait_for("ready")
    process.process.terminate()
    assert process.end() == ExitCode.OK


def test_a_service_that_can_not_be_built_failed(start: Callable[..., Process]) -> None:
    process = start(HELIOGRAPH_TRACE_SPANS_PER_S="13")
    assert "no luck" in process.wait_for("service_not_built")["exception"]
    assert process.end() == ExitCode.FAILED


def test_a_service_that_failed_ends_though_a_thread_of_it_does_not(start: Callable[..., Process]) -> None:
    process = start(HELIOGRAPH_TRACE_SPANS_PER_S="17")
    assert process.wait_for("service_failed")["error"] == "a library does not answer"
    process.wait_for("stopped")
    assert process.end() == ExitCode.FAILED


def test_it_logs_json_alone(start: Callable[..., Process]) -> None:
    process = start()
    process.wait_for("ready")
    process.process.terminate()
    assert process.process.stderr is not None
    rest = [json.loads(line) for line in process.process.stderr]
    assert rest[-1]["event"] == "stopped"
    assert {line["service"] for line in rest} == {"probe"}
    assert process.end() == ExitCode.OK
