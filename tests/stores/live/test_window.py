"""What `page` and `heads` promise, and how the window is trimmed."""

from msgspec.structs import replace
from tests.stores.live.helpers import ROOMY, ask_all, message, new_session, put, put_many

from heliograph.core.limits import PAGE_BYTES
from heliograph.core.positions import Position
from heliograph.protocol.messages import frame_position
from heliograph.stores.ports import LiveStore

SMALL = replace(ROOMY, window_messages=80)


def seqs(frames: list[bytes]) -> list[int]:
    return [int((frame_position(frame) or b"0")[-16:]) for frame in frames]


async def test_a_session_without_keys_has_an_empty_head_and_page(store: LiveStore) -> None:
    session = new_session()
    (head,) = await store.heads([session])
    assert (head.epoch, head.seq, head.confirmed, head.first_seq) == ("", 0, 0, 0)
    page = await store.page(session, None)
    assert (page.frames, page.complete, page.more) == ([], True, False)
    assert not (await store.page(session, Position("1764000000000-1a2b3c4d", 3))).complete


async def test_heads_come_in_the_order_asked_also_twice(store: LiveStore) -> None:
    sessions = [new_session() for _ in range(30)]
    for number, session in enumerate(sessions):
        await put_many(store, session, [b"1"] * (number % 4 + 1))
    heads = await store.heads([*sessions, sessions[0]])
    assert [head.seq for head in heads] == [number % 4 + 1 for number in range(30)] + [1]
    assert await store.heads([]) == []


async def test_an_epoch_is_not_before_what_was_the_next_one_and_of_its_run(store: LiveStore) -> None:
    session = new_session()
    (before,) = await store.heads([session])
    await put(store, message(session))
    (head,) = await store.heads([session])
    assert head.epoch[14:] == before.next_epoch[14:] == head.next_epoch[14:]
    assert before.next_epoch <= head.epoch < head.next_epoch


async def test_a_page_begins_after_the_asked_position(store: LiveStore) -> None:
    session = new_session()
    positions = await put_many(store, session, [b"%d" % number for number in range(10)])
    page = await store.page(session, positions[3])
    assert seqs(page.frames) == [5, 6, 7, 8, 9, 10]
    assert (page.complete, page.more, page.head.seq) == (True, False, 10)


async def test_a_position_at_or_past_the_head_is_complete_and_empty(store: LiveStore) -> None:
    session = new_session()
    (position,) = await put_many(store, session, [b"1"])
    for seq in (1, 7):
        page = await store.page(session, Position(position.epoch, seq))
        assert (page.frames, page.complete, page.more) == ([], True, False)


async def test_pages_are_bounded_in_bytes_and_join_without_a_hole(store: LiveStore) -> None:
    session, body = new_session(), b'"' + b"x" * 20_000 + b'"'
    await put_many(store, session, [body] * 40)
    after, got, pages = None, [], 0
    while True:
        page = await store.page(session, after)
        pages += 1
        assert page.complete
        assert sum(map(len, page.frames)) <= PAGE_BYTES
        got += page.frames
        if not page.more:
            break
        after = Position.parse((frame_position(page.frames[-1]) or b"").decode())
    assert seqs(got) == list(range(1, 41))
    assert pages == 4


async def test_a_message_larger_than_a_page_is_a_page(store: LiveStore) -> None:
    session, large = new_session(), b'"' + b"x" * (PAGE_BYTES + 10_000) + b'"'
    positions = await put_many(store, session, [large, b"2", large])
    page = await store.page(session, None)
    assert (seqs(page.frames), page.more) == ([1], True)
    page = await store.page(session, positions[0])
    assert (seqs(page.frames), page.more) == ([2], True)


async def test_what_is_confirmed_is_trimmed_to_the_windows_size(store: LiveStore) -> None:
    session = new_session()
    for _ in range(20):
        positions = await put_many(store, session, [b"1"] * 20, SMALL)
        await store.confirm(session, positions[0].epoch, [(position.seq, 513) for position in positions])
    page = await store.page(session, None)
    assert 80 <= len(page.frames) <= 90
    assert seqs(page.frames) == list(range(401 - len(page.frames), 401))
    assert page.head.first_seq == seqs(page.frames)[0]


async def test_the_window_is_never_trimmed_past_what_is_unconfirmed(store: LiveStore) -> None:
    """Trimmed by size alone, the only copy of a message would go while the log is away."""
    session = new_session()
    positions = await put_many(store, session, [b"%d" % number for number in range(300)], SMALL)
    assert len((await store.page(session, None)).frames) == 300
    await store.confirm(session, positions[0].epoch, [(seq, 515) for seq in range(1, 300) if seq != 150])
    await put_many(store, session, [b"1"] * 5, SMALL)
    left = await store.unconfirmed(session, 10)
    assert [one.position.seq for one in left] == [150, 300, 301, 302, 303, 304, 305]
    assert all(one.frame for one in left)


async def test_the_window_is_trimmed_in_bytes(store: LiveStore) -> None:
    session, bounds = new_session(), replace(ROOMY, window_bytes=100_000)
    sizes = [100, 9_000, 300, 20_000, 50] * 20
    for size in sizes:
        position = await put(store, message(session, b'"' + b"x" * size + b'"'), bounds)
        await store.confirm(session, position.epoch, [(position.seq, size + 514)])
    frames, page = [], await store.page(session, None)
    while page.frames:
        frames += page.frames
        page = await store.page(session, Position.parse((frame_position(frames[-1]) or b"").decode()))
    assert 70_000 <= sum(map(len, frames)) <= 112_500
    assert seqs(frames)[-1] == 100


async def test_a_position_before_the_window_is_answered_as_incomplete(store: LiveStore) -> None:
    session = new_session()
    positions = await put_many(store, session, [b"1"] * 60, SMALL)
    await store.confirm(session, positions[0].epoch, [(seq, 513) for seq in range(1, 61)])
    await put_many(store, session, [b"1"] * 60, SMALL)
    first = (await store.page(session, None)).head.first_seq
    assert first > 2
    assert not (await store.page(session, positions[first - 3])).complete
    page = await store.page(session, positions[first - 2])
    assert page.complete
    assert seqs(page.frames)[0] == first


async def test_a_position_of_another_epoch_is_answered_as_incomplete_with_all_that_is_later(store: LiveStore) -> None:
    session = new_session()
    (position,) = await put_many(store, session, [b"1"])
    earlier = await store.page(session, Position("1000000000000-1a2b3c4d", 5))
    assert (seqs(earlier.frames), earlier.complete) == ([1], False)
    same_ms = await store.page(session, Position(position.epoch[:13] + "-00000000", 0))
    assert (seqs(same_ms.frames), same_ms.complete) == ([1], False)
    later = await store.page(session, Position("9000000000000-1a2b3c4d", 5))
    assert (later.frames, later.complete) == ([], False)


async def test_a_tick_of_appends_keeps_its_order(store: LiveStore) -> None:
    session = new_session()
    answers = await ask_all(store, [message(session, b"%d" % number) for number in range(500)])
    assert [getattr(answer, "seq", None) for answer in answers] == list(range(1, 501))
