"""What the server told about how it fares: for programs that would rather slow down than be refused."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from heliograph.core.pressure import LEVELS, Level
from heliograph.protocol.frames import Notice, NoticeKind

logger = logging.getLogger("heliograph.client")


@dataclass(frozen=True, slots=True)
class Pressure:
    """How the edge of this client fares. Levels compare: `pressure.level >= Level.HIGH`."""

    level: Level = Level.NORMAL
    """ELEVATED: a part of telemetry is dropped; HIGH: all of it; CRITICAL: events may be refused."""
    sources: tuple[str, ...] = ()
    """Where it is: `live` (Redis), `log` (Kafka), `edge`."""
    retry_after_s: float | None = None
    """Events sent before that are likely to be refused."""


NORMAL = Pressure()


class PressureWatch:
    """Keeps what was told last. A new connection begins at normal: its edge says so if it is not."""

    def __init__(self, on_notice: Callable[[Pressure], None] | None) -> None:
        self._on_notice = on_notice
        self.now = NORMAL

    def connected(self) -> None:
        self._become(NORMAL)

    def notice(self, frame: Notice) -> None:
        level = LEVELS.get(frame.level or "")
        if frame.kind != NoticeKind.PRESSURE or level is None:
            return  # a newer server's
        after_s = frame.retry_after_ms / 1000 if frame.retry_after_ms is not None else None
        self._become(Pressure(level, tuple(frame.sources), after_s))

    def _become(self, pressure: Pressure) -> None:
        if pressure == self.now:
            return
        self.now = pressure
        if self._on_notice is not None:
            try:
                self._on_notice(pressure)
            except Exception:
                logger.exception("on_notice raised")
