"""The work queue: which objects are to be looked at, each once, by a bounded number of workers.

An object that is added while it waits is there once; one that is added while it is worked on is looked at again after
that, never twice at a time. What fails is tried again with backoff and jitter, a bounded number of times; then it waits
for the next resync. Nothing here survives a restart, and nothing has to: the watch begins with everything there is.
"""

import asyncio
import heapq
import itertools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from heliograph.core.backoff import Backoff, BackoffPolicy
from heliograph.core.errors import HeliographError
from heliograph.operator.metrics import QueueMetrics
from heliograph.operator.reconciler import Key, Requeue
from heliograph.service.health import describe_error
from heliograph.service.logs import get_logger

log = get_logger(__name__)

Work = Callable[[Key], Awaitable[Requeue | None]]


@dataclass(slots=True)
class _Entry:
    """What is known of one key."""

    backoff: Backoff
    due: float = float("inf")
    """When it is to be looked at next; never is infinite."""
    running_since: float | None = None
    again: bool = False
    """It was added while it was worked on."""
    waiting: bool = False
    """It is in the line of those to be looked at now."""
    since: float = 0.0
    """When it came into that line."""
    tickets: int = field(default=0)
    """Timers of an earlier `due` are void."""


class WorkQueue:
    """`add` from the event loop; `run` until cancelled."""

    def __init__(
        self,
        work: Work,
        metrics: QueueMetrics,
        *,
        workers: int,
        timeout_s: float,
        retry: BackoffPolicy,
        retries: int,
        uniform: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`timeout_s` of one look; `retries` in a row before an object waits for the next resync."""
        self._work = work
        self._metrics = metrics
        self._workers = workers
        self._timeout_s = timeout_s
        self._retry = retry
        self._retries = retries
        self._uniform = uniform
        self._clock = clock
        self._entries: dict[Key, _Entry] = {}
        self._line: asyncio.Queue[Key] = asyncio.Queue()
        self._timers: list[tuple[float, int, Key, int]] = []
        self._numbers = itertools.count()
        self._timer_set = asyncio.Event()
        metrics.depth_of(self.depth, self.oldest_s)

    def add(self, key: Key, after_s: float = 0.0) -> None:
        """Have `key` looked at now, or in `after_s`; one that is due sooner stays so."""
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry(Backoff(self._retry, self._uniform))
        if after_s <= 0:
            if entry.running_since is not None:
                entry.again = True
            elif not entry.waiting:
                self._enqueue(key, entry)
            return
        if not entry.waiting:
            self._set_timer(key, entry, after_s)

    async def run(self) -> None:
        """Work, for as long as the task lives."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._run_timers(), name="queue timers")
            for number in range(self._workers):
                group.create_task(self._run_worker(), name=f"queue worker {number}")

    def depth(self) -> dict[str, float]:
        """By kind: objects that wait to be looked at now."""
        depths: dict[str, float] = {}
        for key, entry in self._entries.items():
            if entry.waiting or entry.again:
                depths[key.kind] = depths.get(key.kind, 0.0) + 1
        return depths

    def oldest_s(self) -> float:
        """How long the object that waits longest has waited."""
        now = self._clock()
        return max((now - entry.since for entry in self._entries.values() if entry.waiting), default=0.0)

    def longest_running_s(self) -> float:
        """How long the look that has taken longest is under way: past its time-out, something holds its worker."""
        now = self._clock()
        running = (entry.running_since for entry in self._entries.values())
        return max((now - since for since in running if since is not None), default=0.0)

    @property
    def idle(self) -> bool:
        """Nothing is worked on, and nothing waits to be looked at now."""
        return not any(
            entry.waiting or entry.again or entry.running_since is not None for entry in self._entries.values()
        )

    def _enqueue(self, key: Key, entry: _Entry) -> None:
        entry.waiting, entry.since, entry.due = True, self._clock(), float("inf")
        entry.tickets += 1
        self._line.put_nowait(key)

    async def _run_timers(self) -> None:
        while True:
            now = self._clock()
            while self._timers and self._timers[0][0] <= now:
                _, _, key, ticket = heapq.heappop(self._timers)
                entry = self._entries.get(key)
                if entry is None or entry.tickets != ticket or entry.waiting:
                    continue
                if entry.running_since is not None:
                    entry.again = True
                else:
                    self._enqueue(key, entry)
            self._timer_set.clear()
            wait_s = self._timers[0][0] - now if self._timers else None
            try:
                async with asyncio.timeout(wait_s):
                    await self._timer_set.wait()
            except TimeoutError:
                continue

    async def _run_worker(self) -> None:
        while True:
            key = await self._line.get()
            entry = self._entries[key]
            entry.waiting, entry.running_since = False, self._clock()
            try:
                await self._look(key, entry)
            finally:
                entry.running_since = None
            if entry.again:
                entry.again = False
                self._enqueue(key, entry)
            elif entry.due == float("inf") and not entry.backoff.attempt:
                del self._entries[key]

    async def _look(self, key: Key, entry: _Entry) -> None:
        begin = self._clock()
        try:
            async with asyncio.timeout(self._timeout_s):
                requeue = await self._work(key)
        except Exception as error:  # noqa: BLE001 - whatever it was, it is counted, logged and tried again
            self._failed(key, entry, error, begin)
            return
        self._metrics.done(key.kind, self._clock() - begin)
        if entry.backoff.attempt:
            entry.backoff = Backoff(self._retry, self._uniform)
        if requeue is not None:
            self._set_timer(key, entry, requeue.after_s)

    def _set_timer(self, key: Key, entry: _Entry, after_s: float) -> None:
        """Have a key that does not wait to be looked at now looked at then, unless it is due sooner."""
        due = self._clock() + after_s
        if due < entry.due:
            entry.due = due
            entry.tickets += 1
            heapq.heappush(self._timers, (due, next(self._numbers), key, entry.tickets))
            self._timer_set.set()

    def _failed(self, key: Key, entry: _Entry, error: Exception, begin: float) -> None:
        now = self._clock()
        timed_out = isinstance(error, TimeoutError)
        reason = "timeout" if timed_out else error.code if isinstance(error, HeliographError) else "internal"
        self._metrics.failed(key.kind, reason, now - begin)
        asked_s = getattr(error, "retry_after_s", None)
        delay_s = entry.backoff.failed(now, None if asked_s is None else asked_s * 1000)
        gives_up = entry.backoff.attempt > self._retries
        fields = {"kind": key.kind, "namespace": key.namespace, "name": key.name, "reason": reason}
        text = f"no end within {self._timeout_s:g} s" if timed_out and not str(error) else describe_error(error)
        if reason == "internal":
            log.exception("reconcile_failed", **fields)
        else:
            again_in_s = None if gives_up else round(delay_s, 3)
            log.warning("reconcile_failed", **fields, error=text, attempt=entry.backoff.attempt, again_in_s=again_in_s)
        if gives_up:
            self._metrics.gave_up(key.kind)
            entry.backoff = Backoff(self._retry, self._uniform)
        else:
            self._set_timer(key, entry, delay_s)
