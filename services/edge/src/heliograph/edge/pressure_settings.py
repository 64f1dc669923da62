"""Settings of pressure: from which value on what is measured means which level (`heliograph.core.pressure`)."""

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator
from pydantic_settings import NoDecode

from heliograph.core.pressure import Marks, Source
from heliograph.service.settings import Settings, setting

MIB = 1024 * 1024

AWAY_CONFIRM_S = 1.0
"""A Redis that restarts, or a link that breaks, is back sooner; nobody need be told."""

MEMORY_RELEASE = 0.95
"""Memory moves slowly and doesn't jitter: a level is left a little below its mark."""


def _split(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


def _check_rising(value: tuple[float, float, float]) -> tuple[float, float, float]:
    if not 0 < value[0] <= value[1] <= value[2]:
        raise ValueError("must be three numbers above 0, none lower than the one before, with commas between them")
    return value


Levels = Annotated[tuple[float, float, float], NoDecode, BeforeValidator(_split), AfterValidator(_check_rising)]
"""Where ELEVATED, HIGH and CRITICAL begin."""


class PressureSettings(Settings):
    """When the edge is under pressure: three marks each, for elevated, high and critical."""

    pressure_live_latency_s: Levels = setting(
        (0.5, 1.0, 2.0),
        "Median of Redis' answers over 3 s, less the loop's own lag: a millisecond is usual, half a second no service.",
    )
    pressure_live_in_flight_ratio: Levels = setting(
        (0.5, 0.75, 0.9), "Commands without an answer, of those there may be (20,000): then publishes fail at once."
    )
    pressure_live_memory_ratio: Levels = setting(
        (0.8, 0.9, 0.97), "Redis' used_memory of its maxmemory: above it nothing more can be written to it."
    )
    pressure_log_queue_ratio: Levels = setting(
        (0.25, 0.5, 0.9), "Records that wait for Kafka, of those that may (200,000): a second's worth is some thousand."
    )
    pressure_log_oldest_s: Levels = setting(
        (3.0, 6.0, 9.0), "Age of the oldest record Kafka has not acknowledged; at 10 s records are given up."
    )
    pressure_log_broker_errors_per_s: Levels = setting(
        (1.0, 10.0, 100.0), "Errors of brokers, and records that they did not take: none is usual."
    )
    pressure_loop_lag_s: Levels = setting(
        (0.5, 1.5, 4.0), "Median lag of the event loop over some seconds: heartbeats and leases survive up to 5 s."
    )
    pressure_outbound_bytes: Levels = setting(
        (256.0 * MIB, 512.0 * MIB, 1024.0 * MIB),
        "Waiting for all readers together: a thousand that read nothing cost a GiB.",
    )
    pressure_memory_ratio: Levels = setting(
        (0.75, 0.85, 0.92), "Resident memory of memory_limit_bytes: past the limit the kernel kills the edge."
    )
    memory_limit_bytes: int = setting(
        0, "What the edge may use. 0: its cgroup's limit, where there is one; else memory is no pressure.", ge=0
    )
    pressure_confirm_s: float = setting(
        2.0, "How long a value must stay above a mark: a busy second is no pressure. Memory counts at once.", ge=0
    )
    pressure_calm_s: float = setting(
        5.0, "How long it must be well below a mark again: those who were held back come in meanwhile.", ge=0
    )
    telemetry_sample_ratio: float = setting(
        0.1, "Share of telemetry taken while a level is elevated: enough to see what goes on.", ge=0, le=1
    )


LIVE_AWAY = (Source.LIVE, "away")
LIVE_LATENCY = (Source.LIVE, "latency")
LIVE_IN_FLIGHT = (Source.LIVE, "in_flight")
LIVE_MEMORY = (Source.LIVE, "memory")
LOG_QUEUE = (Source.LOG, "queue")
LOG_OLDEST = (Source.LOG, "oldest")
LOG_BROKER_ERRORS = (Source.LOG, "broker_errors")
EDGE_LOOP_LAG = (Source.EDGE, "loop_lag")
EDGE_OUTBOUND = (Source.EDGE, "outbound")
EDGE_MEMORY = (Source.EDGE, "memory")


def marks_of(settings: PressureSettings) -> dict[tuple[Source, str], Marks]:
    """What `heliograph.core.pressure` wants to know, by signal."""
    confirm_s, calm_s = settings.pressure_confirm_s, settings.pressure_calm_s

    def marks(levels: tuple[float, float, float]) -> Marks:
        return Marks(*levels, confirm_s=confirm_s, calm_s=calm_s)

    def of_memory(levels: tuple[float, float, float]) -> Marks:
        return Marks(*levels, release=MEMORY_RELEASE, calm_s=calm_s)

    return {
        LIVE_AWAY: Marks(1, 1, 1, confirm_s=AWAY_CONFIRM_S, calm_s=0.0),
        LIVE_LATENCY: marks(settings.pressure_live_latency_s),
        LIVE_IN_FLIGHT: marks(settings.pressure_live_in_flight_ratio),
        LIVE_MEMORY: of_memory(settings.pressure_live_memory_ratio),
        LOG_QUEUE: marks(settings.pressure_log_queue_ratio),
        LOG_OLDEST: marks(settings.pressure_log_oldest_s),
        LOG_BROKER_ERRORS: marks(settings.pressure_log_broker_errors_per_s),
        EDGE_LOOP_LAG: marks(settings.pressure_loop_lag_s),
        EDGE_OUTBOUND: marks(settings.pressure_outbound_bytes),
        EDGE_MEMORY: of_memory(settings.pressure_memory_ratio),
    }
