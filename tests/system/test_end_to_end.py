"""One message, end to end, and a steady load on two of everything."""

import pytest
from tests.system.load import load
from tests.system.rig import Rig

pytestmark = pytest.mark.xdist_group("system")


async def test_a_steady_load_on_two_of_each_service_is_whole(rig: Rig) -> None:
    async with load(rig) as run:
        await run.more(30)
        await run.seen_more()
