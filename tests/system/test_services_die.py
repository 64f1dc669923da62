"""Each service is killed, stopped, frozen and drained under load: nothing is lost, out of order or silently missing."""

import asyncio
import signal

import pytest
from tests.system.load import load
from tests.system.rig import Rig, until

pytestmark = pytest.mark.xdist_group("system-services")

AWAY_S = 2.0
"""How long a killed service stays away: long enough that others must do without it."""


@pytest.mark.parametrize("service", ["edge", "router", "replay", "registry"])
async def test_a_service_killed_under_load_costs_nothing(rig: Rig, service: str) -> None:
    """kill -9 of one of the two, then of the other, each back after a while."""
    async with load(rig) as run:
        await run.more()
        for process in [one for one in rig.stack.services if one.service == service]:
            await run.busy()
            run.history.note(f"kill -9 {process.name}")
            await rig.kill(process)
            away = asyncio.create_task(asyncio.sleep(AWAY_S))
            await run.more()
            await away
            run.history.note(f"start {process.name}")
            await rig.launch(process)
            await rig.ready(process)
            await run.more()


async def test_an_edge_drained_under_load_costs_nothing(rig: Rig) -> None:
    """SIGTERM: clients are told to move, and do, with every answer in their hands."""
    async with load(rig) as run:
        await run.more()
        edge = rig.stack.edges[0]
        await run.busy()
        run.history.note(f"SIGTERM {edge.name}")
        edge.terminate()
        await until("the edge has ended", lambda: edge.returncode is not None)
        run.history.note(f"{edge.name} has ended")
        assert edge.returncode == 0
        await run.more()
        await rig.launch(edge)
        await rig.ready(edge)
    assert not run.history.ended, "a drained edge leaves no publish unanswered"


async def test_a_frozen_edge_costs_nothing(rig: Rig) -> None:
    """SIGSTOP for longer than clients wait and its lease lasts; then it goes on with what it had in its hands."""
    async with load(rig) as run:
        await run.more()
        edge = rig.stack.edges[1]
        await run.busy()
        run.history.note(f"SIGSTOP {edge.name}")
        edge.signal(signal.SIGSTOP)
        try:
            await run.more()
            await asyncio.sleep(6.0)
        finally:
            edge.signal(signal.SIGCONT)
        run.history.note(f"SIGCONT {edge.name}")
        await rig.ready(edge)
        await run.more()


async def test_all_routers_away_delay_confirmations_only(rig: Rig) -> None:
    """Live delivery and durable answers need no router; what an edge left behind is written once one is back."""
    async with load(rig) as run:
        await run.more()
        for router in rig.stack.routers:
            await rig.kill(router)
        run.history.note("kill -9 of both routers")
        await run.more()
        await run.seen_more()
        edge = rig.stack.edges[0]
        await run.busy()
        await rig.kill(edge)
        run.history.note(f"kill -9 {edge.name}")
        await run.more()
        for process in (*rig.stack.routers, edge):
            await rig.launch(process)
        for process in (*rig.stack.routers, edge):
            await rig.ready(process)
        run.history.note("all back")
        await run.more()
