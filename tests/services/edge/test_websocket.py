"""RFC 6455 on the wire: what a peer may send, in whatever pieces, and the close code for what it may not."""

import asyncio
import json
import struct
from typing import Any

import pytest
from tests.services.edge.client import RawClient, handshake, masked
from tests.services.edge.rig import Edge, World, until
from websockets.frames import Opcode

SESSION = "acme:planner:1"
PUBLISH = {"type": "publish", "id": 1, "session": SESSION, "payload": "x"}


async def raw(edge: Edge, *, hello: bool = True) -> RawClient:
    client = await RawClient.connect(edge.host, edge.port)
    assert b" 101 " in client.response
    if hello:
        client.send({"type": "hello", "token": edge.world.token()})
        await client.frame("welcome")
    return client


async def ends_with(client: RawClient, edge: Edge, code: int, shown: bytes = b"") -> None:
    """The edge closes with this code, and nothing of the connection is left."""
    assert await client.close_code() == code, shown
    client.send(struct.pack("!H", code), Opcode.CLOSE)
    await client.ended()
    await client.close()
    await until(lambda: edge.value("connections") == 0)


# ---- what may come --------------------------------------------------------------------------------------------------


async def test_a_text_in_fragments_is_one_frame(edge: Edge) -> None:
    client = await raw(edge)
    data = json.dumps({**PUBLISH, "payload": "né"}, ensure_ascii=False).encode()
    for at, byte in enumerate(data):
        client.send(bytes([byte]), Opcode.CONT if at else Opcode.TEXT, fin=at == len(data) - 1)
    assert (await client.frame("published"))["id"] == 1
    await client.close()


async def test_control_frames_may_come_between_fragments(edge: Edge) -> None:
    client = await raw(edge)
    data = json.dumps(PUBLISH).encode()
    client.send(data[:9], fin=False)
    client.send(b"are you there", Opcode.PING)
    assert await client.receive() == (Opcode.PONG, b"are you there")
    client.send(b"unasked", Opcode.PONG)
    client.send(data[9:20], Opcode.CONT, fin=False)
    client.send(b"", Opcode.PING)
    client.send(data[20:], Opcode.CONT)
    assert await client.receive() == (Opcode.PONG, b"")
    assert (await client.frame("published"))["id"] == 1
    await client.close()


async def test_bytes_may_come_one_by_one(edge: Edge) -> None:
    client = await raw(edge)
    for byte in masked(PUBLISH):
        client.write(bytes([byte]))
        await client.writer.drain()
        await asyncio.sleep(0)
    assert (await client.frame("published"))["id"] == 1
    await client.close()


async def test_many_frames_in_one_segment_are_handled_in_order(edge: Edge) -> None:
    client = await raw(edge)
    client.write(b"".join(masked({**PUBLISH, "id": id_}) for id_ in range(100)))
    assert [(await client.frame("published"))["id"] for _ in range(100)] == list(range(100))
    await client.close()


async def test_frames_in_the_segment_of_the_handshake_are_handled(edge: Edge) -> None:
    """A client must wait for the answer (RFC 6455, 4.1); one that doesn't must not lose what it said."""
    hello = masked({"type": "hello", "token": edge.world.token()})
    publish = masked(PUBLISH)
    client = await RawClient.connect(edge.host, edge.port, with_handshake=hello + publish + hello[:7])
    assert b" 101 " in client.response
    assert (await client.frame("welcome"))["edge"] == "edge-1"
    assert (await client.frame("published"))["id"] == 1
    client.write(hello[7:])
    assert (await client.frame("error"))["code"] == "hello_repeated"
    await client.close()


@pytest.mark.parametrize(
    ("early", "code"),
    [
        (masked(b"\xff"), 1007),
        (masked(b"binary", Opcode.BINARY), 1003),
        (b"\x81\x05hello", 1002),
        (masked(b"p" * 100, Opcode.PING) + masked(b"\xc3\x28"), 1007),
    ],
    ids=["utf8", "binary", "unmasked", "ping"],
)
async def test_a_bad_frame_in_the_segment_of_the_handshake_is_closed_after_it(
    edge: Edge, early: bytes, code: int
) -> None:
    client = await RawClient.connect(edge.host, edge.port, with_handshake=early)
    assert b" 101 " in client.response
    await ends_with(client, edge, code)


async def test_more_than_a_frame_before_the_handshake_is_answered_is_cut_off(edge: Edge) -> None:
    client = RawClient(*await asyncio.open_connection(edge.host, edge.port))
    client.write(handshake(edge.host, edge.port) + masked(b"x" * 60_000) * 40)
    await client.ended()
    await client.close()
    await until(lambda: edge.value("connections") == 0)
    assert edge.value("handshakes_refused_total", code="sent_too_early") == 1


async def test_the_closing_handshake_is_answered_with_its_code(edge: Edge) -> None:
    client = await raw(edge)
    client.send(struct.pack("!H", 1000) + b"bye", Opcode.CLOSE)
    opcode, data = await client.receive()
    assert (opcode, data[:2]) == (Opcode.CLOSE, struct.pack("!H", 1000))
    await client.ended()
    await client.close()
    await until(lambda: edge.value("connections") == 0)


async def test_a_close_without_a_code_is_answered(edge: Edge) -> None:
    client = await raw(edge)
    client.send(b"", Opcode.CLOSE)
    assert (await client.receive())[0] == Opcode.CLOSE
    await client.ended()
    await client.close()


