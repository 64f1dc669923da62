"""The event loop's watchdog: measures how late the loop runs, and says what it was doing when it hung.

A probe that the loop itself answers can only time out when the loop hangs; nobody then learns why. A thread that sees
the loop miss its beat can still read the stack of the loop's thread, and logs it, once for each hang.
"""

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Callable

from heliograph.service.logs import Logger, get_logger
from heliograph.service.metrics import Metrics

BEAT_S = 0.25
"""Between beats: short enough to find a hang of a second, and nothing beside the loop's own work."""

STACK_FRAMES = 25
"""Of the hung stack that are logged."""


class LoopWatchdog:
    """Beats on the running loop and watches the beats from a thread. `async with` it around the loop's work."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        max_lag_s: float,
        beat_s: float = BEAT_S,
        logger: Logger | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_lag_s = max_lag_s
        self._beat_s = beat_s
        self._log = logger or get_logger(__name__)
        self._clock = clock
        self._last_beat = clock()
        self._loop_thread = threading.get_ident()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._lag = metrics.tick_histogram("loop_lag_seconds", "How late the event loop ran its timers.")
        self._hangs = metrics.counter("loop_hangs_total", "Times the event loop was later than max_loop_lag_s.")

    async def __aenter__(self) -> "LoopWatchdog":
        self._loop_thread = threading.get_ident()
        self._last_beat = self._clock()
        self._timer = asyncio.get_running_loop().call_later(self._beat_s, self._beat)
        self._thread = threading.Thread(target=self._watch, name="loop-watchdog", daemon=True)
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def lag_s(self) -> float:
        """How late the next beat is now."""
        return max(0.0, self._clock() - self._last_beat - self._beat_s)

    def _beat(self) -> None:
        self._lag.observe(self.lag_s)
        self._last_beat = self._clock()
        self._timer = asyncio.get_running_loop().call_later(self._beat_s, self._beat)

    def _watch(self) -> None:
        reported = 0.0
        while not self._stopped.wait(self._beat_s):
            beat, lag_s = self._last_beat, self.lag_s
            if lag_s > self._max_lag_s and beat != reported:
                reported = beat
                self._hangs.inc()
                frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001 - documented for this purpose
                stack = "".join(traceback.format_stack(frame, limit=STACK_FRAMES)) if frame else "gone"
                self._log.error("loop_hangs", lag_s=round(lag_s, 3), stack=stack)
