import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.client.conftest import QUICK
from tests.client.fake_edge import SILENT, FakeEdge, response
from websockets.asyncio.server import ServerConnection

from heliograph.client import (
    AuthenticationError,
    Client,
    ClientState,
    ClosedError,
    ConnectError,
    PublishUncertain,
    TokenExpiredError,
)
from heliograph.core.backoff import BackoffPolicy
from heliograph.protocol.codes import CLOSES, CloseCode
from heliograph.protocol.frames import Hello, Reconnect, Refused, Welcome, encode

SESSION = "acme:planner:1"
MakeClient = Callable[..., Client]


async def test_states_are_told_in_order(edge: FakeEdge, make_client: MakeClient) -> None:
    states: list[str] = []
    async with make_client(on_state=lambda state, why: states.append(state)) as client:
        assert str(client.state) == "connected"
        assert client.url == f"{edge.url}/v1/connect"
        edge.drop_all()
        await edge.until(lambda: client.stats.connections == 2)
    assert client.state is ClientState.CLOSED
    assert states == ["connecting", "connected", "waiting", "connecting", "connected", "closing", "closed"]


async def test_a_callback_that_raises_harms_nothing(
    edge: FakeEdge, make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(state: ClientState, why: str) -> None:
        raise RuntimeError("mine")

    async with make_client(on_state=broken) as client:
        await client.publish(SESSION, 1)
    assert "on_state raised" in caplog.text


@pytest.mark.parametrize("code", [code for code in CLOSES if 4000 < code < 4500] + [1001, 1011, 1012, 1013])
async def test_codes_that_say_come_back_bring_it_back(edge: FakeEdge, make_client: MakeClient, code: int) -> None:
    async with make_client() as client:
        await edge.connections[0].close(code)
        await client.publish(SESSION, 1)
        assert client.stats.connections == 2


@pytest.mark.parametrize("code", [code for code in CLOSES if code >= 4500] + [4999, 1002, 1003, 1007, 1009])
async def test_codes_that_say_do_not_come_back_end_the_client_with_their_meaning(
    edge: FakeEdge, make_client: MakeClient, code: int
) -> None:
    edge.on_publish = lambda connection, frame: SILENT
    async with make_client() as client:
        reader = asyncio.ensure_future(anext(client.subscribe("acme:planner:2")))
        publish = asyncio.create_task(client.publish(SESSION, 1))
        await edge.until(lambda: len(edge.publishes) == 1)
        await edge.connections[0].close(code)
        with pytest.raises(ClosedError) as caught:
            await reader
        assert caught.value.close_code == code
        if code in CLOSES:
            assert (caught.value.name, caught.value.meaning) == (CLOSES[code].name, CLOSES[code].meaning)
        with pytest.raises(PublishUncertain):
            await publish
        with pytest.raises(ClosedError):
            await client.publish(SESSION, 1)
        assert client.state is ClientState.CLOSED
    assert edge.handshakes == 1


async def test_an_expired_token_is_fetched_anew(edge: FakeEdge, make_client: MakeClient) -> None:
    tokens = iter(["first", "second"])

    async def fetch() -> str:
        return next(tokens)

    async with make_client(token=fetch) as client:
        await edge.connections[0].close(CloseCode.TOKEN_EXPIRED)
        await client.publish(SESSION, 1)
    assert [hello.token for hello in edge.hellos] == ["first", "second"]


async def test_an_expired_token_that_is_fixed_ends_the_client(edge: FakeEdge, make_client: MakeClient) -> None:
    async with make_client() as client:
        reader = asyncio.ensure_future(anext(client.subscribe("acme:planner:2")))
        await edge.until(lambda: len(edge.subscribes) == 1)
        await edge.connections[0].close(CloseCode.TOKEN_EXPIRED)
        with pytest.raises(TokenExpiredError):
            await reader


async def test_a_token_expired_from_the_start_is_an_error_at_connect(edge: FakeEdge, make_client: MakeClient) -> None:
    async def expired(ws: ServerConnection, hello: Hello) -> bool:
        await ws.send(encode(Refused("token_expired", "The token ran out.")), text=True)
        await ws.close(CloseCode.TOKEN_EXPIRED, "token_expired")
        return True

    edge.on_hello = expired
    with pytest.raises(TokenExpiredError):
        await make_client().connect()


async def test_a_token_function_that_fails_is_asked_again(edge: FakeEdge, make_client: MakeClient) -> None:
    calls = 0

    def fetch() -> str:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise OSError("identity provider is away")
        return "t"

    async with make_client(token=fetch):
        assert calls == 3


async def test_a_token_function_that_hangs_is_given_up(edge: FakeEdge, make_client: MakeClient) -> None:
    calls = 0

    async def fetch() -> str:
        nonlocal calls
        calls += 1
        if calls == 1:
            await asyncio.Event().wait()
        return "t"

    async with make_client(token=fetch, settings=replace(QUICK, open_timeout_s=0.3)):
        assert calls >= 2


async def test_a_token_is_never_logged(
    edge: FakeEdge, make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with make_client(token="eyJ.secret.token") as client:
        await client.publish(SESSION, "a secret payload")
        edge.drop_all()
        await client.publish(SESSION, "a secret payload")
    assert caplog.records
    assert "secret" not in caplog.text


@pytest.mark.parametrize("code", [CloseCode.TOKEN_REFUSED, CloseCode.TENANT_SUSPENDED])
async def test_a_client_that_is_not_let_in_says_why(edge: FakeEdge, make_client: MakeClient, code: CloseCode) -> None:
    async def refuse(ws: ServerConnection, hello: Hello) -> bool:
        await ws.close(code)
        return True

    edge.on_hello = refuse
    with pytest.raises(ClosedError) as caught:
        await make_client().connect()
    assert caught.value.close_code == code
    assert edge.handshakes == 1


@pytest.mark.parametrize("status", [401, 403])
async def test_a_handshake_that_is_not_authorised_is_not_repeated(
    edge: FakeEdge, make_client: MakeClient, status: int
) -> None:
    edge.refuse_handshakes.append(response(status))
    with pytest.raises(AuthenticationError, match=str(status)):
        await make_client().connect()
    assert edge.handshakes == 1


async def test_an_address_that_is_no_edge_is_an_error_at_connect(edge: FakeEdge, make_client: MakeClient) -> None:
    edge.refuse_handshakes.append(response(404))
    with pytest.raises(ConnectError, match="404"):
        await make_client().connect()


async def test_once_connected_a_404_is_waited_out(edge: FakeEdge, make_client: MakeClient) -> None:
    async with make_client() as client:
        edge.refuse_handshakes.append(response(404))
        edge.drop_all()
        await client.publish(SESSION, 1)


async def test_retry_after_of_a_503_is_honoured(edge: FakeEdge, make_client: MakeClient) -> None:
    edge.refuse_handshakes.append(response(503, **{"Retry-After": "0.2"}))
    begin = asyncio.get_running_loop().time()
    async with make_client():
        assert asyncio.get_running_loop().time() - begin >= 0.2


async def test_reconnect_is_honoured_and_answers_that_are_due_come_first(
    edge: FakeEdge, make_client: MakeClient
) -> None:
    edge.on_publish = lambda connection, frame: SILENT
    async with make_client() as client:
        publish = asyncio.create_task(client.publish(SESSION, 1))
        await edge.until(lambda: len(edge.publishes) == 1)
        begin = asyncio.get_running_loop().time()
        connection = edge.connections[0]
        connection.send(Reconnect(300, "drain"))
        frame = edge.publishes[0]
        connection.send(edge._judge(connection, frame))  # type: ignore[arg-type]
        receipt = await publish
        assert receipt.duplicate
        edge.on_publish = None
        await client.publish(SESSION, 2)
        assert asyncio.get_running_loop().time() - begin >= 0.3
        assert client.stats.resends == 0
        assert client.stats.connections == 2


async def test_reconnect_before_welcome_is_honoured(edge: FakeEdge, make_client: MakeClient) -> None:
    async def overloaded(ws: ServerConnection, hello: Hello) -> bool:
        edge.on_hello = None
        await ws.send(encode(Reconnect(200, "overloaded")), text=True)
        await ws.close(CloseCode.OVERLOADED)
        return True

    edge.on_hello = overloaded
    begin = asyncio.get_running_loop().time()
    async with make_client():
        assert asyncio.get_running_loop().time() - begin >= 0.2


async def test_pings_are_answered(make_client: MakeClient) -> None:
    async with FakeEdge(heartbeat_ms=20, ping=True) as edge, make_client(url=edge.url) as client:
        await edge.until(lambda: edge.pongs >= 5)
        assert client.stats.connections == 1


async def test_a_silent_connection_is_given_up(make_client: MakeClient) -> None:
    async with FakeEdge(heartbeat_ms=40) as edge, make_client(url=edge.url) as client:
        begin = asyncio.get_running_loop().time()
        await edge.until(lambda: client.stats.connections == 2)
        assert asyncio.get_running_loop().time() - begin >= 0.04 * 2.5


async def test_a_stalled_loop_is_not_taken_for_a_dead_connection(make_client: MakeClient) -> None:
    async with FakeEdge(heartbeat_ms=100, ping=True) as edge, make_client(url=edge.url) as client:
        time.sleep(0.6)  # noqa: ASYNC251 - the stall
        await edge.until(lambda: edge.pongs >= 3)
        assert client.stats.connections == 1


async def test_another_edge_takes_over(edge: FakeEdge, make_client: MakeClient) -> None:
    async with FakeEdge() as second, make_client(url=[edge.url, second.url]) as client:
        first, other = (edge, second) if edge.connections else (second, edge)
        await first.stop()
        await client.publish(SESSION, 1)
        assert other.session(SESSION).payloads == [1]
        assert client.url == f"{other.url}/v1/connect"


async def test_an_address_that_is_wrong_does_not_matter_while_another_is_right(
    edge: FakeEdge, make_client: MakeClient
) -> None:
    async with FakeEdge() as second:
        second.refuse_handshakes.extend([response(404)] * 3)
        async with make_client(url=[second.url, edge.url], uniform=lambda: 0.0) as client:
            assert client.url == f"{edge.url}/v1/connect"


async def test_nobody_there_is_an_error_in_time() -> None:
    client = Client("ws://127.0.0.1:1", proxy=None, settings=replace(QUICK, connect_timeout_s=0.1))
    with pytest.raises(ConnectError) as caught:
        await client.connect()
    assert caught.value.code == "unreachable"
    assert caught.value.urls == ("ws://127.0.0.1:1/v1/connect",)
    assert "127.0.0.1:1" in str(caught.value)
    assert caught.value.cause is not None


async def test_a_server_that_never_welcomes_is_given_up(edge: FakeEdge, make_client: MakeClient) -> None:
    async def silent(ws: ServerConnection, hello: Hello) -> bool:
        await ws.wait_closed()
        return True

    edge.on_hello = silent
    client = make_client(settings=replace(QUICK, open_timeout_s=0.05, connect_timeout_s=0.3))
    with pytest.raises(ConnectError, match="no welcome within"):
        await client.connect()
    assert edge.handshakes >= 2


async def test_delays_grow_until_a_connection_was_good(edge: FakeEdge, make_client: MakeClient) -> None:
    """A server that accepts and closes at once is not hammered."""
    waits: list[float] = []

    def note(state: ClientState, why: str) -> None:
        if state is ClientState.WAITING:
            waits.append(float(why.split(" ", maxsplit=1)[0]))

    async def slam(ws: ServerConnection, hello: Hello) -> bool:
        await ws.send(encode(Welcome("c", "e", 10_000, 1000, 64)), text=True)
        await ws.close(CloseCode.RESTART)
        return True

    edge.on_hello = slam
    policy = BackoffPolicy(base_s=0.02, cap_s=0.16, healthy_s=30)
    async with make_client(settings=replace(QUICK, reconnect=policy), uniform=lambda: 0.99, on_state=note):
        await edge.until(lambda: len(waits) >= 5)
    assert waits[:5] == pytest.approx([0.02, 0.04, 0.08, 0.16, 0.16], abs=0.01)


async def test_what_can_not_be_read_costs_the_connection_not_the_client(
    edge: FakeEdge, make_client: MakeClient
) -> None:
    for garbage in (b"[]", b'{"type":"published","durable":7}', b"{", b'{"type":"message"}'):
        async with make_client() as client:
            edge.connections[0].send(garbage)
            await edge.until(lambda: client.stats.connections == 2)
            await client.publish(SESSION, 1)


async def test_frames_of_a_newer_server_are_ignored(edge: FakeEdge, make_client: MakeClient) -> None:
    async with make_client() as client:
        edge.connections[0].send(b'{"type":"weather","sunny":true}')
        await client.publish(SESSION, 1)
        assert client.stats.connections == 1


async def test_a_client_connects_once(edge: FakeEdge, make_client: MakeClient) -> None:
    async with make_client() as client:
        with pytest.raises(RuntimeError, match="once"):
            await client.connect()


async def test_cancelling_connect_leaves_nothing_behind(edge: FakeEdge, make_client: MakeClient) -> None:
    async def silent(ws: ServerConnection, hello: Hello) -> bool:
        await ws.wait_closed()
        return True

    edge.on_hello = silent
    client = make_client()
    task: asyncio.Task[Any] = asyncio.create_task(client.connect())
    await edge.until(lambda: len(edge.hellos) == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert client.state is ClientState.CLOSED
    assert client._task is not None
    assert client._task.done()
