"""Limits on connections and sessions: of a tenant over all edges, of a subject, of an address; told in a way that a
client can obey.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from tests.services.edge.client import Client, RawClient
from tests.services.edge.rig import Edge, World, until
from websockets.exceptions import InvalidStatus

from heliograph.local.redis import RedisServer
from heliograph.stores.memory.metadata import MemoryUsageStore
from heliograph.stores.ports import StoreError
from heliograph.stores.redis.metadata import MetadataClient, RedisUsageStore
from heliograph.stores.usage import Told, Totals


@pytest.fixture(autouse=True)
def quick_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Edges tell each other fifty times a second what they have."""
    monkeypatch.setattr("heliograph.edge.usage.ROUND_S", 0.02)


class Unreliable(MemoryUsageStore):
    """A store that can be away."""

    available = True
    calls = 0

    async def tell(self, told: Told, ttl_s: float) -> Totals | None:
        self.calls += 1
        if not self.available:
            raise StoreError("unavailable", "metadata store: a test's")
        return await super().tell(told, ttl_s)


async def refused(edge: Edge, tenant: str | None = "acme", **options: Any) -> tuple[int, str, int]:
    """Status, code and seconds of a handshake that must be refused before the upgrade."""
    with pytest.raises(InvalidStatus) as error:
        await edge.connect(tenant, in_header=True, **options)
    response = error.value.response
    return response.status_code, json.loads(response.body)["code"], int(response.headers["Retry-After"])


async def told(client: Client, **hello: Any) -> tuple[str, int, int]:
    """Code, ms and close code of a `hello` that must be refused."""
    await client.send({"type": "hello", "id": 1, "token": client._token, **hello})
    refusal = await client.next("refused", id=1)
    reconnect = await client.next("reconnect")
    assert refusal["retry_after_ms"] == reconnect["after_ms"]
    assert reconnect["reason"] == "overloaded"
    assert await client.closed() == 4005
    return refusal["code"], reconnect["after_ms"], client.close_code or 0


async def rounds(*edges: Edge, count: int = 3) -> None:
    """Until each has told and asked some times more, in turn."""
    for edge in edges * count:
        assert await edge.service.app._connect._connections.usage.round()


# ---- connections ----------------------------------------------------------------------------------------------------


async def test_above_a_tenants_limit_a_handshake_with_a_token_is_refused_before_the_upgrade(world: World) -> None:
    await world.put_tenant("acme", limits={"connections": 2})
    edge = await world.edge()
    held = [await edge.client(), await edge.client()]
    status, code, after_s = await refused(edge)
    assert (status, code) == (429, "too_many_connections")
    assert 2 <= after_s <= 10
    assert edge.value("handshakes_refused_total", code="too_many_connections") == 1
    assert edge.value("connections_over_limit_total", limit="tenant") == 1
    await (await edge.client("other")).close()
    await held[0].close()
    await until(lambda: edge.value("connections") == 1)
    assert (await (await edge.connect(in_header=True)).hello())["type"] == "welcome"


async def test_above_it_a_token_in_hello_is_refused_in_a_way_that_browsers_see(world: World) -> None:
    await world.put_tenant("acme", limits={"connections": 1})
    edge = await world.edge()
    await edge.client()
    codes = [await told(await edge.connect()) for _ in range(3)]
    assert {code for code, _, _ in codes} == {"too_many_connections"}
    assert all(2_000 <= after_ms <= 10_001 for _, after_ms, _ in codes)
    assert len({after_ms for _, after_ms, _ in codes}) == 3, "each at a moment of its own"
    assert edge.value("refused_total", code="too_many_connections") == 3
    assert edge.value("connections_over_limit_total", limit="tenant") == 3


async def test_a_subject_has_a_limit_of_its_own(world: World) -> None:
    await world.put_tenant("acme", limits={"connections_per_subject": 2})
    edge = await world.edge()
    leaking = world.token(subject="leaking")
    for _ in range(2):
        await edge.client(token=leaking)
    assert (await told(await edge.connect(token=leaking)))[0] == "too_many_connections"
    assert (await refused(edge, token=leaking))[:2] == (429, "too_many_connections")
    assert edge.value("connections_over_limit_total", limit="subject") == 2
    await edge.client(token=world.token(subject="decent"))


async def test_a_limit_holds_over_all_edges(world: World) -> None:
    await world.put_tenant("acme", limits={"connections": 4})
    first, second = await world.edge(), await world.edge()
    for _ in range(3):
        await first.client()
    await second.client()
    await rounds(first, second)
    for edge in (first, second):
        assert (await refused(edge))[:2] == (429, "too_many_connections")
    await first.stop()
    await rounds(second)
    await second.client()


