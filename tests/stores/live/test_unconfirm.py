"""What `unconfirm` promises: what the log has lost counts as unconfirmed again, and can be confirmed again."""

from msgspec.structs import replace
from tests.stores.live.helpers import ROOMY, ask, message, new_session, put_many, shard_of, status

from heliograph.stores.ports import AppendStatus, LiveStore, StoreError

ALL_MS = 10**14
SIZE = 513
"""Of a message of one byte."""


async def confirmed_session(store: LiveStore, count: int) -> tuple[str, str]:
    """A session of so many messages, all confirmed; and its epoch."""
    session = new_session()
    positions = await put_many(store, session, [b"1"] * count)
    epoch = positions[0].epoch
    await store.confirm(session, epoch, [(seq, SIZE) for seq in range(1, count + 1)])
    return session, epoch


async def test_what_the_log_lost_is_unconfirmed_and_dirty_until_it_is_confirmed_again(store: LiveStore) -> None:
    session, epoch = await confirmed_session(store, 5)
    before = (await store.pressure()).unconfirmed_bytes
    assert await store.unconfirm(session, epoch, 2, 5, 4 * SIZE) == 4
    assert (await store.heads([session]))[0].confirmed == 1
    assert [one.position.seq for one in await store.unconfirmed(session, 10)] == [2, 3, 4, 5]
    assert session in dict(await store.dirty(shard_of(session), ALL_MS, 10_000))
    assert (await store.pressure()).unconfirmed_bytes == before + 4 * SIZE
    head = await store.confirm(session, epoch, [(seq, SIZE) for seq in (2, 4, 3, 5)])
    assert head.confirmed == 5
    assert session not in dict(await store.dirty(shard_of(session), ALL_MS, 10_000))
    assert (await store.pressure()).unconfirmed_bytes == before


async def test_what_was_confirmed_behind_stays_so(store: LiveStore) -> None:
    session, epoch = await confirmed_session(store, 6)
    assert await store.unconfirm(session, epoch, 1, 3, 3 * SIZE) == 3
    assert [one.position.seq for one in await store.unconfirmed(session, 10)] == [1, 2, 3]
    head = await store.confirm(session, epoch, [(seq, SIZE) for seq in (1, 2, 3)])
    assert head.confirmed == 6


async def test_a_repeat_is_told_that_it_is_not_in_the_log(store: LiveStore) -> None:
    session = new_session()
    one = message(session, seq=1)
    first = await ask(store, one)
    assert not isinstance(first, StoreError)
    await store.confirm(session, first.epoch, [(1, SIZE)])
    assert await store.unconfirm(session, first.epoch, 1, 1, SIZE) == 1
    again = await ask(store, one)
    assert not isinstance(again, StoreError)
    assert (again.status, again.confirmed) == (AppendStatus.DUPLICATE, False)


async def test_a_session_that_has_moved_on_is_left_alone(store: LiveStore) -> None:
    session, epoch = await confirmed_session(store, 4)
    await put_many(store, session, [b"1"] * 2)
    for asked in (
        (session, "1000000000000-00000000", 1, 4),
        (new_session(), epoch, 1, 4),
        (session, epoch, 1, 5),
        (session, epoch, 0, 4),
        (session, epoch, 4, 3),
    ):
        assert await store.unconfirm(*asked, SIZE) == 0, asked
    assert (await store.heads([session]))[0].confirmed == 4


async def test_what_the_window_no_longer_has_can_not_be_written_again(store: LiveStore) -> None:
    session = new_session()
    small = replace(ROOMY, window_messages=8)
    epoch = ""
    for seq in range(1, 21):
        (position,) = await put_many(store, session, [b"1"], small)
        epoch = position.epoch
        await store.confirm(session, epoch, [(seq, SIZE)])
    first = (await store.heads([session]))[0].first_seq
    assert first > 2
    assert await store.unconfirm(session, epoch, first - 1, 20, SIZE) == 0
    assert await store.unconfirm(session, epoch, first, 20, (21 - first) * SIZE) == 21 - first


async def test_it_counts_in_the_bounds_of_what_is_unconfirmed(store: LiveStore) -> None:
    session, epoch = await confirmed_session(store, 4)
    narrow = replace(ROOMY, unconfirmed_messages=4)
    assert status(await ask(store, message(session), narrow)) is AppendStatus.OK
    await store.confirm(session, epoch, [(5, SIZE)])
    await store.unconfirm(session, epoch, 2, 5, 4 * SIZE)
    assert status(await ask(store, message(session), narrow)) is AppendStatus.BACKLOG
