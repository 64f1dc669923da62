"""The live Redis stops, is killed, and loses everything under load."""

import pytest
from tests.system.history import EpochTold, Outcome
from tests.system.load import load
from tests.system.rig import Rig, until

from heliograph.local.services import ServiceProcess

pytestmark = pytest.mark.xdist_group("system-stores")


def lost_connections(rig: Rig, service: ServiceProcess) -> float:
    name = f"heliograph_{service.service}_store_events_total"
    return rig.metric(service, name, 'event="connection_lost",store="live"')


async def test_redis_restarted_with_its_data_costs_nothing(rig: Rig) -> None:
    """In order (SHUTDOWN), with an append-only file: a new epoch, everything of the old one is there."""
    async with load(rig) as run:
        await run.more()
        await run.busy()
        run.history.note("stop redis")
        await rig.stop(rig.redis)
        await rig.launch(rig.redis)
        await rig.ready(rig.redis)
        run.history.note("redis is back")
        await run.more()
        await run.seen_more()


async def test_redis_killed_with_its_data_on_disk_costs_nothing(rig: Rig) -> None:
    """kill -9 in the middle of whatever it did; twice, so that an epoch is left while another's end is open."""
    users = [*rig.stack.edges, *rig.stack.routers]
    lost = [lost_connections(rig, service) for service in users]
    async with load(rig) as run:
        await run.more()
        for _ in range(2):
            await run.busy()
            run.history.note("kill -9 redis")
            await rig.kill(rig.redis)
            await rig.launch(rig.redis)
            await rig.ready(rig.redis)
            run.history.note("redis is back")
            await run.more()
            await run.seen_more()
    for service, before in zip(users, lost, strict=True):
        assert lost_connections(rig, service) >= before + 2, service.name


async def test_while_redis_is_away_control_is_deferred_and_delivered_in_order_when_it_is_back(rig: Rig) -> None:
    """Commands go on being taken: Kafka has them. Events are refused, and sent again when it is back."""
    async with load(rig) as run:
        await run.more()
        await run.busy()
        run.history.note("stop redis")
        await rig.stop(rig.redis)
        await until("many are deferred", lambda: run.outcomes(Outcome.DEFERRED) >= 50, 30.0)
        await rig.launch(rig.redis)
        await rig.ready(rig.redis)
        run.history.note("redis is back")
        back_s = run.history.now()
        await until("all of them are delivered", lambda: not run.deferred(), 30.0)
        run.history.note("what was deferred is delivered")
        print(f"\ndeferred {run.outcomes(Outcome.DEFERRED)}, all delivered {run.history.now() - back_s:.1f} s after")
        await run.more()
        await run.seen_more()


async def test_what_was_deferred_outlives_a_redis_that_comes_back_empty_and_the_router(rig: Rig) -> None:
    async with load(rig) as run:
        await run.more()
        await rig.lose_live_store(run.history)
        run.history.note("redis is gone, with its data")
        await until("some are deferred", lambda: run.outcomes(Outcome.DEFERRED) >= 20, 30.0)
        await rig.kill(rig.stack.routers[0])
        await rig.launch(rig.redis)
        await rig.ready(rig.redis)
        run.history.note("redis is back, empty; one router is dead")
        await rig.launch(rig.stack.routers[0])
        await rig.ready(rig.stack.routers[0])
        await run.more()


async def test_redis_lost_with_all_its_data_loses_nothing_durable(rig: Rig) -> None:
    """What was only accepted may be gone, and subscribers are told so; for all else the log is whole."""
    async with load(rig) as run:
        await run.more()
        await run.busy()
        await rig.lose_live_store(run.history)
        run.history.note("redis is gone, with its data")
        await rig.launch(rig.redis)
        await rig.ready(rig.redis)
        run.history.note("redis is back, empty")
        await run.more()
        await run.seen_more()
    told = [sight for view in run.history.views.values() for sight in view.sights if isinstance(sight, EpochTold)]
    assert told
    assert not any(sight.certain for sight in told if sight.last is not None), "nobody can know what was lost"


async def test_nothing_that_was_called_durable_was_in_redis_alone(rig: Rig) -> None:
    """Kafka is away, so all is pending; then Redis goes with everything that it had."""
    async with load(rig) as run:
        await run.more()
        run.kafka_hurt("stop kafka")
        await rig.stop(rig.kafka)
        await run.more(settled=False)
        await rig.lose_live_store(run.history)
        run.history.note("redis is gone, with its data")
        for store in (rig.redis, rig.kafka):
            await rig.launch(store)
        for store in (rig.redis, rig.kafka):
            await rig.ready(store)
        run.history.note("both are back, redis empty")
        await run.more()
