"""Whatever a client sends: a coded error, a refusal, or a close with the right code; and nobody else notices.

A bystander of another tenant publishes and receives all the time; what is left behind in the end is counted.
"""

import asyncio
import json
import resource
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.services.edge.client import Client, RawClient, contiguous
from tests.services.edge.rig import Edge, World, until
from websockets.frames import Opcode

from heliograph.protocol.codes import CODES
from heliograph.protocol.frames import CLIENT_TYPES, is_utf8

SESSION = "acme:planner:1"
EXAMPLES = 150
MOST_BYTES = 64 * 1024 + 8 * 1024
"""Of one inbound frame, as the edge is set."""
GROWTH_BYTES = 64 * 1024 * 1024
"""Of the whole process: hypothesis and its examples are in it too."""

ANSWERS = {"error", "refused", "published", "subscribed", "unsubscribed", "status", "message", "confirmed", "gap"}


class Bystander:
    """A client of another tenant that publishes and receives all the time."""

    session = "other:planner:1"

    def __init__(self, client: Client) -> None:
        self._client = client
        self._task = asyncio.create_task(self._run())
        self._over = False
        self.sent = 0

    async def _run(self) -> None:
        while not self._over:
            answer = await self._client.publish(self.session, self.sent)
            assert answer["type"] == "published", answer
            self.sent += 1
            await asyncio.sleep(0.003)

    async def check(self) -> None:
        """End it, and see that nothing is missing and nothing is anybody else's."""
        self._over = True
        await self._task
        await self._client.until(lambda: len(self._client.positions(self.session)) >= self.sent, "all messages")
        assert [message["payload"] for message in self._client.of("message")] == list(range(self.sent))
        assert contiguous(self._client.positions(self.session))
        assert {frame.get("session", self.session) for frame in self._client.frames} == {self.session}


@pytest.fixture
async def bystander(world: World, edge: Edge) -> AsyncIterator[Bystander]:
    """Whose check is the end of each test."""
    generous = {"connection_messages_per_s": 1e6, "connection_burst_messages": 10**6}
    for tenant in ("acme", "other"):
        await world.put_tenant(tenant, limits=generous)
    await until(lambda: edge.value("tenant_changes_total") == 4)
    client = await edge.client("other")
    await client.subscribe(Bystander.session)
    found = Bystander(client)
    yield found
    await found.check()
    assert found.sent > 0


@pytest.fixture
async def nothing_left(edge: Edge, bystander: Bystander) -> AsyncIterator[None]:
    """After the test there are as many connections and tasks as before, no task crashed, and memory is bounded."""
    tasks, memory, connections = len(asyncio.all_tasks()), resident_bytes(), edge.value("connections")
    yield
    await until(lambda: edge.value("connections") == connections)
    await until(lambda: len(asyncio.all_tasks()) <= tasks, "the number of tasks at the beginning")
    assert resident_bytes() - memory < GROWTH_BYTES
    assert edge.value("task_crashes_total") == 0


examples = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],  # one edge for all examples
)


async def welcomed(edge: Edge) -> RawClient:
    client = await RawClient.connect(edge.host, edge.port)
    client.send({"type": "hello", "token": edge.world.token(), "producer": "p", "incarnation": "abcdefgh"})
    await client.frame("welcome")
    return client


async def answers_to(client: RawClient, frames: list[bytes]) -> tuple[list[dict[str, Any]], int | None]:
    """What comes back for these text frames up to the answer to a last one, and the close code where it closed."""
    for data in frames:
        client.send(data)
    client.send({"type": "unsubscribe", "id": 9_007, "session": "the end"})
    found: list[dict[str, Any]] = []
    while True:
        opcode, data = await client.receive()
        if opcode == Opcode.CLOSE:
            return found, int.from_bytes(data[:2])
        frame = json.loads(data.decode())
        if frame.get("id") == 9_007:
            return found, None
        if frame["type"] != "ping":
            found.append(frame)


# ---- made by hand ---------------------------------------------------------------------------------------------------

PUBLISH = b'{"type":"publish","id":1,"session":"acme:planner:1","payload":%b}'


