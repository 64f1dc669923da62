"""A service's life: start what it is made of in any order of the world, serve, drain, stop.

    listen (probes answer) → start the components, each retried until it works → ready
    SIGTERM → not ready → notice time → drain hook → uvicorn's shutdown → components stop, last first → exit

The port is open from the first moment, so that `/readyz` can say what the service waits for. Nothing here gives up on a
dependency: a service that exits because Redis is late only adds a crash loop to the outage.

uvicorn's own signal handling is switched off: it would close all connections at once, before the drain.
"""

import asyncio
import contextlib
import logging
import math
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

import uvicorn
import uvloop

from heliograph.core.backoff import Backoff, BackoffPolicy
from heliograph.service.accepting import Acceptor
from heliograph.service.command_line import ExitCode, read_command_line, unknown_variables
from heliograph.service.health import Condition, Liveness, Readiness, describe_error
from heliograph.service.http_protocol import HttpGuard, HttpTimes
from heliograph.service.logs import configure_logs, get_logger
from heliograph.service.metrics import Metrics
from heliograph.service.settings import ServiceSettings
from heliograph.service.sockets import OpenSockets, descriptor_limit, raise_descriptor_limit
from heliograph.service.watchdog import LoopWatchdog

START_RETRY = BackoffPolicy(base_s=0.25, cap_s=3.0, healthy_s=0.0)
"""Of a component that can't start: what it waits for is back at most this much before us."""

START_ATTEMPT_S = 30.0
"""Of one attempt: one that hangs longer (a firewall that drops) must become an error somebody can read."""

BACKLOG = 2_048
"""Connections the kernel accepts before we do: a reconnect storm queues instead of being reset."""

log = get_logger(__name__)

Settings = TypeVar("Settings", bound=ServiceSettings)


class CannotRunError(Exception):
    """Raised by a component's `start` where trying again is no use: the process ends with `ExitCode.FAILED`."""


@dataclass(frozen=True)
class Component:
    """A part of a service with a life of its own. Readiness has a condition of its name.

    `start` is called until it succeeds and must clean up after itself when it fails; `stop` only after it succeeded.
    `after`: components that must have started. `required=False`: the service is ready without it (and says degraded).
    """

    name: str
    start: Callable[[], Awaitable[None]]
    stop: Callable[[], Awaitable[None]] | None = None
    after: Sequence[str] = ()
    required: bool = True


@dataclass
class Service:
    """What `run` runs."""

    name: str
    version: str
    app: Any
    settings: ServiceSettings
    metrics: Metrics
    readiness: Readiness
    liveness: Liveness = field(default_factory=Liveness)
    components: Sequence[Component] = ()
    drain: Callable[[], Awaitable[None]] | None = None
    """Let clients go at a pace. Called once not ready, before anything is closed; bounded by `drain_timeout_s`."""
    uvicorn_options: Mapping[str, Any] = field(default_factory=dict)
    """More of `uvicorn.Config`, such as the edge's `ws=`."""
    sockets: OpenSockets | None = None
    """Those of its clients, where the service has a use for them."""

    def __post_init__(self) -> None:
        names = [component.name for component in self.components]
        if len(set(names)) != len(names):
            raise ValueError(f"two components of one name among {names}")
        before: set[str] = set()
        for component in self.components:
            missing = set(component.after) - before
            if missing:
                raise ValueError(
                    f"component {component.name} comes after {sorted(missing)}, listed later or not at all"
                )
            before.add(component.name)


def main(
    cls: type[Settings],
    *,
    service: str,
    version: str,
    summary: str,
    build: Callable[[Settings], Awaitable[Service]],
) -> NoReturn:
    """All of a service's `__main__`: command line, settings, logs, then `run`. Ends the process."""
    settings = read_command_line(cls, service=service, version=version, summary=summary)
    configure_logs(service=service, version=version, level=settings.log_level, form=settings.log_format)
    for name, meant in unknown_variables(cls, os.environ):
        log.warning("setting_unknown", variable=name, did_you_mean=meant)

    async def building() -> Service:
        return await build(settings)

    code = run(building)
    if code in (ExitCode.FAILED, ExitCode.FORCED):
        # What did not stop may have left a thread inside a library: the interpreter would wait for it, for ever.
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(code))
    sys.exit(int(code))


def run(service: Service | Callable[[], Awaitable[Service]]) -> ExitCode:
    """Run a service, or the one that a coroutine function builds on the loop, until a signal ends it."""

    raise_descriptor_limit()

    async def body() -> ExitCode:
        if isinstance(service, Service):
            return await serve(service, handle_signals=True)
        try:
            built = await service()
        except Exception:
            log.exception("service_not_built")
            return ExitCode.FAILED
        return await serve(built, handle_signals=True)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(body())