async def test_what_a_dead_edge_had_counts_until_its_lease_ends(world: World) -> None:
    await world.put_tenant("acme", limits={"connections": 5})
    edge = await world.edge()
    await world.usage.tell(Told("dead/1", True, {"c:acme": 4}, []), 0.5)
    await edge.client()
    await rounds(edge)
    assert (await refused(edge))[1] == "too_many_connections"

    async def let_in() -> None:
        while True:
            try:
                await edge.connect(in_header=True)
                return
            except InvalidStatus:
                await asyncio.sleep(0.02)

    await asyncio.wait_for(let_in(), 10)


async def test_a_limit_that_is_lowered_closes_nobody_and_refuses_new_ones(world: World) -> None:
    await world.put_tenant("acme")
    edge = await world.edge()
    clients = [await edge.client() for _ in range(3)]
    await world.put_tenant("acme", limits={"connections": 1, "sessions": 1})
    await until(lambda: edge.service.app._connect._connections.tenant("acme").record.limits.connections == 1)
    assert (await refused(edge))[1] == "too_many_connections"
    for client in clients:
        assert (await client.publish("acme:planner:1"))["durable"] is True


async def test_while_the_store_is_away_an_edge_keeps_to_its_share_and_says_so(world: World) -> None:
    world.usage = store = Unreliable()
    await world.put_tenant("acme", limits={"connections": 4})
    edge = await world.edge(lease_s=1.0)
    await store.tell(Told("other/1", True, {"c:acme": 1}, []), 60.0)
    await edge.client()
    await rounds(edge)
    store.available = False
    before = edge.value("usage_store_failures_total")
    await until(lambda: edge.value("usage_store_failures_total") > before)
    await edge.client()  # the other one's last count is believed for a lease
    await until(lambda: edge.value("usage_on_share") == 1)
    assert (await refused(edge))[1] == "too_many_connections", "two of four are this edge's share"
    async with httpx.AsyncClient(base_url=edge.url) as http:
        ready = await http.get("/readyz")
    assert ready.status_code == 200
    assert [one["state"] for one in ready.json()["conditions"] if one["name"] == "usage"] == ["degraded"]
    store.available = True
    await until(lambda: edge.value("usage_on_share") == 0)
    await edge.client()


async def test_a_limit_outlives_the_loss_of_a_real_redis_with_all_its_data(
    world: World, redis_server: Callable[..., RedisServer]
) -> None:
    server = redis_server()
    metadata = MetadataClient(server.url, timeout_s=0.5)
    world.usage = RedisUsageStore(metadata)
    await world.put_tenant("acme", limits={"connections": 4})
    first, second = await world.edge(lease_s=1.0), await world.edge(lease_s=1.0)
    for _ in range(3):
        await first.client()
    await second.client()
    await rounds(first, second)
    assert (await refused(second))[1] == "too_many_connections"
    server.kill()
    await until(lambda: first.value("usage_on_share") == 1 and second.value("usage_on_share") == 1)
    assert (await refused(first))[1] == "too_many_connections", "its share is two, and three are there"
    await second.client()
    server.start()
    await until(lambda: first.value("usage_on_share") == 0 and second.value("usage_on_share") == 0)
    await rounds(first, second)
    for edge in (first, second):
        assert (await refused(edge))[1] == "too_many_connections", "all was told again"
    await metadata.close()


async def test_an_edge_tells_once_a_round_however_many_come(world: World) -> None:
    world.usage = store = Unreliable()
    edge = await world.edge()
    before = store.calls
    for _ in range(30):
        await edge.client()
    assert store.calls - before < 2_000
    usage = edge.service.app._connect._connections.usage
    before = store.calls
    await usage.round()
    assert store.calls - before <= 2, "one call a round"


async def test_every_end_of_a_connection_gives_its_place_back(world: World) -> None:
    await world.put_tenant("acme", limits={"connections": 1})
    edge = await world.edge(max_errors=1)
    client = await edge.client()
    await client.close()
    await until(lambda: edge.value("connections") == 0)
    client = await edge.client()
    client.abort()
    await until(lambda: edge.value("connections") == 0)
    client = await edge.client()
    await client.send("[]")
    assert await client.closed() == 4503
    await until(lambda: edge.value("connections") == 0)
    silent = await edge.connect(in_header=True)
    assert (await refused(edge))[1] == "too_many_connections", "before hello it has a place too"
    await silent.close()
    await until(lambda: edge.value("open_sockets") == 0)
    assert edge.value("handshakes_under_way") == 0
    await edge.client()


