"""The router's composition root: the only place that builds real things."""

import asyncio
import importlib.metadata
import random
import secrets
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from heliograph.router.confirming import Confirmer
from heliograph.router.dead_letters import DeadLetters
from heliograph.router.deferring import Deferrer
from heliograph.router.dispatching import Dispatcher
from heliograph.router.expiring import ExpiryKeeper
from heliograph.router.indexing import Indexer
from heliograph.router.metrics import RouterMetrics
from heliograph.router.passes import Passes
from heliograph.router.progress import Progress
from heliograph.router.reconciling import ReconcileLimits, Reconciler
from heliograph.router.routing import Router
from heliograph.router.settings import RouterSettings
from heliograph.router.sharing import ShardShares
from heliograph.router.tending import Tending, TendingLimits
from heliograph.router.topics import TopicTable
from heliograph.router.voiding import Voider
from heliograph.service.background import BackgroundTasks
from heliograph.service.health import Liveness, Readiness
from heliograph.service.http import create_app
from heliograph.service.lifecycle import Component, Service
from heliograph.service.metrics import Metrics
from heliograph.service.serving import ServeMarks
from heliograph.service.store_events import show_store_events
from heliograph.service.tenants import TenantDirectory, instance_name
from heliograph.service.topic_watch import TopicWatch
from heliograph.stores.keys import Topics
from heliograph.stores.ports import (
    ConnectionStore,
    Leases,
    LiveStore,
    LogAdmin,
    LogConsumer,
    LogReader,
    LogWriter,
    PositionIndex,
    ServeStore,
    SessionExpiries,
    TenantStore,
)

VERSION = importlib.metadata.version("heliograph-router")

FLUSH_S = 2.0
"""For records under way at the end; what the log doesn't take is written by another router."""


@dataclass
class Stores:
    """What the router talks to, and how it is started and stopped."""

    live: LiveStore
    consumer: LogConsumer
    writer: LogWriter
    reader: LogReader
    admin: LogAdmin
    tenants: TenantStore
    index: PositionIndex
    leases: Leases
    connections: ConnectionStore
    serving: ServeStore
    expiries: SessionExpiries
    start_metadata: Callable[[], Awaitable[None]]
    stop_metadata: Callable[[], Awaitable[None]]
    find_log: Callable[[], Awaitable[object]]
    """Raise StoreError unless the log answers."""
    stop_admin: Callable[[], Awaitable[None]]


def real_stores(settings: RouterSettings) -> Stores:
    """Redis and Kafka."""
    # Here, since they take a fifth of a process's start, and one that runs on other stores has no use for them.
    from heliograph.stores.kafka import (  # noqa: PLC0415
        KafkaLogAdmin,
        KafkaLogConsumer,
        KafkaLogReader,
        KafkaLogWriter,
    )
    from heliograph.stores.redis.live import RedisLiveStore  # noqa: PLC0415
    from heliograph.stores.redis.metadata import (  # noqa: PLC0415
        MetadataClient,
        RedisConnectionStore,
        RedisLeases,
        RedisPositionIndex,
        RedisServeStore,
        RedisSessionExpiries,
        RedisTenantStore,
    )

    metadata = MetadataClient(settings.metadata_url())
    serving = RedisServeStore(metadata)
    kafka = settings.kafka_config()
    admin = KafkaLogAdmin(kafka)

    async def stop_metadata() -> None:
        await serving.close()
        await metadata.close()

    return Stores(
        live=RedisLiveStore(settings.live_url(), virtual_shards=settings.virtual_shards, uniform=random.random),
        consumer=KafkaLogConsumer(
            kafka,
            settings.group or f"{settings.topic_prefix}.router",
            protocol=settings.group_protocol,
            session_timeout_s=settings.group_session_timeout_s,
        ),
        writer=KafkaLogWriter(kafka, delivery_timeout_s=settings.log_delivery_timeout_s),
        reader=KafkaLogReader(kafka, pool_size=1),
        admin=admin,
        tenants=RedisTenantStore(metadata),
        index=RedisPositionIndex(metadata),
        leases=RedisLeases(metadata),
        connections=RedisConnectionStore(metadata),
        serving=serving,
        expiries=RedisSessionExpiries(metadata),
        start_metadata=metadata.start,
        stop_metadata=stop_metadata,
        find_log=admin.ping,
        stop_admin=admin.close,
    )


async def build(settings: RouterSettings) -> Service:
    """The router on real stores."""
    return compose(settings, real_stores(settings))


