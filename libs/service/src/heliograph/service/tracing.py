"""Traces: OpenTelemetry over OTLP/HTTP where an endpoint is set, nothing at all where not.

A message carries a W3C `traceparent` from the publisher's frame through Redis and the log to the subscriber's frame.
Heliograph passes on what it was given; it makes one up only for a message that it samples itself, because 55 bytes on
every message and a span nobody keeps are paid for by everyone.

On the hot path: `if tracing.enabled` guards everything; an unsampled message then costs one `begin` that returns None.
Spans a second are bounded: a publisher who sets the sampled flag on every message must not slow others down. Export is
in a thread of its own behind a bounded queue that drops.
"""

import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Span, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace import set_span_in_context as in_context
from opentelemetry.util.types import AttributeValue

from heliograph.service.metrics import Metrics
from heliograph.service.settings import ServiceSettings

QUEUE_SPANS = 4_096
"""Waiting for export, about 2 KB each; more are dropped (and counted by the SDK)."""

MAX_PAYLOAD_BYTES = 4_096
"""Of a payload that are put on a span, where its tenant wants that: what a person looks at."""

EXPORT_EVERY_MS = 2_000
EXPORT_TIMEOUT_S = 5.0

TRACEPARENT_LENGTH = 55
"""Of version 00: 2 + 32 + 16 + 2 hex digits and three dashes."""

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII | re.DOTALL)
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16


@dataclass(frozen=True, slots=True)
class TraceParent:
    """A valid `traceparent`: 32 and 16 lower-case hex digits, and whether the caller samples it."""

    trace_id: str
    span_id: str
    sampled: bool

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


def parse_traceparent(text: str) -> TraceParent | None:
    """The parsed header, or None where the W3C recommendation (Trace Context, 3.2.2) says to ignore it.

    A later version may be longer and is read as far as version 00 goes; ff is none.
    """
    found = _TRACEPARENT.fullmatch(text)
    if found is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    if version == "ff" or trace_id == _NO_TRACE or span_id == _NO_SPAN or (version == "00" and rest):
        return None
    return TraceParent(trace_id, span_id, bool(int(flags, 16) & 1))


class MessageSpan:
    """A span of one sampled message. `end` it once."""

    __slots__ = ("_span",)

    def __init__(self, span: Span) -> None:
        self._span = span

    @property
    def traceparent(self) -> str:
        """What to pass on with the message, so that the next hop's span hangs below this one."""
        context = self._span.get_span_context()
        return str(TraceParent(f"{context.trace_id:032x}", f"{context.span_id:016x}", sampled=True))

    def show(self, payload: bytes) -> None:
        """Put the payload's beginning on the span. Only where the tenant's record says so."""
        self._span.set_attribute("heliograph.payload", payload[:MAX_PAYLOAD_BYTES].decode(errors="replace"))
        self._span.set_attribute("heliograph.payload_bytes", len(payload))

    def end(self, *, position: str | None = None, error: str | None = None) -> None:
        """Finish it, with the position the message got, or the code of what went wrong."""
        if position is not None:
            self._span.set_attribute("heliograph.position", position)
        if error is not None:
            self._span.set_attribute("error.type", error)
            self._span.set_status(Status(StatusCode.ERROR, error))
        self._span.end()


class Tracing:
    """Decides which messages are traced, and records their spans."""

    def __init__(
        self,
        *,
        service: str,
        version: str,
        metrics: Metrics,
        exporter: SpanExporter | None,
        sample_ratio: float = 0.0,
        spans_per_s: int = 200,
        starts_traces: bool = False,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`exporter=None`: off. `starts_traces`: for the edge alone; later hops only go on with what it began."""
        self.enabled = exporter is not None
        self._sample_ratio = sample_ratio if starts_traces else 0.0
        self._spans_per_s = spans_per_s
        self._clock = clock
        self._chance = chance
        self._window = 0
        self._window_spans = 0
        self._spans = metrics.ticks("trace_spans_total", "Spans begun.")
        self._over = metrics.ticks("trace_spans_over_bound_total", "Spans not begun for trace_spans_per_s.")
        self._invalid = metrics.ticks("traceparent_invalid_total", "Messages whose traceparent was ignored.")
        self._provider: TracerProvider | None = None
        if exporter is not None:
            resource = Resource.create({"service.name": f"heliograph-{service}", "service.version": version})
            self._provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
            self._provider.add_span_processor(
                BatchSpanProcessor(exporter, max_queue_size=QUEUE_SPANS, schedule_delay_millis=EXPORT_EVERY_MS)
            )
            self._tracer = self._provider.get_tracer("heliograph", version)

    def begin(
        self, name: str, traceparent: str | None, *, kind: SpanKind = SpanKind.INTERNAL, **attributes: AttributeValue
    ) -> MessageSpan | None:
        """A span for this message if it is sampled, else None.

        With a valid traceparent its sampled flag decides; without one, the sample ratio, where this service may start
        traces. Attributes (`tenant`, `session`, `message_id`, …) are recorded as `heliograph.<name>`.
        """
        if not self.enabled:
            return None
        parent = None
        if traceparent is not None:
            parent = parse_traceparent(traceparent)
            if parent is None:
                self._invalid.n += 1
            elif not parent.sampled:
                return None
        if parent is None and (self._sample_ratio <= 0 or self._chance() >= self._sample_ratio):
            return None
        if not self._within_bound():
            self._over.n += 1
            return None
        self._spans.n += 1
        span = self._tracer.start_span(
            name,
            context=in_context(NonRecordingSpan(_remote(parent))) if parent else None,
            kind=kind,
            attributes={f"heliograph.{key}": value for key, value in attributes.items()},
        )
        return MessageSpan(span) if isinstance(span, Span) else None

    def samples(self, ratio: float) -> bool:
        """Whether one of a share of `ratio` is meant."""
        return ratio > 0 and self._chance() < ratio

    def shutdown(self) -> None:
        """Export what is waiting. Blocks for up to the export's timeout: call it in a thread."""
        self.enabled = False
        if self._provider is not None:
            self._provider.shutdown()

    def _within_bound(self) -> bool:
        window = int(self._clock())
        if window != self._window:
            self._window, self._window_spans = window, 0
        self._window_spans += 1
        return self._window_spans <= self._spans_per_s


def tracing_from(settings: ServiceSettings, *, service: str, version: str, metrics: Metrics, starts: bool) -> Tracing:
    """Tracing as the settings say; `starts` for the service where messages come in."""
    return Tracing(
        service=service,
        version=version,
        metrics=metrics,
        exporter=otlp_exporter(settings.otlp_endpoint),
        sample_ratio=settings.trace_sample_ratio,
        spans_per_s=settings.trace_spans_per_s,
        starts_traces=starts,
    )


def otlp_exporter(endpoint: str) -> SpanExporter | None:
    """The exporter for the setting `otlp_endpoint`: None when it is empty; `/v1/traces` where it has no path.

    Headers, certificates and compression come from the standard OTEL_EXPORTER_OTLP_* variables.
    """
    if not endpoint:
        return None
    # Imported here: requests and protobuf cost 40 ms and 15 MB, which only those who trace should pay.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

    if urlsplit(endpoint).path in ("", "/"):
        endpoint = endpoint.rstrip("/") + "/v1/traces"
    return OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_TIMEOUT_S)


def _remote(parent: TraceParent) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED)
    return SpanContext(int(parent.trace_id, 16), int(parent.span_id, 16), is_remote=True, trace_flags=flags)
