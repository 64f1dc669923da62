"""Subscribers of sessions without messages: told their place, they come back to it without the log."""

import asyncio

import pytest
from tests.services.edge.client import Client, contiguous
from tests.services.edge.rig import RoutedLog, World, until

SESSION = "acme:planner:1"
NOWHERE = "0" * 13


async def publish(client: Client, *payloads: object) -> list[str]:
    return [(await client.publish(SESSION, payload))["position"] for payload in payloads]


async def stood(client: Client, start: str = "latest") -> str:
    """The place that a subscriber is told."""
    answer = await client.subscribe(SESSION, start)
    assert (answer["type"], answer.get("recovered", True)) == ("subscribed", True)
    position: str = answer["position"]
    return position


@pytest.mark.parametrize("start", ["latest", "earliest", f"{NOWHERE}-00000000-{0:016d}"])
async def test_the_place_in_a_session_without_messages_is_a_position(world: World, start: str) -> None:
    world.answer_history()
    client = await (await world.edge()).client()
    place = await stood(client, start)
    assert not place.startswith(NOWHERE)
    assert int(place[-16:]) == 0
    positions = await publish(client, 0, 1)
    assert positions[0] > place
    await client.messages(SESSION, 2)
    assert contiguous(client.positions(SESSION), 1)
    assert client.of("epoch") == [], "there is none to leave"


async def test_who_comes_back_to_a_session_without_messages_asks_nobody(world: World) -> None:
    """Replay is away: who asked it would wait, and be told that not everything could be had."""
    first, second = await world.edge(), await world.edge()
    place = await stood(await first.client())
    again = await second.client()
    assert await stood(again, place) == place
    await publish(again, 0)
    await again.messages(SESSION, 1)
    assert contiguous(again.positions(SESSION), 1)
    assert world.history_requests == 0


async def test_who_comes_back_when_it_has_begun_gets_all_of_it(world: World) -> None:
    first, second = await world.edge(), await world.edge()
    place = await stood(await first.client())
    positions = await publish(await first.client(), *range(5))
    again = await second.client()
    assert await stood(again, place) == place
    await again.messages(SESSION, 5)
    assert again.positions(SESSION) == positions
    assert (again.of("gap"), again.of("epoch")) == ([], [])
    assert world.history_requests == 0


async def test_a_life_that_was_forgotten_meanwhile_comes_from_the_log(world: World) -> None:
    world.answer_history()
    edge = await world.edge(stores=world.stores(log=RoutedLog(world)))
    place = await stood(await edge.client())
    positions = await publish(await edge.client(), *range(3))
    await until(lambda: world.live.head(SESSION).confirmed == 3)
    for shard in range(world.live.virtual_shards):
        world.live.expire(shard, -1, 10)
    assert not world.live.head(SESSION).epoch
    again = await edge.client()
    await stood(again, place)
    await again.messages(SESSION, 3)
    assert again.positions(SESSION) == positions


async def test_another_process_of_the_live_store_is_not_believed_about_the_one_before(world: World) -> None:
    world.answer_history()
    edge = await world.edge(stores=world.stores(log=RoutedLog(world)))
    place = await stood(await edge.client())
    positions = await publish(await edge.client(), 0)
    world.live.restart(keep=False)
    again = await edge.client()
    await stood(again, place)
    await again.messages(SESSION, 1)
    assert again.positions(SESSION) == positions
    assert world.history_requests > 0


async def test_subscribers_that_were_told_different_places_get_the_same(world: World) -> None:
    """Other sessions began between them; neither has more than the other, and none goes round."""
    edge = await world.edge()
    early, late, back = [await edge.client() for _ in range(3)]
    first = await stood(early)
    for number in range(600):  # some of them in the same virtual shard
        await late.publish(f"acme:planner:other-{number}", 0)
    second = await stood(late)
    assert second > first
    await stood(back, first)
    positions = await publish(early, 0, 1)
    for client in (early, late, back):
        await client.messages(SESSION, 2)
        assert client.positions(SESSION) == positions
        assert (client.of("gap"), client.of("epoch")) == ([], [])


async def test_who_had_messages_of_a_life_before_is_told_of_the_new_one(world: World) -> None:
    """Beside one that stands before the first message of the new one."""
    world.answer_history()
    edge = await world.edge(stores=world.stores(log=RoutedLog(world)))
    writer = await edge.client()
    old = await publish(writer, 0, 1)
    await until(lambda: world.live.head(SESSION).confirmed == 2)
    for shard in range(world.live.virtual_shards):
        world.live.expire(shard, -1, 10)
    new, before = await edge.client(), await edge.client()
    await stood(new)
    await stood(before, old[-1])
    positions = await publish(writer, 2)
    for client in (new, before):
        await client.messages(SESSION, 1)
        assert client.positions(SESSION) == positions
    assert new.of("epoch") == []
    (epoch,) = before.of("epoch")
    assert (epoch["last"], epoch["certain"]) == (old[-1], True)


async def test_a_crowd_that_lost_its_edge_asks_for_no_log(world: World) -> None:
    first, second = await world.edge(), await world.edge()
    crowd = [await first.client() for _ in range(50)]
    places = await asyncio.gather(*(client.subscribe(f"acme:planner:{number}") for number, client in enumerate(crowd)))
    for client in crowd:
        client.abort()
    back = [await second.client() for _ in crowd]
    answers = await asyncio.gather(
        *(client.subscribe(f"acme:planner:{number}", places[number]["position"]) for number, client in enumerate(back))
    )
    assert all(answer.get("recovered", True) for answer in answers)
    assert world.history_requests == 0
