"""Keys are rotated, tokens replaced, taken back and run out, under load and on every service."""

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from msgspec import Raw
from tests.system import replaying
from tests.system.lines import Line
from tests.system.rig import TENANT_SETTINGS, Rig, until
from tests.system.sdk import SETTINGS
from tests.system.test_tenants import open_when_known

from heliograph.cli.keys import Algorithm, SigningKey
from heliograph.client import Client, Message, TokenExpiredError
from heliograph.local.services import service_environment
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.frames import Hello, Publish, Published, Refresh, Refreshed, Refused, Subscribe, Subscription
from heliograph.protocol.tenants import Revocation, Tenant, parse_tenant
from heliograph.service.applying import apply, plan, wait_in_force
from heliograph.service.revoking import change_record, with_revocations
from heliograph.stores.kafka import KafkaLogAdmin
from heliograph.stores.redis.metadata import RedisTenantStore

pytestmark = pytest.mark.xdist_group("system-services")

ALL = ["publish:*:*", "subscribe:*:*", "history:*:*", "presence:*:*"]
TTL_S = 4.0
"""Of tokens under load: replaced every three seconds or so."""
COMMAND_TIMEOUT_S = 240.0
"""Each is a Python that starts, on a machine that may be busy."""
NOTICED_S = 1.0
BUSY_S = 1.0
"""What a busy machine may add to a second."""


@dataclass
class Issuer:
    """Who signs a tenant's tokens, with the key of the moment."""

    tenant: str
    key: SigningKey
    ttl_s: float = 3_600.0
    signed: Counter[str] = field(default_factory=Counter)
    """Tokens by key id."""

    def token(self, subject: str = "somebody") -> str:
        self.signed[self.key.key_id] += 1
        return self.key.mint(self.tenant, subject, ALL, self.ttl_s, "heliograph", None)


@asynccontextmanager
async def stores(rig: Rig) -> AsyncIterator[tuple[KafkaLogAdmin, RedisTenantStore]]:
    """What `heliograph tenant` works on."""
    admin = KafkaLogAdmin({"bootstrap.servers": rig.kafka.bootstrap_servers})
    try:
        async with rig.tenant_store() as store:
            yield admin, store
    finally:
        await admin.close()


async def use_keys(rig: Rig, issuer: Issuer, *keys: SigningKey) -> None:
    """Apply the tenant with these keys; returns when every service obeys."""
    jwks = {"keys": [one for key in keys for one in key.jwks()["keys"]]}
    tenant = parse_tenant({"tenant": issuer.tenant, "auth": {"jwks": jwks}, **TENANT_SETTINGS})
    async with stores(rig) as (admin, store):
        change = await plan(tenant, rig.topics, admin, store)
        await apply(change, admin, store, lambda _step: None)
        assert await wait_in_force(store) == []


async def issuer_of_a_new_tenant(rig: Rig, ttl_s: float = 3_600.0) -> Issuer:
    issuer = Issuer(f"access-{rig.session()[-6:]}", SigningKey.generate(Algorithm.EDDSA, "first"), ttl_s)
    await use_keys(rig, issuer, issuer.key)
    return issuer