# ---- what may not ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hello", [True, False])
async def test_a_binary_frame_is_unsupported(edge: Edge, hello: bool) -> None:
    client = await raw(edge, hello=hello)
    client.send(json.dumps(PUBLISH).encode(), Opcode.BINARY)
    await ends_with(client, edge, 1003)
    assert edge.value("bad_frames_total", code="binary") == 1


async def test_a_binary_frame_in_fragments_is_unsupported(edge: Edge) -> None:
    client = await raw(edge)
    client.send(b"\x00", Opcode.BINARY, fin=False)
    client.send(b"\x01", Opcode.CONT)
    await ends_with(client, edge, 1003)


NO_UTF8: list[Any] = [
    b"\xff",
    b'{"type":"pong","x":"\xc3\x28"}',
    b'{"type":"publish","session":"acme:planner:1","payload":"\xed\xa0\x80"}',
    b'{"type":"publish","session":"acme:planner:1","payload":"\xc0\xaf"}',
    b'{"type":"publish","session":"acme:planner:1","payload":"cut \xe2\x82"}',
]


async def test_text_that_is_not_utf8_is_closed_and_not_stored(world: World, edge: Edge) -> None:
    for text in NO_UTF8:
        client = await raw(edge)
        client.send(text)
        await ends_with(client, edge, 1007, text)
    assert world.live.head(SESSION).seq == 0


async def test_utf8_cut_between_fragments_is_judged_whole(edge: Edge) -> None:
    client = await raw(edge)
    client.send(b'{"type":"pong","x":"\xe2\x82', fin=False)
    client.send(b'"}', Opcode.CONT)
    await ends_with(client, edge, 1007)


async def test_a_frame_above_the_limit_is_too_large_before_it_has_come(edge: Edge) -> None:
    client = await raw(edge)
    client.write(struct.pack("!BBQ", 0x81, 0x80 | 127, 2**40) + b"mask")
    await ends_with(client, edge, 1009)


async def test_fragments_that_together_are_above_the_limit_are_too_large(edge: Edge) -> None:
    client = await raw(edge)
    client.send(b"x" * 40_000, fin=False)
    client.send(b"x" * 40_000, Opcode.CONT)
    await ends_with(client, edge, 1009)


async def test_the_largest_frame_is_taken(edge: Edge) -> None:
    client = await raw(edge)
    client.send({**PUBLISH, "payload": "x" * (64 * 1024 - 2), "x": "y" * (8 * 1024 - 200)})
    assert (await client.frame("published"))["id"] == 1
    await client.close()


BREACHES: list[Any] = [
    b"\x81\x02{}",
    bytes([0xC1, 0x80]) + b"mask",
    bytes([0xA1, 0x80]) + b"mask",
    bytes([0x83, 0x80]) + b"mask",
    bytes([0x8B, 0x80]) + b"mask",
    masked(b"", Opcode.CONT),
    masked(b"a", fin=False) + masked(b"b"),
    bytes([0x09, 0x80]) + b"mask",
    bytes([0x89, 0x80 | 126]) + struct.pack("!H", 126) + b"mask" + b"x" * 126,
    masked(b"\x03", Opcode.CLOSE),
    masked(struct.pack("!H", 1005), Opcode.CLOSE),
    masked(struct.pack("!H", 999), Opcode.CLOSE),
]


async def test_a_breach_of_the_framing_is_a_protocol_error(edge: Edge) -> None:
    for data in BREACHES:
        client = await raw(edge)
        client.write(data)
        await ends_with(client, edge, 1002, data)


# ---- peers that are gone --------------------------------------------------------------------------------------------


async def test_a_socket_that_is_reset_leaves_nothing(edge: Edge) -> None:
    client = await edge.client()
    await client.subscribe(SESSION)
    client.abort()
    await until(lambda: edge.value("connections") == 0 and edge.value("sessions") == 0)


async def test_a_peer_that_only_shuts_its_side_is_ended(edge: Edge) -> None:
    client = await raw(edge)
    client.writer.write_eof()
    await client.ended()
    await client.close()
    await until(lambda: edge.value("connections") == 0)


async def test_a_peer_that_never_answers_a_close_is_ended_in_time(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heliograph.edge.websocket.CLOSE_TIMEOUT_S", 0.1)
    client = await raw(edge)
    client.send(b"x", Opcode.BINARY)
    assert await client.close_code() == 1003
    await client.ended()
    await client.close()
    await until(lambda: edge.value("connections") == 0)


async def test_a_peer_that_closes_and_reads_nothing_is_ended_in_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heliograph.edge.websocket.CLOSE_TIMEOUT_S", 0.1)
    edge = await world.edge(socket_send_buffer_bytes=4096)
    client = await RawClient.connect(edge.host, edge.port, limit=1024, receive_buffer=4096)
    client.send({"type": "hello", "token": world.token()})
    await client.frame("welcome")
    client.send({"type": "subscribe", "session": SESSION})
    await client.frame("subscribed")
    writer = await edge.client()
    for _ in range(8):
        await writer.publish(SESSION, "x" * 60_000, ack="accepted")
    client.send(struct.pack("!H", 1000), Opcode.CLOSE)
    await until(lambda: edge.value("connections") == 1, "the end of the reader that doesn't read")
    await client.close()


async def test_frames_behind_a_close_are_not_handled(world: World, edge: Edge) -> None:
    client = await raw(edge)
    client.write(masked(b"x", Opcode.BINARY) + masked(PUBLISH))
    await ends_with(client, edge, 1003)
    assert world.live.head(SESSION).seq == 0
