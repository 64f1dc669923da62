"""The live Redis stands still, or is nearly full, under load: what is given up, what is not, and that it is told."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis as RedisClient
from tests.system.history import Outcome
from tests.system.load import Run, load
from tests.system.rig import Rig, until

from heliograph.client import Client, Level, Pressure

pytestmark = pytest.mark.xdist_group("system-stores")

BALLAST_BYTES = 64 * 1024 * 1024
"""So that a few per cent of Redis' memory are room for what is published meanwhile."""
CRITICAL = 0.975
"""Share of Redis' memory that means so, by the default marks; three per cent are left."""


def level(rig: Rig, source: str) -> list[float]:
    """Of each edge."""
    return [rig.metric(edge, "heliograph_edge_pressure_level", f'source="{source}"') for edge in rig.stack.edges]


async def at_level(rig: Rig, wanted: Level) -> None:
    """Return when both edges say so of the live path."""
    deadline = asyncio.get_running_loop().time() + 60.0
    while await asyncio.to_thread(level, rig, "live") != [wanted, wanted]:
        assert asyncio.get_running_loop().time() < deadline, f"{await asyncio.to_thread(level, rig, 'live')}"
        await asyncio.sleep(0.1)


def refused(run: Run, code: str) -> int:
    """Publishes refused with this code."""
    return sum(answer.code == code for attempt in run.history.attempts for answer in attempt.answers)


async def deferred_are_delivered(run: Run) -> None:
    """Return when all that is deferred by now was delivered. On a busy machine more may be deferred meanwhile."""
    by_now = run.deferred()
    await until("what was deferred is delivered", lambda: not by_now & run.deferred(), 60.0)


def redis_of(rig: Rig) -> RedisClient:
    return RedisClient.from_url(rig.redis.url, socket_timeout=30.0)


@asynccontextmanager
async def agent(rig: Rig, run: Run) -> AsyncIterator[list[Pressure]]:
    """A program that is told."""
    told: list[Pressure] = []
    async with Client(rig.edges, token=run.token(), proxy=None, on_notice=told.append):
        yield told


async def test_while_redis_stands_still_control_is_deferred_and_all_of_it_comes_in_order_afterwards(rig: Rig) -> None:
    async with load(rig) as run, agent(rig, run) as told:
        run.telemetry("meter", run.sessions[:2])
        run.publishers[-1].start()
        await run.more()
        await run.busy()
        from_s = run.history.now()
        run.history.note("SIGSTOP redis")
        async with rig.frozen(rig.redis):
            await at_level(rig, Level.CRITICAL)
            await until("it is told", lambda: bool(told) and told[-1].level is Level.CRITICAL)
            await until("many are deferred", lambda: run.outcomes(Outcome.DEFERRED) >= 50)
            await until("events are refused", lambda: refused(run, "live_unavailable") > 0)
        run.history.note("SIGCONT redis")
        back_s = run.history.now()
        await deferred_are_delivered(run)
        print(f"\ndeferred {run.outcomes(Outcome.DEFERRED)}, all delivered {run.history.now() - back_s:.1f} s after")
        await at_level(rig, Level.NORMAL)
        await until("it is told that it is over", lambda: told[-1] == Pressure())
        await run.more()
        await run.seen_more()
        run.tallies.trouble(from_s)
    assert told[-2].sources == ("live",)


async def test_while_redis_is_nearly_full_events_are_refused_and_control_comes_through_the_log_in_order(
    rig: Rig,
) -> None:
    """It still answers, and routers put what is deferred in its place all the while: publishers go back and forth."""
    async with load(rig) as run, agent(rig, run) as told, redis_of(rig) as redis:
        run.telemetry("meter", run.sessions[:2])
        run.publishers[-1].start()
        await redis.setrange("ballast", BALLAST_BYTES, "x")
        try:
            await run.more()
            for _ in range(2):
                deferred, overloaded = run.outcomes(Outcome.DEFERRED), refused(run, "overloaded")
                used = (await redis.info("memory"))["used_memory"]
                await redis.config_set("maxmemory", math.ceil(used / CRITICAL))
                run.history.note("redis is nearly full")
                await at_level(rig, Level.CRITICAL)
                await until("many are deferred", lambda: run.outcomes(Outcome.DEFERRED) >= deferred + 50)  # noqa: B023
                await until("events are refused", lambda: refused(run, "overloaded") > overloaded)  # noqa: B023
                await redis.config_set("maxmemory", 0)
                run.history.note("redis has room")
                await at_level(rig, Level.NORMAL)
                await deferred_are_delivered(run)
                await run.more()
        finally:
            await redis.config_set("maxmemory", 0)
            await redis.delete("ballast")
        await until("it is told that it is over", lambda: told[-1] == Pressure())
    assert [pressure.level for pressure in told].count(Level.CRITICAL) >= 2
    assert refused(run, "internal") == 0


async def test_a_redis_that_is_full_takes_nothing_and_loses_nothing(rig: Rig) -> None:
    """Past `maxmemory` it refuses every write, the routers' too: control waits in the log until there is room."""
    async with load(rig) as run, redis_of(rig) as redis:
        await run.more()
        await run.busy()
        await redis.config_set("maxmemory", "1mb")
        run.history.note("redis is full")
        try:
            await at_level(rig, Level.CRITICAL)
            await until("many are deferred", lambda: run.outcomes(Outcome.DEFERRED) >= 50)
            await until("events are refused", lambda: refused(run, "overloaded") > 0)
        finally:
            await redis.config_set("maxmemory", 0)
        run.history.note("redis has room")
        await deferred_are_delivered(run)
        await at_level(rig, Level.NORMAL)
        await run.more()
        await run.seen_more()
    assert refused(run, "internal") == 0