def compose(settings: RouterSettings, stores: Stores) -> Service:
    """The router on any stores. Must be called on the event loop that it will run on."""
    metrics = Metrics("router", VERSION)
    show_store_events(metrics)
    counted = RouterMetrics(metrics)
    readiness, liveness = Readiness(), Liveness()
    names = Topics(settings.topic_prefix)
    directory = TenantDirectory(
        stores.tenants, readiness.condition("tenants"), metrics, service=instance_name("router")
    )
    watch = TopicWatch(readiness.condition("topics"), metrics, stores.admin)
    topics = TopicTable(directory, names, watch)
    progress = Progress()
    dead_letters = DeadLetters(
        names.dead,
        stores.writer,
        stores.reader,
        stores.admin,
        progress,
        counted,
        pending_bytes=settings.dead_pending_bytes,
        retention_s=settings.dead_retention_s,
    )
    deferrer = Deferrer(
        stores.live,
        stores.writer,
        directory,
        names,
        dead_letters,
        progress,
        counted,
        virtual_shards=settings.virtual_shards,
        pending_bytes=settings.deferred_pending_bytes,
    )
    marks = ServeMarks(stores.serving, metrics)
    expiries = ExpiryKeeper(stores.expiries, directory, counted)
    indexer = Indexer(
        stores.index,
        topics,
        counted,
        positions=settings.index_positions,
        interval_s=settings.index_interval_s,
        sessions=settings.index_sessions,
    )
    router = Router(
        stores.consumer,
        topics,
        Confirmer(stores.live, counted, readiness.condition("live")),
        indexer,
        dead_letters,
        deferrer,
        expiries,
        progress,
        marks,
        counted,
        readiness.condition("log"),
        batch_records=settings.batch_records,
        commit_interval_s=settings.commit_interval_s,
    )
    name = settings.router_name or socket.gethostname()
    holder = f"{name}/{secrets.token_hex(6)}"
    shares = ShardShares(
        stores.leases,
        counted,
        holder=holder,
        shards=settings.virtual_shards,
        ttl_s=settings.lease_s,
    )
    reconciler = Reconciler(
        stores.live,
        stores.consumer,
        stores.writer,
        directory,
        names,
        shares,
        counted,
        ReconcileLimits(
            settings.log_delivery_timeout_s, settings.reconcile_margin_s, settings.reconcile_messages_per_s
        ),
    )
    voider = Voider(
        stores.live,
        directory,
        names,
        topics,
        shares,
        counted,
        messages_per_s=settings.reconcile_messages_per_s / 2,
    )

    def recreated(topic: str) -> None:
        indexer.forget()
        reconciler.forget(topic)
        voider.recreated(topic)

    watch.listen(recreated)
    metrics.sampled_gauge(
        "read_held_up_seconds",
        "How long the present call of Kafka's client library lasts; past read_stuck_s the router ends.",
        stores.consumer.held_up_s,
    )
    passes = Passes(
        directory,
        topics,
        stores.consumer,
        stores.live,
        shares,
        reconciler,
        counted,
        readiness.condition("live"),
        liveness,
        settings,
    )
    dispatcher = Dispatcher(
        stores.serving, stores.live, stores.leases, counted, holder=holder, ttl_s=settings.dispatch_lease_s
    )
    tending = Tending(
        dispatcher,
        stores.serving,
        stores.connections,
        stores.live,
        counted,
        TendingLimits(settings.edge_lease_s, settings.take_up_s, settings.unserved_keep_s, settings.serve_rescan_s),
        shards=settings.virtual_shards,
    )
    tasks = BackgroundTasks(metrics)

    async def start_log() -> None:
        await stores.find_log()
        await stores.writer.start()
        await stores.reader.start()
        topics.refresh()
        await topics.identify()

    async def stop_log() -> None:
        await stores.reader.close()
        await stores.writer.close(FLUSH_S)
        await stores.stop_admin()

    async def start_dispatching() -> None:
        tasks.spawn("serve marks", marks.tell)
        tasks.spawn("serve kinds", marks.follow)
        tasks.spawn("dispatch leases", dispatcher.keep)
        tasks.spawn("dispatch", dispatcher.run)
        tasks.spawn("dispatch sweep", tending.sweep)
        tasks.spawn("dispatch scan", tending.scan)

    async def stop_dispatching() -> None:
        await tasks.close()
        await dispatcher.release()

    async def start_group() -> None:
        await stores.consumer.start(topics.refresh())
        tasks.spawn("router", router.run)
        tasks.spawn("dead letters", dead_letters.run)
        tasks.spawn("deferred", deferrer.follow)
        tasks.spawn("tenants", directory.run)
        tasks.spawn("expiries", expiries.run)
        tasks.spawn("void", voider.run)
        tasks.spawn("old expiries", expiries.keep_small)
        passes.start(tasks)

    async def stop_group() -> None:
        await tasks.close()
        await deferrer.close()
        await asyncio.gather(router.commit(), shares.release())
        await stores.consumer.close()

    return Service(
        name="router",
        version=VERSION,
        app=create_app(
            title="Heliograph router", version=VERSION, metrics=metrics, readiness=readiness, liveness=liveness
        ),
        settings=settings,
        metrics=metrics,
        readiness=readiness,
        liveness=liveness,
        components=[
            Component("metadata", stores.start_metadata, stores.stop_metadata),
            Component("tenants", directory.start, after=["metadata"]),
            Component("live", stores.live.start, stores.live.close),
            Component("dispatch", start_dispatching, stop_dispatching, after=["metadata", "live"]),
            Component("log", start_log, stop_log, after=["tenants"]),
            Component("group", start_group, stop_group, after=["log", "live"]),
        ],
    )
