"""Pages for edges."""

import asyncio

from tests.services.replay.rig import BEGUN_MS, E1, E2, SESSION, World, frames_of, message, until

from heliograph.core.limits import PAGE_BYTES
from heliograph.core.positions import MAX_SEQ, Position
from heliograph.protocol.codes import GapReason
from heliograph.protocol.gaps import gap_message
from heliograph.stores.ports import RehydratedPage, RehydrationRequest


def at(seq: int, epoch: str = E1) -> str:
    return str(Position(epoch, seq))


async def ask(
    world: World, after: str | None = None, until_: str | None = None, session: str = SESSION
) -> RehydratedPage:
    return await world.rehydration.ask(RehydrationRequest(session, after, until_), 20)


async def test_a_page_holds_the_frames_after_a_position(world: World) -> None:
    world.write(*(message(seq) for seq in range(1, 21)))
    await world.start()
    assert await ask(world, at(5)) == RehydratedPage(frames_of(*(message(seq) for seq in range(6, 21))), more=False)
    assert await ask(world, at(5), at(7)) == RehydratedPage(frames_of(message(6), message(7)), more=False)
    assert (await ask(world)).frames == frames_of(*(message(seq) for seq in range(1, 21)))


async def test_pages_are_bounded_and_go_on(world: World) -> None:
    sent = [message(seq, payload=b'"' + b"x" * 60_000 + b'"') for seq in range(1, 16)]
    world.write(*sent)
    await world.start()
    seen: list[bytes] = []
    page = await ask(world)
    while page.more:
        assert 0 < sum(map(len, page.frames)) <= PAGE_BYTES
        seen += page.frames
        page = await ask(world, at(len(seen)))
    assert seen + page.frames == frames_of(*sent)


async def test_one_message_above_the_bound_is_a_page(world: World) -> None:
    sent = [message(seq, payload=b'"' + b"x" * PAGE_BYTES + b'"') for seq in (1, 2)]
    world.write(*sent)
    await world.start()
    page = await ask(world)
    assert (page.frames, page.more) == (frames_of(sent[0]), True)


async def test_equal_requests_are_one_read(world: World) -> None:
    world.write(*(message(seq) for seq in range(1, 21)))
    await world.start()
    pages = await asyncio.gather(*(ask(world, at(5)) for _ in range(50)))
    assert all(page == pages[0] for page in pages)
    assert world.value("rehydrations_total", end="page") == 1


async def test_it_ends_where_the_hot_window_begins(world: World) -> None:
    """The live store has what its window has; the log is read for what is before."""
    sent = await world.append(3)
    older = [message(seq, E1) for seq in range(1, 6)]
    world.write(*older, *sent, partition=0)
    await world.start()
    page = await ask(world, at(2))
    assert (page.frames, page.more) == (frames_of(*older[2:]), False)


async def test_a_gap_is_before_the_first_frame_of_a_page(world: World) -> None:
    gap = gap_message(SESSION, Position(E1, 3), GapReason.NEVER_WRITTEN, BEGUN_MS)
    world.write(message(1), message(2), gap, message(4))
    await world.start()
    page = await ask(world)
    assert (page.frames, page.more, page.gap_before) == (frames_of(message(1), message(2)), True, None)
    page = await ask(world, at(2))
    assert (page.frames, page.more, page.gap_before) == (frames_of(message(4)), False, [at(3), at(3), "never_written"])


async def test_what_retention_took_is_the_gap_before(world: World) -> None:
    records = world.write(*(message(seq) for seq in range(1, 11)), message(1, E2))
    world.log.truncate(world.topic, records[0].partition, 6)
    await world.start()
    page = await ask(world, at(2))
    assert page.gap_before == [at(3), at(6), "retention"]
    assert page.frames == frames_of(*(message(seq) for seq in range(7, 11)), message(1, E2))
    world.log.truncate(world.topic, records[0].partition, 10)
    page = await ask(world, at(1))
    assert page.gap_before == [at(2), at(MAX_SEQ), "retention"]
    assert page.frames == frames_of(message(1, E2))


async def test_a_log_that_is_away_is_an_answer(world: World) -> None:
    await world.start()
    world.log.available = False
    assert (await ask(world)).code == "history_unavailable"
    assert world.value("rehydrations_total", end="history_unavailable") == 1


async def test_what_is_no_request_of_ours_is_answered_all_the_same(world: World) -> None:
    await world.start()
    assert (await ask(world, session="nobody:planner:1")).code == "history_unavailable"
    assert (await ask(world, session="no session")).code == "history_unavailable"
    assert (await ask(world, after="no position")).code == "history_unavailable"


async def test_a_storm_of_one_tenant_leaves_a_reader_for_others(world: World) -> None:
    held: asyncio.Event = asyncio.Event()
    scan = world.edge_log.scan

    async def slow(topic: str, *arguments: object, **options: object):  # type: ignore[no-untyped-def] # as the one it stands for
        if topic == world.topic:
            await held.wait()
        async for step in scan(topic, *arguments, **options):  # type: ignore[arg-type]
            yield step

    world.edge_log.scan = slow  # type: ignore[method-assign]
    world.write(*(message(1, session=f"acme:planner:{number}") for number in range(20)))
    await world.start(rehydration_readers=3, rehydration_readers_per_tenant=2)
    storm = [asyncio.create_task(ask(world, session=f"acme:planner:{number}")) for number in range(20)]
    await until(lambda: world.value("starts_total", how="beginning") >= 2)
    assert (await ask(world, session="other:planner:1")).code is None
    assert not any(task.done() for task in storm)
    held.set()
    assert all(page.code is None for page in await asyncio.gather(*storm))
