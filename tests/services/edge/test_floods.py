"""Who sends much at once, or goes on asking for what it was refused, costs others nothing and loses nothing itself."""

import asyncio
import json
from typing import Any

import pytest
from tests.services.edge.client import RawClient, masked
from tests.services.edge.rig import Edge, World, until

from heliograph.edge.read_turns import AT_ONCE, REST_S, ReadTurns
from heliograph.edge.websocket import SLICE_BYTES

SESSION = "acme:planner:1"
ROOMY = {"connection_messages_per_s": 1e6, "connection_burst_messages": 10**6, "connection_burst_bytes": 10**9}
ONE_A_MINUTE = {"connection_messages_per_s": 1 / 60, "connection_burst_messages": 1}
TWO_A_SECOND = {"connection_messages_per_s": 2.0, "connection_burst_messages": 1}


def publishes(count: int) -> bytes:
    """So many, small ones, as bytes of the wire; telemetry, of which a session takes any number."""
    return b"".join(
        masked(
            {"type": "publish", "id": id_, "session": SESSION, "class": "telemetry", "ack": "accepted", "payload": {}}
        )
        for id_ in range(count)
    )


async def welcomed(edge: Edge, **options: Any) -> RawClient:
    client = await RawClient.connect(edge.host, edge.port, **options)
    client.send({"type": "hello", "token": edge.world.token()})
    await client.frame("welcome")
    return client


async def answers(client: RawClient, count: int) -> list[dict[str, Any]]:
    """The next answers to publishes."""
    found: list[dict[str, Any]] = []
    while len(found) < count:
        opcode, data = await client.receive()
        assert opcode == 1, (opcode, data)
        frame = json.loads(data)
        if frame["type"] in ("published", "refused"):
            found.append(frame)
    return found


