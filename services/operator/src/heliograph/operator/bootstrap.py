"""The operator's composition root: the only place that builds real things."""

import importlib.metadata
import random
import time
from collections.abc import Awaitable, Callable, Sequence

from heliograph.core.backoff import BackoffPolicy
from heliograph.operator.fleets.reconciler import FleetReconciler
from heliograph.operator.kube import Kube
from heliograph.operator.kube_http import HttpKube
from heliograph.operator.login import login
from heliograph.operator.manager import Manager
from heliograph.operator.metrics import FleetMetrics, KubeMetrics, QueueMetrics, TenantMetrics
from heliograph.operator.queue import Work, WorkQueue
from heliograph.operator.reconciler import Reconciler
from heliograph.operator.recorder import Recorder
from heliograph.operator.settings import OperatorSettings
from heliograph.operator.tenants.fetching import Fetch, JwksFetcher
from heliograph.operator.tenants.keys import KeySource
from heliograph.operator.tenants.reconciler import TenantReconciler
from heliograph.operator.tenants.status import CONDITIONS
from heliograph.operator.tenants.stores import NamedLogAdmin, TenantStores
from heliograph.operator.watching import KopfWatcher, Watcher, WatchTimes
from heliograph.service.background import BackgroundTasks
from heliograph.service.health import Liveness, Readiness
from heliograph.service.http import create_app
from heliograph.service.lifecycle import Component, Service
from heliograph.service.metrics import Metrics
from heliograph.service.store_events import show_store_events
from heliograph.stores.kafka import KafkaLogAccess, KafkaLogAdmin
from heliograph.stores.keys import Topics
from heliograph.stores.redis.live import RedisLiveStore
from heliograph.stores.redis.metadata import (
    MetadataClient,
    RedisConnectionStore,
    RedisEdgeOrders,
    RedisServeStore,
    RedisSessionExpiries,
    RedisTenantStore,
)

VERSION = importlib.metadata.version("heliograph-operator")


async def build(settings: OperatorSettings) -> Service:
    """The operator on a real API server."""
    metrics, readiness, liveness = Metrics("operator", VERSION), Readiness(), Liveness()
    show_store_events(metrics)
    counted = KubeMetrics(metrics)
    kube = HttpKube(login, counted, timeout_s=settings.kube_timeout_s)
    watcher = KopfWatcher(
        login,
        counted,
        readiness.condition("watch"),
        namespaces=settings.watch_namespaces,
        times=WatchTimes(
            settings.watch_server_timeout_s,
            settings.watch_client_timeout_s,
            settings.watch_connect_timeout_s,
            settings.watch_inactivity_timeout_s,
        ),
    )
    metadata = MetadataClient(settings.metadata_url())
    live = RedisLiveStore(settings.live_url(), virtual_shards=settings.virtual_shards, uniform=random.random)
    admin, access = KafkaLogAdmin(settings.kafka_config()), KafkaLogAccess(settings.kafka_config())
    stores = TenantStores(
        topics=Topics(settings.topic_prefix),
        admin=NamedLogAdmin(admin),
        access=access,
        tenants=RedisTenantStore(metadata),
        connections=RedisConnectionStore(metadata),
        live=live,
        serving=RedisServeStore(metadata),
        expiries=RedisSessionExpiries(metadata),
        virtual_shards=settings.virtual_shards,
    )
    fetch = fetcher(settings)
    recorder = Recorder(kube, metrics, time.time)
    reconcilers: list[Reconciler] = [
        tenant_reconciler(settings, kube, stores, fetch, recorder, TenantMetrics(metrics, CONDITIONS)),
        FleetReconciler(
            kube,
            RedisConnectionStore(metadata),
            RedisEdgeOrders(metadata),
            recorder,
            FleetMetrics(metrics),
            labels=settings.labels(),
            interval_s=settings.fleet_interval_s,
            busy_interval_s=settings.fleet_busy_interval_s,
        ),
    ]

    async def start() -> None:
        await kube.start(*(one.kind for one in reconcilers))

    async def stop_kafka() -> None:
        await admin.close()
        await access.close()

    return compose(
        settings,
        kube,
        watcher,
        reconcilers,
        metrics,
        readiness,
        liveness,
        start,
        kube.close,
        [
            Component("metadata", metadata.start, metadata.close, required=False),
            Component("live", live.start, live.close, required=False),
            Component("kafka", lambda: asked(admin), stop_kafka, required=False),
            Component("keys", nothing, fetch.close, required=False),
        ],
    )


