"""A reader that is slower than its sessions costs neither memory nor its place."""

import asyncio
import json
import socket
from typing import Any

import pytest
from tests.services.edge.client import RawClient, contiguous, handshake, masked
from tests.services.edge.rig import Edge, World, until

from heliograph.core.positions import Position
from heliograph.stores.memory.live import MemoryLiveStore
from heliograph.stores.ports import Page

SESSION = "acme:planner:1"
SOFT, HARD = 64 * 1024, 256 * 1024
ROOMY = {"connection_messages_per_s": 1e6, "connection_burst_messages": 10**6, "connection_burst_bytes": 10**9}


@pytest.fixture
async def edge(world: World, monkeypatch: pytest.MonkeyPatch) -> Edge:
    """One whose buffers are small, and whose passes are quick."""
    monkeypatch.setattr("heliograph.edge.connections.PASS_S", 0.05)
    await world.put_tenant("acme", limits=ROOMY)
    world.answer_history()
    return await world.edge(
        outbound_soft_bytes=SOFT, outbound_hard_bytes=HARD, socket_send_buffer_bytes=8_192, no_progress_timeout_s=60
    )


async def slow_reader(edge: Edge, *sessions: str) -> RawClient:
    """A subscriber whose socket takes little, and who reads only when asked to."""
    client = await RawClient.connect(edge.host, edge.port, limit=4_096, receive_buffer=4_096)
    client.send({"type": "hello", "token": edge.world.token()})
    await client.frame("welcome")
    for session in sessions:
        client.send({"type": "subscribe", "session": session})
        await client.frame("subscribed")
    return client


async def read(client: RawClient, count: int) -> list[dict[str, Any]]:
    """The next `count` messages with a position; whatever else comes is answered or passed over."""
    found: list[dict[str, Any]] = []
    while len(found) < count:
        opcode, data = await client.receive()
        assert opcode == 1, (opcode, data)
        frame = json.loads(data)
        assert frame["type"] in ("message", "ping"), frame
        if frame["type"] == "ping":
            client.send({"type": "pong"})
        elif "position" in frame:
            found.append(frame)
    return found


