"""Coming back with a position, and sessions that go on in another epoch."""

import time

import pytest
from tests.services.edge.client import Client, contiguous
from tests.services.edge.rig import Edge, RoutedLog, World

SESSION = "acme:planner:1"


async def publish(client: Client, *payloads: object) -> list[str]:
    return [(await client.publish(SESSION, payload))["position"] for payload in payloads]


@pytest.fixture
async def short(world: World, monkeypatch: pytest.MonkeyPatch) -> Edge:
    """An edge whose hot windows hold ten messages, with a router behind its log."""
    monkeypatch.setattr("heliograph.service.bounds.WINDOW_MESSAGES", 10)
    return await world.edge(stores=world.stores(log=RoutedLog(world)), rehydration_timeout_s=0.2)


# ---- positions ------------------------------------------------------------------------------------------------------


async def test_a_position_in_the_window_is_resumed_without_the_log(world: World, edge: Edge) -> None:
    world.answer_history()
    client = await edge.client()
    positions = await publish(client, *range(8))
    answer = await client.subscribe(SESSION, positions[3])
    assert (answer["position"], answer.get("recovered", True)) == (positions[3], True)
    assert [message["payload"] for message in await client.messages(SESSION, 4)] == [4, 5, 6, 7]
    assert world.history_requests == 0


async def test_a_position_older_than_the_window_is_resumed_through_the_log(world: World, short: Edge) -> None:
    world.answer_history()
    client = await short.client()
    positions = await publish(client, *range(40))
    assert world.live.head(SESSION).first_seq > 20
    answer = await client.subscribe(SESSION, positions[4])
    assert (answer["position"], answer.get("recovered", True)) == (positions[4], True)
    await publish(client, 40)
    messages = await client.messages(SESSION, 36)
    assert [message["payload"] for message in messages] == list(range(5, 41))
    assert contiguous(client.positions(SESSION), 6)
    assert client.of("gap") == []
    assert world.history_requests >= 1


async def test_without_replay_what_the_window_lacks_is_a_gap(world: World, short: Edge) -> None:
    client = await short.client()
    positions = await publish(client, *range(40))
    answer = await client.subscribe(SESSION, positions[4])
    assert (answer["type"], answer["recovered"]) == ("subscribed", False)
    (gap,) = client.of("gap")
    first = world.live.head(SESSION).first_seq
    assert gap["reason"] == "history_unavailable"
    assert (gap["from"], gap["to"]) == (positions[5], positions[first - 2])
    await client.messages(SESSION, 40 - first + 1)
    assert client.positions(SESSION) == positions[first - 1 :]


async def test_what_retention_took_is_a_gap(world: World, short: Edge) -> None:
    world.answer_history()
    client = await short.client()
    positions = await publish(client, *range(40))
    world.retained_from[SESSION] = positions[15]
    answer = await client.subscribe(SESSION, positions[4])
    assert answer["recovered"] is False
    gap = await client.next("gap")
    assert (gap["from"], gap["to"], gap["reason"]) == (positions[5], positions[14], "retention")
    await client.messages(SESSION, 25)
    assert client.positions(SESSION) == positions[15:]


async def test_a_position_that_was_never_given_is_answered_with_where_the_session_stands(edge: Edge) -> None:
    client = await edge.client()
    positions = await publish(client, 0, 1)
    for bogus in (positions[1][:23] + f"{9_999:016d}", "9999999999999-00000000-0000000000000001"):
        answer = await client.subscribe(SESSION, bogus)
        assert (answer["position"], answer["recovered"]) == (positions[-1], False)
        positions += await publish(client, "next")
        assert (await client.messages(SESSION, 1))[0]["position"] == positions[-1]
        await client.ask("unsubscribe", session=SESSION)


async def test_a_subscriber_that_comes_back_gets_exactly_what_it_missed(world: World) -> None:
    edges = [await world.edge() for _ in range(2)]
    writer = await edges[0].client()
    await publish(writer, 0)
    start = (await publish(writer, 1))[0]
    seen: list[str] = []
    for round_ in range(4):
        reader = await edges[round_ % 2].client()
        await reader.subscribe(SESSION, seen[-1] if seen else start)
        await publish(writer, *range(3))
        await reader.messages(SESSION, 6 if round_ else 3)
        seen += reader.positions(SESSION)
        reader.abort()
        await publish(writer, *range(3))
    assert contiguous(seen, 3)


