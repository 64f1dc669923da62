"""The edge's composition root: the only place that builds real things."""

import asyncio
import importlib.metadata
import logging
import random
import secrets
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from heliograph.core.addresses import ClientAddresses
from heliograph.core.pacing import HandshakeAdmission
from heliograph.edge.admission import AddressLimit, Admission
from heliograph.edge.announcing import Announcer
from heliograph.edge.connections import Connections
from heliograph.edge.cursors import Cursors
from heliograph.edge.endpoint import Endpoint
from heliograph.edge.expiring import HttpExpiries
from heliograph.edge.http import HttpPublishing
from heliograph.edge.joiner import History
from heliograph.edge.limits import admission_policy, connection_limits
from heliograph.edge.metrics import EdgeMetrics
from heliograph.edge.moving import Moving
from heliograph.edge.passes import LogCondition, answer_overdue, follow_pending, look_at_topics, watch_live
from heliograph.edge.pressure import EdgePressure
from heliograph.edge.pressure_settings import marks_of
from heliograph.edge.process_memory import cgroup_limit_bytes
from heliograph.edge.publishing import PublishLimits, PublishPath
from heliograph.edge.quotas import QuotaLeases
from heliograph.edge.registration import Registration
from heliograph.edge.requests import TenantRequests
from heliograph.edge.serving import Serving
from heliograph.edge.session_routes import SessionRoutes
from heliograph.edge.sessions import Sessions
from heliograph.edge.settings import EdgeSettings
from heliograph.edge.standing_orders import OrderTaker
from heliograph.edge.tick_writer import TickWriter
from heliograph.edge.usage import Usage
from heliograph.edge.websocket import ClientSocket
from heliograph.service.background import BackgroundTasks
from heliograph.service.expiries import ExpiryDirectory
from heliograph.service.garbage import collect_garbage_less
from heliograph.service.health import Liveness, Readiness
from heliograph.service.http import create_app
from heliograph.service.lifecycle import Component, Service, open_sockets
from heliograph.service.metrics import Metrics
from heliograph.service.refusals import Refusals
from heliograph.service.serving import ServeMarks
from heliograph.service.store_events import show_store_events
from heliograph.service.tenants import TenantDirectory, instance_name
from heliograph.service.tokens import TokenVerifier
from heliograph.service.topic_watch import TopicWatch
from heliograph.service.tracing import Tracing, otlp_exporter
from heliograph.stores.keys import Topics
from heliograph.stores.ports import (
    ConnectionStore,
    EdgeOrders,
    LiveStore,
    LogAdmin,
    LogWriter,
    QuotaStore,
    Rehydration,
    ServeStore,
    SessionExpiries,
    TenantStore,
)
from heliograph.stores.usage import UsageStore

VERSION = importlib.metadata.version("heliograph-edge")

DRAIN_REST_S = 1.0
DRAIN_REST_SHARE = 0.2
"""Of the time there is, at most, kept for a busy machine: a drain that is cut short would close all who are left at
once, and without the code that says why."""

ORDERS = "orders"
"""The condition that keeps an edge out of service by order."""

FLUSH_S = 3.0
"""For the log to take what is in flight at the end: what it doesn't take, the router writes."""


@dataclass
class Stores:
    """What the edge talks to, and how it is started and stopped."""

    live: LiveStore
    log: LogWriter
    admin: LogAdmin
    """Only asked."""
    tenants: TenantStore
    connections: ConnectionStore
    rehydration: Rehydration
    expiries: SessionExpiries
    quotas: QuotaStore
    usage: UsageStore
    serving: ServeStore
    orders: EdgeOrders
    start: Callable[[], Awaitable[None]]
    stop: Callable[[], Awaitable[None]]


def real_stores(settings: EdgeSettings) -> Stores:
    """Redis and Kafka."""
    # Here, since they take a fifth of a process's start, and one that runs on other stores has no use for them.
    from heliograph.stores.kafka import KafkaLogAdmin, KafkaLogWriter  # noqa: PLC0415
    from heliograph.stores.redis.live import RedisLiveStore  # noqa: PLC0415
    from heliograph.stores.redis.metadata import (  # noqa: PLC0415
        MetadataClient,
        RedisConnectionStore,
        RedisEdgeOrders,
        RedisQuotaStore,
        RedisRehydration,
        RedisServeStore,
        RedisSessionExpiries,
        RedisTenantStore,
        RedisUsageStore,
    )

    metadata = MetadataClient(settings.metadata_url())
    tokens = MetadataClient(settings.token_url())
    rehydration, serving = RedisRehydration(metadata), RedisServeStore(metadata)
    admin = KafkaLogAdmin(settings.kafka_config())

    async def stop() -> None:
        await admin.close()
        await serving.close()
        await rehydration.close()
        await metadata.close()
        await tokens.close()

    return Stores(
        RedisLiveStore(settings.live_url(), virtual_shards=settings.virtual_shards, uniform=random.random),
        KafkaLogWriter(
            settings.kafka_config(),
            linger_ms=settings.log_linger_ms,
            delivery_timeout_s=settings.log_delivery_timeout_s,
        ),
        admin,
        RedisTenantStore(metadata),
        RedisConnectionStore(metadata),
        rehydration,
        RedisSessionExpiries(metadata),
        RedisQuotaStore(tokens),
        RedisUsageStore(metadata),
        serving,
        RedisEdgeOrders(metadata),
        metadata.start,
        stop,
    )