async def serve(
    service: Service,
    *,
    handle_signals: bool = False,
    stop: asyncio.Event | None = None,
    on_listening: Callable[[str, int], None] | None = None,
) -> ExitCode:
    """Run a service on this loop until `stop` is set, a signal comes (`handle_signals`), or it fails for good.

    `on_listening` is told host and port once connections are accepted (the port, where the setting is 0).
    """
    return await _Life(service, stop or asyncio.Event(), on_listening).run(handle_signals=handle_signals)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, with an acceptor of ours, telling when it listens."""

    def __init__(self, config: uvicorn.Config, open_sockets: OpenSockets, listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._open_sockets = open_sockets
        self._listening = listening

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        config, state = self.config, self.server_state

        def make_protocol() -> asyncio.Protocol:
            made: asyncio.Protocol = config.http_protocol_class(config=config, server_state=state, app_state={})  # type: ignore[call-arg]
            return made

        acceptors = [Acceptor(listener, make_protocol, self._open_sockets) for listener in sockets or ()]
        self.servers = acceptors  # type: ignore[assignment]
        self._open_sockets.waiting = lambda: max((acceptor.waiting for acceptor in acceptors), default=(0, 0))
        self.started = True
        self._listening()


class _Life:
    """One run of one service."""

    def __init__(self, service: Service, stop: asyncio.Event, on_listening: Callable[[str, int], None] | None) -> None:
        self._service = service
        self._settings = service.settings
        self._stop = stop
        self._on_listening = on_listening
        self._sockets = service.sockets or open_sockets(service.metrics, service.settings)
        self._hurry = asyncio.Event()
        self._failed = False
        self._begin = time.monotonic()
        self._started: list[Component] = []
        self._start_retries = service.metrics.counter(
            "start_retries_total", "Attempts to start a component that failed.", ["component"]
        )

    async def run(self, *, handle_signals: bool) -> ExitCode:
        service, settings = self._service, self._settings
        try:
            listener = _bind(settings.host, settings.port)
        except OSError as error:
            log.error("cannot_listen", host=settings.host, port=settings.port, error=describe_error(error))
            return ExitCode.LISTEN
        host, port = listener.getsockname()[:2]
        server = _Server(self._config(), self._sockets, lambda: self._listening(host, port))
        service.liveness.on_fail = self._fail
        with _signals(self._signalled if handle_signals else None), contextlib.closing(listener):
            async with LoopWatchdog(service.metrics, max_lag_s=settings.max_loop_lag_s):
                serving = asyncio.create_task(server.serve(sockets=[listener]), name="uvicorn")
                serving.add_done_callback(lambda _: self._stop.set())
                starting = asyncio.create_task(self._start_all(), name="start")
                announcing = asyncio.create_task(self._announce_ready(), name="announce")
                await self._stop.wait()
                if serving.done():
                    self._failed = True
                    log.error("server_ended", error=_reason(serving))
                service.readiness.drain()
                for task in (starting, announcing):
                    task.cancel()
                await asyncio.gather(starting, announcing, return_exceptions=True)
                complete = await self._drain()
                server.should_exit = True
                server.force_exit = self._hurry.is_set()
                await asyncio.gather(serving, return_exceptions=True)
                complete = await self._stop_all() and complete
        code = ExitCode.FAILED if self._failed else ExitCode.OK if complete else ExitCode.FORCED
        log.info("stopped", code=code.value, ran_s=round(time.monotonic() - self._begin, 3))
        return code

    def _config(self) -> uvicorn.Config:
        settings = self._settings
        times = HttpTimes(
            head_s=settings.http_head_timeout_s,
            body_s=settings.http_body_timeout_s,
            unread_s=settings.http_unread_timeout_s,
            idle_s=settings.http_idle_timeout_s,
            idle_most=settings.http_idle_connections,
        )
        options: dict[str, Any] = {
            "log_config": None,
            "access_log": False,
            "server_header": False,
            "lifespan": "off",  # components have a life with retries and readiness; two of them would be one too many
            "timeout_graceful_shutdown": math.ceil(settings.stop_timeout_s),
            "backlog": BACKLOG,
            "loop": "none",
            "http": HttpGuard(self._sockets, times),
            "ws": "none",
            "timeout_keep_alive": times.idle_s,
            "proxy_headers": False,  # whom to believe about addresses is a setting of ours
            **self._service.uvicorn_options,
        }
        return uvicorn.Config(self._service.app, **options)

    def _listening(self, host: str, port: int) -> None:
        log.info("listening", host=host, port=port)
        if self._on_listening is not None:
            self._on_listening(host, port)

    def _signalled(self, name: str) -> None:
        if self._stop.is_set():
            log.warning("signal_again", signal=name, effect="the rest of the drain is skipped")
            self._hurry.set()
        else:
            log.info("signal", signal=name)
            self._stop.set()

    def _fail(self) -> None:
        self._failed = True
        failure = self._service.liveness.failure
        log.error("service_failed", error=failure.text if failure else None)
        self._stop.set()

    async def _announce_ready(self) -> None:
        await self._service.readiness.wait_ready()
        log.info("ready", after_s=round(time.monotonic() - self._begin, 3))

    async def _start_all(self) -> None:
        service = self._service
        conditions = {component.name: service.readiness.condition(component.name) for component in service.components}
        up = {component.name: asyncio.Event() for component in service.components}
        service.readiness.started()

        async def start(component: Component) -> None:
            for name in component.after:
                await up[name].wait()
            await self._start_one(component, conditions[component.name])
            self._started.append(component)
            up[component.name].set()

        try:
            async with asyncio.TaskGroup() as group:
                for component in service.components:
                    group.create_task(start(component), name=f"start {component.name}")
        except* CannotRunError as errors:
            service.liveness.fail(errors.exceptions[0])

    async def _start_one(self, component: Component, condition: Condition) -> None:
        backoff = Backoff(START_RETRY, random.random)
        while True:
            state, since = condition.state, condition.since
            try:
                async with asyncio.timeout(START_ATTEMPT_S):
                    await component.start()
            except CannotRunError:
                raise
            except Exception as error:  # noqa: BLE001 - any reason is worth another attempt; it is shown and counted
                self._start_retries.labels(component.name).inc()
                if isinstance(error, TimeoutError) and not str(error):
                    error = TimeoutError(f"no answer in {START_ATTEMPT_S:g} s")
                (condition.waiting if component.required else condition.degraded)(error)
                delay_s = backoff.failed(time.monotonic())
                log.warning(
                    "component_not_started",
                    component=component.name,
                    error=describe_error(error),
                    attempt=backoff.attempt,
                    again_in_s=round(delay_s, 3),
                )
                await asyncio.sleep(delay_s)
            else:
                if condition.state is state and condition.since == since:
                    condition.ok()  # unless `start` itself said how it is
                return

    async def _drain(self) -> bool:
        """Whether the drain came to its end."""
        drain, settings = self._service.drain, self._settings
        if self._failed or self._hurry.is_set():
            return not self._hurry.is_set()
        log.info("draining", timeout_s=settings.drain_timeout_s)

        async def body() -> None:
            if settings.drain_notice_s:
                await asyncio.sleep(settings.drain_notice_s)
            if drain is not None:
                await drain()

        draining = asyncio.create_task(body(), name="drain")
        hurry = asyncio.create_task(self._hurry.wait(), name="hurry")
        done, _ = await asyncio.wait(
            {draining, hurry}, timeout=settings.drain_timeout_s, return_when=asyncio.FIRST_COMPLETED
        )
        for task in (draining, hurry):
            task.cancel()
        await asyncio.gather(draining, hurry, return_exceptions=True)
        if draining not in done:
            log.warning("drain_cut_short", reason="signal" if self._hurry.is_set() else "drain_timeout_s")
            return False
        if draining.exception() is not None:
            log.error("drain_failed", error=_reason(draining))
            return False
        return True

    async def _stop_all(self) -> bool:
        """Stop what started, last first. Whether each did in its time."""
        complete = True
        for component in reversed(self._started):
            if component.stop is None:
                continue
            try:
                async with asyncio.timeout(self._settings.stop_timeout_s):
                    await component.stop()
            except Exception as error:  # noqa: BLE001 - the others are to be stopped all the same
                complete = False
                log.error("component_not_stopped", component=component.name, error=describe_error(error))
        return complete


def open_sockets(metrics: Metrics, settings: ServiceSettings) -> OpenSockets:
    """The count of a service's clients' sockets, none yet."""
    return OpenSockets(metrics, descriptors=descriptor_limit(), reserve=settings.descriptor_reserve)


def _bind(host: str, port: int) -> socket.socket:
    """A bound socket: made here, so that port 0 is known and a taken port is one line, not a traceback."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


@contextlib.contextmanager
def _signals(handler: Callable[[str], None] | None) -> Iterator[None]:
    if handler is None:
        yield
        return
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, handler, number.name)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _reason(task: asyncio.Task[Any]) -> str:
    if task.cancelled():
        return "cancelled"
    error = task.exception()
    return "ended by itself" if error is None else describe_error(error)