# ---- addresses ------------------------------------------------------------------------------------------------------


def via(*hops: str) -> dict[str, Any]:
    return {"headers": {"X-Forwarded-For": ", ".join(hops)}}


async def test_an_address_behind_a_trusted_proxy_has_a_limit(world: World) -> None:
    edge = await world.edge(trusted_proxies="127.0.0.1,10.0.0.0/8", connections_per_address=2)
    held = [await edge.connect(**via("203.0.113.9")), await edge.connect(**via("203.0.113.9", "10.1.1.1"))]
    status, code, after_s = await refused(edge, **via("198.51.100.1", "203.0.113.9"))
    assert (status, code) == (429, "too_many_connections"), "what the client wrote left of it is not believed"
    assert after_s >= 1
    assert edge.value("connections_over_limit_total", limit="address") == 1
    await edge.connect(**via("203.0.113.10"))
    await edge.connect()  # the proxy itself, a health check: nobody said for whom
    assert edge.value("client_addresses") == 2
    await held[0].close()
    await until(lambda: edge.value("connections") == 3)
    await edge.connect(**via("203.0.113.9"))


async def test_a_header_from_a_peer_that_is_not_trusted_is_not_read(world: World) -> None:
    edge = await world.edge(trusted_proxies="10.0.0.0/8", connections_per_address=1, limit_direct_addresses=True)
    await edge.connect(**via("203.0.113.1"))
    for spoofed in ("203.0.113.2", "10.0.0.1", "junk"):
        assert (await refused(edge, **via(spoofed)))[1] == "too_many_connections", "it is 127.0.0.1 all the time"
    assert edge.value("client_addresses") == 1


async def test_direct_peers_are_judged_only_where_that_is_said(world: World) -> None:
    edge = await world.edge(trusted_proxies="10.0.0.0/8", connections_per_address=1)
    for _ in range(3):
        await edge.connect(**via("203.0.113.9"))
    assert edge.value("client_addresses") == 0


async def test_the_other_header_is_not_read(world: World) -> None:
    edge = await world.edge(trusted_proxies="127.0.0.1", connections_per_address=1, trusted_proxy_header="forwarded")
    for address in ("203.0.113.1", "203.0.113.2"):
        await edge.connect(headers={"Forwarded": f"for={address};proto=https", "X-Forwarded-For": "203.0.113.7"})
    again = {"Forwarded": "for=203.0.113.2"}
    assert (await refused(edge, headers=again))[1] == "too_many_connections"


# ---- handshakes at once ---------------------------------------------------------------------------------------------


async def test_too_many_handshakes_at_once_are_told_to_come_back_then_refused(world: World) -> None:
    edge = await world.edge(concurrent_handshakes=3, concurrent_handshakes_cap=5)
    silent = [await RawClient.connect(edge.host, edge.port) for _ in range(3)]
    late = await edge.connect()
    assert (await late.next("reconnect"))["reason"] == "overloaded"
    assert await late.closed() == 4005
    await until(lambda: edge.value("open_sockets") == 3)
    heads = [await asyncio.open_connection(edge.host, edge.port) for _ in range(2)]  # they don't even begin
    await until(lambda: edge.value("handshakes_under_way") == 5)
    status, code, after_s = await refused(edge)
    assert (status, code) == (503, "unavailable")
    assert after_s >= 1
    assert edge.value("admission_refused_total", cause="at_once") == 2
    for _, writer in heads:
        writer.close()
    silent[0].send({"type": "hello", "token": world.token()})
    await silent[0].frame("welcome")
    await until(lambda: edge.value("handshakes_under_way") == 2)
    assert (await (await edge.connect()).hello())["type"] == "welcome", "who is done is not under way"
    for client in silent:
        await client.close()


async def test_who_measures_the_edge_may_keep_it_from_taking_more(world: World) -> None:
    edge = await world.edge()
    client = await edge.client()
    admission = edge.service.app._connect._connections.admission
    admission.refuse_new = lambda: "unavailable"
    assert (await refused(edge))[:2] == (503, "unavailable")
    assert edge.value("admission_refused_total", cause="pressure") == 1
    assert (await client.publish("acme:planner:1"))["type"] == "published"
    admission.refuse_new = lambda: None
    await edge.client()


# ---- sessions -------------------------------------------------------------------------------------------------------


