"""Where a session without messages stands, and what whoever stood there has missed: nothing that is not said."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.stores.live.helpers import ROOMY, Live, in_shard_of, message, new_session, put, put_many, shard_of

from heliograph.core.limits import PAGE_BYTES
from heliograph.core.positions import Position
from heliograph.protocol.messages import frame_position
from heliograph.stores.memory.live_server import MemoryLiveServer
from heliograph.stores.ports import Appended, LiveStore, Page

SMALL = replace(ROOMY, window_messages=8)


async def before_first(store: LiveStore, session: str) -> Position:
    (head,) = await store.heads([session])
    assert not head.epoch
    return Position(head.next_epoch, 0)


async def confirm_all(store: LiveStore, positions: list[Position], session: str) -> None:
    await store.confirm(session, positions[0].epoch, [(one.seq, 513) for one in positions])


async def forgotten(store: LiveStore, session: str) -> None:
    """It goes, and all that are idle with it."""

    async def left() -> bool:
        await store.expire(shard_of(session), 0.0, 1_000)
        return bool((await store.heads([session]))[0].epoch)

    for _ in range(1_000):  # one that was just appended to is idle a millisecond later
        if not await left():
            return
    raise AssertionError("it stays")


def seqs(page: Page) -> list[int]:
    return [int((frame_position(frame) or b"0")[-16:]) for frame in page.frames]


async def test_nothing_is_missed_while_nothing_comes(store: LiveStore) -> None:
    session = new_session()
    stood = await before_first(store, session)
    page = await store.page(session, stood)
    assert (page.frames, page.complete, page.more, page.head.epoch) == ([], True, False, "")
    assert page.head.next_epoch == stood.epoch


async def test_all_that_came_since_is_in_the_window(store: LiveStore) -> None:
    session = new_session()
    stood = await before_first(store, session)
    positions = await put_many(store, session, [b"1"] * 5)
    assert positions[0].epoch >= stood.epoch
    page = await store.page(session, stood)
    assert (seqs(page), page.complete) == ([1, 2, 3, 4, 5], True)


async def test_it_is_so_however_many_sessions_began_meanwhile(store: LiveStore) -> None:
    session = new_session()
    stood = await before_first(store, session)
    for _ in range(5):
        await put(store, message(in_shard_of(session, "other")))
    assert (await store.page(session, stood)).complete
    await put(store, message(session))
    assert (await store.page(session, stood)).complete


async def test_a_page_goes_on_where_the_one_before_ended(store: LiveStore) -> None:
    session, body = new_session(), b'"' + b"x" * (PAGE_BYTES // 3) + b'"'
    stood = await before_first(store, session)
    await put_many(store, session, [body] * 4)
    page = await store.page(session, stood)
    assert (seqs(page), page.complete, page.more) == ([1, 2], True, True)
    page = await store.page(session, Position.parse((frame_position(page.frames[-1]) or b"").decode()))
    assert (seqs(page), page.complete, page.more) == ([3, 4], True, False)


async def test_what_was_trimmed_meanwhile_is_not_passed_over(store: LiveStore) -> None:
    session = new_session()
    stood = await before_first(store, session)
    positions = await put_many(store, session, [b"1"] * 30, SMALL)
    await confirm_all(store, positions, session)
    await put_many(store, session, [b"1"], SMALL)
    page = await store.page(session, stood)
    assert not page.complete
    assert seqs(page)[0] > 1


async def test_a_life_that_was_forgotten_meanwhile_is_not_passed_over(store: LiveStore) -> None:
    """Neither where the session has no keys again, nor where it has begun another life."""
    session = new_session()
    stood = await before_first(store, session)
    await confirm_all(store, await put_many(store, session, [b"1", b"2"]), session)
    await forgotten(store, session)
    assert not (await store.page(session, stood)).complete
    again = await before_first(store, session)
    assert (await store.page(session, again)).complete, "who comes now has missed nothing"
    await put(store, message(session, b"3"))
    page = await store.page(session, stood)
    assert (seqs(page), page.complete) == ([1], False)
    assert (await store.page(session, again)).complete


async def test_before_the_first_message_of_a_forgotten_life_is_not_before_the_next(store: LiveStore) -> None:
    session = new_session()
    positions = await put_many(store, session, [b"1", b"2"])
    await confirm_all(store, positions, session)
    before = Position(positions[0].epoch, 0)
    assert (await store.page(session, before)).complete
    await forgotten(store, session)
    assert not (await store.page(session, before)).complete
    await put(store, message(session, b"3"))
    assert not (await store.page(session, before)).complete


async def test_a_session_whose_data_was_removed_is_not_one_that_had_none(store: LiveStore) -> None:
    session = new_session()
    stood = await before_first(store, session)
    await put(store, message(session))
    await store.forget([session])
    assert not (await store.page(session, stood)).complete


async def test_a_place_that_was_never_told_is_not_believed(store: LiveStore) -> None:
    session = new_session()
    stood = await before_first(store, session)
    later = Position(f"{stood.epoch_ms + 1:013d}{stood.epoch[13:]}", 0)
    further = Position(stood.epoch, 1)
    for position in (later, further):
        assert not (await store.page(session, position)).complete


@pytest.mark.parametrize("keep", [True, False])
async def test_what_another_process_told_is_for_the_log_to_say(mortal: Live, keep: bool) -> None:
    """What came meanwhile may be lost with it, and the log alone knows."""
    store, session = await mortal.store(), new_session()
    stood = await before_first(store, session)
    await mortal.restart(keep=keep)
    assert not (await store.page(session, stood)).complete
    again = await before_first(store, session)
    assert (await store.page(session, again)).complete
    await put(store, message(session))
    assert not (await store.page(session, stood)).complete
    assert (await store.page(session, again)).complete


async def test_a_life_of_two_epochs_is_for_the_log_to_say(mortal: Live) -> None:
    store, session = await mortal.store(), new_session()
    stood = await before_first(store, session)
    await put(store, message(session, b"1"))
    await mortal.restart(keep=True)
    position = await put(store, message(session, b"2"))
    run = Position(stood.epoch[:14] + position.epoch[14:], 0)  # as if this process had told it
    for one in (stood, run):
        assert not (await store.page(session, one)).complete


class Times:
    """A server in memory whose clock may step back, and what it gave one session."""

    def __init__(self) -> None:
        self.ms = 1_764_000_000_000
        self.server = MemoryLiveServer(lambda: self.ms, virtual_shards=1)
        self.given: list[Position] = []
        self.told: list[tuple[Position, int]] = []
        """A place, and how many positions had been given then."""

    def append(self, session: str) -> None:
        answer = self.server.append(message(session), SMALL)
        assert isinstance(answer, Appended)
        if session == "t:planner:mine" and answer.seq:
            self.given.append(Position(answer.epoch, answer.seq))

    def confirm(self) -> None:
        for position in self.given:
            self.server.confirm("t:planner:mine", position.epoch, [(position.seq, 513)])

    def tell(self) -> None:
        head = self.server.head("t:planner:mine")
        if not head.epoch:
            self.told.append((Position(head.next_epoch, 0), len(self.given)))

    def check(self) -> None:
        for place, had in self.told:
            page = self.server.page("t:planner:mine", place)
            if page.complete:
                found = [Position.parse((frame_position(frame) or b"").decode()) for frame in page.frames]
                assert found == self.given[had:], (place, had)


Step = Callable[[Times], Any]
STEPS: list[Step] = [
    Times.tell,
    lambda times: times.append("t:planner:mine"),
    lambda times: times.append("t:planner:other"),
    Times.confirm,
    lambda times: times.server.confirm("t:planner:other", times.server.head("t:planner:other").epoch, [(1, 513)]),
    lambda times: times.server.expire(0, 0, 10),
    lambda times: times.server.forget("t:planner:other"),
    lambda times: times.server.restart(keep=True),
    lambda times: times.server.restart(keep=False),
    lambda times: setattr(times, "ms", times.ms + 1),
    lambda times: setattr(times, "ms", times.ms - 5_000),
]


@given(st.lists(st.sampled_from(STEPS), max_size=60))
@settings(max_examples=500, deadline=None)
def test_a_page_that_is_called_complete_has_all_that_was_given_since(script: list[Step]) -> None:
    """Whatever expires, restarts, begins beside it, or happens to the clock."""
    times = Times()
    for step in script:
        step(times)
        times.check()
