"""The edge's tests run on the loop that the edge runs on; each has a world of its own."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import uvloop
from tests.services.edge.rig import Edge, World, world_in
from tests.services.edge.sessions_bench import Bench


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


class QuickAsyncio:
    """asyncio as uvicorn's server sees it here: what it polls ten times a second, it polls a hundred times."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(min(delay_s, 0.01))


@pytest.fixture(autouse=True)
def quick_shutdown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of edges are stopped here, each twice a tenth of a second sooner."""
    monkeypatch.setattr("uvicorn.server.asyncio", QuickAsyncio())


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_in(tmp_path) as found:
        yield found


@pytest.fixture
async def edge(world: World) -> Edge:
    """An edge with the settings of production."""
    return await world.edge()


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr("heliograph.edge.joiner.RETRY_S", (0.0, 0.0))
    found = Bench()
    yield found
    await found.sessions.close()
