"""What cursors promise: consumers and the last position that each acknowledged, kept as long as their session."""

import asyncio
import random

import pytest
from tests.stores.live.helpers import Live, in_shard_of, message, new_session, put, put_many, shard_of

from heliograph.core.limits import CONSUMERS_PER_SESSION
from heliograph.core.positions import BEFORE_ALL, Position
from heliograph.stores.keys import client_consumer, serving_consumer
from heliograph.stores.ports import Ack, Acknowledged, AckStatus, LiveStore, StoreError

OK, AHEAD, FENCED, FULL = AckStatus.OK, AckStatus.AHEAD, AckStatus.FENCED, AckStatus.FULL
ME = client_consumer("you", "screen")
WORKERS = serving_consumer("planner")
OTHER_TIMES = (Position("1000000000000-00000000", 7), Position("9999999999999-ffffffff", 1))


async def ack(
    store: LiveStore, session: str, position: Position | None, consumer: str = ME, fence: int = 0
) -> Acknowledged:
    (answer,) = await store.acknowledge([Ack(session, consumer, position, fence)])
    assert isinstance(answer, Acknowledged), answer
    return answer


async def cursor(store: LiveStore, session: str, consumer: str = ME) -> Position | None:
    (found,) = await store.cursors(session, [consumer])
    return found


async def test_a_cursor_stands_where_its_consumer_acknowledged(store: LiveStore) -> None:
    session = new_session()
    positions = await put_many(store, session, [b"1"] * 3)
    assert await cursor(store, session) is None
    assert await ack(store, session, positions[1]) == Acknowledged(OK, positions[1], 0)
    assert await cursor(store, session) == positions[1]
    assert await store.cursors(session, ["c:nobody", ME]) == [None, positions[1]]
    assert await store.cursors(session, []) == []
    assert await store.cursors(new_session(), [ME]) == [None]


async def test_a_cursor_never_moves_back(store: LiveStore) -> None:
    session = new_session()
    positions = await put_many(store, session, [b"1"] * 3)
    await ack(store, session, positions[2])
    for lower in (positions[0], positions[1], positions[2], OTHER_TIMES[0], BEFORE_ALL):
        assert await ack(store, session, lower) == Acknowledged(OK, positions[2], 0)
    assert await cursor(store, session) == positions[2]


async def test_acks_in_any_order_from_many_stores_leave_the_highest(live: Live) -> None:
    stores, session = [await live.store() for _ in range(3)], new_session()
    positions = await put_many(stores[0], session, [b"1"] * 60)
    shuffled = random.Random(7).sample(positions, len(positions))
    batches = [[Ack(session, ME, one) for one in shuffled[at::3]] for at in range(3)]
    answers = await asyncio.gather(*(s.acknowledge(b) for s, b in zip(stores, batches, strict=True)))
    for batch, answered in zip(batches, answers, strict=True):
        stands = [one.cursor for one in answered if isinstance(one, Acknowledged)]
        assert len(stands) == len(batch)
        assert stands == sorted(stands, key=str), "what one store is told only rises"
        for stood, asked in zip(stands, batch, strict=True):
            assert stood is not None
            assert asked.position is not None
            assert stood >= asked.position
    assert await cursor(stores[0], session) == positions[-1]


async def test_what_the_session_has_not_given_is_refused_and_moves_nothing(store: LiveStore) -> None:
    session = new_session()
    (position,) = await put_many(store, session, [b"1"])
    await ack(store, session, position)
    for above in (position.next, Position(position.epoch, 10**15), OTHER_TIMES[1]):
        assert await ack(store, session, above) == Acknowledged(AHEAD, position, 0)
        assert await ack(store, session, above, "c:new") == Acknowledged(AHEAD, None, 0)
        assert await ack(store, session, above, fence=9) == Acknowledged(AHEAD, position, 0)
    assert await store.cursors(session, [ME, "c:new"]) == [position, None]


async def test_a_session_without_keys_has_given_nothing(store: LiveStore) -> None:
    session = new_session()
    for position in (*OTHER_TIMES, None):
        assert await ack(store, session, position) == Acknowledged(AHEAD, None, 0)
        assert await ack(store, session, position, WORKERS, 3) == Acknowledged(AHEAD, None, 0)
    assert await cursor(store, session) is None


async def test_before_the_first_message_nothing_is_acknowledged(store: LiveStore) -> None:
    session = new_session()
    await put(store, message(session))
    assert await ack(store, session, BEFORE_ALL) == Acknowledged(OK, None, 0)
    assert await ack(store, session, Position(BEFORE_ALL.epoch, 5)) == Acknowledged(OK, None, 0)
    assert await cursor(store, session) is None


