"""Each part of Heliograph on the development server, all services working together, nothing of it a test's."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.services.dev.helpers import DEADLINE_S, get, heliograph, take, until
from tests.services.edge.client import Client as Wire

from heliograph.client import Client, Gap, Message, WorkSession
from heliograph.dev.process import HeliographDev

Connect = Callable[..., Awaitable[Wire]]


@pytest.fixture
async def connect(heliograph_dev: HeliographDev) -> AsyncIterator[Connect]:
    """Makes clients that speak frames, welcomed: `await connect("ada", scopes=[…])`."""
    opened: list[Wire] = []

    async def make(subject: str = "tester", **options: Any) -> Wire:
        address = heliograph_dev.url.replace("http", "ws", 1) + "/v1/connect"
        wire = await Wire.connect(address, token=heliograph_dev.token(subject, **options))
        opened.append(wire)
        await wire.hello(agent=f"{subject}'s agent")
        return wire

    yield make
    for wire in opened:
        await wire.close()


# ---- cursors ---------------------------------------------------------------------------------------------------------


async def test_a_consumer_goes_on_where_it_acknowledged(heliograph_dev: HeliographDev, heliograph_session: str) -> None:
    def reader(subject: str = "ada") -> Client:
        return heliograph_dev.client(subject, consumer="biller")

    async with heliograph_dev.client() as publisher:
        for number in range(5):
            await publisher.publish(heliograph_session, number)
    async with reader() as client, client.subscribe(heliograph_session, start="cursor") as first:
        seen = await take(first, 3)
        assert first.cursor_missing
        await first.ack(seen[1])
    async with reader() as client, client.subscribe(heliograph_session, start="cursor") as again:
        assert [message.data for message in await take(again, 3)] == [2, 3, 4]
        assert not again.cursor_missing
    async with reader("bob") as client, client.subscribe(heliograph_session, start="cursor") as another:
        assert [message.data for message in await take(another, 1)] == [0]


def test_the_command_acknowledges_what_it_showed(heliograph_dev: HeliographDev, heliograph_session: str) -> None:
    for number in range(3):
        heliograph(heliograph_dev, "publish", heliograph_session, str(number))
    tail = ("tail", heliograph_session, "--consumer", "watcher", "--from", "cursor", "-n")
    assert [one["payload"] for one in heliograph(heliograph_dev, *tail, "2")] == [0, 1]
    assert [one["payload"] for one in heliograph(heliograph_dev, *tail, "1")] == [2]


# ---- presence --------------------------------------------------------------------------------------------------------


async def test_who_watches_a_session_is_told_of_joins_and_leaves(connect: Connect, heliograph_session: str) -> None:
    watcher = await connect("watcher")
    answer = await watcher.ask("subscribe", session=heliograph_session, presence=True)
    assert answer["type"] == "subscribed"
    await watcher.next("presence", event="join", subject="watcher")
    ada = await connect("ada")
    await ada.subscribe(heliograph_session)
    joined = await watcher.next("presence", event="join", subject="ada")
    assert joined["agent"] == "ada's agent"
    await ada.close()
    left = await watcher.next("presence", event="leave", subject="ada")
    assert left["reason"] == "closed"
    assert left["connection"] == joined["connection"]


# ---- serving ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def kind() -> str:
    """An agent type that only this test has: who serves it gets every session of it."""
    return f"kind-{secrets.token_hex(4)}"


async def test_a_worker_gets_its_sessions_and_the_next_one_goes_on_from_its_cursor(
    connect: Connect, heliograph_dev: HeliographDev, kind: str
) -> None:
    session = heliograph_dev.session(kind)
    first = await connect("worker-1")
    await first.ask("serve", agent_type=kind, capacity=2)
    ada = await connect("ada")
    for number in range(3):
        await ada.publish(session, number)
    given = await first.next("assigned", session=session)
    messages = await first.messages(session, 3)
    assert [message["payload"] for message in messages] == [0, 1, 2]
    acked = await first.ask("ack", session=session, position=messages[1]["position"], lease=given["lease"])
    assert acked["type"] == "acked"
    second = await connect("worker-2")
    await second.ask("serve", agent_type=kind, capacity=2)
    await first.close()
    again = await second.next("assigned", session=session)
    assert int(again["lease"]) > int(given["lease"])
    assert again["from"] == messages[1]["position"]
    (rest,) = await second.messages(session, 1)
    assert rest["payload"] == 2


async def test_a_session_that_waited_before_anybody_served_is_given_to_the_first_who_does(
    connect: Connect, heliograph_dev: HeliographDev, kind: str
) -> None:
    session = heliograph_dev.session(kind)
    ada = await connect("ada")
    await ada.publish(session, "hello")
    worker = await connect("worker")
    await worker.ask("serve", agent_type=kind, capacity=1)
    given = await worker.next("assigned", session=session)
    (message,) = await worker.messages(session, 1)
    await worker.send(
        {"type": "ack", "session": session, "position": message["position"], "lease": given["lease"], "done": True}
    )
    await ada.publish(session, "one more")
    again = await worker.next("assigned", session=session)
    assert again["from"] == message["position"]


async def test_agents_that_serve_their_kind_answer_whoever_asks(heliograph_dev: HeliographDev, kind: str) -> None:
    """By the SDK; nobody tells the workers a session's id."""

    async def answer(worker: Client, session: WorkSession, item: Message | Gap) -> None:
        assert isinstance(item, Message)
        if item.causation_id is None:
            await worker.reply(item, {"double": 2 * item.data})

    async with heliograph_dev.client("ada") as ada:
        workers = [heliograph_dev.client(f"worker-{number}") for number in range(2)]
        async with workers[0], workers[1]:
            serving = [
                asyncio.create_task(worker.serve_each(kind, partial(answer, worker), capacity=2)) for worker in workers
            ]
            sessions = [heliograph_dev.session(kind) for _ in range(4)]
            answers = await asyncio.gather(
                *(ada.request(session, number, timeout=DEADLINE_S) for number, session in enumerate(sessions))
            )
            for task in serving:
                task.cancel()
            await asyncio.gather(*serving, return_exceptions=True)
    assert [found.data for found in answers] == [{"double": 2 * number} for number in range(4)]
    assert {found.producer.partition("/")[0] for found in answers} == {"worker-0", "worker-1"}