BAD_FRAMES = [
    (b"", "malformed"),
    (b" ", "malformed"),
    (b"\x00", "malformed"),
    (b"\xef\xbb\xbf{}", "malformed"),
    (b"nul", "malformed"),
    (b"null", "malformed"),
    (b"[]", "malformed"),
    (b'"publish"', "malformed"),
    (b"{}", "malformed"),
    (b'{"type":null}', "malformed"),
    (b'{"type":["publish"]}', "malformed"),
    (b'{"type":"publish"}', "malformed"),
    (b'{"type":"message"}', "unknown_type"),
    (b'{"type":"' + b"x" * 60_000 + b'"}', "unknown_type"),
    (b'{"type":"publish","type":"pong","session":1}', "malformed"),
    (PUBLISH % b"", "malformed"),
    (PUBLISH % b"{", "malformed"),
    (PUBLISH % b"NaN", "malformed"),
    (PUBLISH % b"Infinity", "malformed"),
    (PUBLISH % b"01", "malformed"),
    (PUBLISH % b"'x'", "malformed"),
    (PUBLISH % b'"\\ud800"', "malformed"),
    (PUBLISH % b'"\\udc00\\ud800"', "malformed"),
    (PUBLISH % b'"\\x"', "malformed"),
    (PUBLISH % b'"\x01"', "malformed"),
    (PUBLISH % b'1,"seq":9007199254740992', "malformed"),
    (PUBLISH % b'1,"seq":1e3', "malformed"),
    (PUBLISH % b'1,"seq":-1', "malformed"),
    (PUBLISH % b'1,"seq":99999999999999999999999999999999', "malformed"),
    (PUBLISH % b'1,"message_id":{"a":1}', "malformed"),
    (PUBLISH % b'1,"message_id":"' + b"x" * 60_000 + b'"}', "malformed"),
    (PUBLISH % b'1,"message_id":"\\u0000"', "value_invalid"),
    (PUBLISH % (b"[" * 64 + b"]" * 64), "value_invalid"),
    (PUBLISH % (b"[" * 10_000 + b"]" * 10_000), "malformed"),
    (PUBLISH % (b'{"a":' * 10_000 + b"1" + b"}" * 10_000), "malformed"),
    (PUBLISH % (b"[" * 60_000), "malformed"),
    (b"[" * 70_000, "malformed"),
    (b'{"type":"hello","subscriptions":' + b"[" * 10_000 + b"]" * 10_000 + b"}", "malformed"),
    (b'{"type":"subscribe","session":"acme:planner:\xe2\x80\xae"}', "session_invalid"),
    (b'{"type":"subscribe","session":"acme:planner:1","from":"\xf0\x9f\x98\x80"}', "position_invalid"),
]


async def test_a_frame_that_is_none_has_one_coded_answer(edge: Edge, bystander: Bystander) -> None:
    for frame, code in BAD_FRAMES:
        client = await welcomed(edge)
        found, closed = await answers_to(client, [frame])
        shown = frame[:80]
        assert (len(found), closed) == (1, None), shown
        assert found[0]["type"] in ("error", "refused"), shown
        assert found[0]["code"] == code, shown
        assert len(json.dumps(found)) < 1_000, f"what was sent is not sent back: {shown!r}"
        await client.close()


async def test_numbers_beyond_a_double_are_the_payloads_own_business(edge: Edge, bystander: Bystander) -> None:
    client = await edge.client()
    await client.subscribe(SESSION)
    for number in (2**53, 2**64, 10**400, -(2**63) - 1):
        assert (await client.publish(SESSION, number))["type"] == "published"
        assert (await client.messages(SESSION, 1))[0]["payload"] == number


# ---- made by hypothesis ---------------------------------------------------------------------------------------------

