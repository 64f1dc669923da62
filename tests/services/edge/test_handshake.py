"""The handshake: origins, subprotocols, admission, readiness."""

import asyncio
import json

import pytest
from tests.services.edge.client import Client, RawClient
from tests.services.edge.rig import Edge, World, until
from websockets.exceptions import InvalidStatus

from heliograph.protocol.frames import AFFINITY_HEADER, AFFINITY_QUERY


async def refused(edge: Edge, **options: object) -> tuple[int, str]:
    """Status and code of a handshake that must be refused."""
    with pytest.raises(InvalidStatus) as error:
        await edge.connect(**options)  # type: ignore[arg-type]
    response = error.value.response
    assert response.headers["Content-Type"] == "application/problem+json"
    return response.status_code, json.loads(response.body)["code"]


# ---- origins --------------------------------------------------------------------------------------------------------


async def test_a_client_without_an_origin_is_no_web_page(edge: Edge) -> None:
    assert (await (await edge.connect()).hello())["type"] == "welcome"


@pytest.mark.parametrize(
    ("allowed", "origin", "welcome"),
    [
        ("https://app.example.com", "https://app.example.com", True),
        ("https://app.example.com", "http://app.example.com", False),
        ("https://app.example.com", "https://app.example.com:8443", False),
        ("https://app.example.com", "https://app.example.com.evil.net", False),
        ("https://*.example.com", "https://app.example.com", True),
        ("https://*.example.com", "https://a.b.example.com", True),
        ("https://*.example.com", "https://example.com", False),
        ("https://*.example.com", "https://evilexample.com", False),
        ("https://*.example.com", "https://evil.net/.example.com", False),
        ("https://*.example.com", "https://evil.net:1@x.example.com", False),
        ("http://[::1]:3000", "http://[::1]:3000", True),
        ("http://[::1]:3000", "http://1:3000", False),
        ("*", "https://anything.example", True),
        ("*", "null", True),
        ("https://a.example,https://b.example", "https://b.example", True),
        ("", "https://app.example.com", False),
        ("https://app.example.com", "null", False),
    ],
)
async def test_a_web_page_connects_where_its_origin_is_allowed(
    world: World, allowed: str, origin: str, welcome: bool
) -> None:
    edge = await world.edge(allowed_origins=allowed)
    if welcome:
        assert (await (await edge.connect(origin=origin)).hello())["type"] == "welcome"
    else:
        assert await refused(edge, origin=origin) == (403, "origin_refused")


@pytest.mark.parametrize("in_header", [True, False])
async def test_a_tenants_own_origins_are_allowed_for_its_clients(world: World, in_header: bool) -> None:
    await world.put_tenant("acme", allowed_origins=["https://*.acme.example"])
    edge = await world.edge()
    page = await edge.connect(origin="https://app.acme.example", in_header=in_header)
    assert (await page.hello())["type"] == "welcome"


async def test_a_tenants_origins_are_not_allowed_for_another(world: World) -> None:
    await world.put_tenant("acme", allowed_origins=["https://app.acme.example"])
    edge = await world.edge()
    assert await refused(edge, tenant="other", origin="https://app.acme.example", in_header=True) == (
        403,
        "origin_refused",
    )
    page = await edge.connect("other", origin="https://app.acme.example")
    await page.send({"type": "hello", "id": 1, "token": world.token("other")})
    assert (await page.next("refused", id=1))["code"] == "origin_refused"
    assert (await page.closed(), page.close_reason) == (4501, "forbidden")


# ---- subprotocol, path, version -------------------------------------------------------------------------------------


async def test_the_subprotocol_is_chosen_among_those_offered(edge: Edge) -> None:
    client = await edge.connect(protocols=["soap", "heliograph.v1"])
    assert client.subprotocol == "heliograph.v1"


async def test_a_client_that_offers_no_subprotocol_is_served(edge: Edge) -> None:
    client = await edge.connect(protocols=None)
    assert client.subprotocol is None
    assert (await client.hello())["type"] == "welcome"


