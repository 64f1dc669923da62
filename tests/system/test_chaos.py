"""Faults in a random order, one upon the other, under load. The seed is printed; give it to see the same again."""

import asyncio
import os
import random
import signal

import pytest
from tests.system.consuming import RawConsumer
from tests.system.load import Run, load
from tests.system.rig import Rig

from heliograph.local.services import ServiceProcess

pytestmark = [pytest.mark.chaos, pytest.mark.xdist_group("system-services")]

SEED_VARIABLE = "HELIOGRAPH_CHAOS_SEED"
FAULTS = 6


async def kill_service(rig: Rig, run: Run, dice: random.Random) -> None:
    process = dice.choice(rig.stack.services)
    await run.busy()
    run.history.note(f"kill -9 {process.name}")
    await rig.kill(process)
    await asyncio.sleep(dice.uniform(0.0, 1.0))
    await rig.launch(process)


async def drain_edge(rig: Rig, run: Run, dice: random.Random) -> None:
    edge = dice.choice(rig.stack.edges)
    run.history.note(f"SIGTERM {edge.name}")
    await rig.stop(edge)
    await rig.launch(edge)


async def freeze(rig: Rig, run: Run, dice: random.Random) -> None:
    """For less, or for more, than a lease or a heartbeat lasts."""
    process = dice.choice([*rig.stack.edges, *rig.stack.routers])
    if isinstance(process, ServiceProcess) and process.running:
        run.history.note(f"SIGSTOP {process.name}")
        process.signal(signal.SIGSTOP)
        await asyncio.sleep(dice.uniform(0.2, 5.0))
        process.signal(signal.SIGCONT)


async def kill_redis(rig: Rig, run: Run, dice: random.Random) -> None:
    await run.busy()
    run.history.note("kill -9 redis")
    await rig.kill(rig.redis)
    await asyncio.sleep(dice.uniform(0.0, 1.5))
    await rig.launch(rig.redis)
    await rig.ready(rig.redis)


async def lose_redis(rig: Rig, run: Run, dice: random.Random) -> None:
    """With its data, as one without persistence does."""
    await rig.lose_live_store(run.history)
    run.history.note("redis is gone, with its data")
    await asyncio.sleep(dice.uniform(0.0, 1.5))
    await rig.launch(rig.redis)
    await rig.ready(rig.redis)


async def kill_kafka(rig: Rig, run: Run, dice: random.Random) -> None:
    run.kafka_hurt("kill -9 kafka")
    await rig.kill(rig.kafka)
    await asyncio.sleep(dice.uniform(0.0, 4.0))
    await rig.launch(rig.kafka)


async def kill_metadata(rig: Rig, run: Run, dice: random.Random) -> None:
    run.history.note("kill -9 the metadata redis")
    await rig.kill(rig.metadata)
    await asyncio.sleep(dice.uniform(0.0, 2.0))
    await rig.launch(rig.metadata)
    await rig.ready(rig.metadata)


async def kill_consumer(rig: Rig, run: Run, dice: random.Random) -> None:
    """It comes back with nothing but its cursor, if the live store still has that."""
    (clerk,) = (one for one in run.subscribers if isinstance(one, RawConsumer))
    run.history.note(f"{clerk.name} is gone")
    await clerk.kill()
    await asyncio.sleep(dice.uniform(0.0, 1.0))
    clerk.start()


DEEDS = (
    kill_service, kill_service, drain_edge, freeze, kill_redis, lose_redis, kill_metadata, kill_kafka, kill_consumer
)  # fmt: skip


async def test_a_random_sequence_of_faults_costs_nothing(rig: Rig) -> None:
    seed = int(os.environ.get(SEED_VARIABLE) or random.randrange(2**32))
    dice = random.Random(seed)
    async with load(rig, seed=seed, per_s=40.0) as run, run.watched_cursors(["clerk"]):
        run.consumer("clerk", lies=False).start()
        await run.more()
        for _ in range(FAULTS):
            await dice.choice(DEEDS)(rig, run, dice)
        await rig.heal()
        run.history.note("all healed")
        await run.more()
