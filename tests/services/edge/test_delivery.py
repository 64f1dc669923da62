"""Subscribers of a session get rising, contiguous positions, whatever the live path loses."""

import asyncio
import itertools
from typing import Any

import pytest
from tests.services.edge.client import Client, contiguous
from tests.services.edge.rig import Edge, RoutedLog, World, until

SESSION = "acme:planner:1"
ROOMY = {"connection_messages_per_s": 100_000, "connection_burst_messages": 100_000}


async def publish(client: Client, *payloads: object) -> list[str]:
    return [(await client.publish(SESSION, payload))["position"] for payload in payloads]


@pytest.fixture
async def quiet(world: World) -> Edge:
    """An edge that looks at heads only after a reconnect."""
    world.answer_history()
    return await world.edge(heads_interval_s=3_600)


async def test_messages_come_in_order_on_every_edge(world: World) -> None:
    edges = [await world.edge() for _ in range(2)]
    readers = [await edge.client() for edge in edges for _ in range(2)]
    for reader in readers:
        await reader.subscribe(SESSION)
    writers = [await edge.client() for edge in edges]
    await asyncio.gather(*(publish(writer, *range(50)) for writer in writers))
    for reader in readers:
        await reader.messages(SESSION, 100)
        assert contiguous(reader.positions(SESSION))
    assert len({tuple(reader.positions(SESSION)) for reader in readers}) == 1


async def test_a_hole_in_live_frames_is_filled_from_the_window(world: World, quiet: Edge) -> None:
    reader, writer = await quiet.client(), await quiet.client()
    await reader.subscribe(SESSION)
    await publish(writer, 0)
    world.live.lose_publications = 3
    await publish(writer, 1, 2, 3, 4)
    messages = await reader.messages(SESSION, 5)
    assert [message["payload"] for message in messages] == [0, 1, 2, 3, 4]
    assert contiguous(reader.positions(SESSION))
    assert quiet.value("repairs_total", cause="hole") == 1
    assert reader.of("gap") == []


async def test_a_lost_first_message_is_filled_as_well(world: World, quiet: Edge) -> None:
    reader, writer = await quiet.client(), await quiet.client()
    await reader.subscribe(SESSION)
    world.live.lose_publications = 1
    await publish(writer, 0, 1)
    assert [message["payload"] for message in await reader.messages(SESSION, 2)] == [0, 1]


async def test_a_lost_last_message_is_found_by_the_head(world: World) -> None:
    edge = await world.edge(heads_interval_s=0.05)
    reader, writer = await edge.client(), await edge.client()
    await reader.subscribe(SESSION)
    await publish(writer, 0)
    world.live.lose_publications = 1
    await publish(writer, 1)
    assert [message["payload"] for message in await reader.messages(SESSION, 2)] == [0, 1]
    assert edge.value("repairs_total", cause="head") == 1


async def test_what_was_missed_while_the_subscription_was_broken_is_found(world: World, quiet: Edge) -> None:
    reader, writer = await quiet.client(), await quiet.client()
    await reader.subscribe(SESSION)
    await publish(writer, 0)
    world.live.lose_publications = 2
    await publish(writer, 1, 2)
    for client in world.live.clients:
        client.lost()
    assert [message["payload"] for message in await reader.messages(SESSION, 3)] == [0, 1, 2]


async def test_frames_that_come_twice_are_delivered_once(world: World, quiet: Edge) -> None:
    reader, writer = await quiet.client(), await quiet.client()
    await reader.subscribe(SESSION)
    await publish(writer, 0, 1)
    frames = world.live.page(SESSION, None).frames
    for data in frames:
        world.live.publish(SESSION, data)
    await publish(writer, 2)
    await reader.messages(SESSION, 3)
    assert contiguous(reader.positions(SESSION))
    assert quiet.value("stale_frames_total") == 2


NO_MESSAGES: list[Any] = [
    b"",
    b"\xff\xfe",
    b"{}",
    b'{"type":"message","position":"',
    b'{"type":"message","position":"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff-1a2b3c4d-0000000000000009"}',
    b'{"type":"message","position":"1764000000000-1a2b3c4d-000000000000000x"}',
    b'{"type":"message","position":"1764000000000-1a2b3c4d-0000000000000000"}',
    b'{"type":"message","position":"9764000000000_1a2b3c4d-0000000000000009"}',
    b'{"type":"message","position":"9764000000000-1a2b3c4d-9999999999999999"}',
]


