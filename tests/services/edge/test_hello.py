"""`hello`: who may speak, and what a client is told about it."""

import base64
import json
import time
from typing import Any

import pytest
from tests.services.edge.rig import Edge, World, until
from websockets.exceptions import InvalidStatus


async def test_a_token_in_hello_is_welcomed(edge: Edge) -> None:
    client = await edge.connect()
    welcome = await client.hello(id=7)
    assert welcome["id"] == 7
    assert welcome["edge"] == "edge-1"
    assert welcome["max_payload_bytes"] == 64 * 1024
    assert welcome["max_unanswered"] == 64
    assert welcome["heartbeat_ms"] == 10_000
    assert welcome["expires_at_ms"] > time.time() * 1000
    assert welcome["connection"]


async def test_a_token_in_the_handshake_is_welcomed_without_one_in_hello(edge: Edge) -> None:
    client = await edge.connect(in_header=True)
    assert (await client.hello())["type"] == "welcome"


async def test_every_connection_has_an_id_of_its_own(edge: Edge) -> None:
    clients = [await edge.connect() for _ in range(3)]
    assert len({(await client.hello())["connection"] for client in clients}) == 3


async def test_hello_without_a_token_is_refused_and_closed(edge: Edge) -> None:
    client = await edge.connect(None)
    await client.send({"type": "hello", "id": 3})
    assert (await client.next("refused", id=3))["code"] == "unauthenticated"
    assert (await client.closed(), client.close_reason) == (4500, "token_refused")


async def test_a_token_that_ran_out_may_come_back_with_a_fresh_one(world: World, edge: Edge) -> None:
    client = await edge.connect(token=world.token(ttl_s=-60))
    await client.send({"type": "hello", "token": world.token(ttl_s=-60)})
    assert (await client.next("refused"))["code"] == "token_expired"
    assert (await client.closed(), client.close_reason) == (4000, "token_expired")


FOR_OTHERS: list[Any] = [
    {"aud": "somebody-else"},
    {"aud": None},
    {"tenant": "other"},
    {"tenant": "nobody"},
    {"sub": ""},
    {"exp": "soon"},
]


async def test_a_token_for_somebody_else_is_refused_for_good(world: World, edge: Edge) -> None:
    for claims in FOR_OTHERS:
        client = await edge.connect(token="")
        await client.send({"type": "hello", "token": world.token(**claims)})
        assert (await client.next("refused"))["code"] == "unauthenticated", claims
        assert await client.closed() == 4500, claims


NO_TOKENS: list[Any] = ["x", "a.b.c", "é.ü.ß", "." * 9_000, "\x00"]


async def test_text_that_is_no_token_is_refused_for_good(edge: Edge) -> None:
    for token in NO_TOKENS:
        client = await edge.connect(token="")
        await client.send({"type": "hello", "token": token})
        assert (await client.next("refused"))["code"] == "unauthenticated", token[:20]
        assert await client.closed() == 4500, token[:20]


async def test_a_token_whose_claims_were_changed_is_refused(world: World, edge: Edge) -> None:
    head, claims, signature = world.token(scopes=["publish:planner:1"]).split(".")
    content = json.loads(base64.urlsafe_b64decode(claims + "=="))
    content["scope"] = "publish:*:*"
    forged = base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")
    client = await edge.connect(token="")
    await client.send({"type": "hello", "token": f"{head}.{forged}.{signature}"})
    assert await client.closed() == 4500


async def test_a_suspended_tenant_is_told_so(world: World, edge: Edge) -> None:
    await world.put_tenant("acme", suspended=True)
    await until(lambda: edge.value("tenant_changes_total") >= 3)
    client = await edge.connect(token="")
    await client.send({"type": "hello", "token": world.token("acme")})
    assert (await client.next("refused"))["code"] == "tenant_suspended"
    assert (await client.closed(), client.close_reason) == (4502, "tenant_suspended")


BAD_CLAIMS: list[Any] = [{"aud": "somebody-else"}, {"exp": 1}, {"tenant": "other"}]


