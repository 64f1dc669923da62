"""What `confirm` and what is read of it promise."""

import time

from msgspec.structs import replace
from tests.stores.live.helpers import (
    ROOMY,
    Live,
    ask,
    in_shard_of,
    message,
    new_session,
    put,
    put_many,
    shard_of,
    status,
)

from heliograph.core.positions import Position
from heliograph.stores.ports import AppendStatus, LiveStore

ALL_MS = 10**14


async def dirty_since(store: LiveStore, session: str, before_ms: int = ALL_MS) -> int | None:
    return dict(await store.dirty(shard_of(session), before_ms, 10_000)).get(session)


async def test_positions_are_confirmed_one_by_one_in_any_order(store: LiveStore) -> None:
    session = new_session()
    positions = await put_many(store, session, [b"1"] * 5)
    epoch = positions[0].epoch
    assert (await store.confirm(session, epoch, [(4, 513), (2, 513)])).confirmed == 0
    assert await store.confirmed(session, positions) == [False, True, False, True, False]
    assert (await store.confirm(session, epoch, [(1, 513)])).confirmed == 2
    assert (await store.confirm(session, epoch, [(5, 513), (3, 513)])).confirmed == 5
    assert await store.confirmed(session, positions) == [True] * 5


async def test_confirming_again_changes_nothing(store: LiveStore) -> None:
    session = new_session()
    positions = await put_many(store, session, [b"1"] * 3)
    pairs = [(1, 513), (3, 513)]
    head = await store.confirm(session, positions[0].epoch, pairs)
    for _ in range(2):
        assert await store.confirm(session, positions[0].epoch, [*pairs, *pairs]) == head
    assert [one.position.seq for one in await store.unconfirmed(session, 10)] == [2]


async def test_positions_of_another_epoch_or_past_the_head_or_of_no_session_change_nothing(store: LiveStore) -> None:
    session = new_session()
    (position,) = await put_many(store, session, [b"1"])
    assert (await store.confirm(session, "1000000000000-00000000", [(1, 513)])).confirmed == 0
    assert (await store.confirm(session, position.epoch, [(2, 513), (9, 513)])).confirmed == 0
    assert (await store.confirm(session, position.epoch, [])).confirmed == 0
    head = await store.confirm(new_session(), position.epoch, [(1, 513)])
    assert (head.epoch, head.seq, head.confirmed) == ("", 0, 0)


async def test_confirmed_tells_what_it_can_not_tell(store: LiveStore) -> None:
    session = new_session()
    (position,) = await put_many(store, session, [b"1"])
    asked = [position, Position("1000000000000-00000000", 1), Position(position.epoch, 2)]
    assert await store.confirmed(session, asked) == [False, None, None]
    assert await store.confirmed(new_session(), [position]) == [None]
    assert await store.confirmed(session, []) == []


async def test_a_hole_outlives_the_router_that_saw_it(live: Live) -> None:
    """Kept in the router's memory alone, what it had confirmed ahead of the hole would be forgotten with it."""
    session, first_router = new_session(), await live.store()
    positions = await put_many(first_router, session, [b"1"] * 5)
    await first_router.confirm(session, positions[0].epoch, [(1, 513), (3, 513), (5, 513)])
    await first_router.close()
    next_router = await live.store()
    assert [one.position.seq for one in await next_router.unconfirmed(session, 10)] == [2, 4]
    head = await next_router.confirm(session, positions[0].epoch, [(2, 513)])
    assert head.confirmed == 3
    head = await next_router.confirm(session, positions[0].epoch, [(4, 513)])
    assert head.confirmed == 5


async def test_many_sessions_are_confirmed_in_one_call_in_the_order_asked(store: LiveStore) -> None:
    one = new_session()
    sessions = [one, in_shard_of(one, "other"), new_session(), new_session()]
    batch = []
    for number, session in enumerate(sessions, start=1):
        positions = await put_many(store, session, [b"1"] * number)
        batch.append((session, positions[0].epoch, [(position.seq, 513) for position in positions]))
    heads = await store.confirm_many([*batch, batch[0], (new_session(), "1000000000000-00000000", [(1, 1)])])
    assert [getattr(head, "confirmed", None) for head in heads] == [1, 2, 3, 4, 1, 0]
    assert await store.confirm_many([]) == []


