"""What a restart of the live store's server does to positions: with its data, and without."""

import pytest
from msgspec.structs import replace
from tests.stores.live.helpers import (
    DUPLICATE,
    OK,
    ROOMY,
    Listener,
    Live,
    ask,
    message,
    new_session,
    put,
    put_many,
    shard_of,
    status,
    subscribed,
    until,
)

from heliograph.core.positions import Position
from heliograph.stores.ports import Appended, AppendStatus, StoreError


@pytest.mark.parametrize("keep", [True, False])
async def test_a_restarted_server_begins_a_new_epoch(mortal: Live, keep: bool) -> None:
    """Had the counter begun again in the old epoch, one position would name two messages."""
    store, session = await mortal.store(), new_session()
    before = await put(store, message(session))
    await mortal.restart(keep=keep)
    after = await put(store, message(session))
    assert after.seq == 1
    assert after.epoch > before.epoch
    assert after.epoch[14:] != before.epoch[14:]
    assert (await store.heads([session]))[0].next_epoch[14:] == after.epoch[14:]


@pytest.mark.parametrize("keep", [True, False])
async def test_before_its_first_append_a_head_shows_the_old_epoch_and_the_new_run(mortal: Live, keep: bool) -> None:
    store, session = await mortal.store(), new_session()
    before = await put(store, message(session))
    await mortal.restart(keep=keep)
    (head,) = await store.heads([session])
    assert head.epoch == (before.epoch if keep else "")
    assert head.next_epoch[14:] != before.epoch[14:]


async def test_sessions_that_begin_in_one_millisecond_have_epochs_of_their_own(mortal: Live) -> None:
    store = await mortal.store()
    sessions = [new_session() for _ in range(200)]
    positions = [await put(store, message(session)) for session in sessions]
    by_shard: dict[int, list[str]] = {}
    for session, position in zip(sessions, positions, strict=True):
        by_shard.setdefault(shard_of(session), []).append(position.epoch)
    assert all(len(set(epochs)) == len(epochs) for epochs in by_shard.values())


async def test_what_the_old_epoch_left_unconfirmed_stays_and_can_be_confirmed(mortal: Live) -> None:
    store, session = await mortal.store(), new_session()
    old = await put_many(store, session, [b"1", b"2", b"3"])
    await store.confirm(session, old[0].epoch, [(2, 513)])
    await mortal.restart(keep=True)
    new = await put_many(store, session, [b"4", b"5"])
    left = await store.unconfirmed(session, 10)
    assert [one.position for one in left] == [old[0], old[2], *new]
    assert all(one.frame for one in left)
    assert await store.confirmed(session, [*old, *new]) == [False, True, False, False, False]
    assert session in dict(await store.dirty(shard_of(session), 10**14, 10_000))
    await store.confirm(session, old[0].epoch, [(3, 513), (1, 513)])
    await store.confirm(session, new[0].epoch, [(1, 513)])
    assert [one.position for one in await store.unconfirmed(session, 10)] == [new[1]]
    assert await store.confirmed(session, [*old, *new]) == [True, True, True, True, False]
    await store.confirm(session, new[0].epoch, [(2, 513)])
    assert session not in dict(await store.dirty(shard_of(session), 10**14, 10_000))
    assert (await store.pressure()).unconfirmed_bytes == 0


async def test_bounds_count_what_the_old_epoch_left(mortal: Live) -> None:
    store, session, bounds = await mortal.store(), new_session(), replace(ROOMY, unconfirmed_messages=3)
    old = await put_many(store, session, [b"1", b"2"], bounds)
    await mortal.restart(keep=True)
    await put(store, message(session), bounds)
    assert status(await ask(store, message(session), bounds)) is AppendStatus.BACKLOG
    await store.confirm(session, old[0].epoch, [(1, 513)])
    await put(store, message(session), bounds)


async def test_a_second_restart_waits_until_the_first_epochs_messages_are_confirmed(mortal: Live) -> None:
    store, session = await mortal.store(), new_session()
    old = await put(store, message(session, b"1", seq=1))
    await mortal.restart(keep=True)
    middle = await put(store, message(session, b"2", seq=2))
    await mortal.restart(keep=True)
    assert status(await ask(store, message(session, b"3", seq=3))) is AppendStatus.RECOVERING
    repeat = await ask(store, message(session, b"2", seq=2))
    assert repeat == Appended(DUPLICATE, *middle, partition=3), "what is known is answered"
    await store.confirm(session, old.epoch, [(1, 513)])
    last = await put(store, message(session, b"3", seq=3))
    assert [one.position for one in await store.unconfirmed(session, 10)] == [middle, last]