async def test_a_client_that_speaks_only_others_is_told_not_to_come_back(edge: Edge) -> None:
    client = await edge.connect(protocols=["heliograph.v9"])
    assert client.subprotocol is None
    assert (await client.closed(), client.close_reason) == (4504, "subprotocol")


async def test_there_is_no_websocket_elsewhere(edge: Edge) -> None:
    paths = ("/", "/v1/connect/", "/v2/connect", "/metrics")
    for path in paths:
        with pytest.raises(InvalidStatus) as error:
            await Client.connect(f"ws://{edge.host}:{edge.port}{path}")
        response = error.value.response
        assert (response.status_code, json.loads(response.body)["code"]) == (404, "not_found")
    assert edge.value("handshakes_refused_total", code="not_found") == len(paths)


async def test_an_extension_that_is_offered_is_not_taken(edge: Edge) -> None:
    """Compression keeps state per connection; frames here are the same bytes for all."""
    client = await RawClient.connect(
        edge.host, edge.port, headers="Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
    )
    assert b"permessage-deflate" not in client.response
    await client.close()


@pytest.mark.parametrize(
    "headers",
    ["Sec-WebSocket-Version: 8\r\n", "Sec-WebSocket-Key: short\r\n", "Content-Length: 5\r\n"],
    ids=["version", "key", "body"],
)
async def test_a_handshake_that_is_none_is_a_bad_request(edge: Edge, headers: str) -> None:
    client = await RawClient.connect(edge.host, edge.port, headers=headers)
    assert client.response.split()[1] in {b"400", b"426"}
    await client.close()
    await until(lambda: edge.value("connections") == 0)
    assert edge.value("handshakes_refused_total", code="no_handshake") == 1
    await until(lambda: edge.value("open_sockets") == 0)


# ---- admission ------------------------------------------------------------------------------------------------------


async def test_over_the_pace_clients_are_told_when_to_come_back(world: World) -> None:
    edge = await world.edge(handshakes_per_s=0.2, handshakes_cap_per_s=1_000)
    await edge.client()
    after_ms = []
    for _ in range(4):
        client = await edge.connect()
        frame = await client.next("reconnect")
        assert frame["reason"] == "overloaded"
        after_ms.append(frame["after_ms"])
        assert (await client.closed(), client.close_reason) == (4005, "overloaded")
    assert len(set(after_ms)) == 4, "each at a moment of its own"
    assert max(after_ms) > 10_000, "four at one in five seconds"
    assert edge.value("handshakes_refused_total", code="told_to_reconnect") == 4


async def test_over_the_cap_handshakes_are_refused_before_the_upgrade(world: World) -> None:
    edge = await world.edge(handshakes_per_s=0.1, handshakes_cap_per_s=0.1)
    await edge.connect()
    with pytest.raises(InvalidStatus) as error:
        await edge.connect()
    response = error.value.response
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) >= 1
    assert json.loads(response.body)["code"] == "unavailable"


async def test_an_edge_that_is_not_ready_refuses_with_a_time_to_come_back(world: World) -> None:
    world.live.stop()
    edge = await world.edge(ready=False)
    with pytest.raises(InvalidStatus) as error:
        await edge.connect()
    assert error.value.response.status_code == 503
    assert int(error.value.response.headers["Retry-After"]) >= 1
    world.live.restart(keep=True)
    async with asyncio.timeout(10):
        await edge.service.readiness.wait_ready()
    assert (await (await edge.connect()).hello())["type"] == "welcome"


# ---- hints for balancers --------------------------------------------------------------------------------------------


async def test_a_hint_for_balancers_changes_nothing(edge: Edge) -> None:
    """Neither as a header, from the SDK, nor in the query, from a browser."""
    asks = await Client.connect(f"{edge.address}?{AFFINITY_QUERY}=0123456789abcdef", token=edge.world.token())
    assert (await asks.hello())["type"] == "welcome"
    assert (await asks.publish("acme:planner:1"))["durable"] is True
    await asks.close()
    raw = await RawClient.connect(edge.host, edge.port, headers=f"{AFFINITY_HEADER}: 0123456789abcdef\r\n")
    raw.send({"type": "hello", "token": edge.world.token()})
    await raw.frame("welcome")
    raw.writer.close()