async def test_a_position_of_an_older_epoch_is_acknowledged(store: LiveStore) -> None:
    """Whoever was away while the epoch changed acknowledges what it got of the old one."""
    session = new_session()
    position = await put(store, message(session))
    older = Position("1000000000000-00000000", 7)
    assert await ack(store, session, older) == Acknowledged(OK, older, 0)
    assert await ack(store, session, position) == Acknowledged(OK, position, 0)


async def test_a_new_epoch_is_above_every_position_of_the_old_one(mortal: Live) -> None:
    store, session = await mortal.store(), new_session()
    positions = await put_many(store, session, [b"1"] * 5)
    await ack(store, session, positions[3])
    await mortal.restart(keep=True)
    later = await put(store, message(session))
    assert (later.seq, later.epoch > positions[0].epoch) == (1, True)
    assert await cursor(store, session) == positions[3]
    assert await ack(store, session, later) == Acknowledged(OK, later, 0)
    assert await ack(store, session, positions[4]) == Acknowledged(OK, later, 0)


async def test_what_the_former_epoch_has_not_given_is_refused(mortal: Live) -> None:
    store, session = await mortal.store(), new_session()
    positions = await put_many(store, session, [b"1"] * 3)
    await mortal.restart(keep=True)
    later = await put(store, message(session))
    between = Position(f"{positions[0].epoch_ms + 1:013d}-00000000", 1)
    assert positions[0].epoch < between.epoch < later.epoch
    for never in (positions[2].next, Position(positions[0].epoch, 10**6), between):
        assert await ack(store, session, never) == Acknowledged(AHEAD, None, 0)
    assert await ack(store, session, positions[2]) == Acknowledged(OK, positions[2], 0)


async def test_a_live_store_that_lost_its_data_has_no_cursors_and_says_so(mortal: Live) -> None:
    store, session = await mortal.store(), new_session()
    position = await put(store, message(session))
    await ack(store, session, position)
    await mortal.restart(keep=False)
    assert await cursor(store, session) is None
    assert await ack(store, session, position) == Acknowledged(AHEAD, None, 0)


async def test_consumers_and_subjects_stand_for_themselves(store: LiveStore) -> None:
    session = new_session()
    positions = await put_many(store, session, [b"1"] * 4)
    names = [client_consumer("a", "b/c"), client_consumer("a/b", "c"), client_consumer("serve", "planner"), WORKERS]
    assert len(set(names)) == 4
    for consumer, position in zip(names, positions, strict=True):
        assert await ack(store, session, position, consumer) == Acknowledged(OK, position, 0)
    assert await store.cursors(session, names) == positions


async def test_sessions_stand_for_themselves_in_one_batch(store: LiveStore) -> None:
    one = new_session()
    sessions = [one, in_shard_of(one, "other"), new_session()]
    positions = [(await put_many(store, session, [b"1"] * 2))[-1] for session in sessions]
    acks = [Ack(session, ME, position) for session, position in zip(sessions, positions, strict=True)]
    acks += [Ack(one, ME, positions[0].next), Ack(new_session(), ME, positions[0]), Ack(one, "c:b", positions[0])]
    answers = await store.acknowledge(acks)
    assert answers == [
        *(Acknowledged(OK, position, 0) for position in positions),
        Acknowledged(AHEAD, positions[0], 0),
        Acknowledged(AHEAD, None, 0),
        Acknowledged(OK, positions[0], 0),
    ]
    assert await store.acknowledge([]) == []


# ---- fences ---------------------------------------------------------------------------------------------------------


async def test_a_claim_tells_where_to_go_on_and_shuts_out_older_leases(store: LiveStore) -> None:
    session = new_session()
    positions = await put_many(store, session, [b"1"] * 3)
    assert await ack(store, session, None, WORKERS, 4) == Acknowledged(OK, None, 4)
    assert await ack(store, session, positions[0], WORKERS, 4) == Acknowledged(OK, positions[0], 4)
    assert await ack(store, session, None, WORKERS, 7) == Acknowledged(OK, positions[0], 7)
    assert await ack(store, session, positions[1], WORKERS, 4) == Acknowledged(FENCED, positions[0], 7)
    assert await ack(store, session, None, WORKERS, 6) == Acknowledged(FENCED, positions[0], 7)
    assert await ack(store, session, positions[2], WORKERS, 7) == Acknowledged(OK, positions[2], 7)
    assert await cursor(store, session, WORKERS) == positions[2]


