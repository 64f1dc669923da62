"""Traces are taken where asked for, bounded, and cost nothing otherwise."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from heliograph.service.metrics import Metrics
from heliograph.service.settings import ServiceSettings
from heliograph.service.tracing import TraceParent, Tracing, otlp_exporter, parse_traceparent, tracing_from

SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
NOT_SAMPLED = SAMPLED[:-1] + "0"

MakeTracing = Callable[..., Tracing]


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def make(metrics: Metrics, exporter: InMemorySpanExporter) -> Iterator[MakeTracing]:
    made: list[Tracing] = []

    def tracing(**options: object) -> Tracing:
        defaults: dict[str, object] = {
            "service": "edge",
            "version": "1",
            "metrics": metrics,
            "exporter": exporter,
            "sample_ratio": 0.0,
            "clock": lambda: 0.0,
        }
        made.append(Tracing(**{**defaults, **options}))  # type: ignore[arg-type]
        return made[-1]

    yield tracing
    for one in made:
        one.shutdown()


def test_a_traceparent_is_read() -> None:
    assert parse_traceparent(SAMPLED) == TraceParent(
        "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", sampled=True
    )
    assert parse_traceparent(NOT_SAMPLED) == TraceParent(
        "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", sampled=False
    )


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.booleans())
def test_what_is_written_is_read_back(trace: int, span: int, sampled: bool) -> None:
    made = TraceParent(f"{trace:032x}", f"{span:016x}", sampled)
    assert parse_traceparent(str(made)) == made


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00",
        SAMPLED.upper(),
        SAMPLED + "-extra",
        SAMPLED + "0",
        SAMPLED[:-1],
        "ff" + SAMPLED[2:],
        "0g" + SAMPLED[2:],
        "00-" + "0" * 32 + "-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-" + "0" * 16 + "-01",
        SAMPLED.replace("-", "_"),
        " " + SAMPLED,
        SAMPLED + "\n",
        SAMPLED[:-2] + "٠١",
    ],
)
def test_what_the_recommendation_says_to_ignore_is_ignored(text: str) -> None:
    assert parse_traceparent(text) is None


def test_a_later_version_is_read_as_far_as_it_is_known() -> None:
    assert parse_traceparent("cc" + SAMPLED[2:] + "-what-the-future-brings") is not None
    assert parse_traceparent("cc" + SAMPLED[2:] + ".what") is None


@given(st.text())
def test_no_text_breaks_the_parser(text: str) -> None:
    parsed = parse_traceparent(text)
    assert parsed is None or len(str(parsed)) == 55


def test_without_an_endpoint_nothing_is_traced(make: MakeTracing) -> None:
    assert otlp_exporter("") is None
    tracing = make(exporter=None, sample_ratio=1.0, starts_traces=True)
    assert not tracing.enabled
    assert tracing.begin("publish", SAMPLED) is None


def test_an_endpoint_without_a_path_gets_the_standard_one() -> None:
    for given_, used in (
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
        ("http://127.0.0.1:4318/", "http://127.0.0.1:4318/v1/traces"),
        ("http://127.0.0.1:4318/otlp", "http://127.0.0.1:4318/otlp"),
    ):
        exporter = otlp_exporter(given_)
        assert exporter is not None
        assert vars(exporter)["_endpoint"] == used
        exporter.shutdown()


def test_a_sampled_message_gets_a_span_below_its_publishers(make: MakeTracing, exporter: InMemorySpanExporter) -> None:
    tracing = make()
    span = tracing.begin("publish", SAMPLED, tenant="acme", session="acme:planner:42", message_id="m1")
    assert span is not None
    passed_on = parse_traceparent(span.traceparent)
    assert passed_on is not None
    assert passed_on.trace_id == SAMPLED[3:35]
    assert passed_on.span_id != SAMPLED[36:52]
    assert passed_on.sampled
    span.end(position="1-2-3")
    tracing.shutdown()
    (done,) = exporter.get_finished_spans()
    assert done.parent is not None
    assert f"{done.parent.span_id:016x}" == SAMPLED[36:52]
    assert dict(done.attributes or {}) == {
        "heliograph.tenant": "acme",
        "heliograph.session": "acme:planner:42",
        "heliograph.message_id": "m1",
        "heliograph.position": "1-2-3",
    }
    assert done.resource.attributes["service.name"] == "heliograph-edge"


def test_a_span_that_failed_has_the_code(make: MakeTracing, exporter: InMemorySpanExporter) -> None:
    tracing = make()
    span = tracing.begin("publish", SAMPLED)
    assert span is not None
    span.end(error="backlog")
    tracing.shutdown()
    (done,) = exporter.get_finished_spans()
    assert not done.status.is_ok
    assert (done.attributes or {})["error.type"] == "backlog"


def test_spans_reach_a_collector_over_http(metrics: Metrics) -> None:
    received: list[tuple[str, str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append((self.path, self.headers["content-type"], body))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        settings = ServiceSettings(otlp_endpoint=f"http://127.0.0.1:{server.server_port}")
        tracing = tracing_from(settings, service="edge", version="1", metrics=metrics, starts=True)
        span = tracing.begin("publish", SAMPLED, session="acme:planner:42")
        assert span is not None
        span.end()
        tracing.shutdown()
        server.shutdown()
    ((path, content_type, body),) = received
    assert (path, content_type) == ("/v1/traces", "application/x-protobuf")
    assert b"acme:planner:42" in body
    assert bytes.fromhex(SAMPLED[3:35]) in body


def test_a_publisher_that_does_not_sample_is_obeyed(make: MakeTracing) -> None:
    assert make(sample_ratio=1.0, starts_traces=True).begin("publish", NOT_SAMPLED) is None


def test_a_trace_is_begun_for_the_share_of_messages_that_the_ratio_says(make: MakeTracing) -> None:
    draw = 0.0
    tracing = make(sample_ratio=0.25, starts_traces=True, chance=lambda: draw)
    draw = 0.2499
    assert tracing.begin("publish", None) is not None
    draw = 0.25
    assert tracing.begin("publish", None) is None


def test_only_a_service_that_starts_traces_begins_one(make: MakeTracing) -> None:
    assert make(sample_ratio=1.0, starts_traces=False).begin("route", None) is None


def test_an_invalid_traceparent_is_counted_and_treated_as_none(make: MakeTracing, metrics: Metrics) -> None:
    tracing = make(sample_ratio=1.0, starts_traces=True, chance=lambda: 0.0)
    span = tracing.begin("publish", "nonsense")
    assert span is not None
    assert metrics.value("traceparent_invalid_total") == 1


def test_spans_a_second_are_bounded_and_the_rest_counted(make: MakeTracing, metrics: Metrics) -> None:
    now = 0.0
    tracing = make(spans_per_s=3, clock=lambda: now)
    assert sum(tracing.begin("publish", SAMPLED) is not None for _ in range(10)) == 3
    assert metrics.value("trace_spans_total") == 3
    assert metrics.value("trace_spans_over_bound_total") == 7
    now = 1.0
    assert tracing.begin("publish", SAMPLED) is not None


def test_after_shutdown_nothing_is_traced(make: MakeTracing) -> None:
    tracing = make()
    tracing.shutdown()
    assert tracing.begin("publish", SAMPLED) is None


def test_a_payload_is_on_a_span_only_where_it_is_asked_for_and_only_its_beginning(
    make: MakeTracing, exporter: InMemorySpanExporter
) -> None:
    draws = iter([0.4, 0.6])
    tracing = make(chance=lambda: next(draws))
    assert not tracing.samples(0.0)
    assert tracing.samples(0.5)
    assert not tracing.samples(0.5)
    span = tracing.begin("publish", SAMPLED)
    assert span is not None
    span.show(b"x" * 5_000)
    span.end()
    tracing.shutdown()
    (found,) = exporter.get_finished_spans()
    assert found.attributes is not None
    assert found.attributes["heliograph.payload"] == "x" * 4_096
    assert found.attributes["heliograph.payload_bytes"] == 5_000
