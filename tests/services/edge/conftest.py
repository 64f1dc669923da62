"""The edge's tests run on the loop that the edge runs on; each has a world of its own."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import uvloop
from tests.services.edge.rig import Edge, World, world_in


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_in(tmp_path) as found:
        yield found


@pytest.fixture
async def edge(world: World) -> Edge:
    """An edge with the settings of production."""
    return await world.edge()
