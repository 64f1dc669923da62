"""A loop that hangs is found, and what it did is logged."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

from heliograph.service.metrics import Metrics
from heliograph.service.watchdog import LoopWatchdog

Eventually = Callable[[Callable[[], bool]], Awaitable[None]]


def hang_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not done() and time.monotonic() < deadline:
        time.sleep(0.005)


async def test_a_hang_is_counted_once_and_its_stack_logged(
    metrics: Metrics, log_lines: Callable[[], list[dict[str, Any]]], eventually: Eventually
) -> None:
    async with LoopWatchdog(metrics, max_lag_s=0.05, beat_s=0.01):
        hang_until(lambda: metrics.value("loop_hangs_total") > 0)
        await eventually(lambda: metrics.value("loop_lag_seconds_count") >= 2)
    hangs = [line for line in log_lines() if line["event"] == "loop_hangs"]
    assert len(hangs) == 1
    assert "hang_until" in hangs[0]["stack"]
    assert hangs[0]["lag_s"] > 0.05
    assert metrics.value("loop_hangs_total") == 1


async def test_a_loop_that_runs_is_measured_and_no_hang(metrics: Metrics, eventually: Eventually) -> None:
    async with LoopWatchdog(metrics, max_lag_s=60, beat_s=0.001):
        await eventually(lambda: metrics.value("loop_lag_seconds_count") >= 5)
    assert metrics.value("loop_hangs_total") == 0


async def test_leaving_ends_the_beat_and_the_thread(metrics: Metrics) -> None:
    import threading

    async with LoopWatchdog(metrics, max_lag_s=60):
        assert any(thread.name == "loop-watchdog" for thread in threading.enumerate())
    assert not any(thread.name == "loop-watchdog" for thread in threading.enumerate())
