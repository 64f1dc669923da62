"""The registry as its process composes it, on memory stores: who is shown, to whom, and what a store away does."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from heliograph.local.tenant import DevelopmentTenant
from heliograph.protocol.tenants import Tenant, encode_tenant
from heliograph.registry.bootstrap import compose
from heliograph.registry.settings import RegistrySettings
from heliograph.service.lifecycle import Service, serve
from heliograph.stores.memory.live import MemoryLiveStore
from heliograph.stores.memory.live_server import MemoryLiveServer
from heliograph.stores.memory.metadata import MemoryConnectionStore, MemoryTenantStore
from heliograph.stores.ports import Connection, EdgeLease, StoreError

NOW_MS = 1_764_000_000_000
SEEN = "acme:planner:trip-42"


class World:
    """A registry, its stores, and who may ask it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.store = MemoryConnectionStore()
        self.tenants = MemoryTenantStore()
        self.client = httpx.AsyncClient()
        self.service: Service | None = None
        self._stop = asyncio.Event()
        self._running: asyncio.Task[Any] | None = None

    async def start(self) -> None:
        for name in ("acme", "globex"):
            signer = DevelopmentTenant(self._directory / name, name)
            record = msgspec.convert({"tenant": name, "auth": {"jwks": signer.jwks()}}, Tenant)
            await self.tenants.put(name, encode_tenant(record))

        async def nothing() -> None:
            return

        settings = RegistrySettings(port=0, census_interval_s=0.05, census_tenants=1, max_connections_per_page=10)
        live = MemoryLiveStore(MemoryLiveServer(lambda: NOW_MS))
        self.service = compose(settings, self.store, self.tenants, live, nothing, nothing)
        listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._running = asyncio.create_task(
            serve(self.service, stop=self._stop, on_listening=lambda _host, port: listening.set_result(port))
        )
        self.client.base_url = httpx.URL(f"http://127.0.0.1:{await listening}")
        async with asyncio.timeout(20):
            await self.service.readiness.wait_ready()

    async def stop(self) -> None:
        self._stop.set()
        await self.client.aclose()
        if self._running is not None:
            await self._running

    async def connect(self, *names: str, edge: str = "edge-1", session: str = SEEN, tenant: str = "acme") -> None:
        await self.store.renew(EdgeLease(edge, f"{edge}-run", f"{edge}:8080", len(names), NOW_MS), 60)
        found = [Connection(name, tenant, f"user-{name}", "an agent", NOW_MS, [session]) for name in names]
        await self.store.update(edge, found, [])

    async def ask(self, path: str, scope: str = "presence:*:*", tenant: str = "acme", **query: Any) -> httpx.Response:
        token = DevelopmentTenant(self._directory / tenant, tenant).token(scopes=[scope])
        headers = {"authorization": f"Bearer {token}"}
        return await self.client.get(f"/v1/presence/{path}", headers=headers, params=query)

    async def until(self, metric: str, least: float) -> None:
        assert self.service is not None
        async with asyncio.timeout(20):
            while self.service.metrics.value(metric) < least:
                await asyncio.sleep(0.01)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    found = World(tmp_path)
    await found.start()
    yield found
    await found.stop()


