"""Measures how hard it is going and has the edge obey: the publish path by its verdicts, clients by a notice.

A pass of its own, a few times a second, reads what is counted anyway; what has to be asked (how full Redis is) is asked
beside it, once a second, on the connection that reads history. Nothing here runs for a message: at NORMAL the publish
path reads one attribute, which is None.

What each level means is a table of core; what a level is made of, `heliograph.edge.pressure_settings`.
"""

import asyncio
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from heliograph.core.pressure import CALM, Change, Level, Marks, Pressure, Source
from heliograph.edge.metrics import EdgeMetrics
from heliograph.edge.pressure_settings import (
    EDGE_LOOP_LAG,
    EDGE_MEMORY,
    EDGE_OUTBOUND,
    LIVE_AWAY,
    LIVE_IN_FLIGHT,
    LIVE_LATENCY,
    LIVE_MEMORY,
    LOG_BROKER_ERRORS,
    LOG_OLDEST,
    LOG_QUEUE,
)
from heliograph.edge.process_memory import resident_bytes
from heliograph.edge.publishing import PublishPath
from heliograph.protocol.frames import Notice, NoticeKind, encode
from heliograph.protocol.websocket import text_frame
from heliograph.service.logs import get_logger
from heliograph.stores.ports import LiveStore, LogWriter, StoreError

PASS_S = 0.25
"""Between measurements: a live path that is back is used again after this."""

ASK_S = 1.0
"""Between questions to Redis about its memory."""

WINDOW_PASSES = 12
"""Passes over which medians and paces are taken: three seconds, so that one slow second counts for nothing."""

COME_BACK_MS = 2_000
"""Told with CRITICAL: most levels last longer, and publishers spread their return themselves."""

GAUGES: Mapping[tuple[Source, str], tuple[str, str]] = {
    LIVE_AWAY: ("pressure_live_away", "1 while the live store can't be reached."),
    LIVE_LATENCY: ("pressure_live_latency_seconds", "Median of the live store's answers, less the loop's own lag."),
    LIVE_IN_FLIGHT: ("pressure_live_in_flight_ratio", "Commands without an answer, of those there may be."),
    LIVE_MEMORY: ("pressure_live_memory_ratio", "Memory that the live store uses, of what it may; 0: no limit."),
    LOG_QUEUE: ("pressure_log_queue_ratio", "Records that wait for the log, of those that may."),
    LOG_OLDEST: ("pressure_log_oldest_seconds", "Age of the oldest record that the log has not acknowledged."),
    LOG_BROKER_ERRORS: ("pressure_log_broker_errors", "Errors of brokers a second, over three."),
    EDGE_LOOP_LAG: ("pressure_loop_lag_seconds", "Median lag of the event loop over some seconds."),
    EDGE_OUTBOUND: ("pressure_outbound_bytes", "Waiting for all readers together."),
    EDGE_MEMORY: ("pressure_memory_ratio", "Resident memory, of what the edge may use; 0: no limit is known."),
}
"""Metrics of what is measured: name and meaning."""


