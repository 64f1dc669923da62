"""How long a connection may stay: time-outs, heartbeats, errors, tokens."""

import asyncio
import gc
import weakref

import pytest
from tests.services.edge.client import RawClient, masked
from tests.services.edge.rig import World, until
from websockets.frames import Opcode

from heliograph.edge.websocket import ClientSocket
from heliograph.service.http_protocol import GuardedHttpProtocol

SESSION = "acme:planner:1"


@pytest.fixture(autouse=True)
def quick_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections are looked at twenty times a second, so that time-outs may be short."""
    monkeypatch.setattr("heliograph.edge.connections.PASS_S", 0.05)


async def test_no_hello_in_time(world: World) -> None:
    edge = await world.edge(hello_timeout_s=0.2)
    client = await edge.connect()
    assert (await client.closed(), client.close_reason) == (4003, "hello_timeout")
    assert edge.value("connections_closed_total", reason="hello_timeout") == 1


async def test_other_frames_do_not_put_hello_off(world: World) -> None:
    edge = await world.edge(hello_timeout_s=0.3)
    client = await edge.connect()

    async def chatter() -> None:
        while not client.is_closed:
            await client.send({"type": "pong"})
            await asyncio.sleep(0.02)

    chattering = asyncio.create_task(chatter())
    assert await client.closed() == 4003
    chattering.cancel()
    await asyncio.gather(chattering, return_exceptions=True)


async def test_a_connection_that_does_nothing_is_idle(world: World) -> None:
    edge = await world.edge(idle_timeout_s=0.3)
    client = await edge.client()
    assert (await client.closed(), client.close_reason) == (4006, "idle")


async def test_subscribers_and_publishers_are_not_idle(world: World) -> None:
    edge = await world.edge(idle_timeout_s=0.5)
    subscriber, publisher, nothing = await edge.client(), await edge.client(), await edge.client()
    await subscriber.subscribe(SESSION)

    async def publish() -> None:
        while True:
            await publisher.publish(SESSION, ack="accepted")
            await asyncio.sleep(0.05)

    publishing = asyncio.create_task(publish())
    assert await nothing.closed() == 4006
    await until(lambda: len(subscriber.positions(SESSION)) > 12)
    assert not subscriber.is_closed
    assert not publisher.is_closed
    publishing.cancel()
    await asyncio.gather(publishing, return_exceptions=True)


async def test_who_unsubscribed_may_think_before_it_is_idle(world: World) -> None:
    edge = await world.edge(idle_timeout_s=0.4)
    client = await edge.client()
    await client.subscribe(SESSION)
    await asyncio.sleep(0.5)  # longer than the time-out, which a subscription suspends
    await client.ask("unsubscribe", session=SESSION)
    left = asyncio.get_running_loop().time()
    assert await client.closed() == 4006
    assert asyncio.get_running_loop().time() - left > 0.3


async def test_a_silent_client_is_told_and_closed(world: World) -> None:
    edge = await world.edge(heartbeat_interval_s=0.2)
    client = await edge.client(answers_pings=False)
    await client.subscribe(SESSION)
    assert (await client.closed(), client.close_reason) == (4002, "heartbeat_timeout")
    assert client.pings >= 2
    await until(lambda: edge.value("sessions") == 0)


async def test_a_client_that_answers_pings_stays(world: World) -> None:
    edge = await world.edge(heartbeat_interval_s=0.1)
    client = await edge.client()
    await until(lambda: client.pings >= 8)
    assert not client.is_closed
    assert (await client.publish(SESSION))["type"] == "published"


async def test_any_byte_counts_as_a_sign_of_life(world: World) -> None:
    edge = await world.edge(heartbeat_interval_s=0.2)
    client = await edge.client(answers_pings=False)
    while client.pings < 6:
        await client.ask("unsubscribe", session=SESSION)
        await asyncio.sleep(0.02)
    assert not client.is_closed


async def test_a_peer_that_vanished_is_let_go(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its socket is open and nobody is there: nothing is read, nothing is answered."""
    monkeypatch.setattr("heliograph.edge.websocket.CLOSE_TIMEOUT_S", 0.1)
    edge = await world.edge(heartbeat_interval_s=0.1)
    client = await RawClient.connect(edge.host, edge.port)
    client.send({"type": "hello", "token": world.token()})
    await client.frame("welcome")
    await until(lambda: edge.value("connections_closed_total", reason="heartbeat_timeout") == 1)
    await until(lambda: edge.value("connections") == 0)
    await client.close()


