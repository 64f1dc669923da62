"""Replay's composition root: the only place that builds real things."""

import asyncio
import importlib.metadata
import random
import secrets
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from heliograph.replay.export_handlers import Export
from heliograph.replay.exporting import Exporter
from heliograph.replay.handlers import History, HistoryLimits
from heliograph.replay.metrics import ReplayMetrics
from heliograph.replay.places import Locator
from heliograph.replay.reading import Limits
from heliograph.replay.rehydrating import Rehydrator
from heliograph.replay.scanning import Sources
from heliograph.replay.settings import ReplaySettings
from heliograph.replay.slots import ReadSlots
from heliograph.service.background import BackgroundTasks
from heliograph.service.expiries import ExpiryDirectory
from heliograph.service.garbage import collect_garbage_less
from heliograph.service.health import Condition, Liveness, Readiness
from heliograph.service.http import create_app
from heliograph.service.lifecycle import Component, Service
from heliograph.service.metrics import Metrics
from heliograph.service.refusals import Refusals
from heliograph.service.store_events import show_store_events
from heliograph.service.tenants import TenantDirectory, instance_name
from heliograph.service.tokens import TokenVerifier
from heliograph.service.topic_watch import TopicWatch
from heliograph.stores.keys import Topics
from heliograph.stores.ports import (
    LiveStore,
    LogReader,
    PositionIndex,
    Rehydration,
    SessionExpiries,
    TenantStore,
)

VERSION = importlib.metadata.version("heliograph-replay")

WATCH_S = 0.5
"""Between looks at whether the live store is there."""

YOUNG = 50_000
"""Containers that live until the garbage collector looks: a read makes some 20 a record, all gone with their batch and
in no cycle. Looking through them every 700, Python's default, costs a quarter of a read's CPU."""


@dataclass
class Stores:
    """What replay talks to, and how it is started and stopped."""

    live: LiveStore
    http_log: LogReader
    edge_log: LogReader
    """For edges' requests, so that exports never hold them up."""
    tenants: TenantStore
    index: PositionIndex
    rehydration: Rehydration
    expiries: SessionExpiries
    start: Callable[[], Awaitable[None]]
    stop: Callable[[], Awaitable[None]]


def real_stores(settings: ReplaySettings) -> Stores:
    """Redis and Kafka."""
    # Here, since they take a fifth of a process's start, and one that runs on other stores has no use for them.
    from heliograph.stores.kafka import KafkaLogReader  # noqa: PLC0415
    from heliograph.stores.redis.live import RedisLiveStore  # noqa: PLC0415
    from heliograph.stores.redis.metadata import (  # noqa: PLC0415
        MetadataClient,
        RedisPositionIndex,
        RedisRehydration,
        RedisSessionExpiries,
        RedisTenantStore,
    )

    metadata = MetadataClient(settings.metadata_url())
    rehydration = RedisRehydration(
        metadata,
        tenant_bytes=settings.rehydration_tenant_bytes,
        total_bytes=settings.rehydration_total_bytes,
        claim_idle_s=settings.rehydration_seconds + 1.0,
    )

    async def stop() -> None:
        await rehydration.close()
        await metadata.close()

    return Stores(
        RedisLiveStore(settings.live_url(), virtual_shards=settings.virtual_shards, uniform=random.random),
        KafkaLogReader(settings.kafka_config(), pool_size=settings.http_readers),
        KafkaLogReader(settings.kafka_config(), pool_size=settings.rehydration_readers),
        RedisTenantStore(metadata),
        RedisPositionIndex(metadata),
        rehydration,
        RedisSessionExpiries(metadata),
        metadata.start,
        stop,
    )


async def build(settings: ReplaySettings) -> Service:
    """Replay on real stores."""
    stores = real_stores(settings)
    collect_garbage_less(YOUNG)
    return compose(settings, stores)


