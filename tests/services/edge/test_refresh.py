"""`refresh`: a new token on a live connection."""

import time
from typing import Any

import pytest
from tests.services.edge.client import Client
from tests.services.edge.rig import Edge, World, until_told

SESSION, OTHER = "acme:planner:1", "acme:planner:2"


@pytest.fixture
def quick_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections are looked at twenty times a second, so that a token's end is seen at once."""
    monkeypatch.setattr("heliograph.edge.connections.PASS_S", 0.05)


async def refreshed(client: Client, token: str) -> dict[str, Any]:
    return await client.ask("refresh", token=token)


@pytest.mark.usefixtures("quick_passes")
async def test_a_refreshed_connection_outlives_its_first_token(world: World, edge: Edge) -> None:
    begin = time.time()
    client = await edge.client(token=world.token(ttl_s=2))
    left_alone = await edge.client(token=world.token(ttl_s=2))
    await client.subscribe(SESSION)
    answer = await refreshed(client, world.token(ttl_s=60))
    assert answer["type"] == "refreshed"
    assert answer["expires_at_ms"] >= (begin + 58) * 1000
    assert (await left_alone.closed(), left_alone.close_reason) == (4000, "token_expired")
    assert (await client.publish(SESSION, "later"))["type"] == "published"
    assert (await client.messages(SESSION, 1))[0]["payload"] == "later"


@pytest.mark.usefixtures("quick_passes")
async def test_the_end_of_the_new_token_is_the_end(world: World, edge: Edge) -> None:
    client = await edge.client(token=world.token(ttl_s=60))
    assert (await refreshed(client, world.token(ttl_s=2)))["type"] == "refreshed"
    assert (await client.closed(), client.close_reason) == (4000, "token_expired")


async def test_an_answer_has_an_id_only_where_the_request_had_one(world: World, edge: Edge) -> None:
    client = await edge.client()
    await client.send({"type": "refresh", "token": world.token(ttl_s=99)})
    assert "id" not in await client.next("refreshed")


async def test_what_the_new_token_allows_more_is_allowed(world: World, edge: Edge) -> None:
    client = await edge.client(token=world.token(scopes=["publish:planner:2"]))
    assert (await client.publish(SESSION))["code"] == "forbidden"
    assert (await client.subscribe(SESSION))["code"] == "forbidden"
    await refreshed(client, world.token(scopes=["publish:planner:*", "subscribe:planner:1"]))
    assert (await client.publish(SESSION))["type"] == "published"
    assert (await client.subscribe(SESSION))["type"] == "subscribed"


async def test_a_target_that_was_allowed_is_asked_about_again(world: World, edge: Edge) -> None:
    client = await edge.client()
    assert (await client.publish(SESSION))["type"] == "published"
    await refreshed(client, world.token(scopes=["publish:planner:2"]))
    assert (await client.publish(SESSION))["code"] == "forbidden"
    assert (await client.publish(OTHER))["type"] == "published"


async def test_a_subscription_no_longer_allowed_ends_and_says_so(world: World, edge: Edge) -> None:
    publisher, client = await edge.client(), await edge.client()
    for session in (SESSION, OTHER):
        await client.subscribe(session)
    await client.send({"type": "refresh", "id": 70, "token": world.token(scopes=["subscribe:planner:2"])})
    await client.next("refreshed", id=70)
    refused = await client.next("refused", session=SESSION)
    assert (refused["code"], refused.get("id")) == ("forbidden", None)
    for session in (SESSION, OTHER):
        await publisher.publish(session, "secret")
    await client.messages(OTHER, 1)
    assert client.of("message", SESSION) == []
    assert edge.value("refused_total", code="forbidden") == 1


async def test_presence_forgets_the_session_of_an_ended_subscription(world: World, edge: Edge) -> None:
    client = await edge.client()
    await client.subscribe(SESSION)

    async def known() -> bool:
        return bool(await world.connections.connections(SESSION, 10, ""))

    async def forgotten() -> bool:
        return not await known()

    await until_told(known)
    await refreshed(client, world.token(scopes=["publish:planner:*"]))
    await until_told(forgotten)


async def test_a_subscription_that_is_not_answered_yet_is_refused_by_its_id(world: World, edge: Edge) -> None:
    client = await edge.client()
    await client.send({"type": "subscribe", "id": 41, "session": SESSION, "from": "latest"})
    await client.send({"type": "refresh", "id": 42, "token": world.token(scopes=["publish:planner:*"])})
    await client.next("refreshed", id=42)
    await client.barrier()
    answers = [frame for frame in client.frames if frame.get("id") == 41]
    assert len(answers) == 1
    refusals = [frame for frame in client.of("refused", SESSION) if frame["code"] == "forbidden"]
    assert len(refusals) == 1


BAD: list[tuple[str, dict[str, Any]]] = [
    ("unauthenticated", {"aud": "somebody-else"}),
    ("unauthenticated", {"tenant": "other"}),
    ("unauthenticated", {"tenant": "nobody"}),
    ("unauthenticated", {"scope": "everything"}),
    ("token_expired", {"ttl_s": -60}),
    ("token_expired", {"ttl_s": -3}),
    ("identity_changed", {"subject": "somebody-else"}),
]


async def test_a_token_that_is_not_accepted_changes_nothing(world: World, edge: Edge) -> None:
    client = await edge.client()
    await client.subscribe(SESSION)
    for code, claims in BAD:
        answer = await refreshed(client, world.token(**claims))
        assert (answer["type"], answer["code"]) == ("refused", code), claims
        assert (await client.publish(SESSION, code))["type"] == "published"
    for text in ("", "x", "a.b.c", "é.ü.ß"):
        assert (await refreshed(client, text))["code"] in ("unauthenticated", "rate_limited")
    assert len(await client.messages(SESSION, len(BAD))) == len(BAD)
    assert not client.is_closed


async def test_a_token_of_another_tenant_with_the_same_subject_is_another_identity(world: World, edge: Edge) -> None:
    client = await edge.client()
    answer = await refreshed(client, world.token("other"))
    assert answer["code"] == "identity_changed"
    assert (await client.publish("other:planner:1"))["code"] == "forbidden"
    assert (await client.publish(SESSION))["type"] == "published"


async def test_tokens_are_not_tried_faster_than_the_limit(world: World) -> None:
    edge = await world.edge(refreshes_per_s=0.01)
    client = await edge.client()
    answers = [await refreshed(client, "a.b.c") for _ in range(11)]
    assert [answer["code"] for answer in answers] == ["unauthenticated"] * 10 + ["rate_limited"]
    assert answers[-1]["retry_after_ms"] > 1_000
    assert (await client.publish(SESSION))["type"] == "published"


async def test_hello_comes_before_refresh(world: World, edge: Edge) -> None:
    client = await edge.connect()
    answer = await refreshed(client, world.token())
    assert (answer["type"], answer["code"]) == ("error", "hello_expected")
