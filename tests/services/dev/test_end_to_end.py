"""The development server through the plugin's own fixture: it gives what an installation gives."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.local.papers import ROOT, blocks
from tests.services.dev.helpers import get, heliograph, take, until

from heliograph.client import Client, PublishRefused
from heliograph.dev.process import HeliographDev


async def test_what_is_published_is_delivered_logged_and_served_as_history(
    heliograph_dev: HeliographDev, heliograph_session: str
) -> None:
    async with heliograph_dev.client() as client, client.subscribe(heliograph_session) as live:
        await live.ready()
        receipts = [await client.publish(heliograph_session, {"n": number}) for number in range(5)]
        for receipt in receipts:
            await receipt.durable()
        delivered = await take(live, 5)
    assert [message.data["n"] for message in delivered] == list(range(5))
    path = f"/v1/history/{heliograph_session.replace(':', '/')}"
    page = await get(heliograph_dev, heliograph_dev.replay_url + path, "history:*:*")
    assert [message["position"] for message in page["messages"]] == [message.position for message in delivered]


async def test_a_subscriber_that_comes_back_gets_what_it_missed(
    heliograph_dev: HeliographDev, heliograph_session: str
) -> None:
    async with heliograph_dev.client() as publisher:
        async with heliograph_dev.client() as reader, reader.subscribe(heliograph_session, "earliest") as first:
            await publisher.publish(heliograph_session, 1)
            (seen,) = await take(first, 1)
            assert seen.position is not None
        for number in (2, 3):
            await publisher.publish(heliograph_session, number)
        async with heliograph_dev.client() as reader, reader.subscribe(heliograph_session, seen.position) as again:
            assert [message.data for message in await take(again, 2)] == [2, 3]


async def test_what_left_the_hot_window_is_had_from_the_log(
    heliograph_dev: HeliographDev, heliograph_session: str
) -> None:
    """The edge asks replay for it, through the rehydration that both share."""
    count = 1_200  # the hot window holds 1,000
    async with heliograph_dev.client(tenant=None) as client:
        receipts = await asyncio.gather(*(client.publish(heliograph_session, number) for number in range(count)))
        assert len(receipts) == count
        async with client.subscribe(heliograph_session, "earliest") as all_of_it:
            assert [message.data for message in await take(all_of_it, count)] == list(range(count))


async def test_a_repeated_message_id_is_one_message(heliograph_dev: HeliographDev, heliograph_session: str) -> None:
    async with heliograph_dev.client() as one, heliograph_dev.client() as other:
        first = await one.publish(heliograph_session, {"a": 1}, id="only-one")
        second = await other.publish(heliograph_session, {"a": 1}, id="only-one")
    assert second.duplicate
    assert second.position == first.position


async def test_the_registry_knows_who_is_connected(heliograph_dev: HeliographDev, heliograph_session: str) -> None:
    url = f"{heliograph_dev.registry_url}/v1/presence/{heliograph_session.replace(':', '/')}"

    async def connected() -> bool:
        return [found["subject"] for found in (await get(heliograph_dev, url, "presence:*:*"))["connections"]] == [
            "ada"
        ]

    async with heliograph_dev.client("ada") as client, client.subscribe(heliograph_session) as subscription:
        await subscription.ready()
        await until(connected, "ada is shown")

    async def nobody() -> bool:
        return not (await get(heliograph_dev, url, "presence:*:*"))["connections"]

    await until(nobody, "ada is gone")


async def test_scopes_count(heliograph_dev: HeliographDev, heliograph_session: str) -> None:
    async with heliograph_dev.client(scopes=["subscribe:*:*"]) as client:
        with pytest.raises(PublishRefused) as refused:
            await client.publish(heliograph_session, 1)
    assert refused.value.code == "forbidden"


async def test_every_service_is_ready_and_says_that_nothing_is_durable(heliograph_dev: HeliographDev) -> None:
    for url in (
        heliograph_dev.url,
        heliograph_dev.replay_url,
        heliograph_dev.registry_url,
        heliograph_dev.router_url,
    ):
        async with httpx.AsyncClient(trust_env=False) as http:
            answer = (await http.get(f"{url}/readyz")).json()
        assert answer["ready"]
        assert answer["degraded"] == []
        assert answer["notes"]["durability"].startswith("nothing is durable")


async def test_the_agent_of_the_readme_answers(heliograph_dev: HeliographDev) -> None:
    program, question = [block.text for block in blocks(ROOT / "README.md", "python")[:2]]
    session = heliograph_dev.session("adder")
    environment = {**os.environ, "HELIOGRAPH_URL": heliograph_dev.url, "HELIOGRAPH_TOKEN": heliograph_dev.token()}
    code = program.replace("demo:adder:1", session)
    agent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, env={**environment, "NO_PROXY": "127.0.0.1"}
    )
    try:
        async with heliograph_dev.client() as client:
            url = f"{heliograph_dev.registry_url}/v1/presence/{session.replace(':', '/')}"

            async def subscribed() -> bool:
                return bool((await get(heliograph_dev, url, "presence:*:*"))["connections"])

            await until(subscribed, "the agent subscribes")
            names: dict[str, Any] = {}
            body = "\n".join(f"    {line}" for line in question.replace("demo:adder:1", session).splitlines())
            exec(f"async def ask(client):\n{body}\n    return answer", names)
            answer = await names["ask"](client)
            assert answer.data == {"sum": 6}
    finally:
        agent.kill()
        await agent.wait()


def test_the_command_works_on_it_unchanged(heliograph_dev: HeliographDev, heliograph_session: str) -> None:
    (published,) = heliograph(heliograph_dev, "publish", heliograph_session, '{"text": "hello"}')
    assert published["durable"] is True
    (tailed,) = heliograph(heliograph_dev, "tail", heliograph_session, "--from", "earliest", "-n", "1")
    (read,) = heliograph(heliograph_dev, "history", heliograph_session)
    assert tailed["payload"] == read["payload"] == {"text": "hello"}
    assert tailed["position"] == read["position"] == published["position"]


async def test_a_client_reconnects_by_itself_when_its_connection_breaks(
    heliograph_dev: HeliographDev, heliograph_session: str
) -> None:
    async with heliograph_dev.client() as client, client.subscribe(heliograph_session) as live:
        await live.ready()
        await client.publish(heliograph_session, 1)
        break_connection(client)
        await client.publish(heliograph_session, 2)
        assert [message.data for message in await take(live, 2)] == [1, 2]
        assert client.stats.connections == 2


def break_connection(client: Client) -> None:
    """As a network does: no close frame."""
    assert client._runner is not None
    assert client._runner.link is not None
    client._runner.link._ws.transport.abort()


def test_the_log_of_its_services_is_kept_beside_the_tests(heliograph_dev: HeliographDev) -> None:
    log = Path(heliograph_dev.log).read_text()
    assert "listening" in log
    assert "service=edge" in log
    assert "service=router" in log
    assert heliograph_dev.token().partition(".")[2] not in log