class Turns:
    """How many frames the edge took in each turn of the loop."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._before = edge.value("frames_in_total")
        self.frames: list[float] = []
        self._handle = asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        now = self._edge.value("frames_in_total")
        self.frames.append(now - self._before)
        self._before = now
        self._handle = asyncio.get_running_loop().call_soon(self._look)

    def end(self) -> list[float]:
        self._handle.cancel()
        return self.frames


# ---- much at once ---------------------------------------------------------------------------------------------------


async def test_what_comes_at_once_is_taken_a_slice_a_turn(world: World) -> None:
    await world.put_tenant("acme", limits=ROOMY)
    edge = await world.edge()
    clients = [await welcomed(edge) for _ in range(4)]
    data = publishes(2_000)
    slice_frames = SLICE_BYTES / (len(data) / 2_000)
    turns = Turns(edge)
    for client in clients:
        client.write(data)
    got = await asyncio.gather(*(answers(client, 2_000) for client in clients))
    frames = turns.end()
    for one in got:
        assert [answer["id"] for answer in one] == list(range(2_000)), "each is answered, in order"
    assert sum(frames) == 4 * 2_000
    assert edge.value("rests_total") == 0
    # A slice of each client that the loop found readable in that turn, and of those whose turn it was.
    assert max(frames) <= (len(clients) + AT_ONCE) * (slice_frames + 1)
    for client in clients:
        await client.close()


async def test_what_came_with_hello_is_taken_behind_it(world: World) -> None:
    await world.put_tenant("acme", limits=ROOMY)
    edge = await world.edge()
    hello = masked({"type": "hello", "token": world.token()})
    client = await RawClient.connect(edge.host, edge.port, with_handshake=hello + publishes(300))
    await client.frame("welcome")
    assert [answer["id"] for answer in await answers(client, 300)] == list(range(300))
    await client.close()


async def test_a_frame_that_is_longer_than_a_slice_is_whole(world: World) -> None:
    edge = await world.edge()
    client = await welcomed(edge)
    payload = "x" * (3 * SLICE_BYTES + 1)
    sent = [masked({"type": "publish", "id": id_, "session": SESSION, "payload": payload}) for id_ in range(5)]
    client.write(b"".join(sent))
    assert [answer["type"] for answer in await answers(client, 5)] == ["published"] * 5
    await client.close()


async def test_who_leaves_in_the_midst_of_what_it_sent_leaves_nothing(world: World) -> None:
    await world.put_tenant("acme", limits=ROOMY)
    edge = await world.edge()
    client = await welcomed(edge)
    client.write(publishes(3_000))
    await until(lambda: edge.value("frames_in_total") > 1)
    client.writer.transport.abort()
    await until(lambda: edge.value("connections") == 0)
    other = await edge.client()
    assert (await other.publish(SESSION))["type"] == "published"


async def test_who_reads_no_answers_gets_each_when_it_does(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heliograph.edge.connections.PASS_S", 0.05)
    await world.put_tenant("acme", limits=ROOMY)
    edge = await world.edge(
        outbound_soft_bytes=32_768, outbound_hard_bytes=65_536, socket_send_buffer_bytes=8_192, no_progress_timeout_s=60
    )
    client = await welcomed(edge, limit=4_096, receive_buffer=4_096)
    client.write(publishes(3_000))
    await until(lambda: edge.value("catch_ups_total") > 0)
    assert edge.value("frames_in_total") < 3_000, "nothing more is read of who reads nothing"
    assert [answer["id"] for answer in await answers(client, 3_000)] == list(range(3_000))
    await client.close()


# ---- refused, and going on ------------------------------------------------------------------------------------------


async def test_who_goes_on_though_told_to_wait_is_read_less_often_and_answered_all_the_same(world: World) -> None:
    await world.put_tenant("acme", limits=ONE_A_MINUTE)
    edge = await world.edge()
    client = await welcomed(edge)
    begin_s = asyncio.get_running_loop().time()
    for id_ in range(1, 101):
        client.send({"type": "publish", "id": id_, "session": SESSION, "payload": {}})
        await asyncio.sleep(REST_S / 10)
    got = await answers(client, 100)
    took_s = asyncio.get_running_loop().time() - begin_s
    assert [answer["id"] for answer in got] == list(range(1, 101))
    assert [answer["type"] for answer in got] == ["published"] + ["refused"] * 99
    rests = edge.value("rests_total")
    assert 2 <= rests <= took_s / REST_S + 1, "one a rest, not one a frame"
    await client.close()


async def test_who_waits_as_told_is_never_left_unread(world: World) -> None:
    await world.put_tenant("acme", limits=TWO_A_SECOND)
    edge = await world.edge()
    client = await edge.client()
    taken = 0
    while taken < 3:
        answer = await client.publish(SESSION)
        taken += answer["type"] == "published"
        await asyncio.sleep(answer.get("retry_after_ms", 0) / 1000)
    assert edge.value("refused_total", code="rate_limited") >= 2
    assert edge.value("rests_total") == 0


async def test_who_is_refused_for_good_and_goes_on_is_read_less_often(edge: Edge) -> None:
    client = await welcomed(edge)
    elsewhere = "other:planner:1"
    client.write(
        b"".join(masked({"type": "publish", "id": id_, "session": elsewhere, "payload": 1}) for id_ in range(9))
    )
    assert {answer["code"] for answer in await answers(client, 9)} == {"forbidden"}
    assert edge.value("rests_total") == 1
    client.send({"type": "publish", "id": 9, "session": SESSION, "payload": 1})
    assert (await client.frame("published"))["id"] == 9
    await client.close()


async def test_a_rest_keeps_no_connection_from_its_end(world: World) -> None:
    await world.put_tenant("acme", limits=ONE_A_MINUTE)
    edge = await world.edge()
    for end in ("close", "abort"):
        client = await welcomed(edge)
        client.write(publishes(500))
        await until(lambda: edge.value("rests_total") > 0)
        if end == "close":
            await client.close()
        else:
            client.writer.transport.abort()
        await until(lambda: edge.value("connections") == 0)


# ---- the turns themselves -------------------------------------------------------------------------------------------


async def test_a_turn_is_never_the_present_one() -> None:
    turns, done = ReadTurns(), list[str]()
    for name in "abcde":
        turns.next(lambda name=name: done.append(name))  # type: ignore[misc]
    seen = ["".join(done)]
    while len(done) < 5:
        await asyncio.sleep(0)
        seen.append("".join(done))
    assert seen == ["", "ab", "abcd", "abcde"]


async def test_all_that_rest_are_read_on_in_their_order_and_not_before() -> None:
    loop = asyncio.get_running_loop()
    turns, rested = ReadTurns(), dict[int, float]()
    begun: dict[int, float] = {}
    for number in range(7):
        begun[number] = loop.time()
        turns.rest(lambda number=number: rested.update({number: loop.time()}))  # type: ignore[misc]
        await asyncio.sleep(REST_S / 5)
    await until(lambda: len(rested) == 7)
    assert list(rested) == list(range(7))
    assert all(rested[number] - begun[number] >= REST_S - 0.002 for number in begun), (begun, rested)
    turns.rest(lambda: rested.update({7: loop.time()}))
    await until(lambda: 7 in rested)