def compose(settings: ReplaySettings, stores: Stores) -> Service:
    """Replay on any stores. Must be called on the event loop that it will run on."""
    metrics = Metrics("replay", VERSION)
    show_store_events(metrics)
    counts = ReplayMetrics(metrics)
    readiness, liveness = Readiness(), Liveness()
    directory = TenantDirectory(
        stores.tenants, readiness.condition("tenants"), metrics, service=instance_name("replay")
    )
    expiries = ExpiryDirectory(stores.expiries, readiness.condition("expiries"), metrics)
    refusals = Refusals(settings.refusal_log_interval_s)
    verifier = TokenVerifier(
        directory.find,
        metrics,
        audience=settings.jwt_audience,
        leeway_s=settings.jwt_leeway_s,
        development=settings.development,
        max_remembered=settings.verified_tokens,
        refusals=refusals,
    )
    topics = Topics(settings.topic_prefix)
    watch = TopicWatch(readiness.condition("topics"), metrics)
    readiness.condition("topics").ok()
    http_slots = ReadSlots(
        total=settings.http_readers,
        per_tenant=settings.http_readers_per_tenant,
        waiting=settings.http_waiting,
        wait_s=settings.http_wait_s,
    )
    metrics.sampled_gauge("reads_held", "HTTP requests that read the log now.", lambda: http_slots.held)
    metrics.sampled_gauge("reads_waiting", "HTTP requests that wait for a reader.", lambda: http_slots.waiting)
    stream = Limits(settings.stream_messages, settings.stream_bytes, settings.stream_seconds)
    history = History(
        Locator(
            stores.http_log,
            stores.live,
            stores.index,
            topics,
            counts,
            watch,
            beginning_scan_records=settings.beginning_scan_records,
        ),
        Sources(stores.http_log, stores.live, counts, settings.settle_s),
        directory.find,
        expiries,
        http_slots,
        counts,
        HistoryLimits(
            page=Limits(settings.page_messages, settings.page_bytes, settings.page_seconds),
            stream=stream,
        ),
        lambda: readiness.draining,
    )
    export = Export(
        Exporter(stores.http_log, topics, expiries, counts),
        directory.find,
        http_slots,
        stream,
        lambda: readiness.draining,
    )
    rehydrator = Rehydrator(
        stores.rehydration,
        Locator(
            stores.edge_log,
            stores.live,
            stores.index,
            topics,
            counts,
            watch,
            beginning_scan_records=settings.beginning_scan_records,
        ),
        Sources(stores.edge_log, stores.live, counts, settings.settle_s),
        directory.find,
        expiries,
        counts,
        worker=f"{socket.gethostname()}-{settings.port}-{secrets.token_hex(4)}",
        readers=settings.rehydration_readers,
        readers_per_tenant=settings.rehydration_readers_per_tenant,
        seconds=settings.rehydration_seconds,
    )
    app = create_app(
        title="Heliograph replay",
        version=VERSION,
        metrics=metrics,
        readiness=readiness,
        liveness=liveness,
        refusals=refusals,
    )
    history.install(app, verifier)
    export.install(app, verifier)
    tasks = BackgroundTasks(metrics)

    async def stop_log() -> None:
        await stores.http_log.close()
        await stores.edge_log.close()

    async def start_log() -> None:
        try:
            await stores.http_log.start()
            await stores.edge_log.start()
            await stores.http_log.partitions(topics.dead)  # any answer will do; of another prefix none is given
        except BaseException:
            await stop_log()
            raise

    async def start_work() -> None:
        tasks.spawn("tenants", directory.run)
        tasks.spawn("expiries", expiries.run)
        tasks.spawn("rehydration", rehydrator.run)
        tasks.spawn("live", lambda: _watch(stores.live, readiness.condition("live")))

    return Service(
        name="replay",
        version=VERSION,
        app=app,
        settings=settings,
        metrics=metrics,
        readiness=readiness,
        liveness=liveness,
        components=[
            Component("metadata", stores.start, stores.stop),
            Component("tenants", directory.start, after=["metadata"]),
            Component("expiries", expiries.start, after=["metadata"]),
            Component("live", stores.live.start, stores.live.close, required=False),
            Component("log", start_log, stop_log),
            Component("work", start_work, tasks.close, after=["tenants", "expiries", "log"]),
        ],
    )


async def _watch(live: LiveStore, condition: Condition) -> None:
    """Without the live store history is served from the log alone: slower, and it ends before what may be under way."""
    while True:
        if live.available:
            condition.ok()
        else:
            condition.degraded("the connection to the live store is down")
        await asyncio.sleep(WATCH_S)