async def test_bytes_that_append_added_confirm_takes_away_exactly(store: LiveStore) -> None:
    session = new_session()
    bounds = replace(ROOMY, unconfirmed_bytes=1_001)
    position = await put(store, message(session, size_bytes=400), bounds)
    await put(store, message(session, size_bytes=500), bounds)
    await put(store, message(session, size_bytes=101), bounds)
    assert status(await ask(store, message(session), bounds)) is AppendStatus.BACKLOG
    await store.confirm(session, position.epoch, [(3, 101), (3, 101)])
    await put(store, message(session, size_bytes=101), bounds)
    assert status(await ask(store, message(session), bounds)) is AppendStatus.BACKLOG


async def test_wrong_sizes_are_forgotten_once_all_is_confirmed(store: LiveStore) -> None:
    session = new_session()
    bounds = replace(ROOMY, unconfirmed_bytes=1_000, tenant_shard_bytes=1_000)
    for size in (1, 10**6):
        position = await put(store, message(session, size_bytes=1_000), bounds)
        await store.confirm(session, position.epoch, [(position.seq, size)])
    sibling = in_shard_of(session, session.partition(":")[0])
    await put(store, message(sibling, size_bytes=1_000), bounds)
    assert status(await ask(store, message(session), bounds)) is AppendStatus.BACKLOG


async def test_a_session_is_dirty_from_its_first_unconfirmed_message_until_all_are_confirmed(store: LiveStore) -> None:
    session = new_session()
    before_ms = time.time_ns() // 1_000_000
    position = await put(store, message(session))
    since_ms = await dirty_since(store, session)
    assert since_ms is not None
    assert before_ms <= since_ms <= time.time_ns() // 1_000_000
    await put(store, message(session))
    assert await dirty_since(store, session) == since_ms, "the oldest one counts"
    assert await dirty_since(store, session, since_ms) is None
    assert await dirty_since(store, session, since_ms + 1) == since_ms
    await store.confirm(session, position.epoch, [(2, 513)])
    assert await dirty_since(store, session) == since_ms
    await store.confirm(session, position.epoch, [(1, 513)])
    assert await dirty_since(store, session) is None


async def test_progress_makes_a_dirty_session_younger_but_never_too_old(store: LiveStore) -> None:
    """A time before the oldest message's own would have it written again while its first produce may be under way."""
    session = new_session()
    first = await put(store, message(session))
    await put(store, message(session))
    second_ms = time.time_ns() // 1_000_000
    await store.confirm(session, first.epoch, [(1, 513)])
    since_ms = await dirty_since(store, session)
    assert since_ms is not None
    assert since_ms >= second_ms


async def test_dirty_sessions_come_oldest_first_and_bounded(store: LiveStore) -> None:
    session = new_session()
    sessions = [session, *(in_shard_of(session, "other") for _ in range(3))]
    for one in sessions:
        await put(store, message(one))
    found = await store.dirty(shard_of(session), ALL_MS, 10_000)
    assert [since for _, since in found] == sorted(since for _, since in found)
    assert {name for name, _ in found} >= set(sessions)
    assert len(await store.dirty(shard_of(session), ALL_MS, 2)) == 2


async def test_unconfirmed_messages_come_with_all_that_the_log_needs(store: LiveStore) -> None:
    session = new_session()
    messages = [message(session, b"%d" % seq, seq=seq) for seq in (1, 2, 3)]
    positions = [await put(store, one) for one in messages]
    await store.confirm(session, positions[0].epoch, [(2, 513)])
    found = await store.unconfirmed(session, 10)
    frames = (await store.page(session, None)).frames
    assert [(one.position, one.frame, one.extras) for one in found] == [
        (positions[0], frames[0], messages[0].extras),
        (positions[2], frames[2], messages[2].extras),
    ]
    assert [one.position.seq for one in await store.unconfirmed(session, 1)] == [1]
    assert await store.unconfirmed(new_session(), 10) == []


