"""One installation in this process for each test: all services on stores that they share in memory."""

import asyncio
import io
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Literal

import httpx
import jwt
import msgspec
import pytest
import structlog
import uvloop
from tests.services.access.rules import FOREIGN, OWN, Role
from tests.services.access.surfaces import Session

from heliograph.cli.keys import Algorithm, SigningKey
from heliograph.dev.options import DevOptions
from heliograph.dev.server import DevServer
from heliograph.protocol.tenants import decode_tenant, encode_tenant, parse_tenant
from heliograph.service.logs import configure_logs


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


class LogLines(io.StringIO):
    """What is logged, as text and as the events that came since the last look."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def write(self, text: str) -> int:
        self.lines += [line for line in text.splitlines() if line]
        return len(text)

    def since(self, mark: int) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines[mark:]]


@pytest.fixture
def log_level() -> str:
    return "info"


@pytest.fixture
def logs(log_level: Literal["info", "debug"]) -> Iterator[LogLines]:
    """Everything that services and libraries log. What pytest had is restored."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    levels = {name: logging.getLogger(name).level for name in list(logging.Logger.manager.loggerDict)}
    lines = LogLines()
    configure_logs(service="test", version="0", level=log_level, stream=lines)
    for name in ("httpx", "httpcore", "websockets"):  # the test's own clients
        logging.getLogger(name).setLevel(logging.WARNING)
    yield lines
    logging.captureWarnings(False)
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


class Installation:
    """The services, two tenants with a key each, and clients."""

    def __init__(self, dev: DevServer, keys: Mapping[str, SigningKey], logs: LogLines) -> None:
        self.dev = dev
        self.keys = keys
        self.logs = logs
        self.urls = {name: dev.url(name) for name in ("edge", "replay", "registry")}
        self.tokens: list[str] = []
        """All that were ever made."""
        self.sessions: list[Session] = []
        self._http = httpx.AsyncClient(timeout=30.0, trust_env=False)

    def token(
        self,
        tenant: str = OWN,
        subject: str = "somebody",
        scopes: tuple[str, ...] = (),
        signed_by: SigningKey | None = None,
        **claims: Any,
    ) -> str:
        """A good token, but for `claims`, which are added or replace others."""
        now = int(time.time())
        key = signed_by or self.keys[tenant]
        content = {"tenant": tenant, "sub": subject, "aud": "heliograph", "iat": now, "exp": now + 3_600,
                   "scope": " ".join(scopes), **claims}  # fmt: skip
        made = jwt.encode(content, key.key, algorithm=key.algorithm.value, headers={"kid": key.key_id})
        self.tokens.append(made)
        return made

    def session(self, token: str | None) -> Session:
        self.sessions.append(Session(self.urls, self._http, token))
        return self.sessions[-1]

    def of_role(self, role: Role) -> Session:
        """A client of OWN with the role's scopes; a subject of its own, so that rates are its own too."""
        return self.session(self.token(OWN, role.name.replace(" ", "-"), role.scopes))

    def refusals(self, service: str, code: str) -> float:
        """How many refusals with this code a service has counted, over whatever surface."""
        metrics = next(one.metrics for one in self.dev.services if one.name == service)
        names = ["http_refused_total"]
        if service == "edge":
            names += ["refused_total", "bad_frames_total", "handshakes_refused_total"]
        return sum(metrics.value(name, {"code": code}) for name in names)

    async def change_tenant(self, tenant: str, **auth_or_state: Any) -> None:
        """Change the record, as `heliograph tenant apply` does. `keys`, `revoked`: of `auth`."""
        raw = await self.dev.memory.tenants.get(tenant)
        assert raw is not None
        record = msgspec.to_builtins(decode_tenant(raw))
        if "keys" in auth_or_state:
            record["auth"]["jwks"] = {"keys": auth_or_state.pop("keys")}
        if "revoked" in auth_or_state:
            record["auth"]["revoked"] = auth_or_state.pop("revoked")
        await self.dev.memory.tenants.put(tenant, encode_tenant(parse_tenant({**record, **auth_or_state})))

    async def close(self) -> None:
        for session in self.sessions:
            await session.close()
        await self._http.aclose()


@pytest.fixture
async def installation(logs: LogLines, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Installation]:
    monkeypatch.setenv("HELIOGRAPH_REFUSAL_LOG_INTERVAL_S", "0")
    monkeypatch.setenv("HELIOGRAPH_HANDSHAKES_PER_S", "10000")
    monkeypatch.setenv("HELIOGRAPH_REFRESHES_PER_S", "10000")
    keys = {tenant: SigningKey.generate(Algorithm.EDDSA, f"key-of-{tenant}") for tenant in (OWN, FOREIGN)}
    limits = {"connection_messages_per_s": 1e6, "connection_burst_messages": 1_000_000}
    tenants = [
        {
            "tenant": tenant,
            "auth": {"jwks": key.jwks()},
            "limits": limits,
            "topics": {"log": {"partitions": 2}, "telemetry": {"partitions": 1}},
        }
        for tenant, key in keys.items()
    ]
    async with DevServer(DevOptions(port=0, tenants=tenants)) as dev:
        made = Installation(dev, keys, logs)
        yield made
        await made.close()
