"""Telemetry's way alone: each ends once, counted where it went, and so does its span."""

from typing import Any

import pytest
from msgspec import Raw
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.services.edge.rig import until

from heliograph.core.errors import InvalidValueError
from heliograph.core.messages import AckMode, MessageClass
from heliograph.core.pressure import Level, Source, verdicts
from heliograph.edge.metrics import EdgeMetrics
from heliograph.edge.publishing import PublishLimits, PublishPath
from heliograph.edge.quotas import QuotaLeases
from heliograph.edge.tenants import Target, TenantState
from heliograph.protocol.frames import Publish
from heliograph.protocol.tenants import Tenant, TracingSettings
from heliograph.service.health import Readiness
from heliograph.service.metrics import Metrics
from heliograph.service.serving import ServeMarks
from heliograph.service.tracing import Tracing
from heliograph.stores.keys import Topics
from heliograph.stores.memory.live import MemoryLiveStore
from heliograph.stores.memory.live_server import MemoryLiveServer
from heliograph.stores.memory.log import MemoryLog, MemoryLogWriter
from heliograph.stores.memory.metadata import MemoryConnectionStore, MemoryQuotaStore

SESSION = "acme:planner:1"
ACME = Tenant("acme")
TRACED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Told:
    """What the publisher was answered."""

    def __init__(self) -> None:
        self.answers: list[str] = []

    def published(self, *_: Any, **__: Any) -> None:
        self.answers.append("published")

    def confirmed(self, _: Any) -> None:
        raise AssertionError("telemetry is confirmed by nobody")

    def refused(self, request_id: int | None, code: str, message: str, **_: Any) -> None:
        self.answers.append(code)


class Bench:
    def __init__(self, tenant: Tenant = ACME) -> None:
        unused: Any = None
        registry = Metrics("edge", process=False)
        self.metrics = EdgeMetrics(registry)
        self.server = MemoryLiveServer(lambda: 1_764_000_000_000)
        self.live = MemoryLiveStore(self.server)
        self.exporter = InMemorySpanExporter()
        self.tracing = Tracing(service="edge", version="1", metrics=registry, exporter=self.exporter)
        leases = QuotaLeases(MemoryQuotaStore(), MemoryConnectionStore(), self.metrics, Readiness().condition("quotas"))
        log = MemoryLogWriter(MemoryLog())
        self.path = PublishPath(self.live, log, self.metrics, self.tracing, PublishLimits(1.0, 10))
        state = TenantState(tenant, Topics("heliograph"), 256, leases)
        kind = ServeMarks(unused, Metrics("edge", process=False)).kind("acme:planner")
        self.target = Target(SESSION, state, "topic", 0, b"key", kind)
        self.told = Told()

    def publish(self, ack: AckMode | None = None) -> None:
        frame = Publish(SESSION, Raw(b"1"), class_=MessageClass.TELEMETRY, ack=ack, traceparent=TRACED)
        self.path.publish(self.told, self.target, frame, "robot", None, "m-1")

    def dropped(self, reason: str) -> int:
        return self.metrics.telemetry_dropped.labels(reason).n

    @property
    def published(self) -> int:
        return self.metrics.published[MessageClass.TELEMETRY].n

    def spans(self) -> list[str | None]:
        """Of each that ended, what went wrong."""
        self.tracing.shutdown()
        found = [dict(span.attributes or {}).get("error.type") for span in self.exporter.get_finished_spans()]
        return [str(one) if one is not None else None for one in found]


@pytest.fixture
async def bench() -> Bench:
    found = Bench()
    await found.live.start()
    return found


async def test_it_counts_as_published_once_the_store_took_it(bench: Bench) -> None:
    bench.publish(AckMode.ACCEPTED)
    assert (bench.published, bench.told.answers) == (0, ["published"])
    await until(lambda: bench.published == 1)
    assert bench.spans() == [None]


@pytest.mark.parametrize(
    ("level", "reason", "code"),
    [(Level.HIGH, "pressure", "overloaded"), (None, "live_unavailable", "live_unavailable")],
)
async def test_one_that_is_dropped_is_told_where_it_asked_and_its_span_says_why(
    bench: Bench, level: Level | None, reason: str, code: str
) -> None:
    if level is None:
        bench.server.stop()
    else:
        bench.path.pressed = verdicts({Source.LIVE: level})
    bench.publish()
    bench.publish(AckMode.ACCEPTED)
    assert (bench.told.answers, bench.dropped(reason), bench.published) == ([code], 2, 0)
    assert bench.spans() == [reason, code]


@pytest.mark.parametrize(("ratio", "shown"), [(0.0, None), (1.0, "1")])
async def test_its_payload_is_on_its_span_as_often_as_the_tenant_says(ratio: float, shown: str | None) -> None:
    bench = Bench(Tenant("acme", tracing=TracingSettings(payload_sample_ratio=ratio)))
    await bench.live.start()
    bench.publish()
    await until(lambda: bench.published == 1)
    assert bench.spans() == [None]
    (span,) = bench.exporter.get_finished_spans()
    assert dict(span.attributes or {}).get("heliograph.payload") == shown


async def test_it_can_not_be_asked_to_be_durable(bench: Bench) -> None:
    with pytest.raises(InvalidValueError, match="durable"):
        bench.publish(AckMode.DURABLE)
    assert (bench.published, bench.told.answers) == (0, [])
