"""The development server: the services' lives on one event loop, begun and ended together.

Signals are not its concern: whoever runs it says when to stop. It never leaves a service running when another one
could not be started.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Any, Self

import structlog

from heliograph.cli.keys import Algorithm, SigningKey
from heliograph.dev.bootstrap import Memory, compose, tenant_of
from heliograph.dev.options import NOTHING_IS_DURABLE, SCOPES, TOKEN_TTL_S, DevOptions, DevServerError
from heliograph.service.command_line import ExitCode
from heliograph.service.lifecycle import Service, serve

RETENTION_CHECK_S = 1.0
"""Between looks at what is past its retention: what can be published meanwhile is the memory above the bound."""

START_TIMEOUT_S = 30.0
"""For all services to be ready: they wait for nothing outside, so longer means a fault."""


class DevServer:
    """`async with DevServer() as dev:` has all services ready, `dev.url("edge")` and so on, until the block ends."""

    def __init__(self, options: DevOptions | None = None, key: SigningKey | None = None) -> None:
        """Raises InvalidValueError for a tenant that is none. Without a key, tokens are signed by one of its own."""
        self.options = options or DevOptions()
        self.key = key or SigningKey.generate(Algorithm.EDDSA)
        self.memory = Memory()
        self._tenants = [tenant_of(given, self.key.jwks()) for given in self.options.tenants]
        self._lives: list[_Life] = []
        self._forgetting: asyncio.Task[None] | None = None

    @property
    def tenants(self) -> list[str]:
        return [tenant.tenant for tenant in self._tenants]

    @property
    def services(self) -> list[Service]:
        """Those that were started: edge, router, replay, registry."""
        return [life.service for life in self._lives]

    def url(self, service: str = "edge") -> str:
        """Where a service is, once it was started."""
        return next(life.url for life in self._lives if life.service.name == service)

    def describe(self) -> dict[str, Any]:
        """Where it is and what it is, for programs: the answer of `heliograph dev --json`."""
        return {
            "durable": False,
            "note": NOTHING_IS_DURABLE,
            "url": self.url("edge"),
            "replay_url": self.url("replay"),
            "registry_url": self.url("registry"),
            "router_url": self.url("router"),
            "tenants": self.tenants,
        }

    def token(
        self,
        subject: str = "you",
        scopes: Sequence[str] = SCOPES,
        *,
        tenant: str | None = None,
        ttl_s: float = TOKEN_TTL_S,
    ) -> str:
        """A token of a tenant, the first where none is named."""
        audience = self._lives[0].service.settings.model_dump()["jwt_audience"]
        return self.key.mint(tenant or self.tenants[0], subject, scopes, ttl_s, audience, None)

    async def start(self) -> None:
        """Return when every service is ready. Raises DevServerError, and then nothing is left running."""
        for tenant in self._tenants:
            await self.memory.apply(tenant)
        self._forgetting = asyncio.create_task(self._forget(), name="retention")
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                for service in compose(self.options, self.memory):
                    life = _Life(service)
                    self._lives.append(life)
                    await life.listening()
                for life in self._lives:
                    await life.ready()
        except TimeoutError:
            waiting = {life.service.name: life.service.readiness.waiting_for() for life in self._lives}
            await self.stop()
            raise DevServerError("internal", f"not ready after {START_TIMEOUT_S:g} s: {waiting}") from None
        except BaseException:
            await self.stop()
            raise

    async def failed(self) -> str:
        """Wait until a service ends that nobody stopped; its name."""
        await asyncio.wait([life.task for life in self._lives], return_when=asyncio.FIRST_COMPLETED)
        return next(life.service.name for life in self._lives if life.task.done())

    async def stop(self) -> bool:
        """End the services, each after the one that it serves: edge, router, replay, registry. Whether all did well."""
        codes = [await life.stop() for life in self._lives]
        if self._forgetting is not None:
            self._forgetting.cancel()
            await asyncio.gather(self._forgetting, return_exceptions=True)
        return all(code is ExitCode.OK for code in codes)

    async def _forget(self) -> None:
        """What the brokers of an installation do in the background, and what bounds the memory of this one."""
        while True:
            await asyncio.sleep(RETENTION_CHECK_S)
            self.memory.forget()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


class _Life:
    """One service that runs here."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.url = ""
        self._stop = asyncio.Event()
        self._listening = asyncio.Event()
        self.task = asyncio.create_task(self._run(), name=service.name)

    async def _run(self) -> ExitCode:
        with structlog.contextvars.bound_contextvars(service=self.service.name):  # of every task that it makes
            return await serve(self.service, stop=self._stop, on_listening=self._on_listening)

    def _on_listening(self, host: str, port: int) -> None:
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        self._listening.set()

    async def listening(self) -> None:
        await self._unless_it_ends(self._listening.wait())

    async def ready(self) -> None:
        await self._unless_it_ends(self.service.readiness.wait_ready())

    async def _unless_it_ends(self, state: Coroutine[Any, Any, object]) -> None:
        waiting = asyncio.create_task(state)
        try:
            await asyncio.wait([waiting, self.task], return_when=asyncio.FIRST_COMPLETED)
            if not self.task.done():
                return
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        settings, name = self.service.settings, self.service.name
        if self.task.result() is ExitCode.LISTEN:
            where = f"{settings.host}:{settings.port}"
            raise DevServerError("port_taken", f"{name} can't listen on {where}: something else does")
        failure = self.service.liveness.failure
        raise DevServerError("internal", f"{name} ended: {failure.text if failure else 'see the log'}")

    async def stop(self) -> ExitCode:
        self._stop.set()
        return await self.task