class Watch:
    """The most that ever waited in a socket's buffer."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self.most_bytes = 0

    def look(self) -> None:
        for one in self._edge.sockets:
            self.most_bytes = max(self.most_bytes, one.transport.get_write_buffer_size())


async def test_five_megabytes_behind_everything_comes_in_order_and_memory_is_bounded(edge: Edge) -> None:
    reader, writer, watch = await slow_reader(edge, SESSION), await edge.client(), Watch(edge)
    for number in range(100):
        await writer.publish(SESSION, f"{number:05d}" + "x" * 50_000, ack="accepted")
        watch.look()
    assert edge.value("catch_ups_total") == 1
    messages = await read(reader, 100)
    watch.look()
    assert [int(message["payload"][:5]) for message in messages] == list(range(100))
    assert contiguous([message["position"] for message in messages])
    assert watch.most_bytes <= HARD + 256 * 1024, "the hard mark and one page"
    await writer.publish(SESSION, "00100", ack="accepted")
    assert (await read(reader, 1))[0]["payload"] == "00100"
    await reader.close()


async def test_it_falls_behind_again_and_again_and_loses_nothing(edge: Edge) -> None:
    sessions = [f"acme:planner:{number}" for number in range(3)]
    reader, writer = await slow_reader(edge, *sessions), await edge.client()
    seen: dict[str, list[str]] = {session: [] for session in sessions}
    for _ in range(3):
        for _ in range(20):
            for session in sessions:
                await writer.publish(session, "x" * 20_000, ack="accepted")
        for message in await read(reader, 60):
            seen[message["session"]].append(message["position"])
    assert all(contiguous(positions) for positions in seen.values())
    assert {len(positions) for positions in seen.values()} == {60}
    assert edge.value("catch_ups_total") >= 3
    await reader.close()


async def test_telemetry_is_shed_and_counted_before_anything_else_suffers(edge: Edge) -> None:
    reader, writer = await slow_reader(edge, SESSION), await edge.client()
    for number in range(3):
        await writer.publish(SESSION, f"{number}" + "x" * 40_000, ack="accepted")
    before = edge.value("telemetry_shed_total")
    for _ in range(10):
        await writer.publish(SESSION, "t", class_="telemetry", ack="accepted")
    assert before == 0
    assert edge.value("telemetry_shed_total") == 10
    assert len(await read(reader, 3)) == 3
    await until(lambda: all(one.transport.get_write_buffer_size() == 0 for one in edge.sockets))
    await writer.publish(SESSION, "t", class_="telemetry", ack="accepted")
    await writer.publish(SESSION, "after")
    frame = await reader.frame("message")
    assert (frame["class"], "position" in frame) == ("telemetry", False)
    await reader.close()


async def test_telemetry_that_comes_while_it_catches_up_is_counted_for_each_session_once(edge: Edge) -> None:
    """It has no position and is kept nowhere: what a reader does not get then it never gets."""
    sessions = [SESSION, "acme:planner:2"]
    reader, writer = await slow_reader(edge, *sessions), await edge.client()
    for _ in range(20):
        await writer.publish(SESSION, "x" * 50_000, ack="accepted")
    assert edge.value("catch_ups_total") == 1
    assert edge.value("telemetry_shed_total") == 0
    for session in sessions:
        for _ in range(5):
            await writer.publish(session, "t", class_="telemetry", ack="accepted")
    assert edge.value("telemetry_shed_total") == 10
    assert len(await read(reader, 20)) == 20
    await until(lambda: all(one.transport.get_write_buffer_size() == 0 for one in edge.sockets))
    await writer.publish(SESSION, "t", class_="telemetry", ack="accepted")
    assert (await reader.frame("message"))["class"] == "telemetry"
    assert edge.value("telemetry_shed_total") == 10
    await reader.close()


async def test_telemetry_before_a_subscriber_has_caught_up_has_a_counter_of_its_own(edge: Edge) -> None:
    writer = await edge.client()
    for _ in range(40):
        await writer.publish(SESSION, "x" * 50_000, ack="accepted")
    reader = await slow_reader(edge)
    reader.send({"type": "subscribe", "session": SESSION, "from": "earliest"})
    await reader.frame("subscribed")
    for _ in range(5):
        await writer.publish(SESSION, "t", class_="telemetry", ack="accepted")
    assert edge.value("telemetry_joining_total") == 5
    assert edge.value("telemetry_shed_total") == 0
    assert len(await read(reader, 40)) == 40
    await reader.close()


async def test_others_of_the_session_do_not_wait_for_the_slow_one(edge: Edge) -> None:
    slow, quick, writer = await slow_reader(edge, SESSION), await edge.client(), await edge.client()
    await quick.subscribe(SESSION)
    for number in range(40):
        await writer.publish(SESSION, f"{number}" + "x" * 20_000, ack="accepted")
    await quick.messages(SESSION, 40)
    assert contiguous(quick.positions(SESSION))
    assert len(await read(slow, 40)) == 40
    await slow.close()


async def test_one_that_fell_behind_keeps_its_session_when_others_leave(edge: Edge) -> None:
    slow, other, writer = await slow_reader(edge, SESSION), await edge.client(), await edge.client()
    for number in range(40):
        await writer.publish(SESSION, f"{number}" + "x" * 20_000, ack="accepted")
    assert edge.value("catch_ups_total") == 1
    await other.subscribe(SESSION)
    await other.ask("unsubscribe", session=SESSION)
    assert edge.value("sessions") == 1
    await read(slow, 40)
    await writer.publish(SESSION, "still there")
    assert (await read(slow, 1))[0]["payload"] == "still there"
    await slow.close()
    await until(lambda: edge.value("sessions") == 0)


async def test_one_that_fell_behind_may_unsubscribe_and_leave_nothing(edge: Edge) -> None:
    slow, writer = await slow_reader(edge, SESSION), await edge.client()
    for _ in range(40):
        await writer.publish(SESSION, "x" * 20_000, ack="accepted")
    assert edge.value("catch_ups_total") == 1
    slow.send({"type": "unsubscribe", "session": SESSION})
    while (await slow.receive())[1][:24] != b'{"type":"unsubscribed","':
        pass
    await until(lambda: edge.value("sessions") == 0)
    await slow.close()


async def test_a_reader_that_takes_nothing_at_all_is_closed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heliograph.edge.connections.PASS_S", 0.05)
    edge = await world.edge(
        outbound_soft_bytes=SOFT, outbound_hard_bytes=HARD, socket_send_buffer_bytes=8_192, no_progress_timeout_s=0.3
    )
    slow, writer = await slow_reader(edge, SESSION), await edge.client()
    for _ in range(20):
        await writer.publish(SESSION, "x" * 50_000, ack="accepted")
    await until(lambda: edge.value("connections_closed_total", reason="no_progress") == 1)
    await until(lambda: edge.value("connections") == 1 and edge.value("sessions") == 0)
    await slow.close()


async def sip(edge: Edge, sock: socket.socket, per_s: int, for_s: float) -> int:
    """Read `per_s` bytes a second from a socket, straight from the kernel; how many there were."""
    loop, taken = asyncio.get_running_loop(), 0
    begin_s = loop.time()
    while loop.time() - begin_s < for_s:
        data = await loop.sock_recv(sock, per_s // 4)
        if not data:
            break
        taken += len(data)
        await asyncio.sleep(0.25)  # the reader's own pace is what is tested
    return taken


@pytest.mark.parametrize("messages", [5, 60], ids=["that is behind", "that catches up"])
async def test_a_reader_that_makes_progress_however_slowly_stays(
    world: World, monkeypatch: pytest.MonkeyPatch, messages: int
) -> None:
    """The kernel holds a quarter of a megabyte for it and asks for more when a third of that is free, which takes this
    reader 20 s. Neither the wait for progress nor heartbeats, whose answers stand behind it all, are so patient here.
    """
    monkeypatch.setattr("heliograph.edge.connections.PASS_S", 0.1)
    await world.put_tenant("acme", limits=ROOMY)
    edge = await world.edge(no_progress_timeout_s=4, heartbeat_interval_s=2)
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        await loop.sock_connect(sock, (edge.host, edge.port))
        hello = {"type": "hello", "token": world.token(), "subscriptions": [{"session": SESSION}]}
        await loop.sock_sendall(sock, handshake(edge.host, edge.port) + masked(hello))
        writer = await edge.client()
        await until(lambda: edge.value("sessions") == 1)
        for _ in range(messages):
            await writer.publish(SESSION, "x" * 50_000, ack="accepted")
        assert edge.value("catch_ups_total") == (messages > 20)
        assert await sip(edge, sock, 4_096, 10.0) < 60_000
        assert edge.value("connections") == 2
        assert edge.value("connections_closed_total", reason="no_progress") == 0


async def test_a_reader_that_hangs_with_little_waiting_for_it_is_found_by_its_heartbeat(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits is in the kernel's buffers, and below every mark; its end acknowledges pings, its program does not."""
    monkeypatch.setattr("heliograph.edge.connections.PASS_S", 0.05)
    edge = await world.edge(heartbeat_interval_s=0.4)
    slow, writer = await slow_reader(edge, SESSION), await edge.client()
    await writer.publish(SESSION, "x" * 50_000, ack="accepted")
    await until(lambda: edge.value("connections_closed_total", reason="heartbeat_timeout") == 1)
    await slow.close()


