"""The operator's composition root: the only place that builds real things."""

import importlib.metadata
import random
import time
from collections.abc import Awaitable, Callable, Sequence

from heliograph.core.backoff import BackoffPolicy
from heliograph.operator.kube import Kube
from heliograph.operator.kube_http import HttpKube
from heliograph.operator.login import login
from heliograph.operator.manager import Manager
from heliograph.operator.metrics import KubeMetrics, QueueMetrics
from heliograph.operator.queue import Work, WorkQueue
from heliograph.operator.reconciler import Reconciler
from heliograph.operator.settings import OperatorSettings
from heliograph.operator.watching import KopfWatcher, Watcher, WatchTimes
from heliograph.service.background import BackgroundTasks
from heliograph.service.health import Liveness, Readiness
from heliograph.service.http import create_app
from heliograph.service.lifecycle import Component, Service
from heliograph.service.metrics import Metrics

VERSION = importlib.metadata.version("heliograph-operator")


async def build(settings: OperatorSettings) -> Service:
    """The operator on a real API server."""
    metrics, readiness, liveness = Metrics("operator", VERSION), Readiness(), Liveness()
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
    reconcilers: list[Reconciler] = []

    async def start() -> None:
        await kube.start(*(one.kind for one in reconcilers))

    return compose(settings, kube, watcher, reconcilers, metrics, readiness, liveness, start, kube.close)


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
