"""Faults in a random order, several at once and one upon the other, under load, for as long as one likes.

`make chaos MINUTES=10`. It runs in rounds: each has a load, some moves of one to three faults at once, and is brought
to rest and judged. A round's seed is printed; `HELIOGRAPH_CHAOS_SEED` begins with the round of that seed, and the same
faults. What processes make of them is theirs: the same seed is not the same run to the last message.
"""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from tests.faults.clocks import with_a_clock
from tests.faults.faults import (
    Fault,
    Stage,
    black_hole,
    clock_step,
    crowd,
    cut,
    delay,
    disk_full,
    few_descriptors,
    freeze,
    kill,
    lose_redis,
    stop,
    throttle,
    together,
)
from tests.faults.keeping import kept
from tests.faults.loads import steady
from tests.faults.rig import EDGES, FaultRig
from tests.system.consuming import RawConsumer
from tests.system.load import Run, running

SEED_VARIABLE = "HELIOGRAPH_CHAOS_SEED"
MINUTES_VARIABLE = "HELIOGRAPH_CHAOS_MINUTES"
MINUTES = 2.0
MOVES = (2, 5)
"""Of a round."""
AT_ONCE = (1, 1, 2, 2, 3)
LASTS_S = (0.0, 6.0)
"""A move: shorter and longer than leases, heartbeats and the log's patience."""
PAUSE_S = (0.0, 2.0)
MOMENT_S = 1.0
CLOCKED_SHARE = 0.3
"""Of the rounds: an edge's clock can be set."""
PER_S = 150.0
SETTLES_S = 120.0
"""After a round's faults: everybody gets on again. Edges and Kafka start anew on a busy machine in that."""

pytestmark = [pytest.mark.chaos, pytest.mark.xdist_group("faults"), pytest.mark.timeout(0)]


def lose_consumer(run: Run) -> Fault:
    """It comes back with nothing but its cursor, if the live store still has that."""
    (clerk,) = (one for one in run.subscribers if isinstance(one, RawConsumer))

    @asynccontextmanager
    async def on(_stage: Stage) -> AsyncIterator[None]:
        await clerk.kill()
        yield
        clerk.start()

    return Fault(f"{clerk.name} is gone", on)


def deck(stage: Stage, *, clocked: bool) -> list[tuple[set[str], Fault]]:
    """One of each kind of fault, on dice, and what it hurts: no two of a move hurt the same."""
    dice, rig = stage.dice, stage.rig
    service, edge = dice.choice(rig.stack.services).name, dice.choice(EDGES)
    store, frozen = dice.choice(["redis", "kafka", "metadata"]), dice.choice(rig.stack.services).name
    who, whom = dice.choice([*EDGES, "routers"]), dice.choice(["redis", "kafka", "metadata"])
    links = [dice.choice([f"{who}>{whom}", f"clients>{edge}"]) for _ in range(4)]
    direction = dice.choice([(), ("up",), ("down",)])
    cards: list[tuple[set[str], Fault]] = [
        ({service}, kill(service)),
        ({edge}, stop(edge)),
        ({frozen}, freeze(frozen)),
        ({store}, dice.choice([kill(store), stop(store), freeze(store)])),
        ({"redis"}, lose_redis()),
        ({"redis"}, disk_full("redis")),
        ({links[0]}, cut(links[0])),
        ({links[1]}, black_hole(links[1], directions=direction)),
        ({links[2]}, delay(links[2], delay_s=dice.uniform(0.01, 1.0), jitter_s=dice.uniform(0.0, 0.5))),
        ({links[3]}, throttle(links[3], bytes_per_s=dice.uniform(2_000, 50_000), directions=direction)),
        ({edge}, together(few_descriptors(edge, dice.randint(2, 20)), crowd(edge, 40))),
        ({"clerk"}, lose_consumer(stage.run)),
    ]
    if clocked:
        cards.append(({"edge-1"}, clock_step("edge-1", dice.choice([-1.0, 1.0]) * dice.uniform(1.0, 3_600.0))))
    return cards


async def play_round(rig: FaultRig, seed: int) -> None:
    dice = random.Random(seed)
    async with AsyncExitStack() as stack:
        clocked = dice.random() < CLOCKED_SHARE
        if clocked:
            conditions = with_a_clock(rig)
            await stack.enter_async_context(rig.altered("edge-1", environment=conditions.environment))
        run = steady(per_s=PER_S)(rig, seed)
        run.consumer("clerk", run.sessions[len(run.sessions) // 2 :], lies=False)
        stage = Stage(rig, run, dice, busy_s=MOMENT_S, must_be_busy=False)
        async with kept(run), running(run), run.watched_cursors(["clerk"]):
            await run.more()
            await run.telemetry_seen()
            from_s = run.through_s()
            run.history.patience_s = 0.0  # brokers and clocks are hurt
            live = False
            for _ in range(dice.randint(*MOVES)):
                live |= await move(stage, clocked=clocked)
                await asyncio.sleep(dice.uniform(*PAUSE_S))
            await rig.heal()
            say(run, "all healed")
            await run.more(timeout_s=SETTLES_S)
            await run.telemetry_seen(timeout_s=SETTLES_S)
            if live:
                run.tallies.trouble(from_s)
            say(run, "everybody gets on")


async def move(stage: Stage, *, clocked: bool) -> bool:
    """Some faults at once, for a while; whether the live path lost what was on its way."""
    cards = deck(stage, clocked=clocked)
    chosen: list[Fault] = []
    hurt: set[str] = set()
    count = stage.dice.choice(AT_ONCE)
    for targets, fault in stage.dice.sample(cards, len(cards)):
        if len(chosen) < count and not targets & hurt:
            hurt |= targets
            chosen.append(fault)
    lasts_s = stage.dice.uniform(*LASTS_S)
    for fault in chosen:
        say(stage.run, fault.what)
    async with together(*chosen).on(stage):
        await asyncio.sleep(lasts_s)
    say(stage.run, f"over, after {lasts_s:.1f} s")
    for store in (stage.rig.redis, stage.rig.metadata):
        await stage.rig.ready(store)
    return any(fault.live for fault in chosen)


def say(run: Run, what: str) -> None:
    """Into the history, and at once on the screen."""
    run.history.note(what)
    print(f"{run.history.now():9.3f} s  {what}", flush=True)


async def test_faults_in_a_random_order_cost_nothing(rig: FaultRig) -> None:
    first = int(os.environ.get(SEED_VARIABLE) or random.randrange(2**32))
    ends_s = time.monotonic() + 60 * float(os.environ.get(MINUTES_VARIABLE) or MINUTES)
    number = 0
    while number == 0 or time.monotonic() < ends_s:
        seed = first + number
        left_s = max(0.0, ends_s - time.monotonic())
        print(f"\nround {number + 1}, {SEED_VARIABLE}={seed}, {left_s / 60:.1f} minutes left", flush=True)
        await rig.heal()
        await play_round(rig, seed)
        number += 1
