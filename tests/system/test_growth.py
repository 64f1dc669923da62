"""Topics grow under load: nothing is reordered or lost, and sessions that begin anew elsewhere are read whole."""

import asyncio
import random

import pytest
from redis.asyncio import Redis as Client
from tests.system.history import EpochTold, GapTold, Kind
from tests.system.load import Run, load
from tests.system.rig import Rig, until

from heliograph.core.partitions import partition_of
from heliograph.stores.keys import ShardKeys, virtual_shard
from heliograph.stores.ports import Head

pytestmark = pytest.mark.xdist_group("system-services")

LIMIT = 10_000
"""Sessions looked at for idle ones; a shard has a handful here."""


async def set_partitions(rig: Rig, tenant: str, partitions: int) -> None:
    """`heliograph tenant apply` with so many; services obey it when it returns."""
    await asyncio.to_thread(rig.apply, tenant, topics={"telemetry": {}, "log": {"partitions": partitions}})


async def test_a_topic_grows_twice_under_load_without_an_order_fault(rig: Rig) -> None:
    tenant = f"grows-{rig.session()[-6:]}"
    await set_partitions(rig, tenant, 2)
    async with load(rig, tenant=tenant, sessions=3, per_s=25.0) as run:
        await run.more()
        for partitions in (5, 12):
            await set_partitions(rig, tenant, partitions)
            run.history.note(f"the log has {partitions} partitions")
            begun = rig.sessions(3, tenant)
            run.sessions += begun
            run.publisher(f"of {partitions}", begun).start()
            late = run.subscriber(f"reader of {partitions}")
            late.start()
            await run.more()
    counts = {2: run.sessions[:3], 5: run.sessions[3:6], 12: run.sessions[6:]}
    for partitions, sessions in counts.items():
        homes = {(entry.session, entry.partition) for entry in run.history.log if entry.session in sessions}
        assert homes == {(session, partition_of(session.encode(), partitions)) for session in sessions}


async def test_a_session_that_was_forgotten_begins_anew_in_another_partition_and_is_read_whole(rig: Rig) -> None:
    """Subscribers stay all the while: they are told of the new epoch and miss nothing."""
    tenant = f"anew-{rig.session()[-6:]}"
    await set_partitions(rig, tenant, 2)
    sessions = [session for session in rig.sessions(40, tenant) if moves(session)][:4]
    run = Run(rig, sessions, random.randrange(2**32))
    before = run.publisher("before", sessions)
    stays = run.subscriber("stays")
    away = run.subscriber("away")
    await run.start()
    try:
        await run.more()
        await away.leave()
        await run.more()
        before.rest()
        await until("all is answered", lambda: before.at_rest)
        await rig.confirmed(sessions)
        # A session is forgotten when it was idle for a day: no subscription of that time is still being joined.
        ends = {session: run.last_answered(session) for session in sessions}
        await until("who stays has it all", lambda: all(stays.last(one) >= end for one, end in ends.items()))
        await forget(rig, run)
        await set_partitions(rig, tenant, 5)
        run.history.note("the log has 5 partitions")
        run.publishers.remove(before)
        after = run.publisher("after", sessions)
        after.start()
        await run.more()
        away.start()
        run.subscriber("late").start()
        await run.more()
        run.publishers.append(before)
        await run.rest()
    finally:
        await asyncio.shield(run.stop())
    run.judge()
    for session in sessions:
        messages = [entry for entry in run.history.log if (entry.session, entry.kind) == (session, Kind.MESSAGE)]
        assert {entry.partition for entry in messages} == {partition_of(session.encode(), count) for count in (2, 5)}
        for reader in ("stays", "away", "late", "replay-1", "replay-2"):
            view = run.history.view(reader, session)
            told = [sight for sight in view.sights if isinstance(sight, GapTold | EpochTold)]
            assert [isinstance(sight, EpochTold) and sight.certain for sight in told] == [True], (reader, session, told)


def moves(session: str) -> bool:
    return partition_of(session.encode(), 2) != partition_of(session.encode(), 5)


async def forget(rig: Rig, run: Run) -> None:
    """What happens to sessions that are idle for a day: they are due to be looked at, and are idle for long enough."""
    async with Client.from_url(rig.redis.url) as client:
        for session in run.sessions:
            await client.zadd(ShardKeys.of(virtual_shard(session, 256)).idle, {session: 0})
    async with rig.live() as live:
        heads = await live.heads(run.sessions)
        for session in run.sessions:
            await live.expire(virtual_shard(session, 256), 0.0, LIMIT)
        assert [head.epoch for head in await live.heads(run.sessions)] == [""] * len(run.sessions)
    run.history.forgotten = {session: last(head) for session, head in zip(run.sessions, heads, strict=True)}
    run.history.note("the live store has forgotten the sessions")


def last(head: Head) -> str:
    return f"{head.epoch}-{head.seq:016d}"
