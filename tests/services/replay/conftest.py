"""Each test has a world of its own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.services.replay.rig import World, world_in


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_in(tmp_path) as found:
        yield found
