"""The whole operator on an API server in memory, with a Tenant and an EdgeFleet: for what it serves at /metrics."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.services.operator import tenant_rig
from tests.services.operator.fake_kube import FakeWatcher
from tests.services.operator.fleet_rig import FleetRig

from heliograph.operator.bootstrap import compose
from heliograph.operator.fleets.reconciler import FleetReconciler
from heliograph.operator.kube import TENANTS
from heliograph.operator.metrics import FleetMetrics, KubeMetrics, TenantMetrics
from heliograph.operator.recorder import Recorder
from heliograph.operator.settings import OperatorSettings
from heliograph.operator.tenants.keys import KeySource
from heliograph.operator.tenants.reconciler import TenantReconciler
from heliograph.operator.tenants.status import CONDITIONS
from heliograph.service.health import Liveness, Readiness
from heliograph.service.lifecycle import Service, serve
from heliograph.service.metrics import Metrics
from heliograph.service.store_events import show_store_events

START_TIMEOUT_S = 20.0


@asynccontextmanager
async def running_operator(port: int) -> AsyncIterator[Service]:
    """Ready, and done with its first looks."""
    edges = FleetRig()  # two edges that are as they should be
    await edges.running(10, 10)
    kube, metrics, readiness, liveness = edges.kube, Metrics("operator"), Readiness(), Liveness()
    KubeMetrics(metrics).request("get", "tenants", 200)  # HttpKube's; the one in memory counts no requests
    show_store_events(metrics)  # its stores are in memory
    recorder = Recorder(kube, metrics, lambda: 1_000_000.0)
    stores = tenant_rig.Rig().stores
    tenants = TenantReconciler(
        kube,
        recorder,
        TenantMetrics(metrics, CONDITIONS),
        stores,
        KeySource(kube, _no_fetch, development=False),
        namespaces=(),
        labels={},
        adoption=True,
        refresh_s=300.0,
        uniform=lambda: 0.5,
    )
    fleets = FleetReconciler(
        kube,
        edges.connections,
        edges.orders,
        recorder,
        FleetMetrics(metrics),
        labels={},
        interval_s=1.0,
        busy_interval_s=1.0,
        clock=lambda: edges.now,
        wall=lambda: edges.now,
    )
    await kube.create(TENANTS, "team", {"metadata": {"name": "acme"}, "spec": tenant_rig.spec_of()})
    service = compose(
        OperatorSettings(host="127.0.0.1", port=port, drain_timeout_s=1.0),
        kube,
        FakeWatcher(kube),
        [tenants, fleets],
        metrics,
        readiness,
        liveness,
        _nothing,
        _nothing,
    )
    stop = asyncio.Event()
    serving = asyncio.create_task(serve(service, stop=stop))
    async with asyncio.timeout(START_TIMEOUT_S):
        await readiness.wait_ready()
        while not (metrics.value("tenants") and metrics.value("fleets", {"state": "all"})):
            await asyncio.sleep(0.01)
    try:
        yield service
    finally:
        stop.set()
        await serving


async def _nothing() -> None:
    """Memory needs no start, and no end."""


async def _no_fetch(url: str) -> bytes:
    raise AssertionError(f"no Tenant here has keys at a URL, but {url} was asked for")