async def test_a_bad_token_in_the_handshake_is_a_401_with_a_coded_body(world: World, edge: Edge) -> None:
    for claims in BAD_CLAIMS:
        with pytest.raises(InvalidStatus) as refused:
            await edge.connect(token=world.token(**claims), in_header=True)
        response = refused.value.response
        assert response.status_code == 401, claims
        assert response.headers["WWW-Authenticate"].startswith("Bearer")
        assert json.loads(response.body)["code"] == ("token_expired" if "exp" in claims else "unauthenticated")


async def test_a_suspended_tenant_is_a_403_in_the_handshake(world: World, edge: Edge) -> None:
    await world.put_tenant("acme", suspended=True)
    await until(lambda: edge.value("tenant_changes_total") >= 3)
    with pytest.raises(InvalidStatus) as refused:
        await edge.connect(in_header=True)
    assert refused.value.response.status_code == 403


async def test_a_second_hello_is_an_error_and_the_connection_stays(edge: Edge) -> None:
    client = await edge.client()
    await client.send({"type": "hello", "id": 5})
    assert (await client.next("error", id=5))["code"] == "hello_repeated"
    assert (await client.publish("acme:planner:1"))["type"] == "published"


TOO_EARLY: list[Any] = [
    {"type": "publish", "session": "acme:planner:1", "payload": 1},
    {"type": "subscribe", "session": "acme:planner:1"},
    {"type": "unsubscribe", "session": "acme:planner:1"},
    {"type": "status", "session": "acme:planner:1", "position": "x"},
]


async def test_nothing_is_done_before_hello(edge: Edge) -> None:
    client = await edge.connect()
    for frame in TOO_EARLY:
        await client.send({**frame, "id": 9})
        assert (await client.next("error", id=9))["code"] == "hello_expected", frame
    assert (await client.hello())["type"] == "welcome"


async def test_a_name_with_control_characters_is_refused_and_hello_may_be_tried_again(edge: Edge) -> None:
    client = await edge.connect()
    await client.send({"type": "hello", "id": 1, "token": edge.world.token(), "producer": "a\nb"})
    assert (await client.next("refused", id=1))["code"] == "value_invalid"
    assert (await client.hello(producer="ab"))["type"] == "welcome"


async def test_the_producer_is_scoped_by_the_tokens_subject(world: World, edge: Edge) -> None:
    reader = await edge.client()
    await reader.subscribe("acme:planner:1")
    named = await edge.client(token=world.token(subject="robot"), producer="arm", incarnation="abcdefgh")
    unnamed = await edge.client(token=world.token(subject="robot"))
    await named.publish("acme:planner:1", "a")
    await unnamed.publish("acme:planner:1", "b")
    first, second = await reader.messages("acme:planner:1", 2)
    assert (first["producer"], second["producer"]) == ("robot/arm", "robot")


async def test_hello_subscribes_and_each_is_answered(edge: Edge) -> None:
    writer = await edge.client()
    await writer.publish("acme:planner:1", "before")
    edge.world.answer_history()
    client = await edge.connect()
    wanted = [
        {"session": "acme:planner:1", "from": "earliest"},
        {"session": "acme:planner:2"},
        {"session": "other:planner:1"},
        {"session": "acme:planner:1"},
        {"session": "not a session"},
        {"session": "acme:planner:3", "from": "somewhere"},
    ]
    await client.hello(subscriptions=wanted)
    assert [message["payload"] for message in await client.messages("acme:planner:1", 1)] == ["before"]
    assert (await client.next("subscribed", session="acme:planner:2")).get("recovered", True) is True
    refusals = {(one["session"], one["code"]) for one in [await client.next("refused") for _ in range(4)]}
    assert refusals == {
        ("other:planner:1", "forbidden"),
        ("acme:planner:1", "value_invalid"),
        ("not a session", "session_invalid"),
        ("acme:planner:3", "position_invalid"),
    }