def names(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [connection["connection"] for connection in answer.json()["connections"]]


@pytest.mark.parametrize("path", ["acme", "acme/planner", "acme/planner/trip-42"])
async def test_a_connection_is_found_by_tenant_agent_type_and_session(world: World, path: str) -> None:
    await world.connect("c1")
    assert (await world.ask(path)).json() == {
        "connections": [
            {
                "connection": "c1",
                "subject": "user-c1",
                "since_ms": NOW_MS,
                "sessions": [SEEN],
                "edge": "edge-1",
                "agent": "an agent",
            }
        ]
    }


@pytest.mark.parametrize("path", ["acme/tool", "acme/planner/trip-43", "acme/planner/trip-4"])
async def test_who_is_elsewhere_is_not_shown(world: World, path: str) -> None:
    await world.connect("c1")
    assert names(await world.ask(path)) == []


async def test_connections_of_an_edge_that_left_are_not_shown(world: World) -> None:
    await world.connect("c1", edge="edge-1")
    await world.connect("c2", edge="edge-2")
    await world.store.release("edge-1")
    assert names(await world.ask("acme")) == ["c2"]


async def test_pages_follow_one_another_without_overlap(world: World) -> None:
    await world.connect(*(f"c{number:02d}" for number in range(25)))
    seen: list[str] = []
    after = ""
    while True:
        answer = await world.ask("acme", limit=10, after=after)
        seen += names(answer)
        after = answer.json().get("next")
        if after is None:
            break
    assert seen == [f"c{number:02d}" for number in range(25)]


async def test_sessions_that_were_not_asked_about_are_not_named(world: World) -> None:
    await world.store.renew(EdgeLease("edge-1", "run", "edge-1:8080", 1, NOW_MS), 60)
    sessions = ["acme:planner:a", "acme:planner:b", "acme:tool:c"]
    await world.store.update("edge-1", [Connection("c1", "acme", "user", None, NOW_MS, sessions)], [])
    answer = await world.ask("acme/planner/a", "presence:planner:a")
    assert answer.json()["connections"][0]["sessions"] == ["acme:planner:a"]


@pytest.mark.parametrize(
    ("path", "scope", "allowed"),
    [
        ("acme", "presence:*:*", True),
        ("acme", "presence:planner:*", False),
        ("acme/planner", "presence:planner:*", True),
        ("acme/planner", "presence:tool:*", False),
        ("acme/planner", "presence:planner:trip-*", False),
        ("acme/planner/trip-42", "presence:planner:trip-*", True),
        ("acme/planner/trip-42", "presence:planner:trip-43", False),
        ("acme/planner/trip-42", "subscribe:planner:trip-42", False),
    ],
)
async def test_presence_is_shown_to_who_has_the_scope(world: World, path: str, scope: str, allowed: bool) -> None:
    answer = await world.ask(path, scope)
    assert answer.status_code == (200 if allowed else 403)
    assert allowed or answer.json()["code"] == "forbidden"


async def test_another_tenant_is_refused_alike_whether_it_exists_or_not(world: World) -> None:
    there = await world.ask("globex")
    nowhere = await world.ask("initech")
    assert there.status_code == nowhere.status_code == 403
    assert there.json() == nowhere.json()


@pytest.mark.parametrize(
    "path", ["ACME", "acme/Planner", "acme/planner/..%2f", "acme/planner/%C3%A4", "acme/planner/-x"]
)
async def test_what_is_no_name_is_a_coded_error(world: World, path: str) -> None:
    answer = await world.ask(path)
    assert answer.status_code in {400, 404}
    assert answer.json()["code"] in {"value_invalid", "not_found"}


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 11}, {"limit": "x"}, {"after": "a" * 401}])
async def test_a_page_out_of_bounds_is_refused(world: World, query: dict[str, Any]) -> None:
    answer = await world.ask("acme", **query)
    assert (answer.status_code, answer.json()["code"]) == (400, "value_invalid")


async def test_without_a_token_nothing_is_told(world: World) -> None:
    answer = await world.client.get("/v1/presence/acme")
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")


async def test_edges_are_counted_and_a_store_away_leaves_the_last_count(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert world.service is not None
    await world.connect("c1", "c2", edge="edge-1")
    busy = EdgeLease("edge-1", "edge-1-run", "edge-1:8080", 2, NOW_MS)
    busy.messages_in_per_s, busy.messages_out_per_s, busy.outbound_bytes = 12.5, 300.0, 4_096
    await world.store.renew(busy, 60)
    await world.until("edges", 1)
    while world.service.metrics.value("edge_outbound_bytes", {"edge": "edge-1"}) != 4_096:
        await asyncio.sleep(0.01)
    assert world.service.metrics.value("edge_messages_in", {"edge": "edge-1"}) == 12.5
    assert world.service.metrics.value("edge_messages_out", {"edge": "edge-1"}) == 300

    async def away() -> list[EdgeLease]:
        raise StoreError("unavailable", "no connection")

    monkeypatch.setattr(world.store, "edges", away)
    failures = world.service.metrics.value("census_failures_total")
    await world.until("census_failures_total", failures + 1)
    assert world.service.metrics.value("edge_connections", {"edge": "edge-1"}) == 2
    assert "census" in world.service.readiness.degraded()
    assert world.service.readiness.ready


async def test_connections_are_counted_for_the_tenants_with_the_most(world: World) -> None:
    assert world.service is not None
    await world.connect("c1", "c2", edge="edge-1")
    await world.connect("c3", edge="edge-2", session="globex:planner:1", tenant="globex")
    while world.service.metrics.value("tenant_connections", {"tenant": "_others"}) != 1:
        await asyncio.sleep(0.01)
    assert world.service.metrics.value("tenant_connections", {"tenant": "acme"}) == 2
    assert world.service.metrics.value("tenant_connections", {"tenant": "globex"}) == 0


async def test_a_store_away_is_answered_as_unavailable(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: Any) -> Any:
        raise StoreError("unavailable", "no connection to 10.0.0.7")

    monkeypatch.setattr(world.store, "connections", away)
    answer = await world.ask("acme")
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert "10.0.0.7" not in answer.text


async def test_the_openapi_document_describes_the_answer(world: World) -> None:
    document = (await world.client.get("/openapi.json")).json()
    for path in ("/v1/presence/{tenant}", "/v1/presence/{tenant}/{agent_type}/{session_id}"):
        schema = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert schema == {"$ref": "#/components/schemas/PresencePage"}
    assert {"PresencePage", "ConnectionShown"} <= document["components"]["schemas"].keys()