async def test_a_hundred_slow_readers_of_a_session_read_a_few_pages_at_a_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They fall behind together and come back together; pages are shared by who waits for the same."""
    await world.put_tenant("acme", limits=ROOMY)
    world.answer_history()
    edge = await world.edge(
        outbound_soft_bytes=SOFT, outbound_hard_bytes=HARD, socket_send_buffer_bytes=8_192, history_reads=2
    )
    under_way, most = 0, 0
    page = MemoryLiveStore.page

    async def counted(self: MemoryLiveStore, session: str, after: Position | None) -> Page:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)  # a round trip
        found = await page(self, session, after)
        under_way -= 1
        return found

    monkeypatch.setattr(MemoryLiveStore, "page", counted)
    readers, writer = [await slow_reader(edge, SESSION) for _ in range(100)], await edge.client()
    for number in range(30):
        await writer.publish(SESSION, f"{number:05d}" + "x" * 20_000, ack="accepted")
    assert edge.value("catch_ups_total") == 100
    for messages in await asyncio.gather(*(read(reader, 30) for reader in readers)):
        assert [int(message["payload"][:5]) for message in messages] == list(range(30))
    assert most == 2
    assert edge.value("history_reads_shared_total") > 0
    await until(lambda: edge.value("history_reads_waiting") == 0)
    for reader in readers:
        await reader.close()


async def test_who_asks_and_never_reads_the_answers_is_not_read_from(edge: Edge) -> None:
    """Each frame has an answer four times its size: unbounded, they would be the edge's memory."""
    asker, bystander, watch = await slow_reader(edge), await edge.client(), Watch(edge)
    frame = masked({"type": "publish", "id": 1, "session": "x", "payload": 1})
    flood = frame * (16 * 1024 * 1024 // len(frame))

    async def ask() -> None:
        asker.write(flood)
        await asker.writer.drain()

    asking = asyncio.create_task(ask())
    await until(lambda: edge.value("catch_ups_total") == 1)
    for _ in range(20):
        assert (await bystander.publish(SESSION))["durable"] is True
        watch.look()
    assert not asking.done()
    assert watch.most_bytes < 3 * 1024 * 1024, "what one read of the socket asks for, not what the peer sends"
    asking.cancel()
    asker.writer.transport.abort()
    await until(lambda: edge.value("connections") == 1)
