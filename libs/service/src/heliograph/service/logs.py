"""Logs: one JSON object a line on stderr, events with fields, nothing secret in any of them.

Everything goes one way: structlog's own events and those of libraries (uvicorn, redis, confluent-kafka, asyncio,
OpenTelemetry, Python's warnings) pass the same redaction and the same renderer. An event's name is a stable word in
snake_case (`tenant_changed`), the rest are fields.

On a hot path use `RateLimitedLog`: a fault that hits every message must not turn into a log line for each.
"""

import logging
import sys
import time
from collections.abc import Callable, MutableMapping
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor

from heliograph.service.redaction import redact, redact_text

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

LIBRARY_LEVELS = {
    "uvicorn.access": logging.WARNING,  # one line a request says less than the metrics and costs more
    "uvicorn.error": logging.INFO,
    "redis": logging.WARNING,
    "aiokafka": logging.WARNING,
    "confluent_kafka": logging.INFO,
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    "urllib3": logging.WARNING,
    "asyncio": logging.WARNING,
    "opentelemetry": logging.WARNING,
}
"""The least level that libraries log at, whatever ours is (lower only with `debug`)."""

Logger = structlog.stdlib.BoundLogger


def configure_logs(
    *,
    service: str,
    version: str,
    level: str = "info",
    form: Literal["json", "console"] = "json",
    stream: TextIO | None = None,
) -> None:
    """Set the process's logging up: called by a service's main before anything logs; a second call replaces it."""
    stream = stream or sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        _constant_fields(service=service, version=version),
        structlog.processors.StackInfoRenderer(),
    ]
    last: list[Processor] = [structlog.processors.format_exc_info, redact_event, _rename_event]
    if form == "json":
        last.append(structlog.processors.JSONRenderer(default=str))
    else:
        last.append(structlog.dev.ConsoleRenderer(colors=stream.isatty(), event_key="event"))
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=Logger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,  # a test, or a second call, may configure again
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, _fields_of_stores, _library_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(LEVELS[level])
    for name in list(logging.Logger.manager.loggerDict):
        if name.split(".")[0] in {library.split(".")[0] for library in LIBRARY_LEVELS}:
            logger = logging.getLogger(name)
            logger.handlers.clear()
            logger.propagate = True
    for name, least in LIBRARY_LEVELS.items():
        logging.getLogger(name).setLevel(LEVELS[level] if level == "debug" else max(least, LEVELS[level]))
    logging.captureWarnings(True)


def get_logger(name: str = "heliograph") -> Logger:
    """The logger of a module. Bind what every event of an object shares: `get_logger(__name__).bind(tenant=…)`."""
    return structlog.stdlib.get_logger(name)


def redact_event(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Processor: each field, and the event's own text, made safe to show."""
    return {name: redact_text(str(value)) if name == "event" else redact(name, value) for name, value in event.items()}


def _constant_fields(**fields: str) -> Processor:
    def add(_logger: Any, _method: str, event: EventDict) -> EventDict:
        for name, value in fields.items():
            event.setdefault(name, value)
        return event

    return add


_extra = structlog.stdlib.ExtraAdder()


def _fields_of_stores(logger: Any, method: str, event: EventDict) -> EventDict:
    """`extra=` of our own standard loggers: what is below this library logs events with fields by it."""
    record = event.get("_record")
    return _extra(logger, method, event) if record is not None and record.name.startswith("heliograph.") else event


def _library_name(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    record = event.get("_record")
    if record is not None:
        event["logger"] = record.name
    return event


def _rename_event(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """`time`, `level` and `event` first: people read the beginning of a line."""
    first = {name: event.pop(name) for name in ("time", "level", "event") if name in event}
    return {**first, **event}


class RateLimitedLog:
    """Warnings for hot paths: at most one per event and key in `interval_s`; the next one says how many it stands for.

    Keys are bounded: with too many at once the oldest is forgotten, which costs a line too many, never memory.
    """

    MAX_KEYS = 1_000

    def __init__(
        self, logger: Logger, *, interval_s: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._logger = logger
        self._interval_s = interval_s
        self._clock = clock
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}

    def warning(self, event: str, *, key: str = "", **fields: Any) -> bool:
        """Log unless this event and key did so within the interval; whether it did."""
        now = self._clock()
        last = self._seen.get((event, key))
        if last is not None and now - last[0] < self._interval_s:
            self._seen[event, key] = (last[0], last[1] + 1)
            return False
        self._seen.pop((event, key), None)
        if len(self._seen) >= self.MAX_KEYS:
            del self._seen[next(iter(self._seen))]
        self._seen[event, key] = (now, 0)
        if last is not None and last[1]:
            fields["suppressed"] = last[1]
        self._logger.warning(event, **fields)
        return True
