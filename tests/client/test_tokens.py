"""A client's token is replaced on the live connection, before it runs out."""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable

import pytest
from msgspec import Struct
from tests.client.fake_edge import FakeConnection, FakeEdge

from heliograph.client import Client, ClientSettings, ClientStats, ClosedError, SubscribeRefused
from heliograph.client.sender import Sender
from heliograph.client.tokens import REFRESH_BLIND_S, REFRESH_SPREAD, TokenRefresh, TokenSource
from heliograph.protocol.codes import CLOSES, CODES, CloseCode
from heliograph.protocol.frames import Error, Refresh, Refused

SESSION = "acme:planner:1"
MakeClient = Callable[..., Client]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens of these tests live for a fraction of a second."""
    monkeypatch.setattr("heliograph.client.tokens.REFRESH_SOONEST_S", 0.01)


class Tokens:
    """A token function: token-1, token-2, …"""

    def __init__(self) -> None:
        self.given: list[str] = []
        self.failures: list[Exception] = []

    async def __call__(self) -> str:
        if self.given and self.failures:
            raise self.failures.pop()
        self.given.append(f"token-{len(self.given) + 1}")
        return self.given[-1]


async def test_a_token_is_replaced_again_and_again_on_one_connection(edge: FakeEdge, make_client: MakeClient) -> None:
    edge.token_life_s = 0.1
    tokens = Tokens()
    async with make_client(token=tokens) as client:
        await edge.until(lambda: client.stats.refreshes >= 3)
        await client.publish(SESSION, 1)
        assert client.stats.connections == 1
    assert [hello.token for hello in edge.hellos] == ["token-1"]
    assert [frame.token for frame in edge.refreshes[:3]] == ["token-2", "token-3", "token-4"]


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1.0])
async def test_it_is_asked_for_at_four_fifths_of_its_life_less_some_jitter(
    edge: FakeEdge, make_client: MakeClient, uniform: float
) -> None:
    edge.token_life_s = 0.5
    begin = time.monotonic()
    async with make_client(token=Tokens(), uniform=lambda: min(uniform, 0.999)) as client:
        await edge.until(lambda: client.stats.refreshes == 1)
    assert time.monotonic() - begin >= 0.5 * 0.8 * (1 - REFRESH_SPREAD * uniform) - 0.01


async def test_a_fixed_token_and_one_without_an_end_are_left_alone(edge: FakeEdge, make_client: MakeClient) -> None:
    async with make_client(token=Tokens()) as endless:
        edge.token_life_s = 0.05
        async with make_client(token="t"), make_client(token=Tokens()) as other:
            await edge.until(lambda: other.stats.refreshes >= 2)
        assert endless.stats.refreshes == 0
    assert {frame.token[:6] for frame in edge.refreshes} == {"token-"}
    assert not any(frame.token in ("t", "token-1") for frame in edge.refreshes)


async def test_a_refused_token_is_tried_again_and_the_old_one_goes_on(edge: FakeEdge, make_client: MakeClient) -> None:
    edge.token_life_s = 0.1
    codes = itertools.chain(["unauthenticated", "rate_limited", "identity_changed"], itertools.repeat(None))

    def answer(connection: FakeConnection, frame: Refresh) -> Struct | None:
        code = next(codes)
        if code is None:
            edge.on_refresh = None
            edge._refresh(connection, frame)
            return None
        return Refused(code, CODES[code].meaning, frame.id)

    edge.on_refresh = answer
    async with make_client(token=Tokens()) as client:
        await edge.until(lambda: client.stats.refreshes == 1)
        await client.publish(SESSION, 1)
        assert client.stats.connections == 1


async def test_a_token_function_that_fails_is_asked_again(
    edge: FakeEdge, make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    edge.token_life_s = 0.1
    tokens = Tokens()
    tokens.failures = [OSError("identity provider is away, token eyJ.secret"), ValueError("eyJ.secret")]
    async with make_client(token=tokens) as client:
        await edge.until(lambda: client.stats.refreshes == 1)
        assert client.stats.connections == 1
    assert "token() raised OSError" in caplog.text
    assert "secret" not in caplog.text


async def test_a_server_that_knows_no_refresh_is_asked_once(edge: FakeEdge, make_client: MakeClient) -> None:
    edge.token_life_s = 0.05
    edge.on_refresh = lambda _connection, frame: Error("unknown_type", "not here", frame.id)
    async with make_client(token=Tokens()) as client:
        await edge.until(lambda: len(edge.refreshes) == 1)
        edge.on_refresh = None
        async with make_client(token=Tokens()) as other:  # has the time to see that nothing more comes
            await edge.until(lambda: other.stats.refreshes == 3)
        assert client.stats.refreshes == 0
    assert edge.refreshes[0].token == "token-2"


async def test_a_new_connection_begins_with_a_token_of_its_own(edge: FakeEdge, make_client: MakeClient) -> None:
    edge.token_life_s = 60.0
    tokens = Tokens()
    async with make_client(token=tokens) as client:
        await edge.connections[0].close(CloseCode.TOKEN_EXPIRED)
        await client.publish(SESSION, 1)
    assert [hello.token for hello in edge.hellos] == ["token-1", "token-2"]
    assert edge.refreshes == []


async def test_a_token_that_comes_too_late_for_its_connection_is_not_sent(
    edge: FakeEdge, make_client: MakeClient
) -> None:
    edge.token_life_s = 0.05
    asked, held = asyncio.Event(), asyncio.Event()
    given = itertools.count(1)

    async def fetch() -> str:
        number = next(given)
        if number == 2:
            asked.set()
            await held.wait()
        return f"token-{number}"

    async with make_client(token=fetch) as client:
        await asked.wait()
        edge.token_life_s = 60.0
        edge.drop_all()
        await edge.until(lambda: client.stats.connections == 2)
        held.set()
        await client.publish(SESSION, 1)
    assert edge.refreshes == []
    assert [hello.token for hello in edge.hellos] == ["token-1", "token-3"]


async def test_a_subscription_that_the_new_token_does_not_allow_says_so(
    edge: FakeEdge, make_client: MakeClient
) -> None:
    async with make_client() as client:
        subscription, other = client.subscribe(SESSION), client.subscribe("acme:planner:2")
        async with subscription, other:
            await subscription.ready()
            await other.ready()
            edge.broadcast(Refused("forbidden", CODES["forbidden"].meaning, session=SESSION))
            with pytest.raises(SubscribeRefused) as caught:
                await anext(subscription)
            assert caught.value.code == "forbidden"
            edge.publish("acme:planner:2", "goes on")
            assert (await anext(other)).data == "goes on"  # type: ignore[union-attr]


async def test_a_revoked_token_ends_the_client_although_another_could_be_had(
    edge: FakeEdge, make_client: MakeClient
) -> None:
    async with make_client(token=Tokens()) as client:
        await edge.connections[0].close(CloseCode.TOKEN_REVOKED, CLOSES[CloseCode.TOKEN_REVOKED].name)
        with pytest.raises(ClosedError) as caught:
            await client.publish(SESSION, 1)
    assert caught.value.code == "token_revoked"


async def test_a_clock_that_is_ahead_asks_now_and_then_not_all_the_time() -> None:
    source, sender = TokenSource(lambda: "t", 1.0), Sender(lambda: None)
    wall_s = 2_000_000_000.0
    refresh = TokenRefresh(source, sender, ClientSettings(), ClientStats(), lambda: 0.0, wall=lambda: wall_s)
    assert refresh.delay_s(int(wall_s - 1_000) * 1000) == REFRESH_BLIND_S
    assert refresh.delay_s(int(wall_s + 1_000) * 1000) == pytest.approx(800.0)


async def test_refreshing_is_never_logged_with_the_token(
    edge: FakeEdge, make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "heliograph")
    edge.token_life_s = 0.05
    edge.on_refresh = lambda _connection, frame: Refused("unauthenticated", "no", frame.id)
    async with make_client(token=lambda: "eyJ.secret.token"):
        await edge.until(lambda: len(edge.refreshes) >= 2)
    assert "a new token was refused: unauthenticated" in caplog.text
    assert "secret" not in caplog.text