async def asked(admin: KafkaLogAdmin) -> None:
    """Raise StoreError unless Kafka answers."""
    await admin.ping()


async def nothing() -> None:
    """Nothing to start."""


def fetcher(settings: OperatorSettings) -> JwksFetcher:
    """Who fetches keys from URLs."""
    return JwksFetcher(
        hosts=settings.jwks_hosts,
        private_hosts=settings.jwks_private_hosts,
        refresh_s=settings.jwks_refresh_s,
        timeout_s=settings.jwks_timeout_s,
        max_bytes=settings.jwks_max_bytes,
    )


def tenant_reconciler(
    settings: OperatorSettings,
    kube: Kube,
    stores: TenantStores,
    fetch: Fetch,
    recorder: Recorder,
    metrics: TenantMetrics,
) -> TenantReconciler:
    """The reconciler of Tenants, on any stores."""
    return TenantReconciler(
        kube,
        recorder,
        metrics,
        stores,
        KeySource(kube, fetch, development=settings.development),
        namespaces=settings.watch_namespaces,
        labels=settings.labels(),
        adoption=settings.adoption,
        refresh_s=settings.jwks_refresh_s,
        uniform=random.random,
    )


def compose(
    settings: OperatorSettings,
    kube: Kube,
    watcher: Watcher,
    reconcilers: Sequence[Reconciler],
    metrics: Metrics,
    readiness: Readiness,
    liveness: Liveness,
    start: Callable[[], Awaitable[None]],
    stop: Callable[[], Awaitable[None]],
    components: Sequence[Component] = (),
) -> Service:
    """The operator on any API server. `components`: what reconcilers stand on; none of it has to be there to begin."""
    retry = BackoffPolicy(settings.retry_base_s, max(settings.retry_base_s, settings.retry_cap_s))

    def make_queue(work: Work) -> WorkQueue:
        return WorkQueue(
            work,
            QueueMetrics(metrics),
            workers=settings.workers,
            timeout_s=settings.reconcile_timeout_s,
            retry=retry,
            retries=settings.retries,
            uniform=random.random,
        )

    manager = Manager(
        kube,
        watcher,
        reconcilers,
        make_queue,
        readiness.condition("lists"),
        liveness,
        namespaces=settings.watch_namespaces,
        resync_s=settings.resync_interval_s,
        check_s=settings.watch_check_interval_s,
        stuck_s=settings.watch_stuck_s,
        timeout_s=settings.reconcile_timeout_s,
        uniform=random.random,
        clock=time.monotonic,
    )
    readiness.condition("lists").ok()  # until one fails
    tasks = BackgroundTasks(metrics)

    async def start_work() -> None:
        tasks.spawn("queue", manager.queue.run)
        tasks.spawn("resync", manager.resync)
        tasks.spawn("watch_over", manager.watch_over)

    return Service(
        name="operator",
        version=VERSION,
        app=create_app(
            title="Heliograph operator", version=VERSION, metrics=metrics, readiness=readiness, liveness=liveness
        ),
        settings=settings,
        metrics=metrics,
        readiness=readiness,
        liveness=liveness,
        components=[
            *components,
            Component("kube", start, stop),
            Component("watch", manager.start, manager.stop, after=["kube"]),
            Component("work", start_work, tasks.close, after=["watch"]),
        ],
    )
