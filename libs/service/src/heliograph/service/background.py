"""Background tasks that don't die silently.

An exception in a bare asyncio task is noticed when somebody awaits it, which for a loop that runs as long as the
process is never. Here it is logged, counted, and the task begins again after a delay with jitter.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from heliograph.core.backoff import Backoff, BackoffPolicy
from heliograph.service.logs import Logger, get_logger
from heliograph.service.metrics import Metrics

RESTART = BackoffPolicy(base_s=0.1, cap_s=5.0, healthy_s=30.0)
"""A fault that lasts (a store away) must not spin; one that is over should be over here within seconds."""

CANCEL_AGAIN_S = 0.5


class BackgroundTasks:
    """The background tasks of one service; `close` ends them."""

    def __init__(self, metrics: Metrics, *, policy: BackoffPolicy = RESTART, logger: Logger | None = None) -> None:
        self._policy = policy
        self._log = logger or get_logger(__name__)
        self._crashes = metrics.counter("task_crashes_total", "Background tasks that ended by an error.", ["task"])
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, name: str, body: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Run `body` now, and again whenever it fails; a body that returns is done."""
        self._crashes.labels(name)  # from 0: the first crash of a series that was not there would be no increase
        task = asyncio.create_task(self._keep(name, body), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Cancel all and wait until they are gone.

        Again and again: `asyncio.wait_for` of Python 3.11, which clients of stores use, may swallow a cancellation.
        """
        tasks = set(self._tasks)
        while tasks:
            for task in tasks:
                task.cancel()
            _, tasks = await asyncio.wait(tasks, timeout=CANCEL_AGAIN_S)

    async def _keep(self, name: str, body: Callable[[], Awaitable[None]]) -> None:
        backoff = Backoff(self._policy, random.random)
        while True:
            backoff.succeeded(time.monotonic())
            try:
                await body()
            except Exception:  # noqa: BLE001 - whatever it was, the next round may do better; it is logged and counted
                delay_s = backoff.failed(time.monotonic())
                self._crashes.labels(name).inc()
                self._log.exception("task_crashed", task=name, again_in_s=round(delay_s, 3))
                await asyncio.sleep(delay_s)
            else:
                return
