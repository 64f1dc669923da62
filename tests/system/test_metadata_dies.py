"""The metadata Redis goes away, and comes back with its data or without: it is not on the path of a message."""

import asyncio
import math
from collections.abc import AsyncIterator

import pytest
from tests.system.history import GapTold
from tests.system.load import Run, load
from tests.system.rig import Rig, until

from heliograph.local.errors import NotReadyError

pytestmark = pytest.mark.xdist_group("system-stores")

AWAY_S = 6.0
"""Twice the leases that are kept in it."""


async def newcomers(run: Run, suffix: str) -> None:
    """A publisher and a subscriber that the edges have not seen, each on an edge of its own, get on like the others."""
    publisher = run.publisher(f"newcomer-{suffix}", run.sessions[:2], per_s=10.0)
    subscriber = run.subscriber(f"newcomer-{suffix}", start="latest")
    publisher.start()
    subscriber.start()
    await run.subscribed()


async def come_back(run: Run, name: str) -> None:
    """A subscriber goes, misses some, and goes on from its last position without a gap: the window has it all."""
    left_s = run.history.now()
    (subscriber,) = (one for one in run.subscribers if one.name == name)
    await subscriber.leave()  # type: ignore[union-attr]
    await run.more(8)
    subscriber.start()
    await run.subscribed()
    await run.seen_more(5)
    assert gaps(run, name, left_s) == []


def gaps(run: Run, name: str, from_s: float) -> list[GapTold]:
    views = [view for view in run.history.views.values() if view.subscriber == name]
    told = [sight for view in views for sight in view.sights if isinstance(sight, GapTold)]
    return [gap for gap in told if gap.at_s > from_s]


@pytest.fixture
async def restored(rig: Rig) -> AsyncIterator[None]:
    """The tenants, also those of tests before, are written again at the end, as a backup would bring them back."""
    async with rig.tenant_store() as store:
        _, records = await store.changes(0)
    yield
    await rig.heal()
    async with rig.tenant_store() as store:
        for tenant, record in records.items():
            if record is not None:
                await store.put(tenant, record)
    await until("no record is missing", lambda: _kept(rig) == 0, 60.0)


def _kept(rig: Rig) -> float:
    """Tenants in force whose record is lost, over all services; without end where one is too busy to say."""
    try:
        return sum(rig.metric(service, f"heliograph_{service.service}_tenants_kept") for service in rig.stack.services)
    except NotReadyError:
        return math.inf


def _lost(rig: Rig) -> float:
    return sum(rig.metric(one, "heliograph_registry_lost_connections_total") for one in rig.stack.registries)


async def test_while_the_metadata_store_is_away_messages_go_on_and_newcomers_are_let_in(rig: Rig) -> None:
    """Publish, deliver, resume from the hot window; edges stay ready, or a balancer would end what works."""
    async with load(rig) as run:
        await run.subscribed()
        await run.more()
        run.history.note("kill -9 the metadata redis")
        await rig.kill(rig.metadata)
        away = asyncio.create_task(asyncio.sleep(AWAY_S))
        await run.more()
        await newcomers(run, "while it is away")
        await come_back(run, "near")
        await run.more()
        await run.seen_more()
        await away
        assert all(edge.ready() for edge in rig.stack.edges)
        await rig.launch(rig.metadata)
        await rig.ready(rig.metadata)
        run.history.note("the metadata redis is back")
        await run.more()


@pytest.mark.usefixtures("restored")
async def test_a_metadata_store_that_comes_back_empty_ends_nobodys_work(rig: Rig) -> None:
    """Tenants stay in force, edges register anew, routers take their leases again, the index is built on."""
    lost = _lost(rig)
    async with load(rig) as run:
        await run.subscribed()
        await run.more()
        await rig.lose_metadata()
        run.history.note("the metadata redis is gone, with its data")
        await run.more()
        await rig.launch(rig.metadata)
        await rig.ready(rig.metadata)
        run.history.note("it is back, empty")
        await run.more()
        await newcomers(run, "after the loss")
        await come_back(run, "near")
        await run.more()
        await run.seen_more()
        await until(
            "both edges are known again",
            lambda: all(rig.metric(one, "heliograph_registry_edges") == 2 for one in rig.stack.registries),
        )
        assert all(edge.ready() for edge in rig.stack.edges)
        assert _kept(rig) > 0
    assert _lost(rig) == lost, "nobody was"