class Held:
    """A connection that is kept, its pings answered, until the server ends it."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._ended = asyncio.create_task(line.ended())

    @classmethod
    async def open(cls, url: str, token: str, *subscriptions: str) -> "Held":
        wanted = [Subscription(session) for session in subscriptions]
        return cls(await Line.open(url, "held", Hello(token=token, subscriptions=wanted)))

    @property
    def open_(self) -> bool:
        return not self._ended.done()

    async def ended(self, within_s: float = 30.0) -> int:
        """The close code."""
        return await asyncio.wait_for(asyncio.shield(self._ended), within_s)

    async def close(self) -> None:
        await self._line.close()
        await self._ended


class Agent:
    """Publishes to a session of its own and reads it, over one client whose tokens are short-lived."""

    def __init__(self, issuer: Issuer, url: str, session: str) -> None:
        self.client = Client(url, token=lambda: issuer.token(session), producer="agent", settings=SETTINGS)
        self.session = session
        self.sent = 0
        self.durable = 0
        self.got: list[int] = []

    async def publish(self) -> None:
        while True:
            self.sent += 1
            receipt = await self.client.publish(self.session, self.sent)
            await receipt.durable()
            self.durable += 1
            await asyncio.sleep(0.02)

    async def read(self) -> None:
        async for item in self.client.subscribe(self.session, start="earliest"):
            assert isinstance(item, Message), item
            self.got.append(item.data)


@asynccontextmanager
async def agents_at_work(rig: Rig, issuer: Issuer, count: int) -> AsyncIterator[list[Agent]]:
    """Agents on both edges. None may fail."""
    agents = [Agent(issuer, rig.edges[n % 2], rig.session(issuer.tenant)) for n in range(count)]
    async with AsyncExitStack() as open_:
        for agent in agents:
            await open_.enter_async_context(agent.client)
        publishing = [asyncio.create_task(agent.publish()) for agent in agents]
        reading = [asyncio.create_task(agent.read()) for agent in agents]
        try:
            yield agents
            assert [task.exception() for task in (*publishing, *reading) if task.done()] == []
        finally:
            for task in publishing:
                task.cancel()
            await asyncio.gather(*publishing, return_exceptions=True)
        await until(
            "everything that was answered is read",
            lambda: all(len(agent.got) >= agent.sent - 1 for agent in agents),
            instead=lambda: str([(agent.sent, len(agent.got)) for agent in agents]),
        )
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)


def closed(rig: Rig) -> dict[str, float]:
    """What both edges closed connections for, for reasons of access."""
    return {
        name: sum(rig.metric(edge, "heliograph_edge_connections_closed_total", f'"{name}"') for edge in rig.stack.edges)
        for name in ("token_expired", "keys_changed", "token_revoked", "token_refused")
    }


async def test_keys_are_rotated_under_load_without_a_dropped_connection(rig: Rig) -> None:
    issuer = await issuer_of_a_new_tenant(rig, TTL_S)
    old, new = issuer.key, SigningKey.generate(Algorithm.ES256, "second")
    before = await asyncio.to_thread(closed, rig)
    async with agents_at_work(rig, issuer, 6) as agents:
        fixed = old.mint(issuer.tenant, "fixed", ALL, 900.0, "heliograph", None)
        left_alone = await Held.open(rig.edges[0], fixed)
        await until("tokens are replaced", lambda: all(agent.client.stats.refreshes >= 1 for agent in agents))
        await use_keys(rig, issuer, old, new)
        issuer.key = new
        refreshed = {agent.session: agent.client.stats.refreshes for agent in agents}
        await until(
            "everybody has a token of the new key",
            lambda: all(agent.client.stats.refreshes > refreshed[agent.session] for agent in agents),
        )
        await use_keys(rig, issuer, new)
        assert await left_alone.ended() == CloseCode.KEYS_CHANGED
        durable = {agent.session: agent.durable for agent in agents}
        refreshed = {agent.session: agent.client.stats.refreshes for agent in agents}
        await until("it goes on", lambda: all(agent.durable > durable[agent.session] + 20 for agent in agents))
        await until(
            "tokens go on being replaced",
            lambda: all(agent.client.stats.refreshes > refreshed[agent.session] for agent in agents),
        )
    for agent in agents:
        assert agent.client.stats.connections == 1
        assert agent.got == list(range(1, len(agent.got) + 1))
    assert issuer.signed["first"] >= len(agents)
    after = await asyncio.to_thread(closed, rig)
    assert {name: after[name] - before[name] for name in after} == {
        "token_expired": 0, "keys_changed": 1, "token_revoked": 0, "token_refused": 0,
    }  # fmt: skip


async def test_a_revocation_ends_connections_within_a_second_and_no_service_takes_the_token(rig: Rig) -> None:
    issuer = await issuer_of_a_new_tenant(rig)
    session = rig.session(issuer.tenant)
    token, other = issuer.token("thief"), issuer.token("owner")
    held = [await Held.open(url, token, session) for url in rig.edges for _ in range(5)]
    owners = [await Held.open(url, other, session) for url in rig.edges]
    revoked = [Revocation(subject="thief")]
    async with stores(rig) as (_, store):
        begin = time.monotonic()
        await change_record(store, issuer.tenant, lambda record: with_revocations(known(record), revoked))
        codes = await asyncio.gather(*(one.ended(NOTICED_S + BUSY_S) for one in held))
        closed_s = time.monotonic() - begin
        assert codes == [CloseCode.TOKEN_REVOKED] * len(held)
        print(f"{len(held)} connections closed {closed_s:.2f} s after the record was written")
        assert await wait_in_force(store) == []
    assert await what_is_refused(rig, token, session) == {401: "token_revoked"}
    assert await what_is_refused(rig, other, session) == {200: ""}
    ends = {await owner.ended() for owner in owners if not owner.open_}
    assert ends <= {CloseCode.HEARTBEAT_TIMEOUT}  # of a machine that stands still for two seconds
    for owner in owners:
        await owner.close()


def known(record: Tenant | None) -> Tenant:
    assert record is not None
    return record


async def what_is_refused(rig: Rig, token: str, session: str) -> dict[int, str]:
    """Statuses and codes of requests to each process of each service."""
    headers, path = {"Authorization": f"Bearer {token}"}, session.replace(":", "/")
    asked = [("POST", f"{url}/v1/sessions/{path}/messages", {"payload": 1}) for url in rig.edges]
    asked += [("GET", url + replaying.path(session), {}) for url in rig.replays]
    asked += [("GET", f"{registry.url}/v1/presence/{path}", {}) for registry in rig.stack.registries]
    async with replaying.client() as http:
        answers = [await http.request(method, url, json=body, headers=headers) for method, url, body in asked]
    return {answer.status_code: answer.json()["code"] if answer.status_code >= 400 else "" for answer in answers}


async def test_the_command_revokes_and_lifts_and_returns_when_it_holds(rig: Rig) -> None:
    issuer = await issuer_of_a_new_tenant(rig)
    session = rig.session(issuer.tenant)
    token = issuer.token("intern")
    held = await Held.open(rig.edges[1], token)
    done = await command(rig, "tenant", "revoke", issuer.tenant, "--subject", "intern", "--before", "now", "--json")
    assert done["behind"] == []
    assert await what_is_refused(rig, token, session) == {401: "token_revoked"}
    assert await held.ended() == CloseCode.TOKEN_REVOKED
    await use_keys(rig, issuer, issuer.key)  # a record that knows nothing of it
    assert await what_is_refused(rig, token, session) == {401: "token_revoked"}
    await command(rig, "tenant", "revoke", issuer.tenant, "--subject", "intern", "--lift", "--json")
    assert await what_is_refused(rig, token, session) == {200: ""}


async def command(rig: Rig, *arguments: str) -> dict[str, Any]:
    """`heliograph …` as a process; its JSON."""
    words = [sys.executable, "-m", "heliograph.cli", *arguments]
    environment = service_environment(rig.variables)
    done = await asyncio.to_thread(
        subprocess.run, words, env=environment, capture_output=True, text=True, check=True, timeout=COMMAND_TIMEOUT_S
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


async def test_a_token_that_runs_out_ends_its_connection_with_the_code_for_it(rig: Rig) -> None:
    issuer = await issuer_of_a_new_tenant(rig, ttl_s=2.0)
    session = rig.session(issuer.tenant)
    lines = [await open_when_known(url, issuer.token("line")) for url in rig.edges]
    issuer.ttl_s = 3_600.0
    renewed = lines.pop()
    assert isinstance(await renewed.ask(Refresh(issuer.token("line"), 1)), Refreshed)
    refused = await renewed.ask(Refresh(issuer.token("somebody else"), 2))
    assert isinstance(refused, Refused)
    assert refused.code == "identity_changed"
    assert [await line.ended() for line in lines] == [CloseCode.TOKEN_EXPIRED]
    assert isinstance(await renewed.ask(Publish(session, Raw(b"1"), 3)), Published)
    await renewed.close()
    issuer.ttl_s = 2.0
    async with Client(rig.edges[0], token=issuer.token("fixed"), settings=SETTINGS) as fixed:
        with pytest.raises(TokenExpiredError):
            async for _ in fixed.subscribe(session):
                pass


async def test_no_log_of_any_process_holds_a_token(rig: Rig) -> None:
    """Good ones, and such as are refused, everywhere they can be shown; the logs are read as files."""
    issuer = await issuer_of_a_new_tenant(rig)
    session = rig.session(issuer.tenant)
    stranger = Issuer(issuer.tenant, SigningKey.generate(Algorithm.EDDSA, "first"))
    tokens = [issuer.token("canary"), stranger.token("canary")]
    for token, wanted in zip(tokens, (200, 401), strict=True):
        assert list(await what_is_refused(rig, token, session)) == [wanted]
        for url in rig.edges:
            line = await Line.open(url, "canary", Hello(token=tokens[0]))
            await line.ask(Refresh(token, 1))
            await line.ask(Subscribe(token, 2))
            await line.ask(Publish(session, Raw(json.dumps(token).encode()), 3, message_id=token[:100]))
            await line.close()
    async with replaying.client() as http:
        for service in (*rig.stack.edges, *rig.stack.replays, *rig.stack.registries):
            await http.get(f"{service.url}/v1/{tokens[0]}?access_token={tokens[1]}")
    for service in rig.stack.services:
        text = service.log.read_text(errors="replace") + service.metrics()
        for token in tokens:
            for part in token.split(".")[1:]:
                assert part not in text, service.name
