"""Sessions that are made to be forgotten: who may ask for it, and that nobody is shown any of it again."""

import functools
import time
from collections.abc import AsyncIterator

import httpx
import pytest
from tests.services.edge.client import Client, contiguous
from tests.services.edge.rig import Edge, RoutedLog, World, until
from tests.services.edge.test_http import client_of, refusal

from heliograph.core.expiry import Expiry
from heliograph.protocol.expiries import expiry_of
from heliograph.protocol.messages import message_from_record
from heliograph.stores.ports import StoreError

SESSION = "acme:planner:1"
PATH = "/v1/sessions/acme/planner/1/expiry"


@pytest.fixture
async def http(edge: Edge) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(edge, subject="ops", scopes=["admin:planner:*"]) as client:
        yield client


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def publish(client: Client, *payloads: object) -> list[str]:
    return [(await client.publish(SESSION, payload))["position"] for payload in payloads]


def recorded(world: World) -> list[tuple[str, Expiry]]:
    """Who asked for what, as the log tells."""
    records = world.log.records(world.topics.log("acme"))
    messages = [message_from_record(record.key, record.value, record.headers) for record in records]
    states = [(message.producer, expiry_of(message)) for message in messages]
    return [(producer, state) for producer, state in states if state is not None]


# ---- asking ---------------------------------------------------------------------------------------------------------


async def test_an_expiry_is_recorded_stored_and_answered(world: World, http: httpx.AsyncClient) -> None:
    begin = now_ms()
    answer = await http.put(PATH, json={"expires_in_s": 3_600})
    assert answer.status_code == 200
    body = answer.json()
    assert begin + 3_600_000 <= body["expires_at_ms"] <= now_ms() + 3_600_000
    assert (body["session"], body["gone_until_ms"]) == (SESSION, 0)
    (state,) = await world.expiries.get([SESSION])
    assert state is not None
    assert state.expires_at_ms == body["expires_at_ms"]
    assert recorded(world) == [("ops", state)]


async def test_what_has_come_stays_gone_when_another_moment_is_set(world: World, http: httpx.AsyncClient) -> None:
    past = now_ms() - 1_000
    assert (await http.put(PATH, json={"expires_at_ms": past})).json()["gone_until_ms"] == past
    later = await http.put(PATH, json={"expires_in_s": 60})
    assert later.json()["gone_until_ms"] == past
    (_, first), (_, second) = recorded(world)
    assert second.set_at_ms > first.set_at_ms
    assert second.floor_ms == past


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "malformed"),
        (b"{", "malformed"),
        (b"{}", "value_invalid"),
        (b'{"expires_at_ms":1,"expires_in_s":1}', "value_invalid"),
        (b'{"expires_at_ms":-1}', "value_invalid"),
        (b'{"expires_at_ms":1.5}', "value_invalid"),
        (b'{"expires_at_ms":253402300800000}', "value_invalid"),
        (b'{"expires_in_s":-0.1}', "value_invalid"),
        (b'{"expires_in_s":1e300}', "value_invalid"),
        (b'{"expires_in_s":"1"}', "value_invalid"),
        (b'{"expires":1}', "value_invalid"),
    ],
)
async def test_what_is_no_moment_is_refused(world: World, http: httpx.AsyncClient, body: bytes, code: str) -> None:
    assert refusal(await http.put(PATH, content=body)) == (400, code)
    assert await world.expiries.get([SESSION]) == [None]


async def test_only_who_may_administer_the_session_may_ask(world: World, edge: Edge) -> None:
    every = ["publish", "subscribe", "history", "presence"]
    for scopes in ([f"{operation}:*:*" for operation in every], ["admin:planner:2"], ["admin:tool:*"]):
        async with client_of(edge, scopes=scopes) as client:
            assert refusal(await client.put(PATH, json={"expires_in_s": 0})) == (403, "forbidden")
    headers = {"Authorization": f"Bearer {world.token('other', scopes=['admin:*:*'])}"}
    async with httpx.AsyncClient(base_url=edge.url, headers=headers) as client:
        assert refusal(await client.put(PATH, json={"expires_in_s": 0})) == (403, "forbidden")
    async with httpx.AsyncClient(base_url=edge.url) as client:
        assert refusal(await client.put(PATH, json={"expires_in_s": 0}))[0] == 401
    assert recorded(world) == []


async def test_without_the_log_or_the_store_it_is_refused_with_a_time(world: World) -> None:
    world.log_delivery_timeout_s = 0.2
    log = RoutedLog(world)
    edge = await world.edge(stores=world.stores(log=log))
    async with client_of(edge, scopes=["admin:*:*"]) as client:

        async def away(*_given: object) -> None:
            raise StoreError("unavailable", "away")

        put = world.expiries.put
        world.expiries.put = away  # type: ignore[method-assign,assignment]
        answer = await client.put(PATH, json={"expires_in_s": 0})
        assert refusal(answer) == (503, "unavailable")
        assert answer.headers["retry-after"]
        world.expiries.put = put  # type: ignore[method-assign]
        world.log.available = False
        assert refusal(await client.put(PATH, json={"expires_in_s": 0})) == (503, "log_unavailable")
        assert await world.expiries.get([SESSION]) == [None]
    assert edge.value("refused_total", code="unavailable") == 1


# ---- reading --------------------------------------------------------------------------------------------------------


async def test_the_hot_window_no_longer_gives_what_has_expired(
    world: World, edge: Edge, http: httpx.AsyncClient
) -> None:
    world.answer_history()
    client = await edge.client()
    positions = await publish(client, *range(5))
    gone_ms = (await http.put(PATH, json={"expires_in_s": 0})).json()["gone_until_ms"]
    await seen(edge)
    await until(lambda: now_ms() > gone_ms)
    later = await publish(client, 5, 6)
    reader = await edge.client()
    answer = await reader.subscribe(SESSION, positions[1])
    assert answer["recovered"] is False
    gap = await reader.next("gap")
    assert (gap["reason"], gap["from"], gap["to"]) == ("expired", positions[2], positions[4])
    await reader.messages(SESSION, 2)
    assert reader.positions(SESSION) == later
    await publish(client, 7)
    await reader.messages(SESSION, 1)
    assert contiguous(reader.positions(SESSION), 6)


async def test_a_session_that_expired_whole_is_joined_where_it_stands(
    world: World, edge: Edge, http: httpx.AsyncClient
) -> None:
    """More than a page of it: pages that bring nothing are passed."""
    world.answer_history()
    client = await edge.client()
    positions = await publish(client, *("x" * 60_000 for _ in range(12)))
    assert (await http.put(PATH, json={"expires_in_s": 0})).status_code == 200
    await seen(edge)
    for start in (positions[3], "earliest"):
        reader = await edge.client()
        answer = await reader.subscribe(SESSION, start)
        if start != "earliest":
            assert answer["recovered"] is False
            gap = await reader.next("gap")
            assert (gap["reason"], gap["from"], gap["to"]) == ("expired", positions[4], positions[-1])
        later = await publish(client, "later")
        await reader.messages(SESSION, 1)
        assert reader.positions(SESSION) == later
        assert (await http.put(PATH, json={"expires_in_s": 0})).status_code == 200
        await seen(edge)
        positions += later


async def seen(edge: Edge) -> None:
    """The edge has looked for changes since now: a look that was under way may have come before."""
    for _ in range(2):
        before = edge.value("expiry_refreshes_total")
        await until(functools.partial(_refreshed, edge, before))


def _refreshed(edge: Edge, before: float) -> bool:
    return edge.value("expiry_refreshes_total") > before