async def test_positions_from_before_the_former_epoch_are_known_while_the_window_has_them(mortal: Live) -> None:
    """Else whoever was told `pending` before two restarts in a row would never hear that it is durable."""
    store, session = await mortal.store(), new_session()
    first = await put(store, message(session, b"1"))
    await store.confirm(session, first.epoch, [(1, 513)])
    for body in (b"2", b"3"):
        await mortal.restart(keep=True)
        await put(store, message(session, body))
    stranger = Position(f"{first.epoch_ms:013d}-00000000", 1)
    never = Position(first.epoch, 2)
    assert await store.confirmed(session, [first, stranger, never]) == [True, None, None]


async def test_a_repeat_across_a_restart_gets_its_old_position_where_data_was_kept(mortal: Live) -> None:
    store, session = await mortal.store(), new_session()
    first = await put(store, message(session, b"1", seq=1, message_id="a"))
    await mortal.restart(keep=True)
    assert await ask(store, message(session, b"1", seq=1)) == Appended(DUPLICATE, *first, partition=3)
    await put(store, message(session, b"2", seq=2))
    assert await ask(store, message(session, b"1", seq=1)) == Appended(DUPLICATE, *first, partition=3)
    again = message(session, b"1", seq=1, incarnation="inc-00000002", message_id="a")
    assert await ask(store, again) == Appended(DUPLICATE, *first, partition=3)
    await store.confirm(session, first.epoch, [(1, 513)])
    assert await ask(store, again) == Appended(DUPLICATE, *first, confirmed=True, partition=3)


async def test_a_producer_that_the_server_lost_is_refused_not_acknowledged(mortal: Live) -> None:
    store, session = await mortal.store(), new_session()
    await put(store, message(session, b"1", seq=1))
    await mortal.restart(keep=False)
    assert status(await ask(store, message(session, b"2", seq=2))) is AppendStatus.PRODUCER_UNKNOWN
    assert status(await ask(store, message(session, b"1", seq=1))) is OK


async def test_one_window_reaches_across_epochs(mortal: Live) -> None:
    store, session = await mortal.store(), new_session()
    old = await put_many(store, session, [b"1", b"2", b"3"])
    await mortal.restart(keep=True)
    new = await put_many(store, session, [b"4", b"5"])
    page = await store.page(session, None)
    assert len(page.frames) == 5
    assert page.complete
    assert (page.head.epoch, page.head.first_seq) == (new[0].epoch, 1)
    page = await store.page(session, old[1])
    assert (len(page.frames), page.complete) == (3, False), "of an older epoch: the log has the last word"
    assert (await store.page(session, Position(new[0].epoch, 0))).complete


async def test_an_epoch_of_before_is_trimmed_once_it_is_confirmed(mortal: Live) -> None:
    store, session, small = await mortal.store(), new_session(), replace(ROOMY, window_messages=16)
    old = await put_many(store, session, [b"1"] * 10, small)
    await mortal.restart(keep=True)
    for _ in range(4):
        new = await put_many(store, session, [b"1"] * 8, small)
        await store.confirm(session, new[0].epoch, [(one.seq, 513) for one in new])
    assert [one.position for one in await store.unconfirmed(session, 100)] == old
    await store.confirm(session, old[0].epoch, [(one.seq, 513) for one in old])
    await put_many(store, session, [b"1"], small)
    page = await store.page(session, None)
    assert len(page.frames) <= 18
    assert page.head.first_seq > 1


async def test_subscriptions_come_back_after_a_restart(mortal: Live) -> None:
    listener = Listener()
    store, session = await mortal.store(listener), new_session()
    await subscribed(store, listener, session)
    await put(store, message(session))
    await until(lambda: listener.of(session))
    await mortal.restart(keep=False)
    await until(lambda: listener.subscribed == [session, session])
    await put(store, message(session))
    await until(lambda: len(listener.of(session)) == 2)
    assert (listener.lost, listener.lost_sessions) == (1, [session])
    assert [name for name, _ in listener.events] == ["subscribed", "frame", "lost", "subscribed", "frame"]


async def test_while_the_server_is_away_appends_fail_with_a_code(mortal: Live) -> None:
    store, session = await mortal.store(), new_session()
    await put(store, message(session))
    await mortal.stop()
    await until(lambda: not store.available)
    answer = await ask(store, message(session))
    assert isinstance(answer, StoreError)
    assert (answer.code, answer.maybe_done) == ("live_unavailable", False)
    with pytest.raises(StoreError) as caught:
        await store.heads([session])
    assert caught.value.code == "live_unavailable"
    (confirmed,) = await store.confirm_many([(session, "1764000000000-1a2b3c4d", [(1, 1)])])
    assert isinstance(confirmed, StoreError)