# ---- epochs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [True, False], ids=["its data kept", "its data lost"])
async def test_a_restarted_live_store_begins_an_epoch_that_is_not_certain(world: World, keep: bool) -> None:
    world.answer_history()
    edge = await world.edge(stores=world.stores(log=RoutedLog(world)))
    reader, writer = await edge.client(), await edge.client()
    await reader.subscribe(SESSION)
    old = await publish(writer, 0, 1)
    await reader.messages(SESSION, 2)
    world.live.restart(keep=keep)
    new = await publish(writer, 2, 3)
    assert new[0][:22] > old[0][:22]
    epoch = await reader.next("epoch")
    assert (epoch["session"], epoch["from"], epoch["last"]) == (SESSION, new[0][:22], old[-1])
    assert epoch["certain"] is False
    messages = await reader.messages(SESSION, 2)
    assert [message["position"] for message in messages] == new
    assert contiguous([message["position"] for message in messages])
    assert reader.of("gap") == []
    assert reader.frames.index(epoch) < reader.frames.index(messages[0])


async def test_what_only_the_log_has_of_the_old_epoch_comes_before_the_new_one(world: World) -> None:
    world.answer_history()
    edge = await world.edge(stores=world.stores(log=RoutedLog(world)), heads_interval_s=3_600)
    reader, writer = await edge.client(), await edge.client()
    await reader.subscribe(SESSION)
    await publish(writer, 0)
    await reader.messages(SESSION, 1)
    world.live.lose_publications = 2
    await publish(writer, 1, 2)
    world.live.restart(keep=False)
    await publish(writer, 3)
    assert [message["payload"] for message in await reader.messages(SESSION, 3)] == [1, 2, 3]
    epoch = await reader.next("epoch")
    assert (epoch["last"], epoch["certain"]) == (reader.positions(SESSION)[2], False)
    assert reader.of("gap") == []


async def test_a_session_that_expired_begins_an_epoch_that_is_certain(world: World) -> None:
    world.answer_history()
    now_ms = [time.time_ns() // 1_000_000]
    world.live.now_ms = lambda: now_ms[0]
    edge = await world.edge(stores=world.stores(log=RoutedLog(world)))
    reader, writer = await edge.client(), await edge.client()
    await reader.subscribe(SESSION)
    old = await publish(writer, 0)
    await reader.messages(SESSION, 1)
    now_ms[0] += 10_000
    assert sum(world.live.expire(shard, 1_000, 10) for shard in range(256)) == 1
    new = await publish(writer, 1)
    epoch = await reader.next("epoch")
    assert (epoch["from"], epoch["last"], epoch["certain"]) == (new[0][:22], old[0], True)
    assert [message["position"] for message in await reader.messages(SESSION, 1)] == new


@pytest.mark.parametrize("keep", [True, False], ids=["its data kept", "its data lost"])
async def test_resume_across_an_epoch_tells_it(world: World, keep: bool) -> None:
    world.answer_history()
    edge = await world.edge(stores=world.stores(log=RoutedLog(world)))
    writer = await edge.client()
    old = await publish(writer, 0, 1, 2)
    world.live.restart(keep=keep)
    new = await publish(writer, 3, 4)
    reader = await edge.client()
    answer = await reader.subscribe(SESSION, old[0])
    assert answer["position"] == old[0]
    messages = await reader.messages(SESSION, 4)
    assert [message["position"] for message in messages] == [*old[1:], *new]
    epoch = await reader.next("epoch")
    assert (epoch["from"], epoch["last"], epoch["certain"]) == (new[0][:22], old[-1], False)
    kinds = [frame["type"] for frame in reader.frames if frame["type"] in ("message", "epoch", "gap")]
    assert kinds == ["message", "message", "epoch", "message", "message"]


async def test_who_is_ahead_in_the_new_epoch_is_not_told_of_it_again(world: World) -> None:
    world.answer_history()
    edge = await world.edge(stores=world.stores(log=RoutedLog(world)), heads_interval_s=3_600)
    first, second, writer = await edge.client(), await edge.client(), await edge.client()
    await first.subscribe(SESSION)
    old = await publish(writer, 0)
    await first.messages(SESSION, 1)
    world.live.restart(keep=True)
    world.live.lose_publications = 1
    await publish(writer, 1)
    await second.subscribe(SESSION, old[0])
    await second.messages(SESSION, 1)
    await publish(writer, 2)
    for client in (first, second):
        await client.messages(SESSION, 2 if client is first else 1)
        assert len(client.of("epoch")) == 1
        assert [message["payload"] for message in client.of("message")][-2:] == [1, 2]
