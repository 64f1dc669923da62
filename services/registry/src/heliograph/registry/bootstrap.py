"""The registry's composition root: the only place that builds real things."""

import importlib.metadata
import random
from collections.abc import Awaitable, Callable

from heliograph.registry import http
from heliograph.registry.census import Census
from heliograph.registry.reaper import Reaper
from heliograph.registry.settings import RegistrySettings
from heliograph.service.background import BackgroundTasks
from heliograph.service.health import Liveness, Readiness
from heliograph.service.http import create_app
from heliograph.service.lifecycle import Component, Service
from heliograph.service.metrics import Metrics
from heliograph.service.refusals import Refusals
from heliograph.service.store_events import show_store_events
from heliograph.service.tenants import TenantDirectory, instance_name
from heliograph.service.tokens import TokenVerifier
from heliograph.stores.ports import ConnectionStore, LiveStore, TenantStore

VERSION = importlib.metadata.version("heliograph-registry")


async def build(settings: RegistrySettings) -> Service:
    """The registry on Redis."""
    # Here, since it takes a fifth of a process's start, and one that runs on other stores has no use for it.
    from heliograph.stores.redis.live import RedisLiveStore  # noqa: PLC0415
    from heliograph.stores.redis.metadata import (  # noqa: PLC0415
        MetadataClient,
        RedisConnectionStore,
        RedisTenantStore,
    )

    metadata = MetadataClient(settings.metadata_url())
    live = RedisLiveStore(settings.live_url(), virtual_shards=settings.virtual_shards, uniform=random.random)
    return compose(
        settings, RedisConnectionStore(metadata), RedisTenantStore(metadata), live, metadata.start, metadata.close
    )


def compose(
    settings: RegistrySettings,
    store: ConnectionStore,
    tenants: TenantStore,
    live: LiveStore,
    start: Callable[[], Awaitable[None]],
    stop: Callable[[], Awaitable[None]],
) -> Service:
    """The registry on any stores."""
    metrics = Metrics("registry", VERSION)
    show_store_events(metrics)
    readiness, liveness = Readiness(), Liveness()
    directory = TenantDirectory(tenants, readiness.condition("tenants"), metrics, service=instance_name("registry"))
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
    app = create_app(
        title="Heliograph registry",
        version=VERSION,
        metrics=metrics,
        readiness=readiness,
        liveness=liveness,
        refusals=refusals,
    )
    http.install(app, store, verifier, metrics, settings.max_connections_per_page)
    census = Census(
        store,
        metrics,
        readiness.condition("census"),
        settings.census_interval_s,
        tenants=directory.all,
        tenants_shown=settings.census_tenants,
    )
    reaper = Reaper(store, live, metrics, readiness.condition("reaping"), interval_s=settings.reap_interval_s)
    tasks = BackgroundTasks(metrics)

    async def start_passes() -> None:
        tasks.spawn("tenants", directory.run)
        tasks.spawn("census", census.run)

    async def start_reaping() -> None:
        tasks.spawn("reaping", reaper.run)

    return Service(
        name="registry",
        version=VERSION,
        app=app,
        settings=settings,
        metrics=metrics,
        readiness=readiness,
        liveness=liveness,
        components=[
            Component("metadata", start, stop),
            Component("tenants", directory.start, after=["metadata"]),
            Component("census", start_passes, tasks.close, after=["tenants"], required=False),
            Component("live", live.start, live.close, required=False),
            Component("reaping", start_reaping, tasks.close, after=["metadata", "live"], required=False),
        ],
    )