async def test_pressure_counts_unconfirmed_bytes_over_all_sessions(store: LiveStore) -> None:
    before = (await store.pressure()).unconfirmed_bytes
    session, other = new_session(), new_session()
    position = await put(store, message(session, size_bytes=700))
    await put(store, message(other, size_bytes=50))
    after = await store.pressure()
    assert after.unconfirmed_bytes == before + 750
    assert after.used_bytes > 0
    await store.confirm(session, position.epoch, [(1, 700)])
    assert (await store.pressure()).unconfirmed_bytes == before + 50


# ---- expiry ---------------------------------------------------------------------------------------------------------


async def test_an_idle_and_wholly_confirmed_session_is_forgotten_and_begins_a_later_epoch(store: LiveStore) -> None:
    session = new_session()
    first = await put(store, message(session, b"1", seq=1, partition=7))
    await store.confirm(session, first.epoch, [(1, 513)])
    assert await store.expire(shard_of(session), 0, 10_000) >= 1
    assert (await store.heads([session]))[0].epoch == ""
    assert await store.partition_of(session) is None
    again = await put(store, message(session, b"1", seq=1))
    assert (again.seq, again.epoch > first.epoch) == (1, True)


async def test_a_session_with_unconfirmed_messages_is_never_forgotten(store: LiveStore) -> None:
    session = new_session()
    position = await put(store, message(session))
    await store.expire(shard_of(session), 0, 10_000)
    assert (await store.heads([session]))[0].epoch == position.epoch
    assert len(await store.unconfirmed(session, 10)) == 1


async def test_a_session_that_is_not_idle_long_enough_stays(store: LiveStore) -> None:
    session = new_session()
    position = await put(store, message(session))
    await store.confirm(session, position.epoch, [(1, 513)])
    await store.expire(shard_of(session), 3_600, 10_000)
    assert (await store.heads([session]))[0].epoch == position.epoch
    assert await store.expire(shard_of(session), 3_600, 10_000) == 0


async def test_a_forgotten_session_is_not_dirty_and_holds_no_bytes(store: LiveStore) -> None:
    session = new_session()
    before = (await store.pressure()).unconfirmed_bytes
    position = await put(store, message(session))
    await store.confirm(session, position.epoch, [(1, 513)])
    await store.expire(shard_of(session), 0, 10_000)
    assert await dirty_since(store, session) is None
    assert (await store.pressure()).unconfirmed_bytes == before


# ---- forgetting a tenant's sessions ---------------------------------------------------------------------------------


async def test_sessions_that_are_to_be_forgotten_go_with_all_they_have_confirmed_or_not(store: LiveStore) -> None:
    one, tenant = new_session(), new_session().partition(":")[0]
    other, stays = in_shard_of(one, tenant), new_session()
    before = (await store.pressure()).unconfirmed_bytes
    first = await put(store, message(one, b"1", seq=1))
    await put(store, message(one, b"2", seq=2))
    await put(store, message(other))
    kept = await put(store, message(stays))
    assert await store.forget([one, other, new_session()]) == 2
    assert [head.epoch for head in await store.heads([one, other, stays])] == ["", "", kept.epoch]
    assert await dirty_since(store, one) is None
    assert (await store.page(one, None)).frames == []
    size = (await store.pressure()).unconfirmed_bytes - before
    await store.confirm(stays, kept.epoch, [(1, size)])
    assert (await store.pressure()).unconfirmed_bytes == before
    assert one not in (await store.sessions(shard_of(one), one))[1]
    again = await put(store, message(one, b"1", seq=1))
    assert (again.seq, again.epoch > first.epoch) == (1, True)
    assert await store.forget([]) == 0
