"""What has expired is not read any more, on no way, and who asks for it is told so."""

import asyncio
import json

from tests.services.replay.rig import BEGUN_MS, DEADLINE_S, E1, E2, SESSION, World, frames_of, message

from heliograph.core.expiry import Expiry
from heliograph.core.positions import Position
from heliograph.protocol.expiries import expiry_message
from heliograph.protocol.messages import rfc3339
from heliograph.stores.ports import RehydratedPage, RehydrationRequest, StoreError


def at(seq: int, epoch: str = E1) -> str:
    return str(Position(epoch, seq))


def gap(first: int, last: int, epoch: str = E1) -> dict[str, str]:
    return {"type": "gap", "session": SESSION, "reason": "expired", "from": at(first, epoch), "to": at(last, epoch)}


async def expire(world: World, seq: int) -> None:
    """Messages up to this one."""
    await world.expiries.put(SESSION, Expiry(BEGUN_MS + seq * 1_000, BEGUN_MS))


async def test_a_session_of_which_all_has_expired_answers_expired(world: World) -> None:
    world.write(*(message(seq) for seq in range(1, 21)))
    await expire(world, 20)
    await world.start()
    for params in ({}, {"after": at(5)}, {"from_time": rfc3339(BEGUN_MS)}, {"limit": 3}, {"until": at(9)}):
        for format_ in ("json", "ndjson"):
            answer = await world.get(format=format_, **params)
            assert (answer.status_code, answer.json()["code"]) == (410, "expired"), (params, format_)
    assert world.value("requests_refused_total", reason="expired") == 10


async def test_what_came_later_is_read_behind_a_gap_that_says_why(world: World) -> None:
    world.write(*(message(seq) for seq in range(1, 301)))
    await expire(world, 200)
    await world.start()
    page = await world.page()
    assert (page.frames, page.gaps) == (frames_of(*(message(seq) for seq in range(201, 301))), [gap(1, 200)])
    page = await world.page(after=at(150), limit=10)
    assert (page.frames, page.gaps) == (frames_of(*(message(seq) for seq in range(201, 211))), [gap(151, 200)])
    page = await world.page(after=page.next or "", resume=page.resume or "")
    assert (page.frames, page.gaps) == (frames_of(*(message(seq) for seq in range(211, 301))), [])
    lines = await world.lines(after=at(150))
    assert json.loads(lines[0]) == gap(151, 200)
    assert lines[1:-1] == frames_of(*(message(seq) for seq in range(201, 301)))


async def test_who_has_all_that_is_left_is_told_nothing(world: World) -> None:
    world.write(*(message(seq) for seq in range(1, 21)))
    await expire(world, 20)
    await world.start()
    page = await world.page(after=at(20))
    assert (page.frames, page.gaps, page.complete) == ([], [], True)


async def test_a_time_before_the_expiry_is_read_from_behind_it(world: World) -> None:
    world.write(*(message(seq) for seq in range(1, 21)))
    await expire(world, 10)
    await world.start()
    for seq in (3, 10, 11):
        page = await world.page(from_time=rfc3339(BEGUN_MS + seq * 1_000))
        assert page.frames == frames_of(*(message(seq) for seq in range(11, 21)))


async def test_the_messages_own_time_counts_not_the_order(world: World) -> None:
    """Edges' clocks differ: a later position may be older."""
    world.write(message(1), message(2, time_ms=BEGUN_MS + 90_000), message(3), message(1, E2))
    await expire(world, 3)
    await world.start()
    page = await world.page()
    assert page.frames == frames_of(message(2, time_ms=BEGUN_MS + 90_000))
    assert page.gaps == [gap(1, 1), gap(3, 3), gap(1, 1, E2)]


async def test_what_has_long_expired_is_not_looked_through_from_the_beginning(world: World) -> None:
    world.write(*(message(seq) for seq in range(1, 401)))
    world.now_ms += 3_600_000
    world.write(message(401, time_ms=world.now_ms), message(402, time_ms=world.now_ms))
    await world.expiries.put(SESSION, Expiry(world.now_ms - 1, BEGUN_MS))
    await world.start()
    page = await world.page()
    assert len(page.frames) == 2
    assert page.gaps == [gap(1, 400)]
    assert world.value("records_scanned_total") == 2
    assert world.value("starts_total", how="expiry") == 1


async def test_the_records_of_expiries_are_no_messages(world: World) -> None:
    world.write(message(1), expiry_message(SESSION, Expiry(BEGUN_MS + 1, BEGUN_MS), "ops"), message(2))
    await world.start()
    assert (await world.page()).frames == frames_of(message(1), message(2))


async def test_a_change_is_seen_within_a_second(world: World) -> None:
    world.write(message(1))
    await world.start()
    assert (await world.page()).frames == frames_of(message(1))
    await expire(world, 1)
    async with asyncio.timeout(DEADLINE_S):
        while (answer := await world.get()).status_code == 200:
            pass
    assert answer.json()["code"] == "expired"


async def test_edges_get_a_gap_that_says_why_and_what_came_later(world: World) -> None:
    world.write(*(message(seq) for seq in range(1, 21)), *(message(seq, E2) for seq in range(1, 31)))
    await expire(world, 25)
    await world.start()
    page = await ask(world, at(5))
    assert page == RehydratedPage([], more=True, gap_before=[at(6), at(20), "expired"])
    page = await ask(world, at(20))
    left = frames_of(*(message(seq, E2) for seq in range(26, 31)))
    assert page == RehydratedPage(left, more=False, gap_before=[at(1, E2), at(25, E2), "expired"])
    assert await ask(world, None) == RehydratedPage(left, more=False)


async def test_what_is_not_known_is_not_read(world: World) -> None:
    """A store that is down must not show what somebody had forgotten; who never asked for that is read on."""
    world.write(message(1))
    await world.expiries.put("acme:planner:other", Expiry(BEGUN_MS, BEGUN_MS))
    await world.start()

    async def away(_sessions: object) -> None:
        raise StoreError("unavailable", "away")

    world.expiries.get = away  # type: ignore[method-assign,assignment]
    answer = await world.get()
    assert (answer.status_code, answer.json()["code"]) == (503, "history_unavailable")
    assert answer.headers["retry-after"]
    assert (await ask(world, at(1))).code == "history_unavailable"
    assert (await world.get("other:planner:1", token=world.headers("other"))).status_code == 200


async def ask(world: World, after: str | None) -> RehydratedPage:
    return await world.rehydration.ask(RehydrationRequest(SESSION, after, None), 20)
