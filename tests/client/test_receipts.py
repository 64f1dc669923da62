import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.client.conftest import QUICK
from tests.client.fake_edge import FakeEdge

from heliograph.client import Client, ClosedError, DurabilityUnknown
from heliograph.protocol.frames import Published

SESSION = "acme:planner:1"
MakeClient = Callable[..., Client]
PATIENT = replace(QUICK, status_interval_s=60.0)


async def test_a_pending_message_is_durable_once_it_is_confirmed(edge: FakeEdge, make_client: MakeClient) -> None:
    edge.session(SESSION).durable = False
    async with make_client(settings=PATIENT) as client:
        receipt = await client.publish(SESSION, 1)
        assert not receipt.is_durable
        waiting = asyncio.create_task(receipt.durable())
        await asyncio.sleep(0)
        assert not waiting.done()
        edge.confirm(SESSION)
        await waiting
        assert receipt.is_durable
        await receipt.durable()
    assert edge.statuses == []


async def test_a_confirmation_before_anybody_waits_is_not_lost(edge: FakeEdge, make_client: MakeClient) -> None:
    edge.session(SESSION).durable = False
    async with make_client(settings=PATIENT) as client:
        receipt = await client.publish(SESSION, 1)
        edge.confirm(SESSION)
        await edge.until(lambda: receipt.is_durable)


async def test_after_a_reconnect_it_is_asked_for(edge: FakeEdge, make_client: MakeClient) -> None:
    edge.session(SESSION).durable = False
    async with make_client(settings=PATIENT) as client:
        receipt = await client.publish(SESSION, 1)
        waiting = asyncio.create_task(receipt.durable())
        await asyncio.sleep(0)
        edge.drop_all()
        edge.session(SESSION).durable = True  # confirmed to a connection that is gone
        await waiting
    assert [frame.position for frame in edge.statuses] == [receipt.position]


async def test_what_was_only_accepted_is_asked_for_until_it_is_durable(edge: FakeEdge, make_client: MakeClient) -> None:
    edge.on_publish = lambda connection, frame: Published(False, id=frame.id, position=str(edge.session(SESSION).head))
    edge.session(SESSION).durable = False
    async with make_client() as client:
        receipt = await client.publish(SESSION, 1, ack="accepted")
        waiting = asyncio.create_task(receipt.durable())
        await edge.until(lambda: len(edge.statuses) >= 2)
        assert not waiting.done()
        edge.session(SESSION).durable = True
        await waiting


async def test_it_is_unknown_when_nobody_says_so_in_time(edge: FakeEdge, make_client: MakeClient) -> None:
    edge.session(SESSION).durable = False
    async with make_client() as client:
        receipt = await client.publish(SESSION, 1)
        with pytest.raises(DurabilityUnknown) as caught:
            await receipt.durable(timeout=0.05)
        assert (caught.value.session, caught.value.position) == (SESSION, receipt.position)
        assert client._durabilities._waited_for == {}


async def test_without_a_position_it_can_not_be_asked_for(make_client: MakeClient) -> None:
    async with make_client() as client:
        with pytest.raises(DurabilityUnknown):
            await (await client.publish(SESSION, 1, ack="none")).durable()


async def test_a_deferred_message_is_durable_without_a_place(edge: FakeEdge, make_client: MakeClient) -> None:
    edge.on_publish = lambda connection, frame: Published(True, id=frame.id, deferred=True)
    async with make_client() as client:
        receipt = await client.publish(SESSION, "stop", cls="control")
        assert (receipt.deferred, receipt.position, receipt.is_durable) == (True, None, True)
        await receipt.durable()


async def test_closing_ends_the_wait(edge: FakeEdge, make_client: MakeClient) -> None:
    edge.session(SESSION).durable = False
    async with make_client() as client:
        receipt = await client.publish(SESSION, 1)
        waiting = asyncio.create_task(receipt.durable(timeout=None))
        await asyncio.sleep(0)
    with pytest.raises(ClosedError):
        await waiting


async def test_receipts_that_nobody_holds_cost_nothing(edge: FakeEdge, make_client: MakeClient) -> None:
    edge.session(SESSION).durable = False
    async with make_client() as client:
        for number in range(100):
            await client.publish(SESSION, number)
        assert len(client._durabilities._known) == 0