def test_any_program_can_be_an_agent(heliograph_dev: HeliographDev, kind: str) -> None:
    session = heliograph_dev.session(kind)
    (asked,) = heliograph(heliograph_dev, "publish", session, '{"text": "hello"}')
    heliograph(heliograph_dev, "serve", kind, "--exec", "sh -c 'cat >/dev/null; echo 42'", "--reply", "-n", "1")
    question, answer = heliograph(heliograph_dev, "history", session)
    assert question["position"] == asked["position"]
    assert (answer["payload"], answer["causation_id"]) == (42, question["message_id"])


# ---- access ----------------------------------------------------------------------------------------------------------


async def test_a_new_token_counts_on_the_connection_that_showed_it(
    connect: Connect, heliograph_dev: HeliographDev, heliograph_session: str
) -> None:
    wire = await connect("ada", scopes=["subscribe:*:*"])
    assert (await wire.publish(heliograph_session))["code"] == "forbidden"
    answer = await wire.ask("refresh", token=heliograph_dev.token("ada"))
    assert answer["type"] == "refreshed"
    assert (await wire.publish(heliograph_session))["type"] == "published"


# ---- tenants ---------------------------------------------------------------------------------------------------------


async def test_an_expired_session_is_gone_for_every_reader(
    connect: Connect, heliograph_dev: HeliographDev, heliograph_session: str
) -> None:
    ada = await connect("ada")
    before = await ada.publish(heliograph_session, "secret")
    path = heliograph_session.replace(":", "/")
    headers = {"authorization": f"Bearer {heliograph_dev.token()}"}
    async with httpx.AsyncClient(trust_env=False, headers=headers) as http:
        expiry = {"expires_at_ms": int(time.time() * 1000)}
        answer = await http.put(f"{heliograph_dev.url}/v1/sessions/{path}/expiry", json=expiry)
        assert answer.status_code == 200, answer.text
        url = f"{heliograph_dev.replay_url}/v1/history/{path}"

        async def gone() -> bool:
            return (await http.get(url)).status_code == 410

        await until(gone, "replay obeys")
        assert (await http.get(url)).json()["code"] == "expired"
    later = await ada.publish(heliograph_session, "news")

    async def edge_obeys() -> bool:
        """Within a second of the change."""
        reader = await connect("bob")
        await reader.subscribe(heliograph_session, "earliest")
        (message,) = await reader.messages(heliograph_session, 1)
        assert message["position"] in (before["position"], later["position"])
        return bool(message["position"] == later["position"])

    await until(edge_obeys, "the edge obeys")


# ---- leaving ---------------------------------------------------------------------------------------------------------


def test_everything_can_be_exported(heliograph_dev: HeliographDev, heliograph_session: str, tmp_path: Path) -> None:
    for number in range(3):
        heliograph(heliograph_dev, "publish", heliograph_session, str(number))
    heliograph(heliograph_dev, "export", heliograph_dev.tenants[0], "--to", str(tmp_path / "out"))
    lines = [
        json.loads(line) for file in (tmp_path / "out").rglob("*.ndjson") for line in file.read_text().splitlines()
    ]
    assert [line["payload"] for line in lines if line.get("session") == heliograph_session] == [0, 1, 2]


# ---- all of it -------------------------------------------------------------------------------------------------------


async def test_presence_is_answered_over_http_while_it_is_watched(
    connect: Connect, heliograph_dev: HeliographDev, heliograph_session: str
) -> None:
    ada = await connect("ada")
    await ada.subscribe(heliograph_session)
    url = f"{heliograph_dev.registry_url}/v1/presence/{heliograph_session.replace(':', '/')}"

    async def shown() -> bool:
        return [found["agent"] for found in (await get(heliograph_dev, url, "presence:*:*"))["connections"]] == [
            "ada's agent"
        ]

    async with asyncio.timeout(DEADLINE_S):
        await until(shown, "ada is shown")