VALID: list[dict[str, Any]] = [
    {"type": "publish", "id": 1, "session": SESSION, "payload": {"a": [1, "é"]}, "class": "event", "ack": "accepted"},
    {
        "type": "publish",
        "id": 2,
        "session": SESSION,
        "payload": 1,
        "seq": 1,
        "correlation_id": "c",
        "reply_to": SESSION,
    },
    {"type": "subscribe", "id": 3, "session": SESSION, "from": "latest"},
    {"type": "subscribe", "id": 4, "session": SESSION, "from": "1764000000000-1a2b3c4d-0000000000000001"},
    {"type": "unsubscribe", "id": 5, "session": SESSION},
    {"type": "status", "id": 6, "session": SESSION, "position": "1764000000000-1a2b3c4d-0000000000000001"},
    {"type": "hello", "id": 7, "producer": "p", "subscriptions": [{"session": SESSION}]},
    {"type": "pong"},
]

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def wrong_fields(draw: st.DrawFn) -> bytes:
    """A frame with a field replaced, added or removed."""
    frame = dict(draw(st.sampled_from(VALID)))
    name = draw(st.sampled_from(sorted({name for valid in VALID for name in valid})))
    if draw(st.booleans()):
        frame[name] = draw(json_values | st.sampled_from(CLIENT_TYPES))
    else:
        frame.pop(name, None)
    return json.dumps(frame, ensure_ascii=draw(st.booleans())).encode("utf-8", "replace")


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A frame with bytes cut off, changed, put in or taken out."""
    data = bytearray(json.dumps(draw(st.sampled_from(VALID)), ensure_ascii=False).encode())
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        match draw(st.sampled_from(["cut", "change", "insert", "remove"])):
            case "cut":
                del data[at:]
            case "change" if data:
                data[at] = draw(st.integers(0, 255))
            case "insert":
                data[at:at] = draw(st.binary(min_size=1, max_size=4))
            case _:
                del data[at : at + 1]
    return bytes(data)


frames = st.one_of(wrong_fields(), damaged(), st.binary(max_size=60), st.text(max_size=60).map(str.encode))


@examples
@given(sent=st.lists(frames, min_size=1, max_size=10))
async def test_random_frames_harm_nobody(edge: Edge, nothing_left: None, sent: list[bytes]) -> None:
    client = await welcomed(edge)
    found, closed = await answers_to(client, sent)
    assert {frame["type"] for frame in found} <= ANSWERS
    assert {frame["code"] for frame in found if "code" in frame} <= CODES.keys()
    assert closed == (None if all(map(is_utf8, sent)) else 1007)
    await client.close()


@examples
@given(sent=st.binary(min_size=1, max_size=40))
async def test_random_bytes_on_the_socket_harm_nobody(edge: Edge, nothing_left: None, sent: bytes) -> None:
    """Not even frames: what comes is a close with a protocol code, the echo of one, or an end."""
    client = await welcomed(edge)
    client.write(sent)
    client.writer.write_eof()
    while True:
        opcode, data = await client.receive()
        if opcode == Opcode.CLOSE:
            break
    assert not data or int.from_bytes(data[:2]) in (1000, 1002, 1003, 1007, 1009, 4503)
    await client.close()


async def test_huge_frames_cost_no_memory(edge: Edge, nothing_left: None) -> None:
    for _ in range(40):
        client = await welcomed(edge)
        client.write(b"\x81\xff" + (2**33).to_bytes(8) + b"mask" + b"x" * 200_000)
        assert await client.close_code() in (1009, None)
        await client.close()
        client = await welcomed(edge)
        found, closed = await answers_to(client, [b"[" * MOST_BYTES] * 5)
        assert ({frame["code"] for frame in found}, closed) == ({"malformed"}, None)
        await client.close()


# ---- what is accepted -----------------------------------------------------------------------------------------------

texts = st.text(max_size=30)
payloads = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


class Pair:
    """A publisher and a subscriber of one session, and what was accepted so far."""

    def __init__(self, writer: Client, reader: Client) -> None:
        self.writer = writer
        self.reader = reader
        self.accepted: list[Any] = []


@pytest.fixture
async def pair(edge: Edge, bystander: Bystander) -> AsyncIterator[Pair]:
    """In the end everything is read once more, from the window, by a strict client too."""
    edge.world.answer_history()
    found = Pair(await edge.client(), await edge.client())
    await found.reader.subscribe(SESSION)
    yield found
    assert len(found.accepted) > EXAMPLES // 4
    late = await edge.client()
    await late.subscribe(SESSION, "earliest")
    assert [message["payload"] for message in await late.messages(SESSION, len(found.accepted))] == found.accepted


@examples
@given(payload=payloads, name=texts, ascii_only=st.booleans(), indent=st.sampled_from([None, 1]))
async def test_whatever_is_accepted_comes_out_as_a_frame_that_a_strict_client_reads(
    pair: Pair, payload: Any, name: str, ascii_only: bool, indent: int | None
) -> None:
    text = json.dumps(payload, ensure_ascii=ascii_only, indent=indent)
    fields = "".join(f',"{field}":{json.dumps(name)}' for field in ("correlation_id", "event_type") if name)
    await pair.writer.send(f'{{"type":"publish","id":99999,"session":"{SESSION}","payload":{text}{fields}}}')
    answer = await pair.writer.next(id=99_999)
    if answer["type"] == "published":
        pair.accepted.append(json.loads(text))
        (message,) = await pair.reader.messages(SESSION, 1)
        assert message["payload"] == pair.accepted[-1]
        assert message.get("correlation_id", "") == name
    else:
        assert answer["code"] in ("value_invalid", "malformed"), answer


def resident_bytes() -> int:
    """Of this process, now."""
    with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123 - no file of ours
        return int(statm.read().split()[1]) * resource.getpagesize()
