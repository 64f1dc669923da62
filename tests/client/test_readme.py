import asyncio
import doctest
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.client.fake_edge import FakeEdge

import heliograph.client as sdk
from heliograph.client import Client
from heliograph.dev.process import HeliographDev
from heliograph.protocol import frames

README = Path(__file__).parents[2] / "libs/client/README.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def body(snippet: str) -> str:
    return "\n".join(f"    {line}" for line in snippet.splitlines())


async def test_the_agent_of_the_readme_answers_the_request_of_the_readme(
    edge: FakeEdge,
    make_client: Callable[..., Client],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    agent, request = SNIPPETS[:2]
    assert len([line for line in agent.splitlines() if line.strip()]) <= 10
    monkeypatch.setenv("HELIOGRAPH_URL", edge.url)
    monkeypatch.setenv("HELIOGRAPH_TOKEN", "t")
    names: dict[str, Any] = {}
    exec(agent.replace("asyncio.run(main())", ""), names)
    running = asyncio.create_task(names["main"]())
    await edge.until(lambda: len(edge.subscribes) == 1)
    async with make_client() as client:
        exec(f"async def ask(client):\n{body(request)}", names)
        await names["ask"](client)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert capsys.readouterr().out == "6\n"


async def test_the_worker_of_the_readme_gets_a_session_that_it_never_heard_of(
    heliograph_dev: HeliographDev, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (worker,) = [snippet for snippet in SNIPPETS if "serve_each(" in snippet]
    monkeypatch.setenv("HELIOGRAPH_URL", heliograph_dev.url)
    monkeypatch.setenv("HELIOGRAPH_TOKEN", heliograph_dev.token())
    names: dict[str, Any] = {"os": os, "asyncio": asyncio, "Client": Client, "Message": sdk.Message}
    exec(f"async def work(client):\n{body(worker)}", names)
    async with asyncio.timeout(30), heliograph_dev.client() as client:
        await names["work"](client)
    assert capsys.readouterr().out == "42\n"


async def test_the_consumer_of_the_readme_goes_on_where_it_was(
    edge: FakeEdge, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (consumer,) = [snippet for snippet in SNIPPETS if "consumer=" in snippet]
    monkeypatch.setenv("HELIOGRAPH_URL", edge.url)
    monkeypatch.setenv("HELIOGRAPH_TOKEN", "t")
    edge.publish_many("demo:adder:1", ["first", "second"])
    names: dict[str, Any] = {}
    exec(f"import os\nfrom heliograph.client import Client\nasync def work():\n{body(consumer)}", names)
    for position, _ in edge.session("demo:adder:1").log:
        await names["work"]()
        assert str(position) in capsys.readouterr().out
        assert edge.cursors["biller", "demo:adder:1"] == str(position)


async def test_the_meter_of_the_readme_slows_down_when_it_is_told_to(
    edge: FakeEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    (meter,) = [snippet for snippet in SNIPPETS if "on_notice=" in snippet]
    monkeypatch.setenv("HELIOGRAPH_URL", edge.url)
    monkeypatch.setenv("HELIOGRAPH_TOKEN", "t")
    notices = [frames.Notice("pressure", "high", ["live"]), frames.Notice("pressure", "normal")]
    said: list[tuple[object, ...]] = []
    pauses: list[float] = []

    class Asyncio:
        @staticmethod
        async def sleep(pause_s: float) -> None:
            pauses.append(pause_s)
            if notices:
                edge.broadcast(notices.pop(0))
                await edge.until(lambda: len(said) == len(pauses))

    def say(*words: object) -> None:
        said.append(words[1:])

    names: dict[str, Any] = {"os": os, "asyncio": Asyncio, "Client": Client, "readings": [1, 2, 3], "print": say}
    exec(f"async def measure():\n{body(meter)}", names)
    async with asyncio.timeout(30):
        await names["measure"]()
    assert pauses == [0.1, 5.0, 0.1]
    assert said == [("HIGH", "live"), ("NORMAL",)]
    assert edge.session("demo:meter:1").payloads == [{"watts": 1}, {"watts": 2}, {"watts": 3}]


async def test_the_watcher_of_the_readme_sees_who_joins(
    edge: FakeEdge, make_client: Callable[..., Client], capsys: pytest.CaptureFixture[str]
) -> None:
    (watcher,) = [snippet for snippet in SNIPPETS if "presence=True" in snippet]
    names: dict[str, Any] = {}
    exec(f"async def watch(client):\n{body(watcher)}", names)
    async with make_client() as client:
        watching = asyncio.create_task(names["watch"](client))
        await edge.until(lambda: any(connection.presence for connection in edge.connections))
        edge.tell(frames.Presence("demo:adder:1", "join", "c-1", "robot", 1, "e/c-1/1/1/join", "adder-7"))
        await asyncio.wait_for(watching, 15)
    assert capsys.readouterr().out == "join adder-7 None\n"


def test_the_examples_in_docstrings_are_right() -> None:
    assert doctest.testmod(sdk).failed == 0


def test_all_that_is_offered_exists() -> None:
    assert [name for name in sdk.__all__ if not hasattr(sdk, name)] == []
