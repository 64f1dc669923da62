"""A tenant's record changes, and within a second open connections obey it."""

import pytest
from tests.services.edge.client import Client
from tests.services.edge.rig import Edge, World, until, until_told

SESSION = "acme:planner:1"


NOTICED_S = 1.0 + 4.0
"""The second within which a change holds, and what a busy machine adds."""


@pytest.fixture
async def bystander(edge: Edge) -> Client:
    client = await edge.client("other")
    await client.subscribe("other:planner:1")
    return client


async def unharmed(client: Client) -> None:
    assert not client.is_closed
    await client.publish("other:planner:1", "still here")
    assert (await client.messages("other:planner:1", 1))[0]["payload"] == "still here"


async def test_a_lower_rate_holds_for_open_connections(world: World, edge: Edge, bystander: Client) -> None:
    client = await edge.client()
    assert (await client.publish(SESSION))["type"] == "published"

    async def limited() -> bool:
        return (await client.publish(SESSION, ack="accepted")).get("code") == "rate_limited"

    limits = {"connection_messages_per_s": 0.001, "connection_burst_messages": 1}
    await world.put_tenant("acme", limits=limits)
    await until_told(limited, NOTICED_S)
    await unharmed(bystander)


async def test_other_bounds_hold_for_open_connections(world: World, edge: Edge) -> None:
    client = await edge.client()
    await client.subscribe("acme:planner:1")

    async def smaller() -> bool:
        return (await client.publish(SESSION, "x" * 200, ack="accepted")).get("code") == "payload_too_large"

    limits = {"max_payload_bytes": 100, "subscriptions_per_connection": 1}
    await world.put_tenant("acme", limits=limits)
    await until_told(smaller, NOTICED_S)
    assert (await client.subscribe("acme:planner:2"))["code"] == "too_many_subscriptions"
    assert not client.is_closed


async def test_a_log_of_its_own_holds_for_open_connections(world: World, edge: Edge) -> None:
    client = await edge.client()
    await client.publish(SESSION)
    topic = world.topics.agent_type_log("acme", "planner")
    world.make_topic(topic)

    async def moved() -> bool:
        await client.publish("acme:planner:2")
        return len(world.log.records(topic)) > 0

    await world.put_tenant("acme", agent_types={"planner": {"log": {}}})
    await until_told(moved, NOTICED_S)


@pytest.mark.parametrize("said_hello", [True, False])
async def test_a_suspended_tenant_is_closed(world: World, edge: Edge, bystander: Client, said_hello: bool) -> None:
    clients = [await edge.connect(in_header=True) for _ in range(3)]
    for client in clients if said_hello else ():
        await client.hello()
    await world.put_tenant("acme", suspended=True)
    for client in clients:
        assert (await client.closed(NOTICED_S), client.close_reason) == (4502, "tenant_suspended")
    await unharmed(bystander)


async def test_a_removed_key_ends_what_it_signed(world: World, edge: Edge, bystander: Client) -> None:
    client = await edge.client()
    await world.put_tenant("acme", auth={"jwks": {"keys": []}})
    assert (await client.closed(NOTICED_S), client.close_reason) == (4007, "keys_changed")
    again = await edge.connect()
    await again.send({"type": "hello", "token": world.token()})
    assert (await again.next("refused"))["code"] == "unauthenticated"
    await unharmed(bystander)


REVOKED: list[tuple[dict[str, object], bool]] = [
    ({"jti": "t-1"}, True),
    ({"subject": "you", "before": 4_000_000_000}, True),
    ({"jti": "t-2"}, False),
    ({"subject": "you", "before": 1}, False),
]


@pytest.mark.parametrize(("revocation", "hit"), REVOKED)
async def test_a_revoked_token_is_closed_and_not_let_in_again(
    world: World, edge: Edge, bystander: Client, revocation: dict[str, object], hit: bool
) -> None:
    token = world.token(jti="t-1")
    client = await edge.client(token=token)
    auth = {"jwks": world.signer("acme").jwks(), "revoked": [revocation]}
    await world.put_tenant("acme", auth=auth, limits={"max_payload_bytes": 100})
    if hit:
        assert (await client.closed(NOTICED_S), client.close_reason) == (4505, "token_revoked")
        assert edge.value("connections_closed_total", reason="token_revoked") == 1
        again = await edge.connect()
        await again.send({"type": "hello", "token": token})
        assert (await again.next("refused"))["code"] == "token_revoked"
        assert await again.closed() == 4505
    else:

        async def smaller() -> bool:
            return (await client.publish(SESSION, "x" * 200, ack="accepted")).get("code") == "payload_too_large"

        await until_told(smaller, NOTICED_S)
        assert not client.is_closed
    await unharmed(bystander)


async def test_keys_are_rotated_without_closing_who_refreshed(world: World, edge: Edge) -> None:
    refreshed, left_alone = await edge.client(), await edge.client()
    old = world.signer("acme").jwks()["keys"][0]
    new = {**world.signer("successor").jwks()["keys"][0], "kid": "local-1"}
    successor = world.token("successor", tenant="acme")
    changes = edge.value("tenant_changes_total")
    await world.put_tenant("acme", auth={"jwks": {"keys": [{**old, "kid": "old"}, new]}})
    await until(lambda: edge.value("tenant_changes_total") > changes)
    assert (await refreshed.ask("refresh", token=successor))["type"] == "refreshed"
    await world.put_tenant("acme", auth={"jwks": {"keys": [new]}})
    assert (await left_alone.closed(NOTICED_S), left_alone.close_reason) == (4007, "keys_changed")
    assert (await refreshed.publish(SESSION))["type"] == "published"
    assert not refreshed.is_closed


async def test_a_key_that_is_added_or_renamed_harms_nobody_else(world: World, edge: Edge) -> None:
    client = await edge.client()
    keys = [*world.signer("acme").jwks()["keys"], {**world.signer("other").jwks()["keys"][0], "kid": "second"}]
    await world.put_tenant("acme", auth={"jwks": {"keys": keys}}, limits={"max_payload_bytes": 100})

    async def smaller() -> bool:
        return (await client.publish(SESSION, "x" * 200, ack="accepted")).get("code") == "payload_too_large"

    await until_told(smaller, NOTICED_S)
    assert not client.is_closed


async def test_a_deleted_tenant_is_closed_for_good(world: World, edge: Edge, bystander: Client) -> None:
    client = await edge.client()
    await world.tenants.delete("acme")
    assert (await client.closed(NOTICED_S), client.close_reason) == (4500, "token_refused")
    await unharmed(bystander)


async def test_a_tenant_that_comes_to_be_is_served(world: World, edge: Edge) -> None:
    await world.put_tenant("newcomer")

    async def served() -> bool:
        client = await edge.connect("newcomer")
        await client.send({"type": "hello", "token": world.token("newcomer")})
        frame = await client.next()
        await client.close()
        return bool(frame["type"] == "welcome")

    await until_told(served, NOTICED_S)
