"""A crowd that comes in one moment: others are served in between, and each of the crowd is, in order."""

import asyncio

from tests.services.edge.client import DEADLINE_S, RawClient, handshake, masked
from tests.services.edge.rig import Edge, World, until
from websockets.frames import Opcode

CROWD = 60
SESSION = "acme:planner:1"


async def connected(edge: Edge) -> RawClient:
    """A connection over which nothing was sent yet."""
    return RawClient(*await asyncio.open_connection(edge.host, edge.port))


async def test_a_probe_does_not_wait_for_a_crowd_of_handshakes(edge: Edge) -> None:
    crowd = [await connected(edge) for _ in range(CROWD)]
    probe = await connected(edge)
    answered: list[int] = []

    async def answer(number: int, client: RawClient) -> None:
        async with asyncio.timeout(DEADLINE_S):
            client.response = await client.reader.readuntil(b"\r\n\r\n")
        answered.append(number)

    for client in crowd:
        client.write(handshake(edge.host, edge.port))
    probe.write(b"GET /livez HTTP/1.1\r\nHost: edge\r\n\r\n")
    await asyncio.gather(*(answer(number, client) for number, client in enumerate([*crowd, probe])))
    assert {client.response.split(b" ")[1] for client in crowd} == {b"101"}
    assert probe.response.startswith(b"HTTP/1.1 200")
    assert answered.index(CROWD) < CROWD / 2, f"the probe came behind {answered.index(CROWD)} handshakes"
    for client in (*crowd, probe):
        await client.close()


async def test_what_comes_behind_a_hello_that_waits_is_done_after_it_in_order(world: World) -> None:
    edge = await world.edge()
    crowd = [await RawClient.connect(edge.host, edge.port) for _ in range(CROWD)]
    token = world.token()
    for number, client in enumerate(crowd):
        client.write(
            masked({"type": "hello", "id": 1, "token": token, "agent": f"agent-{number}"})
            + masked({"type": "subscribe", "id": 2, "session": f"{SESSION}-{number}", "from": "earliest"})
            + masked(
                {"type": "publish", "id": 3, "session": f"{SESSION}-{number}", "payload": number, "ack": "accepted"}
            )
        )
    for number, client in enumerate(crowd):
        kinds: list[str] = []
        while not {"published", "message"} <= set(kinds):
            opcode, data = await client.receive()
            assert opcode == Opcode.TEXT, data
            kinds.append(data.split(b'"')[3].decode())
        assert kinds[0] == "welcome", (number, kinds)
        assert kinds.index("subscribed") < kinds.index("message"), (number, kinds)
        assert not {"error", "refused"} & set(kinds), (number, kinds)
        await client.close()


async def test_who_leaves_while_its_turn_has_not_come_is_let_go_and_not_greeted(edge: Edge) -> None:
    crowd = [await connected(edge) for _ in range(CROWD)]
    for client in crowd:
        client.write(handshake(edge.host, edge.port))
    for client in crowd[::2]:
        client.writer.transport.abort()
    for client in crowd[1::2]:
        async with asyncio.timeout(DEADLINE_S):
            assert b" 101 " in await client.reader.readuntil(b"\r\n\r\n")
        await client.close()
    await until(lambda: edge.value("open_sockets") == 0)
    left = edge.value("sockets_refused_total", code="given_up")
    assert left > CROWD / 4, "the turns of most of them had not come when they left"
    assert edge.value("connections_opened_total") <= CROWD - left
    later = await edge.client()
    assert (await later.subscribe(SESSION))["type"] == "subscribed"


async def test_who_is_told_to_come_back_keeps_nobody_else_out(world: World) -> None:
    edge = await world.edge(concurrent_handshakes=1, concurrent_handshakes_cap=1_000)
    silent = await RawClient.connect(edge.host, edge.port)
    told = [await RawClient.connect(edge.host, edge.port) for _ in range(10)]
    for client in told:
        assert (await client.frame("reconnect"))["reason"] == "overloaded"
    assert edge.value("admission_refused_total", cause="at_once") == 10
    await silent.close()
    await until(lambda: edge.value("handshakes_under_way") == 0, "nobody under way but those who were told")
    assert edge.value("open_sockets") == 10, "none of them has taken its leave"
    assert (await (await edge.connect()).hello())["type"] == "welcome"
    for client in told:
        await client.close()
