"""All services on Redis users that may do what the documented ACL says, and nothing else: one user for each store."""

import asyncio
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from redis import Redis as Admin
from redis.exceptions import NoPermissionError

from heliograph.client import Client, Message, WorkSession
from heliograph.local.providers import GivenKafka, GivenRedis, Redis
from heliograph.local.services import service_environment
from heliograph.local.stack import Stack
from heliograph.local.tenant import ALL_SCOPES, DevelopmentTenant
from heliograph.local.up import apply_tenant
from heliograph.stores.redis.rights import COMMANDS, Store, acl_rules

SESSION = "demo:planner:1"
MESSAGES = 1_100
"""More than the hot window has: who reads from the beginning is served from the log, through the metadata Redis."""
DEADLINE_S = 90.0
COMMAND_TIMEOUT_S = 60
LIMITS = {
    "limits": {"connection_messages_per_s": 5_000.0, "connection_burst_messages": 5_000},
    "topics": {"telemetry": {}},
}


def url_of(server: Redis, user: Store, password: str) -> str:
    """The store's user on that server."""
    place = urlsplit(server.url)
    return f"redis://{user}:{password}@{place.hostname}:{place.port}/0"


@contextmanager
def running(directory: Path, kafka: str, server: Redis) -> Iterator[tuple[Stack, DevelopmentTenant, Admin]]:
    """One of each service, each store with a user of its own, and the administrator's connection."""
    password = secrets.token_hex(16)
    urls = {store: url_of(server, store, password) for store in COMMANDS}
    with Admin.from_url(server.url) as admin:
        for store in COMMANDS:
            admin.execute_command("ACL", "SETUSER", store, "on", f">{password}", *acl_rules(store).split())
        settings = {
            "topic_prefix": f"rights-{secrets.token_hex(4)}",
            "metadata_redis_url": urls["metadata"],
            "token_redis_url": urls["token"],
        }
        stack = Stack(directory, GivenKafka(kafka), GivenRedis(urls["live"]), settings=settings)
        variables = {f"HELIOGRAPH_{name.upper()}": value for name, value in stack.settings.items()}
        tenant = DevelopmentTenant(directory, settings=LIMITS)
        apply_tenant(tenant.write(), variables)
        with stack:
            yield stack, tenant, admin


def denied(admin: Admin) -> set[tuple[str, str]]:
    """Who was refused what, from the server's own account."""
    return {(str(entry["username"]), str(entry["object"])) for entry in admin.acl_log()}


async def test_every_service_does_with_the_documented_rights(
    tmp_path: Path, kafka_bootstrap: str, redis_server: Callable[..., Redis]
) -> None:
    with running(tmp_path, kafka_bootstrap, redis_server()) as (stack, tenant, admin):
        async with asyncio.timeout(DEADLINE_S):
            await use_everything(stack, tenant)
        assert denied(admin) == set()
        with Admin.from_url(stack.settings["redis_url"]) as live, pytest.raises(NoPermissionError):
            live.set("somebody:elses", "1")
        assert denied(admin) == {("live", "somebody:elses")}


async def use_everything(stack: Stack, tenant: DevelopmentTenant) -> None:
    edge, token = stack.edges[0].url, tenant.token(scopes=[*ALL_SCOPES, "admin:*:*"])
    async with Client(edge, token=token, producer="p", consumer="c") as client:
        receipts = await asyncio.gather(*(client.publish(SESSION, number) for number in range(MESSAGES)))
        await asyncio.gather(*(receipt.durable() for receipt in receipts))
        await client.publish(SESSION, "shed first", cls="telemetry")
        read = []
        async for item in client.subscribe(SESSION, start="earliest", ack="auto"):
            assert isinstance(item, Message), item
            read.append(item.data)
            if len(read) == MESSAGES:
                break
        assert read == list(range(MESSAGES))
        await presence(stack, token)
        await serve(edge, token, client)
    await expire(stack, tenant)


async def presence(stack: Stack, token: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(
            f"{stack.registries[0].url}/v1/presence/demo/planner", headers={"Authorization": f"Bearer {token}"}
        )
    assert answer.status_code == 200, answer.text


async def serve(edge: str, token: str, client: Client) -> None:
    """A worker gets a session that it did not know of."""
    async with Client(edge, token=token) as worker, worker.serve("worker", capacity=2) as work:
        await client.publish("demo:worker:1", "do it")
        session: WorkSession = await anext(work)
        item = await anext(session)
        assert isinstance(item, Message)
        await session.ack(item)
        await session.done()


async def expire(stack: Stack, tenant: DevelopmentTenant) -> None:
    words = [sys.executable, "-m", "heliograph.cli", "session", "expire", SESSION, "--now"]
    variables = {
        "HELIOGRAPH_URL": stack.edges[0].url,
        "HELIOGRAPH_TOKEN": tenant.token(scopes=["admin:*:*"]),
    }
    done = await asyncio.to_thread(
        subprocess.run, words, env=service_environment(variables), capture_output=True, timeout=COMMAND_TIMEOUT_S
    )
    assert done.returncode == 0, done.stderr