class EdgeApp:
    """The edge's ASGI application: the WebSocket endpoint is met first, everything else is FastAPI's."""

    def __init__(self, connect: ASGIApp, http: ASGIApp) -> None:
        self._connect = connect
        self._http = http

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._connect(scope, receive, send)
        else:
            await self._http(scope, receive, send)


async def build(settings: EdgeSettings) -> Service:
    """The edge on real stores."""
    stores = real_stores(settings)
    collect_garbage_less()
    return compose(settings, stores)


def compose(settings: EdgeSettings, stores: Stores) -> Service:
    """The edge on any stores. Must be called on the event loop that it will run on."""
    loop = asyncio.get_running_loop()
    metrics = Metrics("edge", VERSION)
    show_store_events(metrics)
    edge_metrics = EdgeMetrics(metrics)
    readiness, liveness = Readiness(), Liveness()
    tracing = Tracing(
        service="edge",
        version=VERSION,
        metrics=metrics,
        exporter=otlp_exporter(settings.otlp_endpoint),
        sample_ratio=settings.trace_sample_ratio,
        spans_per_s=settings.trace_spans_per_s,
        starts_traces=True,
    )
    directory = TenantDirectory(stores.tenants, readiness.condition("tenants"), metrics, service=instance_name("edge"))
    topics = Topics(settings.topic_prefix)
    watch = TopicWatch(readiness.condition("topics"), metrics, stores.admin)
    readiness.condition("topics").ok()
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
    sockets = open_sockets(metrics, settings)
    writer = TickWriter(loop)
    path = PublishPath(
        stores.live,
        stores.log,
        edge_metrics,
        tracing,
        PublishLimits(
            settings.durable_wait_s,
            settings.log_in_flight_per_tenant,
            telemetry_sample=settings.telemetry_sample_ratio,
        ),
    )
    cursors = Cursors(stores.live, edge_metrics)
    history = History(
        stores.live, stores.rehydration, cursors, expiries, edge_metrics,
        settings.rehydration_timeout_s, settings.history_reads,
    )  # fmt: skip
    sessions = Sessions(stores.live, history, writer, edge_metrics)
    quotas = QuotaLeases(stores.quotas, stores.connections, edge_metrics, readiness.condition("quotas"))
    name = settings.edge_name or f"{socket.gethostname()}-{settings.port}"
    incarnation = secrets.token_urlsafe(9)
    marks = ServeMarks(stores.serving, metrics)
    serving = Serving(
        stores.serving, marks, cursors, sessions, edge_metrics,
        edge=name, incarnation=incarnation, check_s=settings.serve_check_s,
    )  # fmt: skip

    usage = Usage(
        stores.usage,
        edge_metrics,
        readiness.condition("usage"),
        edge=name,
        incarnation=incarnation,
        lease_s=settings.lease_s,
    )
    sessions.on_followed, sessions.on_unfollowed = usage.followed, usage.unfollowed
    admission = Admission(
        HandshakeAdmission(admission_policy(settings), random.random),
        sockets,
        usage,
        AddressLimit(
            settings.connections_per_address,
            ClientAddresses(settings.trusted_proxies),
            header=settings.trusted_proxy_header,
            direct=settings.limit_direct_addresses,
        ),
        edge_metrics,
    )
    connections = Connections(
        directory,
        verifier,
        stores.live,
        cursors,
        serving,
        marks,
        topics,
        edge_metrics,
        quotas,
        admission,
        usage,
        virtual_shards=settings.virtual_shards,
        subscribe_timeout_s=settings.subscribe_timeout_s,
        refusals=refusals,
    )

    def tell(notice: bytes | None) -> None:
        connections.notice = notice

    pressure = EdgePressure(
        stores.live,
        stores.log,
        path,
        edge_metrics,
        marks_of(settings),
        outbound_bytes=lambda: connections.outbound_bytes,
        memory_limit_bytes=settings.memory_limit_bytes or cgroup_limit_bytes(),
        told=tell,
    )
    address = settings.advertise_address or f"{settings.host}:{settings.port}"
    announcer = Announcer(
        stores.live,
        edge_metrics,
        edge=name,
        subscribers_most=settings.presence_subscribers,
        draining=lambda: connections.draining,
    )
    sessions.on_joined, sessions.on_left = announcer.joined, announcer.left
    registration = Registration(
        stores.connections,
        connections,
        announcer,
        edge_metrics,
        readiness.condition("registry"),
        edge=name,
        address=lambda: address,
        lease_s=settings.lease_s,
        incarnation=incarnation,
        ready=lambda: readiness.ready,
    )
    moving = Moving(connections, edge_metrics)
    orders = OrderTaker(
        stores.orders,
        moving,
        connections,
        edge_metrics,
        readiness.condition(ORDERS),
        edge=name,
        incarnation=incarnation,
        notice_s=settings.drain_notice_s,
        changed=registration.hurry,
    )
    registration.report = orders.report

    def takes_clients() -> bool:
        """Clients are still taken in while a balancer learns that it is over (`drain_notice_s`)."""
        if readiness.ready:
            return True
        if connections.draining or not (readiness.draining or orders.noticing):
            return False
        return set(readiness.waiting_for()) <= ({ORDERS} if orders.noticing else set())

    admission.ready = takes_clients
    admission.refuse_new = lambda: "overloaded" if pressure.overloaded else None
    endpoint = Endpoint(
        connections,
        sessions,
        path,
        writer,
        edge_metrics,
        connection_limits(settings, name),
        admission,
        settings.allowed_origins,
    )
    sockets.on_refused = endpoint.refused
    app = create_app(
        title="Heliograph edge",
        version=VERSION,
        metrics=metrics,
        readiness=readiness,
        liveness=liveness,
        max_request_bytes=settings.http_request_bytes,
        refusals=refusals,
    )
    requests = TenantRequests(settings.http_requests_per_tenant, edge_metrics)
    routes = SessionRoutes(app, connections, requests, verifier, takes_clients)
    HttpPublishing(connections, path, edge_metrics, batch_messages=settings.http_batch_messages).install(routes)
    HttpExpiries(stores.live, stores.log, stores.expiries, edge_metrics).install(routes)
    tasks = BackgroundTasks(metrics)
    log_condition = readiness.condition("log")
    path.log_failed = log_condition.degraded
    log_answers = LogCondition(log_condition, stores.log)

    async def start_live() -> None:
        await stores.live.start(sessions)

    async def start_passes() -> None:
        await orders.look()  # an edge that is out of service by order is not ready for a moment when it starts again
        tasks.spawn("standing orders", orders.run)
        tasks.spawn("tenants", directory.run)
        tasks.spawn("expiries", expiries.run)
        tasks.spawn(
            "topics",
            lambda: look_at_topics(watch, directory, topics, settings.topics_check_s, log_answers.answered),
        )
        tasks.spawn("connections", connections.look_after)
        tasks.spawn("heads", lambda: sessions.check_heads(settings.heads_interval_s))
        tasks.spawn("cursors", cursors.run)
        tasks.spawn("quotas", quotas.run)
        tasks.spawn("usage", usage.run)
        tasks.spawn("edges", quotas.count_edges)
        tasks.spawn("serve marks", marks.tell)
        tasks.spawn("serve kinds", marks.follow)
        tasks.spawn("serving", serving.run)
        tasks.spawn("orders", serving.take_orders)
        tasks.spawn("workers", serving.look_after)
        tasks.spawn("overdue", lambda: answer_overdue(path))
        tasks.spawn("pending", lambda: follow_pending(path))
        tasks.spawn("pressure", pressure.run)
        tasks.spawn("live memory", pressure.ask)
        tasks.spawn("stores", lambda: watch_live(stores.live, readiness.condition("live")))

    async def stop_passes() -> None:
        await tasks.close()
        await cursors.flush()
        await serving.close()
        await sessions.close()
        await usage.leave()
        tracing.shutdown()

    async def start_registration() -> None:
        tasks.spawn("registration", registration.run)
        tasks.spawn("presence", announcer.run)

    async def stop_log() -> None:
        await stores.log.close(FLUSH_S)

    async def drain() -> None:
        await orders.close()
        within_s = max(settings.drain_timeout_s - settings.drain_notice_s, 0.0)
        await moving.drain(within_s - min(DRAIN_REST_S, DRAIN_REST_SHARE * within_s))

    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # else a line for every connection
    ClientSocket.send_buffer_bytes = settings.socket_send_buffer_bytes
    return Service(
        name="edge",
        version=VERSION,
        app=EdgeApp(endpoint, app),
        settings=settings,
        metrics=metrics,
        readiness=readiness,
        liveness=liveness,
        components=[
            Component("metadata", stores.start, stores.stop),
            Component("tenants", directory.start, after=["metadata"]),
            Component("expiries", expiries.start, after=["metadata"]),
            Component("live", start_live, stores.live.close),
            Component("log", stores.log.start, stop_log, required=False),
            Component("passes", start_passes, stop_passes, after=["tenants", "expiries", "live"]),
            Component("registry", start_registration, registration.release, after=["passes"], required=False),
        ],
        drain=drain,
        sockets=sockets,
        uvicorn_options={
            "ws": ClientSocket,
            "ws_max_size": settings.payload_ceiling_bytes + 8 * 1024,
            "ws_per_message_deflate": False,
            "ws_ping_interval": None,
        },
    )
