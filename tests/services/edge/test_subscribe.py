"""`subscribe` and `unsubscribe`: where a subscription begins, and what it is answered."""

from typing import Any

import pytest
from tests.services.edge.client import Client, contiguous
from tests.services.edge.rig import Edge, World, until

SESSION = "acme:planner:1"
ZERO = "0000000000000-00000000-0000000000000000"


async def publish(client: Client, *payloads: object, session: str = SESSION) -> list[str]:
    return [(await client.publish(session, payload))["position"] for payload in payloads]


async def test_latest_begins_with_what_comes_next(edge: Edge) -> None:
    client = await edge.client()
    (last,) = await publish(client, "before")
    answer = await client.subscribe(SESSION)
    assert (answer["type"], answer["session"], answer["position"]) == ("subscribed", SESSION, last)
    assert answer.get("recovered", True) is True
    await publish(client, "after")
    assert [message["payload"] for message in await client.messages(SESSION, 1)] == ["after"]


async def test_earliest_begins_with_the_first(world: World, edge: Edge) -> None:
    world.answer_history()
    client = await edge.client()
    positions = await publish(client, *range(5))
    answer = await client.subscribe(SESSION, "earliest")
    assert (answer["position"], answer.get("recovered", True)) == (ZERO, True)
    messages = await client.messages(SESSION, 5)
    assert [message["payload"] for message in messages] == [0, 1, 2, 3, 4]
    assert [message["position"] for message in messages] == positions


async def test_a_position_goes_on_behind_it(edge: Edge) -> None:
    client = await edge.client()
    positions = await publish(client, *range(5))
    answer = await client.subscribe(SESSION, positions[1])
    assert answer["position"] == positions[1]
    await publish(client, 5)
    assert [message["payload"] for message in await client.messages(SESSION, 4)] == [2, 3, 4, 5]


async def test_the_zero_position_means_earliest(world: World, edge: Edge) -> None:
    world.answer_history()
    client = await edge.client()
    await publish(client, 0, 1)
    await client.subscribe(SESSION, ZERO)
    assert [message["payload"] for message in await client.messages(SESSION, 2)] == [0, 1]


NO_STARTS: list[Any] = ["", "newest", "1", ZERO[:-1], ZERO.replace("0", "x"), "EARLIEST"]


async def test_a_start_that_is_no_position_is_refused(edge: Edge) -> None:
    client = await edge.client()
    for start in NO_STARTS:
        answer = await client.subscribe(SESSION, start)
        assert (answer["type"], answer.get("code")) == ("refused", "position_invalid"), start


async def test_a_session_that_is_no_key_is_refused(edge: Edge) -> None:
    client = await edge.client()
    for session in ("acme", "acme:planner:", "a:b:c:d", "acme:planner:\x00"):
        assert (await client.subscribe(session))["code"] == "session_invalid"


SCOPES: list[Any] = [
    (["subscribe:planner:1"], True),
    (["subscribe:planner:*"], True),
    (["publish:*:*"], False),
    (["subscribe:planner:2"], False),
    (["subscribe:tool:*"], False),
]


async def test_subscribing_takes_a_scope(world: World, edge: Edge) -> None:
    for scopes, allowed in SCOPES:
        client = await edge.client(token=world.token(scopes=scopes))
        answer = await client.subscribe(SESSION)
        assert (answer["type"], answer["session"]) == ("subscribed" if allowed else "refused", SESSION), scopes
        assert answer.get("code") == (None if allowed else "forbidden"), scopes


async def test_another_tenants_session_is_forbidden(edge: Edge) -> None:
    client = await edge.client()
    assert (await client.subscribe("other:planner:1"))["code"] == "forbidden"


async def test_more_subscriptions_than_the_tenant_allows_are_refused(world: World) -> None:
    await world.put_tenant("acme", limits={"subscriptions_per_connection": 2})
    edge = await world.edge()
    client = await edge.client()
    answers = [await client.subscribe(f"acme:planner:{number}") for number in range(3)]
    assert [answer["type"] for answer in answers] == ["subscribed", "subscribed", "refused"]
    assert answers[2]["code"] == "too_many_subscriptions"
    await client.ask("unsubscribe", session="acme:planner:0")
    assert (await client.subscribe("acme:planner:2"))["type"] == "subscribed"


async def test_subscribing_again_moves_nothing(edge: Edge) -> None:
    client = await edge.client()
    positions = await publish(client, 0, 1)
    await client.subscribe(SESSION, positions[1])
    again = await client.subscribe(SESSION, positions[0])
    assert (again["type"], again["code"]) == ("refused", "value_invalid")
    await publish(client, 2)
    await client.messages(SESSION, 1)
    assert [message["payload"] for message in client.of("message")] == [2]


async def test_nothing_follows_unsubscribed(edge: Edge) -> None:
    client, writer = await edge.client(), await edge.client()
    await client.subscribe(SESSION)
    await publish(writer, 0)
    await client.messages(SESSION, 1)
    for payload in range(50):
        await writer.send({"type": "publish", "session": SESSION, "payload": payload, "ack": "none"})
    answer = await client.ask("unsubscribe", session=SESSION)
    assert (answer["type"], answer["session"]) == ("unsubscribed", SESSION)
    after = client.frames.index(answer)
    await publish(writer, "last")
    await client.barrier()
    assert [frame for frame in client.frames[after:] if frame["type"] == "message"] == []
    assert contiguous(client.positions(SESSION))


async def test_a_session_is_let_go_with_its_last_subscriber(edge: Edge) -> None:
    first, second = await edge.client(), await edge.client()
    await first.subscribe(SESSION)
    await second.subscribe(SESSION)
    assert edge.value("sessions") == 1
    await first.ask("unsubscribe", session=SESSION)
    assert edge.value("sessions") == 1
    await second.close()
    await until(lambda: edge.value("sessions") == 0)


async def test_unsubscribing_from_what_was_never_subscribed_is_answered(edge: Edge) -> None:
    client = await edge.client()
    assert (await client.ask("unsubscribe", session="acme:planner:99"))["type"] == "unsubscribed"


async def test_unsubscribing_while_history_is_read_ends_it(world: World, edge: Edge) -> None:
    """The question to replay stays unanswered here, so the subscription is still joining."""
    client = await edge.client()
    await client.send({"type": "subscribe", "id": 1, "session": SESSION, "from": "earliest"})
    await client.ask("unsubscribe", session=SESSION)
    await publish(client, 0)
    await client.barrier()
    assert client.of("message") == []
    assert client.of("subscribed") == []
    await client.subscribe(SESSION)
    await publish(client, 1)
    assert [message["payload"] for message in await client.messages(SESSION, 1)] == [1]


async def test_a_subscription_that_the_live_path_cannot_take_is_refused_in_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heliograph.edge.connections.PASS_S", 0.05)
    edge = await world.edge(subscribe_timeout_s=0.3)
    client = await edge.client()
    world.live.stop()
    answer = await client.subscribe(SESSION)
    assert (answer["type"], answer["code"], answer["retry_after_ms"]) == ("refused", "live_unavailable", 1_000)
    world.live.restart(keep=True)
    assert (await client.subscribe(SESSION))["type"] == "subscribed"
    await publish(client, 1)
    await client.messages(SESSION, 1)
