"""The command run in this process against a fake edge that lives in a thread of its own."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest
from tests.client.fake_edge import FakeEdge
from typer.testing import CliRunner, Result

from heliograph.cli.app import app

T = TypeVar("T")


class EdgeThread:
    """A FakeEdge on a loop of its own; `call` runs something there."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.edge: FakeEdge = self.call(self._start)

    async def _start(self) -> FakeEdge:
        edge = FakeEdge()
        await edge.start()
        return edge

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        async def run() -> Any:
            result = function(*arguments)
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(30)

    def close(self) -> None:
        self.call(self.edge.stop)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)
        self.loop.close()


@pytest.fixture
def running() -> Iterator[EdgeThread]:
    thread = EdgeThread()
    yield thread
    thread.close()


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """`heliograph ARGUMENTS…`, with nothing of this machine's environment."""
    for name in (
        "URL",
        "REPLAY_URL",
        "REGISTRY_URL",
        "TOKEN",
        "JSON",
        "KEY",
        "TENANT",
        "REDIS_URL",
        "KAFKA_BOOTSTRAP_SERVERS",
    ):
        monkeypatch.delenv(f"HELIOGRAPH_{name}", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*arguments: str, stdin: str | bytes | None = None) -> Result:
        return CliRunner().invoke(app, list(arguments), input=stdin)

    return run
