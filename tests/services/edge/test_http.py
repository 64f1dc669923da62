"""Publish over HTTP."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from tests.services.edge.rig import Edge, World, until

SESSION = "acme:planner:1"
PATH = "/v1/sessions/acme/planner/1/messages"


@pytest.fixture
async def http(world: World, edge: Edge) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the edge, with a token of `acme`."""
    async with client_of(edge) as client:
        yield client


def client_of(edge: Edge, **token: Any) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {edge.world.token('acme', **token)}"}
    return httpx.AsyncClient(base_url=edge.url, headers=headers)


def refusal(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of an error, whose shape is checked."""
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (body["status"], body["error"]["code"]) == (answer.status_code, body["code"])
    return answer.status_code, body["code"]


# ---- one message ----------------------------------------------------------------------------------------------------


async def test_a_message_is_answered_once_the_log_has_it(world: World, edge: Edge, http: httpx.AsyncClient) -> None:
    reader = await edge.client()
    await reader.subscribe(SESSION)
    answer = await http.post(PATH, json={"payload": {"a": 1}, "class": "control", "correlation_id": "c"})
    assert answer.status_code == 200
    assert answer.json()["durable"] is True
    assert world.positions_in_log(SESSION) == [answer.json()["position"]]
    (message,) = await reader.messages(SESSION, 1)
    assert (message["payload"], message["class"], message["correlation_id"]) == ({"a": 1}, "control", "c")
    assert (message["producer"], message["message_id"]) == ("you", answer.json()["message_id"])


@pytest.mark.parametrize(("ack", "durable"), [("durable", True), ("accepted", False), ("none", False)])
async def test_a_request_has_an_answer_whatever_its_ack(http: httpx.AsyncClient, ack: str, durable: bool) -> None:
    answer = await http.post(PATH, json={"payload": 1, "ack": ack})
    assert (answer.status_code, answer.json().get("durable", False)) == (200, durable)
    assert answer.json()["position"]


async def test_telemetry_is_taken_without_a_position(edge: Edge, http: httpx.AsyncClient) -> None:
    reader = await edge.client()
    await reader.subscribe(SESSION)
    answer = await http.post(PATH, json={"payload": "t", "class": "telemetry"})
    assert (answer.status_code, "position" in answer.json()) == (200, False)
    assert (await reader.messages(SESSION, 1))[0]["payload"] == "t"


async def test_a_repeat_by_message_id_gets_the_first_position(world: World, http: httpx.AsyncClient) -> None:
    first = (await http.post(PATH, json={"payload": 1, "message_id": "m"})).json()
    world.confirm_log()
    again = (await http.post(PATH, json={"payload": 1, "message_id": "m"})).json()
    assert (again["position"], again["duplicate"]) == (first["position"], True)
    assert len(world.positions_in_log(SESSION)) == 1
    other = await http.post(PATH, json={"payload": 2, "message_id": "m"})
    assert refusal(other) == (409, "message_id_reused")


async def test_what_the_log_has_not_in_time_is_a_202(world: World) -> None:
    edge = await world.edge(durable_wait_s=0.05)
    world.log.available = False
    async with client_of(edge) as http:
        answer = await http.post(PATH, json={"payload": 1})
    assert (answer.status_code, answer.json()["pending"]) == (202, True)
    world.log.available = True


# ---- batches --------------------------------------------------------------------------------------------------------


async def test_a_batch_is_taken_in_order_with_a_result_each(world: World, http: httpx.AsyncClient) -> None:
    answer = await http.post(PATH, json={"messages": [{"payload": number} for number in range(20)]})
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert all(result["durable"] for result in results)
    assert [result["position"] for result in results] == world.positions_in_log(SESSION)


async def test_a_batch_stops_at_its_first_refusal(world: World, http: httpx.AsyncClient) -> None:
    bodies = [{"payload": 1}, {"payload": 2}, {"payload": 3, "event_type": "dev.heliograph.x"}, {"payload": 4}]
    answer = await http.post(PATH, json={"messages": bodies})
    assert answer.status_code == 207
    results = answer.json()["results"]
    assert [result.get("code") for result in results] == [None, None, "value_invalid", "batch_stopped"]
    assert len(world.positions_in_log(SESSION)) == 2


async def test_a_batch_sent_again_is_not_taken_twice(world: World, http: httpx.AsyncClient) -> None:
    bodies = [{"payload": number, "message_id": f"m-{number}"} for number in range(5)]
    first = (await http.post(PATH, json={"messages": bodies[:3]})).json()["results"]
    world.confirm_log()
    again = (await http.post(PATH, json={"messages": bodies})).json()["results"]
    assert [result["position"] for result in again[:3]] == [result["position"] for result in first]
    assert [result.get("duplicate", False) for result in again] == [True, True, True, False, False]
    assert len(world.positions_in_log(SESSION)) == 5


async def test_a_batch_of_more_than_it_may_hold_is_refused_whole(world: World) -> None:
    edge = await world.edge(http_batch_messages=3)
    async with client_of(edge) as http:
        answer = await http.post(PATH, json={"messages": [{"payload": 1}] * 4})
    assert refusal(answer) == (413, "batch_too_large")
    assert world.positions_in_log(SESSION) == []


# ---- who may ----------------------------------------------------------------------------------------------------


NO_TOKENS: list[Any] = [None, "", "Bearer", "Bearer x", "Basic eW91OnB3", "Bearer a.b.c"]


async def test_without_a_good_token_it_is_a_401(edge: Edge) -> None:
    async with httpx.AsyncClient(base_url=edge.url) as http:
        for authorization in NO_TOKENS:
            headers = {} if authorization is None else {"Authorization": authorization}
            answer = await http.post(PATH, json={"payload": 1}, headers=headers)
            assert refusal(answer) == (401, "unauthenticated"), authorization
            assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_an_old_token_is_a_401_of_its_own(edge: Edge) -> None:
    async with client_of(edge, ttl_s=-60) as http:
        assert refusal(await http.post(PATH, json={"payload": 1})) == (401, "token_expired")


@pytest.mark.parametrize(
    ("scopes", "path"),
    [
        (["publish:planner:2"], PATH),
        (["subscribe:*:*"], PATH),
        (["publish:*:*"], "/v1/sessions/other/planner/1/messages"),
    ],
    ids=str,
)
async def test_what_the_token_does_not_allow_is_a_403(world: World, edge: Edge, scopes: list[str], path: str) -> None:
    async with client_of(edge, scopes=scopes) as http:
        assert refusal(await http.post(path, json={"payload": 1})) == (403, "forbidden")
    assert world.positions_in_log(SESSION) == []


async def test_a_suspended_tenant_is_a_403(world: World) -> None:
    await world.put_tenant("acme", suspended=True)
    edge = await world.edge()
    async with client_of(edge) as http:
        assert refusal(await http.post(PATH, json={"payload": 1})) == (403, "tenant_suspended")


# ---- what is wrong with it ------------------------------------------------------------------------------------------


NO_BODIES: list[Any] = [
    b"",
    b"{",
    b"null",
    b"[]",
    b"1",
    b'"payload"',
    b"{}",
    b'{"payload":}',
    b'{"payload":1,"colour":"blue"}',
    b'{"payload":1,"seq":1}',
    b'{"payload":1,"class":"loud"}',
    b'{"payload":1,"ack":true}',
    b'{"payload":1,"message_id":""}',
    b'{"payload":1,"message_id":7}',
    b'{"payload":1,"traceparent":"x"}',
    b'{"payload":"\xff"}',
    b'{"payload":"\\ud800"}',
    b'{"payload":1} trailing',
    b'{"messages":[]}',
    b'{"messages":null}',
    b'{"messages":{}}',
    b'{"messages":[1]}',
    b'{"messages":[{"payload":1}],"payload":1}',
    b'{"payload":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    b"[" * 100_000,
]


async def test_a_body_that_is_none_is_a_400(world: World, http: httpx.AsyncClient) -> None:
    for body in NO_BODIES:
        status, code = refusal(await http.post(PATH, content=body))
        assert (status, code) in ((400, "malformed"), (400, "value_invalid")), body[:60]
    assert world.positions_in_log(SESSION) == []


REFUSED: list[Any] = [
    ({"payload": 1, "event_type": "dev.heliograph.seal"}, 400, "value_invalid"),
    ({"payload": 1, "reply_to": "nowhere"}, 400, "session_invalid"),
    ({"payload": "?", "content_type": "image/png"}, 400, "payload_not_base64"),
    ({"payload": 1, "class": "telemetry", "ack": "durable"}, 400, "ack_impossible"),
    ({"payload": "x" * 70_000}, 413, "payload_too_large"),
    ({"payload": json.loads("[" * 70 + "]" * 70)}, 400, "value_invalid"),
]


async def test_a_message_that_may_not_be_is_refused_with_its_code(http: httpx.AsyncClient) -> None:
    for body, status, code in REFUSED:
        assert refusal(await http.post(PATH, json=body)) == (status, code), str(body)[:60]


NO_KEYS: list[Any] = [
    "/v1/sessions/ACME/planner/1/messages",
    "/v1/sessions/acme/pl%20anner/1/messages",
    "/v1/sessions/acme/planner/%00/messages",
    f"/v1/sessions/acme/planner/{'x' * 200}/messages",
    "/v1/sessions/acme/planner/a%3Ab/messages",
]


async def test_a_session_that_is_no_key_is_a_400(http: httpx.AsyncClient) -> None:
    for path in NO_KEYS:
        assert refusal(await http.post(path, json={"payload": 1})) == (400, "session_invalid"), path


async def test_a_body_above_the_limit_is_a_413(world: World) -> None:
    edge = await world.edge(http_request_bytes=65_536)
    async with client_of(edge) as http:
        answer = await http.post(PATH, json={"messages": [{"payload": "x" * 10_000}] * 10})
    assert refusal(answer) == (413, "request_too_large")


NOT_THERE: list[Any] = [
    ("GET", PATH, (405, "method_not_allowed")),
    ("DELETE", PATH, (405, "method_not_allowed")),
    ("POST", "/v1/sessions/acme/planner/messages", (404, "not_found")),
    ("POST", "/v1/sessions/acme/planner/a/b/messages", (404, "not_found")),
    ("GET", "/", (404, "not_found")),
    ("GET", "/v1/connect", (404, "not_found")),
]


async def test_what_is_not_there_says_so(http: httpx.AsyncClient) -> None:
    for method, path, expected in NOT_THERE:
        assert refusal(await http.request(method, path)) == expected, (method, path)


# ---- pressure -------------------------------------------------------------------------------------------------------


async def test_too_fast_is_a_429_with_a_time_to_come_back(world: World) -> None:
    await world.put_tenant("acme", limits={"connection_messages_per_s": 0.5, "connection_burst_messages": 2})
    edge = await world.edge()
    async with client_of(edge) as http:
        assert (await http.post(PATH, json={"payload": 1})).status_code == 200
        batch = await http.post(PATH, json={"messages": [{"payload": 1}, {"payload": 2}, {"payload": 3}]})
        assert [one.get("code") for one in batch.json()["results"]] == [None, "rate_limited", "batch_stopped"]
        refused = await http.post(PATH, json={"payload": 1})
    assert refusal(refused) == (429, "rate_limited")
    assert 1 <= int(refused.headers["Retry-After"]) <= 2
    async with client_of(edge, subject="another") as http:
        assert (await http.post(PATH, json={"payload": 1})).status_code == 200


async def test_without_the_live_path_it_is_a_503_with_a_time_to_come_back(
    world: World, http: httpx.AsyncClient
) -> None:
    world.live.stop()
    answer = await http.post(PATH, json={"payload": 1})
    assert refusal(answer) == (503, "live_unavailable")
    assert answer.headers["Retry-After"] == "1"


async def test_an_edge_that_starts_says_come_back_rather_than_who_are_you(world: World) -> None:
    world.live.stop()
    edge = await world.edge(ready=False)
    async with client_of(edge) as http:
        answer = await http.post(PATH, json={"payload": 1})
        assert refusal(answer) == (503, "unavailable")
        assert answer.headers["Retry-After"] == "1"
        assert (await http.get("/livez")).status_code == 200
        waiting = (await http.get("/readyz")).json()["waiting_for"]
        assert "live" in waiting
        world.live.restart(keep=True)
        async with asyncio.timeout(10):
            await edge.service.readiness.wait_ready()
        assert (await http.post(PATH, json={"payload": 1})).status_code == 200


async def cut_off(reader: asyncio.StreamReader) -> None:
    """Return when the edge ended the stream; with bytes of ours unread its answer may be lost to a reset."""
    async with asyncio.timeout(20):
        with contextlib.suppress(ConnectionError):
            while await reader.read(4_096):
                pass


# ---- the port -------------------------------------------------------------------------------------------------------


async def test_a_peer_that_sends_no_request_is_cut_off(world: World) -> None:
    edge = await world.edge(http_head_timeout_s=0.1)
    reader, writer = await asyncio.open_connection(edge.host, edge.port)
    async with asyncio.timeout(10):
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
    assert edge.value("handshakes_refused_total", code="head_too_late") == 1
    writer.close()


@pytest.mark.parametrize("before", [b"", b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"], ids=["first", "second"])
async def test_a_head_that_never_ends_is_cut_off_in_time(world: World, before: bytes) -> None:
    edge = await world.edge(http_head_timeout_s=0.2)
    reader, writer = await asyncio.open_connection(edge.host, edge.port)
    writer.write(before)
    if before:
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        await reader.readuntil(b"}")

    async def dribble() -> None:
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n")
        while True:
            writer.write(b"X: y\r\n")
            await asyncio.sleep(0.02)

    dribbling = asyncio.create_task(dribble())
    await cut_off(reader)
    dribbling.cancel()
    await asyncio.gather(dribbling, return_exceptions=True)
    writer.close()


async def test_a_head_above_the_limit_is_cut_off(edge: Edge) -> None:
    reader, writer = await asyncio.open_connection(edge.host, edge.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: " + b"y" * 300_000)
    await cut_off(reader)
    assert edge.value("handshakes_refused_total", code="head_too_large") == 1
    writer.close()


async def test_a_handshake_that_only_the_websocket_library_refuses_is_answered(edge: Edge) -> None:
    """Its lines are shorter than HTTP allows; an answer that never comes would hold the socket for ever."""
    from tests.services.edge.client import RawClient

    client = await RawClient.connect(edge.host, edge.port, headers=f"Authorization: Bearer {'x' * 9_000}\r\n")
    assert client.response.split()[1] == b"431"
    await client.ended()
    await client.close()
    await until(lambda: edge.value("connections") == 0)


async def test_what_is_no_http_is_a_400(edge: Edge) -> None:
    reader, writer = await asyncio.open_connection(edge.host, edge.port)
    writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc")
    async with asyncio.timeout(10):
        assert (await reader.read(64)).startswith(b"HTTP/1.1 400 ")
    assert edge.value("handshakes_refused_total", code="no_http") == 1
    writer.close()


async def test_requests_on_one_connection_are_answered_one_after_another(edge: Edge, http: httpx.AsyncClient) -> None:
    for number in range(3):
        assert (await http.post(PATH, json={"payload": number})).status_code == 200
    assert (await http.get("/metrics")).status_code == 200