class EdgePressure:
    """Of one edge. `notice`: the frame for clients, None while all is normal."""

    def __init__(
        self,
        live: LiveStore,
        log: LogWriter,
        path: PublishPath,
        metrics: EdgeMetrics,
        marks: Mapping[tuple[Source, str], Marks],
        *,
        outbound_bytes: Callable[[], int],
        memory_limit_bytes: int,
        told: Callable[[bytes | None], None],
        used_bytes: Callable[[], int] = resident_bytes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`told` gets the notice on each change. `memory_limit_bytes` 0: memory is no pressure."""
        self._live = live
        self._log = log
        self._path = path
        self._metrics = metrics
        self._outbound_bytes = outbound_bytes
        self._memory_limit_bytes = memory_limit_bytes
        self._told = told
        self._used_bytes = used_bytes
        self._clock = clock
        self._logger = get_logger(__name__)
        self.pressure = Pressure(marks)
        self._lags: deque[float] = deque([0.0] * WINDOW_PASSES, WINDOW_PASSES)
        self._appends: deque[Sequence[int]] = deque([metrics.append_s.counts()], WINDOW_PASSES)
        self._asked_s: float | None = None
        """Since when an answer about Redis' memory is awaited."""
        self._answer_s = 0.0
        """How long the last one took."""
        self._memory_share = 0.0
        self._broker_errors: deque[tuple[float, int]] = deque([(clock(), log.load.broker_errors)], WINDOW_PASSES)
        """When, and how many there were by then."""
        registry = metrics.metrics
        self._changes = registry.tick_family(
            "pressure_changes_total", "Changes of a source's level, by the level it came to.", ["source", "level"]
        )
        registry.sampled_gauge(
            "pressure_level",
            "How hard it is going, by source: 0 normal, 1 elevated, 2 high, 3 critical.",
            lambda: {source.value: float(level) for source, level in self.pressure.levels.items()},
            label="source",
        )
        for key, signal in self.pressure.signals.items():
            name, meaning = GAUGES[key]
            registry.sampled_gauge(name, meaning, lambda signal=signal: signal.value)  # type: ignore[misc]

    @property
    def overloaded(self) -> bool:
        """Whether the edge itself can take no more: no connection, and no event."""
        return self.pressure.levels[Source.EDGE] is Level.CRITICAL

    async def run(self) -> None:
        """For ever: measure."""
        while True:
            asleep_s = self._clock()
            await asyncio.sleep(PASS_S)
            now = self._clock()
            self._lags.append(max(0.0, now - asleep_s - PASS_S))
            self.measure(now)

    async def ask(self) -> None:
        """For ever: ask Redis how full it is."""
        while True:
            await self.ask_once()
            await asyncio.sleep(ASK_S)

    async def ask_once(self) -> None:
        """One question. While nothing is answered, what was known stays; a store that is away is asked nothing."""
        if not self._live.available:
            self._answer_s = 0.0
            return
        begin = self._asked_s = self._clock()
        try:
            self._memory_share = (await self._live.memory()).share
            self._answer_s = self._clock() - begin
        except StoreError:
            self._answer_s = 0.0  # its link broke: that it is away is a signal of its own
        finally:
            self._asked_s = None

    def measure(self, now: float) -> None:
        """One pass at `now` (seconds, monotonic)."""
        changes = self.pressure.observe(now, self._values(now))
        if not changes:
            return
        verdicts = self.pressure.verdicts
        self._path.pressed = None if verdicts == CALM else verdicts
        for change in changes:
            self._say(change)
        self._told(self._notice())

    def _values(self, now: float) -> dict[tuple[Source, str], float]:
        lag_s = statistics.median(self._lags)
        appends = self._metrics.append_s
        append_s = appends.quantile_since(self._appends[0], 0.5)
        self._appends.append(appends.counts())
        waiting_s = now - self._asked_s if self._asked_s is not None else 0.0
        live, log = self._live.load, self._log.load
        since_s, errors = self._broker_errors[0]
        self._broker_errors.append((now, log.broker_errors))
        limit_bytes = self._memory_limit_bytes
        return {
            LIVE_AWAY: 0.0 if self._live.available else 1.0,
            LIVE_LATENCY: max(0.0, max(append_s, self._answer_s, waiting_s) - lag_s),
            LIVE_IN_FLIGHT: _share(live.in_flight, live.capacity),
            LIVE_MEMORY: self._memory_share,
            LOG_QUEUE: _share(log.in_flight, log.capacity),
            LOG_OLDEST: log.oldest_s,
            LOG_BROKER_ERRORS: (log.broker_errors - errors) / max(now - since_s, 1.0),
            EDGE_LOOP_LAG: lag_s,
            EDGE_OUTBOUND: float(self._outbound_bytes()),
            EDGE_MEMORY: _share(self._used_bytes(), limit_bytes) if limit_bytes else 0.0,
        }

    def _say(self, change: Change) -> None:
        self._changes.labels(change.source.value, change.after.text).n += 1
        say = self._logger.warning if change.after > change.before else self._logger.info
        say(
            "pressure_changed",
            source=change.source.value,
            before=change.before.text,
            after=change.after.text,
            signal=change.signal,
            value=round(change.value, 3),
        )

    def _notice(self) -> bytes | None:
        level = self.pressure.level
        if level is Level.NORMAL:
            return None
        sources = [source.value for source in self.pressure.sources]
        events_refused = self.pressure.verdicts.event is not CALM.event
        after_ms = COME_BACK_MS if events_refused else None
        return text_frame(encode(Notice(NoticeKind.PRESSURE, level.text, sources, after_ms)))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
