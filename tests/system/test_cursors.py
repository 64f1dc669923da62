"""Consumers die, with their edges and without: they come back behind what they acknowledged, to everything after it."""

from collections.abc import Sequence
from functools import partial

import pytest
from tests.system.consuming import RawConsumer
from tests.system.history import CursorFound
from tests.system.load import Run, load
from tests.system.rig import Rig, until
from tests.system.tailing import Tail

pytestmark = pytest.mark.xdist_group("system-services")

NAMES = ("clerk-1", "clerk-2", "clerk-3")


def clerks_of(run: Run, *, lies: bool = True) -> list[RawConsumer]:
    clerks = [run.consumer(name, lies=lies) for name in NAMES]
    for clerk in clerks:
        clerk.start()
    return clerks


async def acknowledged(clerks: Sequence[RawConsumer], count: int = 5) -> None:
    """Return when each has so many more acks stored."""
    wanted = {clerk.name: clerk.acked + count for clerk in clerks}
    await until("everybody's acks are stored", lambda: all(one.acked >= wanted[one.name] for one in clerks))


async def test_consumers_that_die_with_their_edges_go_on_behind_what_they_acknowledged(rig: Rig) -> None:
    """The consumer's connection is dropped and an edge is killed, each in turn; acks are under way all the time."""
    async with load(rig, sessions=3, per_s=50.0) as run, run.watched_cursors(NAMES):
        clerks = clerks_of(run)
        for number in range(4):
            edge, victim = rig.stack.edges[number % 2], clerks[number % 3]
            await acknowledged(clerks)
            await run.busy()
            run.history.note(f"{victim.name} is gone, kill -9 {edge.name}")
            await victim.kill()
            await rig.kill(edge)
            victim.start()
            await run.more(8)
            await acknowledged(clerks)
            await rig.launch(edge)
            await rig.ready(edge)
    assert all(clerk.lives >= 3 for clerk in clerks), "too few deaths to prove anything"
    assert found_after_the_first(run) > 3 * len(run.sessions)


async def test_cursors_outlive_a_redis_that_keeps_its_data(rig: Rig) -> None:
    async with load(rig, sessions=2, per_s=50.0) as run, run.watched_cursors(NAMES):
        clerks = clerks_of(run, lies=False)
        for _ in range(2):
            await acknowledged(clerks)
            await run.busy()
            run.history.note("kill -9 redis")
            await rig.kill(rig.redis)
            await rig.launch(rig.redis)
            await rig.ready(rig.redis)
            await run.more(8)
            for clerk in clerks:
                await clerk.kill()
                clerk.start()
            await acknowledged(clerks)
    assert found_after_the_first(run) >= 2 * len(NAMES) * len(run.sessions)


async def test_with_a_redis_that_lost_its_data_the_cursors_are_gone_and_consumers_are_told(rig: Rig) -> None:
    async with load(rig, sessions=2, per_s=50.0) as run, run.watched_cursors(NAMES):
        clerks = clerks_of(run, lies=False)
        await acknowledged(clerks)
        for clerk in clerks:
            await clerk.kill()
        await rig.lose_live_store(run.history)
        await rig.launch(rig.redis)
        await rig.ready(rig.redis)
        run.history.note("redis was restarted, empty")
        await run.more(8)
        for clerk in clerks:
            clerk.start()
        await acknowledged(clerks)
    missing = [one for one in run.history.cursors if isinstance(one, CursorFound) and one.position is None]
    assert len(missing) >= 2 * len(NAMES) * len(run.sessions), "at the beginning, and again"


async def test_a_process_that_is_killed_goes_on_behind_what_it_had_shown(rig: Rig) -> None:
    """`heliograph tail --consumer`, kill -9, with its edge and without; nothing that it printed last is left out."""
    async with load(rig, sessions=1, per_s=40.0) as run:
        (session,) = run.sessions
        tail = Tail(run.history, "desk", rig.edges, rig.token(subject="desk"), session)
        try:
            async with rig.live() as live:
                for number in range(4):
                    await tail.start()
                    await until("it has shown something", lambda: bool(tail.last))
                    await run.more(8)
                    edge = rig.stack.edges[number % 2]
                    if number:
                        run.history.note(f"kill -9 {edge.name}")
                        await rig.kill(edge)
                    run.history.note("kill -9 the process")
                    await tail.kill(live)
                    await rig.launch(edge)
                await rig.heal()
                await run.more(8)
            await tail.start()
            for publisher in run.publishers:
                publisher.rest()
            await until("all is answered", lambda: all(publisher.at_rest for publisher in run.publishers))
            near = run.subscribers[0]
            await until("it has shown all that others have", partial(caught_up, tail, near, session), 60.0)
        finally:
            await tail.end()
    assert tail.lives == 5


def caught_up(tail: Tail, other: object, session: str) -> bool:
    last: str = other.last(session)  # type: ignore[attr-defined]
    return tail.last >= last


def found_after_the_first(run: Run) -> int:
    """How often a consumer came back to a cursor."""
    return sum(isinstance(one, CursorFound) and one.position is not None for one in run.history.cursors)