async def test_a_live_frame_that_is_no_message_is_counted_and_passed_over(world: World, quiet: Edge) -> None:
    reader, joining, writer = await quiet.client(), await quiet.client(), await quiet.client()
    await reader.subscribe(SESSION)
    for number, frame in enumerate(NO_MESSAGES):
        world.live.publish(SESSION, frame)
        await joining.subscribe(SESSION, "earliest")
        world.live.publish(SESSION, frame)
        await publish(writer, number)
        assert [message["payload"] for message in await reader.messages(SESSION, 1)] == [number], frame
        seen = await joining.messages(SESSION, number + 1)
        assert [message["payload"] for message in seen] == list(range(number + 1)), frame
        await joining.ask("unsubscribe", session=SESSION)
        assert quiet.value("corrupt_frames_total") == 2 * (number + 1), frame


async def test_two_subscribers_one_of_them_ahead_of_the_others(world: World, quiet: Edge) -> None:
    first, second, writer = await quiet.client(), await quiet.client(), await quiet.client()
    await first.subscribe(SESSION)
    positions = await publish(writer, 0, 1)
    world.live.lose_publications = 2
    positions += await publish(writer, 2, 3)
    await second.subscribe(SESSION, positions[0])  # has more than the session's live frames brought
    await second.messages(SESSION, 3)
    await publish(writer, 4)
    await first.messages(SESSION, 5)
    await second.messages(SESSION, 1)
    assert contiguous(first.positions(SESSION))
    assert contiguous(second.positions(SESSION), 2)
    assert first.of("gap") == second.of("gap") == []


async def test_subscribers_join_while_messages_flow(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 a second, a window of 100: each comes from the log, through the window, into live."""
    monkeypatch.setattr("heliograph.service.bounds.WINDOW_MESSAGES", 100)
    await world.put_tenant("acme", limits=ROOMY)
    world.answer_history()
    edge = await world.edge(stores=world.stores(log=RoutedLog(world)))
    writer = await edge.client()
    over = False

    async def write() -> int:
        for count in itertools.count(10, 10):
            for number in range(count - 10, count):
                await writer.send({"type": "publish", "session": SESSION, "payload": number, "ack": "none"})
            if over:
                return count
            await asyncio.sleep(0.01)
        raise AssertionError

    writing = asyncio.create_task(write())
    readers: list[tuple[Client, int]] = []
    for round_ in range(8):
        await until(lambda round_=round_: world.live.head(SESSION).seq > 100 * round_)  # type: ignore[misc]
        client = await edge.client()
        head = world.live.head(SESSION)
        start = head.seq // 2 if round_ % 2 else 0
        await client.subscribe(SESSION, f"{head.epoch}-{start:016d}" if start else "earliest")
        readers.append((client, start + 1))
    over = True
    count = await writing
    for client, first in readers:
        await client.messages(SESSION, count - first + 1)
        assert contiguous(client.positions(SESSION), first)
        assert client.of("gap") == []


async def test_telemetry_goes_to_who_is_live_and_has_no_position(edge: Edge) -> None:
    client = await edge.client()
    await client.subscribe(SESSION)
    await client.publish(SESSION, 0)
    await client.publish(SESSION, "t", class_="telemetry", ack="accepted")
    await client.publish(SESSION, 1)
    messages = await client.messages(SESSION, 3)
    assert [message["payload"] for message in messages] == [0, "t", 1]
    assert "position" not in messages[1]
    assert contiguous(client.positions(SESSION))


async def test_tenants_never_see_each_others_frames(world: World, edge: Edge) -> None:
    acme, other = await edge.client("acme"), await edge.client("other")
    await acme.subscribe("acme:planner:1")
    await other.subscribe("other:planner:1")
    for number in range(20):
        await acme.publish("acme:planner:1", f"acme {number}")
        await other.publish("other:planner:1", f"other {number}")
    await acme.messages("acme:planner:1", 20)
    await other.messages("other:planner:1", 20)
    for client, name in ((acme, "acme"), (other, "other")):
        assert all(message["payload"].startswith(name) for message in client.of("message"))
        assert {message["session"] for message in client.of("message")} == {f"{name}:planner:1"}