async def test_a_claim_without_an_acknowledgement_is_no_cursor(store: LiveStore) -> None:
    session = new_session()
    await put(store, message(session))
    await ack(store, session, None, WORKERS, 4)
    assert await cursor(store, session, WORKERS) is None
    assert await ack(store, session, None, WORKERS, 3) == Acknowledged(FENCED, None, 4)


async def test_an_ack_with_a_higher_fence_claims(store: LiveStore) -> None:
    session = new_session()
    (position,) = await put_many(store, session, [b"1"])
    await ack(store, session, None, WORKERS, 4)
    assert await ack(store, session, position, WORKERS, 5) == Acknowledged(OK, position, 5)
    assert await ack(store, session, None, WORKERS, 4) == Acknowledged(FENCED, position, 5)


async def test_without_a_fence_none_is_asked_for_or_changed(store: LiveStore) -> None:
    session = new_session()
    positions = await put_many(store, session, [b"1"] * 2)
    await ack(store, session, positions[0], WORKERS, 4)
    assert await ack(store, session, positions[1], WORKERS) == Acknowledged(OK, positions[1], 4)
    assert await ack(store, session, None, WORKERS) == Acknowledged(OK, positions[1], 4), "only a look"


async def test_fences_are_exact_up_to_2_to_the_53(store: LiveStore) -> None:
    session, highest = new_session(), 2**53 - 1
    await put(store, message(session))
    assert await ack(store, session, None, WORKERS, highest - 1) == Acknowledged(OK, None, highest - 1)
    assert await ack(store, session, None, WORKERS, highest) == Acknowledged(OK, None, highest)
    assert await ack(store, session, None, WORKERS, highest - 1) == Acknowledged(FENCED, None, highest)


# ---- bounds, life ---------------------------------------------------------------------------------------------------


async def test_a_session_remembers_so_many_consumers_and_refuses_more(store: LiveStore) -> None:
    session = new_session()
    positions = await put_many(store, session, [b"1"] * 2)
    names = [client_consumer("you", f"screen-{number}") for number in range(CONSUMERS_PER_SESSION)]
    for answer in await store.acknowledge([Ack(session, name, positions[0]) for name in names]):
        assert answer == Acknowledged(OK, positions[0], 0)
    assert await ack(store, session, positions[0], "c:one too many") == Acknowledged(FULL, None, 0)
    assert await cursor(store, session, "c:one too many") is None
    assert await ack(store, session, positions[1], names[0]) == Acknowledged(OK, positions[1], 0)
    assert await ack(store, session, positions[0], WORKERS, 1) == Acknowledged(OK, positions[0], 1), "serving goes on"
    assert await ack(store, new_session(), None, "c:one too many") == Acknowledged(AHEAD, None, 0)


async def test_looking_makes_no_consumer(store: LiveStore) -> None:
    session = new_session()
    (position,) = await put_many(store, session, [b"1"])
    looks = [Ack(session, f"c:{number}", None) for number in range(CONSUMERS_PER_SESSION + 1)]
    assert set(await store.acknowledge(looks)) == {Acknowledged(OK, None, 0)}
    assert await ack(store, session, position) == Acknowledged(OK, position, 0)


async def test_cursors_go_with_their_session(store: LiveStore) -> None:
    session = new_session()
    first = await put(store, message(session))
    await ack(store, session, first)
    await ack(store, session, None, WORKERS, 9)
    await store.confirm(session, first.epoch, [(1, 513)])
    await store.expire(shard_of(session), 0, 10_000)
    assert await cursor(store, session) is None
    again = await put(store, message(session))
    assert await store.cursors(session, [ME, WORKERS]) == [None, None]
    assert await ack(store, session, again, WORKERS, 1) == Acknowledged(OK, again, 1)


async def test_cursors_stay_with_a_session_that_stays(store: LiveStore) -> None:
    session = new_session()
    position = await put(store, message(session))
    await ack(store, session, position)
    await store.expire(shard_of(session), 0, 10_000)
    assert await cursor(store, session) == position, "a session with unconfirmed messages is never forgotten"


async def test_with_the_server_away_each_ack_is_answered_with_the_error(mortal: Live) -> None:
    store, session = await mortal.store(), new_session()
    position = await put(store, message(session))
    await mortal.stop()
    answers = await store.acknowledge([Ack(session, ME, position), Ack(new_session(), ME, position)])
    assert [getattr(answer, "code", None) for answer in answers] == ["live_unavailable"] * 2
    with pytest.raises(StoreError) as caught:
        await store.cursors(session, [ME])
    assert caught.value.code == "live_unavailable"
