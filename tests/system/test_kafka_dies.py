"""Kafka stops, hangs and is killed under load: the live path goes on, and in the end the log has everything."""

import asyncio

import pytest
from tests.system.history import Outcome
from tests.system.load import load
from tests.system.rig import DELIVERY_TIMEOUT_S, Rig, until

pytestmark = pytest.mark.xdist_group("system-stores")


async def test_live_delivery_goes_on_while_kafka_is_stopped(rig: Rig) -> None:
    """Publishers are told `pending`, later `confirmed`; what edges gave up the router writes from the hot window."""
    async with load(rig, per_s=15.0) as run:
        await run.more()
        begin_s = run.history.now()
        run.kafka_hurt("stop kafka")
        await rig.stop(rig.kafka)
        away = asyncio.create_task(asyncio.sleep(2 * DELIVERY_TIMEOUT_S + 2))  # produces fail, and fail for good
        await run.more(settled=False)
        await run.seen_more()
        await away
        await run.seen_more()
        run.history.note("start kafka")
        await rig.launch(rig.kafka)
        await rig.ready(rig.kafka)
        run.history.note("kafka is back")
        await run.more()
    answers = [answer for attempt in run.history.attempts for answer in attempt.answers if answer.at_s > begin_s]
    assert any(answer.outcome is Outcome.PENDING for answer in answers)
    written = sum(rig.metric(router, "heliograph_router_reconciled_total") for router in rig.stack.routers)
    assert written > 0, "nothing was left to the router: the outage proved nothing"


async def test_kafka_killed_and_back_at_once_costs_nothing(rig: Rig) -> None:
    """kill -9: what was acknowledged is on its disk, what was not is written again by the edges themselves."""
    async with load(rig, per_s=15.0) as run:
        await run.more()
        run.kafka_hurt("kill -9 kafka")
        await rig.kill(rig.kafka)
        await rig.launch(rig.kafka)
        await run.seen_more()
        await rig.ready(rig.kafka)
        run.history.note("kafka is back")
        await run.more()


async def test_an_edge_killed_while_kafka_is_away_loses_nothing(rig: Rig) -> None:
    """What it held for the log dies with it; the hot window has it, the router writes it."""
    async with load(rig, per_s=15.0) as run:
        await run.more()
        run.kafka_hurt("stop kafka")
        await rig.stop(rig.kafka)
        await run.more(settled=False)
        edge = rig.stack.edges[0]
        await rig.kill(edge)
        run.history.note(f"kill -9 {edge.name}")
        await run.more(settled=False)
        for process in (rig.kafka, edge):
            await rig.launch(process)
        for process in (rig.kafka, edge):
            await rig.ready(process)
        run.history.note("both back")
        await run.more()


async def test_a_backlog_past_its_bound_is_refused_with_a_time_and_taken_later(rig: Rig) -> None:
    """W: with the log away a session takes 1,000 messages, then says when to come back; nobody loses a message."""
    async with load(rig, sessions=1, sdk=False, per_s=10.0) as run:
        await run.more(1)
        run.kafka_hurt("stop kafka")
        await rig.stop(rig.kafka)
        flood = run.publisher("flood", run.sessions, per_s=2_000.0, window=64)
        flood.start()
        await until("the session is full", lambda: flood.refusals.get("backlog", 0) > 0, 40.0)
        run.history.note("refused for its backlog")
        flood.rest()
        await rig.launch(rig.kafka)
        await rig.ready(rig.kafka)
        run.history.note("kafka is back")
