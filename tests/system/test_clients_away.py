"""Subscribers that were away come back to everything: from the window, from the log, over the ends of epochs."""

import pytest
from tests.system.history import EpochTold, GapTold, Subscribed, View
from tests.system.load import Run, load
from tests.system.rig import Rig, until

from heliograph.core.limits import WINDOW_MESSAGES
from heliograph.stores.keys import virtual_shard

pytestmark = pytest.mark.xdist_group("system-stores")


def since_return(view: View) -> list[object]:
    """What a subscriber was told since it last subscribed, that answer first."""
    last = max(at for at, sight in enumerate(view.sights) if isinstance(sight, Subscribed))
    return list(view.sights[last:])


async def left_in_the_middle(run: Run) -> list[View]:
    """`away` has read a part of every session and is gone."""
    away = run.subscriber("away")
    away.start()
    await run.more()
    await until("it has some of each session", lambda: all(away.last(session) for session in run.sessions))
    await away.leave()
    run.history.note("away has left")
    return [run.history.view("away", session) for session in run.sessions]


async def test_from_the_hot_window(rig: Rig) -> None:
    async with load(rig, sessions=2) as run:
        views = await left_in_the_middle(run)
        await run.more(40)
        run.subscribers[-1].start()
        await run.more()
    for view in views:
        answer, *rest = since_return(view)
        assert isinstance(answer, Subscribed)
        assert answer.recovered
        assert rest
        assert not any(isinstance(sight, GapTold | EpochTold) for sight in rest)


async def test_from_the_log_where_the_window_was_trimmed(rig: Rig) -> None:
    """More than a window full of messages passed: replay reads them, edges hand them on, then comes the window."""
    async with load(rig, sessions=1, sdk=False) as run:
        views = await left_in_the_middle(run)
        flood = run.publisher("flood", run.sessions, per_s=2_000.0, window=60)
        flood.start()
        await until("a window is passed", lambda: flood.settled > 1.3 * WINDOW_MESSAGES, 60.0)
        flood.rest()
        run.history.note("more than a window has passed")
        asked = log_reads(rig)
        run.subscribers[-1].start()
        first = run.subscriber("first")
        first.start()
        await run.subscribed()
        assert log_reads(rig) > asked, "nobody had to read the log: the test proves nothing"
    late = run.history.view("first", run.sessions[0])
    assert len(late.delivered) > 1.3 * WINDOW_MESSAGES
    for view in [*views, late]:
        answer, *rest = since_return(view)
        assert isinstance(answer, Subscribed)
        assert answer.recovered
        assert not any(isinstance(sight, GapTold | EpochTold) for sight in rest)


def log_reads(rig: Rig) -> float:
    return sum(rig.metric(edge, "heliograph_edge_history_reads_total", 'source="log"') for edge in rig.stack.edges)


async def test_over_a_restart_of_redis_that_lost_nothing_it_is_told_that_this_is_not_certain(rig: Rig) -> None:
    async with load(rig, sessions=2) as run:
        views = await left_in_the_middle(run)
        await rig.stop(rig.redis)
        await rig.launch(rig.redis)
        await rig.ready(rig.redis)
        run.history.note("redis was restarted, with its data")
        await run.more()
        run.subscribers[-1].start()
        await run.more()
    assert [told_epochs(view) for view in views] == [[False], [False]]


async def test_over_the_loss_of_redis_it_gets_all_that_is_durable(rig: Rig) -> None:
    async with load(rig, sessions=2) as run:
        views = await left_in_the_middle(run)
        await run.more()
        await rig.lose_live_store(run.history)
        await rig.launch(rig.redis)
        await rig.ready(rig.redis)
        run.history.note("redis was restarted, empty")
        await run.more()
        run.subscribers[-1].start()
        await run.more()
    assert [told_epochs(view) for view in views] == [[False], [False]]


async def test_over_the_expiry_of_an_idle_session_it_is_told_that_nothing_is_missing(rig: Rig) -> None:
    """Who stayed, and who was away: the session's keys went when all of it was in the log."""
    async with load(rig, sessions=1, sdk=False) as run:
        (view,) = await left_in_the_middle(run)
        (session,) = run.sessions
        for publisher in run.publishers:
            publisher.rest()
        await until("all is answered", lambda: all(publisher.at_rest for publisher in run.publishers))
        await rig.confirmed(run.sessions)
        async with rig.live() as live:
            shard = virtual_shard(session, 256)

            async def gone() -> bool:
                await live.expire(shard, 0.0, 1_000)
                return not (await live.heads([session]))[0].epoch

            for _ in range(100):
                if await gone():
                    break
            else:
                raise AssertionError("the session does not expire")
        run.history.note("the session has expired")
        again = run.publisher("again", run.sessions)
        again.start()
        await until("it is published to again", lambda: again.settled > 10)
        run.subscribers[-1].start()
        await until("some more", lambda: again.settled > 20)
    assert told_epochs(view) == [True]
    assert told_epochs(run.history.view("near", session)) == [True]


def told_epochs(view: View) -> list[bool]:
    """Whether each epoch frame since its return was certain."""
    return [sight.certain for sight in since_return(view) if isinstance(sight, EpochTold)]