async def test_above_the_limit_of_sessions_new_ones_are_refused_and_those_in_use_are_not(world: World) -> None:
    await world.put_tenant("acme", limits={"sessions": 2})
    edge = await world.edge()
    client, other = await edge.client(), await edge.client()
    await client.subscribe("acme:planner:1")
    assert (await client.publish("acme:planner:2"))["type"] == "published"
    answer = await client.subscribe("acme:planner:3")
    assert (answer["type"], answer["code"]) == ("refused", "too_many_sessions")
    assert 1_000 <= answer["retry_after_ms"] <= 3_001
    answer = await client.publish("acme:planner:3", class_="control")
    assert (answer["code"], "retry_after_ms" in answer) == ("too_many_sessions", True)
    async with httpx.AsyncClient(base_url=edge.url, headers={"Authorization": f"Bearer {world.token()}"}) as http:
        posted = await http.post("/v1/sessions/acme/planner/3/messages", json={"payload": 1})
        assert (posted.status_code, posted.json()["code"]) == (429, "too_many_sessions")
        assert int(posted.headers["Retry-After"]) >= 1
        assert (await http.post("/v1/sessions/acme/planner/1/messages", json={"payload": 1})).status_code == 200
    assert edge.value("refused_total", code="too_many_sessions") == 2
    for session in ("acme:planner:1", "acme:planner:2"):
        assert (await other.publish(session))["type"] == "published"
    assert edge.value("sessions_in_use") == 2


async def test_a_session_is_in_use_while_it_is_subscribed_to_or_published_to(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heliograph.edge.usage.IN_USE_S", 0.4)
    monkeypatch.setattr("heliograph.edge.usage.RENEW_S", 0.1)
    await world.put_tenant("acme", limits={"sessions": 1})
    edge = await world.edge()
    client, writer = await edge.client(), await edge.client()
    await client.subscribe("acme:planner:1")
    assert (await writer.publish("acme:planner:2"))["code"] == "too_many_sessions"
    await client.ask("unsubscribe", session="acme:planner:1")
    for _ in range(3):
        assert (await writer.publish("acme:planner:2"))["type"] == "published"
        assert (await client.subscribe("acme:planner:1"))["code"] == "too_many_sessions"
    await until(lambda: edge.value("sessions_in_use") == 0)
    assert (await client.subscribe("acme:planner:1"))["type"] == "subscribed"
    assert (await writer.publish("acme:planner:2"))["code"] == "too_many_sessions", "it was remembered as a target"


async def test_a_session_that_another_edge_has_needs_no_room(world: World) -> None:
    await world.put_tenant("acme", limits={"sessions": 2})
    first, second = await world.edge(), await world.edge()
    client, elsewhere = await first.client(), await second.client()
    for number in (1, 2):
        await client.subscribe(f"acme:planner:{number}")
    await elsewhere.ask("unsubscribe", session="acme:planner:1")
    await rounds(first, second)
    await elsewhere.publish("acme:planner:3")  # asked for the first time: nobody knows of the others yet
    await rounds(first, second)
    assert (await elsewhere.publish("acme:planner:4"))["code"] == "too_many_sessions"
    answer = await elsewhere.publish("acme:planner:1")
    assert answer["code"] == "too_many_sessions", "not known yet to be in use"
    await rounds(second)
    assert (await elsewhere.publish("acme:planner:1"))["type"] == "published"
    assert (await elsewhere.subscribe("acme:planner:2"))["code"] == "too_many_sessions"
    await rounds(second)
    assert (await elsewhere.subscribe("acme:planner:2"))["type"] == "subscribed"


# ---- HTTP -----------------------------------------------------------------------------------------------------------


async def test_requests_of_a_tenant_at_once_are_bounded_before_their_bodies_are_read(world: World) -> None:
    edge = await world.edge(http_requests_per_tenant=2)
    held = [await asyncio.open_connection(edge.host, edge.port) for _ in range(2)]
    for _, writer in held:
        writer.write(
            b"POST /v1/sessions/acme/planner/1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 13\r\n"
            b"Authorization: Bearer " + world.token().encode() + b"\r\n\r\n"
        )
    await until(lambda: edge.value("http_requests_under_way") == 2)

    async def post(tenant: str) -> httpx.Response:
        async with httpx.AsyncClient(base_url=edge.url) as http:
            return await http.post(
                f"/v1/sessions/{tenant}/planner/1/messages",
                json={"payload": 1},
                headers={"Authorization": f"Bearer {world.token(tenant)}"},
            )

    answer = await post("acme")
    assert (answer.status_code, answer.json()["code"]) == (429, "too_many_requests")
    assert int(answer.headers["Retry-After"]) in (1, 2)
    assert (await post("other")).status_code == 200
    for reader, writer in held:
        writer.write(b'{"payload":1}')
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        writer.close()
    await until(lambda: edge.value("http_requests_under_way") == 0)
    assert (await post("acme")).status_code == 200