@pytest.mark.parametrize("form", ["frame", "fragments", "header"])
async def test_a_frame_that_never_ends_is_cut_off_in_time(world: World, form: str) -> None:
    """Each byte is a sign of life, and all of them are held."""
    edge = await world.edge(frame_timeout_s=0.5, heartbeat_interval_s=0.2)
    client = await RawClient.connect(edge.host, edge.port)
    client.send({"type": "hello", "token": world.token()})
    await client.frame("welcome")
    frame = masked(b" " * 50_000)
    if form == "header":
        frame = masked(b" " * 70_000)
        client.write(frame[:1])

    async def dribble() -> None:
        at = 1 if form == "header" else 0
        if form == "fragments":
            client.send(b" ", fin=False)
        while True:
            if form == "fragments":
                client.send(b" ", Opcode.CONT, fin=False)
            else:
                client.write(frame[at : at + 1])
                at += 1
            await asyncio.sleep(0.03)

    dribbling = asyncio.create_task(dribble())
    assert await client.close_code() == 4008
    assert edge.value("connections_closed_total", reason="frame_timeout") == 1
    dribbling.cancel()
    await asyncio.gather(dribbling, return_exceptions=True)
    await client.close()


async def test_frames_that_end_may_come_in_any_pieces_for_any_time(world: World) -> None:
    edge = await world.edge(frame_timeout_s=0.3)
    client = await RawClient.connect(edge.host, edge.port)
    client.send({"type": "hello", "token": world.token()})
    await client.frame("welcome")
    loop = asyncio.get_running_loop()
    end = loop.time() + 1.2
    while loop.time() < end:  # one is always under way, and never the same one for long
        frame = masked({"type": "pong"}) + masked(b'{"type":', fin=False) + masked(b'"pong"}', Opcode.CONT)
        for at in range(0, len(frame), 5):
            client.write(frame[at : at + 5])
            await asyncio.sleep(0.005)
    client.send({"type": "publish", "id": 1, "session": SESSION, "payload": 1})
    assert (await client.frame("published"))["id"] == 1
    await client.close()


async def test_a_message_in_countless_empty_fragments_is_no_message(world: World) -> None:
    edge = await world.edge()
    client = await RawClient.connect(edge.host, edge.port)
    client.send({"type": "hello", "token": world.token()})
    await client.frame("welcome")
    client.write(masked(b"", fin=False) + masked(b"", Opcode.CONT, fin=False) * 2_000)
    assert await client.close_code() == 1009
    await client.close()


async def test_too_many_errors_close_for_good(world: World) -> None:
    edge = await world.edge(max_errors=5)
    client = await edge.client()
    for number in range(4):
        await client.send({"type": "nonsense", "id": number})
        assert (await client.next("error", id=number))["code"] == "unknown_type"
    assert (await client.publish(SESSION))["type"] == "published"
    await client.send("[]")
    assert (await client.next("error"))["code"] == "malformed"
    assert (await client.closed(), client.close_reason) == (4503, "too_many_errors")


async def test_refusals_are_no_errors(world: World) -> None:
    edge = await world.edge(max_errors=2)
    client = await edge.client()
    for _ in range(5):
        assert (await client.publish("other:planner:1"))["code"] == "forbidden"
    assert not client.is_closed


async def test_a_token_that_runs_out_ends_its_connection(world: World) -> None:
    edge = await world.edge()
    client = await edge.connect(token=world.token(ttl_s=2))
    await client.hello()
    assert (await client.closed(), client.close_reason) == (4000, "token_expired")


async def test_an_error_of_the_edge_itself_costs_one_connection(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    edge = await world.edge()
    client, other = await edge.client(), await edge.client()

    def broken(*_: object) -> None:
        raise RuntimeError("a fault")

    with monkeypatch.context() as fault:
        fault.setattr("heliograph.edge.connection.unsubscribe", broken)
        await client.send({"type": "unsubscribe", "session": SESSION})
        assert (await client.closed(), client.close_reason) == (1011, "internal")
    assert (await other.publish(SESSION))["durable"] is True


async def test_a_connection_that_ended_leaves_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither itself nor what its handshake needed waits for the garbage collector, which looks through everything only
    after very long (`heliograph.service.garbage`)."""
    made: list[weakref.ref[object]] = []

    def kept(cls: type) -> None:
        begin = cls.__init__  # type: ignore[misc]

        def noting(self: object, *arguments: object, **named: object) -> None:
            begin(self, *arguments, **named)
            made.append(weakref.ref(self))

        monkeypatch.setattr(cls, "__init__", noting)

    kept(ClientSocket)
    kept(GuardedHttpProtocol)
    edge = await world.edge()
    gc.collect()
    gc.disable()
    try:
        clients = [await edge.client() for _ in range(3)]
        for client in clients:
            await client.subscribe(SESSION)
            await client.publish(SESSION)
        assert len(made) == 6
        await clients[0].close()
        await clients[1].send(b"binary, which is not in this protocol")
        clients[2].abort()
        await until(lambda: not any(one() for one in made), "the end of all that was made for them")
    finally:
        gc.enable()
