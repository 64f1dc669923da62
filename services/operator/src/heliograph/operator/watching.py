"""Watching, by kopf: nothing else of it is used.

Its `on.event` handlers only tell that something changed: they store nothing in objects, put no finalizers or
annotations on them, and need no peering, no timers, no daemons. It runs in a thread with an event loop of its own:
kopf takes over signals where it runs in the main thread, and ends every other task of its loop when it stops. Each of
several namespaces has such a thread: one that is gone, and the rights there with it, ends no other one's watch.

This must never miss that watching ended: it begins again, is counted, and shown in readiness.
"""

import asyncio
import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import kopf

from heliograph.core.backoff import Backoff, BackoffPolicy
from heliograph.operator.kube import Kind, Object
from heliograph.operator.login import Login
from heliograph.operator.metrics import KubeMetrics
from heliograph.service.health import Condition, describe_error
from heliograph.service.logs import get_logger

RESTART = BackoffPolicy(base_s=1.0, cap_s=30.0, healthy_s=60.0)
"""Of watching that ended: an API server that is away is kopf's own to wait for; this is what it gave up on."""

STOP_TIMEOUT_S = 3.0
"""For the threads to end; they are daemon threads, the process does not wait longer."""

Changed = Callable[[Kind, Object, bool], None]
"""Told the kind, the object, and whether it is gone; on the event loop of whoever started the watcher."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class WatchTimes:
    """How watching is kept from stalling unnoticed."""

    server_timeout_s: float
    client_timeout_s: float
    connect_timeout_s: float
    inactivity_timeout_s: float


class Watcher(Protocol):
    """Tells of every change of some kinds, all that exists first."""

    async def start(self, watched: Mapping[Kind, str], changed: Changed) -> None:
        """`watched`: kinds, each with the label selector that narrows it (empty: none)."""

    async def stop(self) -> None: ...


class KopfWatcher:
    """`Watcher`."""

    def __init__(
        self,
        login: Login,
        metrics: KubeMetrics,
        condition: Condition,
        *,
        namespaces: Sequence[str],
        times: WatchTimes,
        page_objects: int = 500,
    ) -> None:
        """`namespaces`: empty for all."""
        self._login = login
        self._metrics = metrics
        self._condition = condition
        self._namespaces = tuple(namespaces)
        self._times = times
        self._page_objects = page_objects
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._problems: dict[str | None, object] = {}
        """What ended watching a namespace (None: all), where it has not begun again."""

    async def start(self, watched: Mapping[Kind, str], changed: Changed) -> None:
        loop = asyncio.get_running_loop()
        self._stop.clear()
        for where in self._namespaces or (None,):
            name = "watching" if where is None else f"watching {where}"
            arguments = (where, dict(watched), changed, loop)
            self._threads.append(threading.Thread(target=self._run, args=arguments, name=name, daemon=True))
            self._threads[-1].start()

    async def stop(self) -> None:
        self._stop.set()
        threads, self._threads = self._threads, []
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for thread in threads:
            left_s = max(0.0, deadline - time.monotonic())
            await asyncio.get_running_loop().run_in_executor(None, thread.join, left_s)

    def _stands(self, where: str | None, problem: object) -> None:
        """A watch began (None), or has ended by this."""
        self._problems.pop(where, None)
        if problem is not None:
            self._problems[where] = problem
        if self._problems:
            self._condition.degraded(next(iter(self._problems.values())))
        else:
            self._condition.ok()

    def _run(
        self,
        where: str | None,
        watched: Mapping[Kind, str],
        changed: Changed,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        backoff = Backoff(RESTART, random.random)

        def tell(problem: object) -> None:
            if not self._stop.is_set():
                loop.call_soon_threadsafe(self._stands, where, problem)

        while not self._stop.is_set():
            backoff.succeeded(time.monotonic())
            tell(None)
            problem: object = "watching ended by itself"
            try:
                with asyncio.Runner() as runner:
                    runner.run(self._watch(where, watched, changed, loop))
            except Exception as error:  # noqa: BLE001 - whatever ended it, it begins again; it is shown and counted
                problem = error
            if self._stop.is_set():
                return
            delay_s = backoff.failed(time.monotonic())
            self._metrics.restarted()
            fields = {"namespace": where} if where is not None else {}
            log.error("watching_ended", **fields, error=describe_error(problem), again_in_s=round(delay_s, 3))
            tell(problem)
            self._stop.wait(delay_s)

    async def _watch(
        self,
        where: str | None,
        watched: Mapping[Kind, str],
        changed: Changed,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        logging.getLogger("kopf").setLevel(logging.WARNING)  # it tells of every event otherwise
        logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)  # that it leaves signals to us
        registry = kopf.OperatorRegistry()
        settings = self._settings(watched)

        @kopf.on.login(registry=registry, errors=kopf.ErrorsMode.PERMANENT)
        async def logging_in(**_: Any) -> kopf.ConnectionInfo:
            return self._login()

        for kind in watched:
            kopf.on.event(kind.group, kind.version, kind.plural, registry=registry, id=kind.plural)(
                self._handler(kind, changed, loop)
            )
        scope = {"namespaces": [where]} if where is not None else {"clusterwide": True}
        await kopf.operator(registry=registry, settings=settings, standalone=True, stop_flag=self._stop, **scope)

    def _handler(self, kind: Kind, changed: Changed, loop: asyncio.AbstractEventLoop) -> Callable[..., Any]:
        async def handler(event: Mapping[str, Any], **_: Any) -> None:
            self._metrics.change(kind.kind)
            body: Object = {"apiVersion": kind.api_version, "kind": kind.kind, **event["object"]}
            loop.call_soon_threadsafe(changed, kind, body, event["type"] == "DELETED")

        return handler

    def _settings(self, watched: Mapping[Kind, str]) -> kopf.OperatorSettings:
        settings = kopf.OperatorSettings()
        settings.process.ultimate_exiting_timeout = None  # kopf would kill the process; it is not kopf's
        settings.posting.enabled = False
        settings.scanning.disabled = True  # no right to watch all CRDs and namespaces is asked for
        settings.watching.server_timeout = int(self._times.server_timeout_s)  # the API takes whole seconds
        settings.watching.client_timeout = self._times.client_timeout_s
        settings.watching.connect_timeout = self._times.connect_timeout_s
        settings.watching.inactivity_timeout = self._times.inactivity_timeout_s
        settings.networking.connect_timeout = self._times.connect_timeout_s  # of the list that a watch begins with
        settings.networking.request_timeout = self._times.inactivity_timeout_s
        settings.watching.chunk_size = self._page_objects
        for kind, labels in watched.items():
            if labels:
                settings.watching.label_selectors[(kind.group, kind.version, kind.plural)] = labels
        return settings
