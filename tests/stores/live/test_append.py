"""What `append` promises: positions, producers, ids, bounds."""

import pytest
from msgspec.structs import replace
from tests.stores.live.helpers import (
    DUPLICATE,
    OK,
    ROOMY,
    Live,
    ask,
    ask_all,
    in_shard_of,
    message,
    new_session,
    put,
    put_many,
    status,
)

from heliograph.core.limits import PRODUCER_RING, PRODUCERS_PER_SESSION
from heliograph.core.messages import MessageClass
from heliograph.core.positions import check_epoch
from heliograph.core.producers import PRODUCERS_STORED
from heliograph.protocol.messages import frame_position, message_from_frame
from heliograph.stores.ports import Appended, AppendStatus, LiveStore


async def test_positions_of_a_session_are_1_2_3_in_one_epoch(store: LiveStore) -> None:
    session = new_session()
    positions = await put_many(store, session, [b"1", b"2", b"3"])
    assert [position.seq for position in positions] == [1, 2, 3]
    assert len({check_epoch(position.epoch) for position in positions}) == 1


async def test_a_stored_frame_is_the_given_one_with_its_position(store: LiveStore) -> None:
    session = new_session()
    one = message(session, b'{"text":"gr\xc3\xbc\xc3\x9fe"}', seq=1)
    position = await put(store, one)
    (frame,) = (await store.page(session, None)).frames
    assert frame == b'{"type":"message","position":"%b",%b' % (str(position).encode(), one.rest)
    assert frame_position(frame) == str(position).encode()
    assert message_from_frame(frame, one.extras).payload == b'{"text":"gr\xc3\xbc\xc3\x9fe"}'


async def test_a_repeated_publish_gets_the_first_position_back(store: LiveStore) -> None:
    session = new_session()
    first = await put(store, message(session, b"1", seq=1))
    await put(store, message(session, b"2", seq=2))
    answer = await ask(store, message(session, b"1", seq=1))
    assert answer == Appended(DUPLICATE, *first, confirmed=False, partition=3)
    assert len((await store.page(session, None)).frames) == 2


async def test_a_repeat_on_another_store_gets_the_first_position_back(live: Live) -> None:
    session, one, other = new_session(), await live.store(), await live.store()
    first = await put(one, message(session, b"1", seq=1))
    assert await ask(other, message(session, b"1", seq=1)) == Appended(DUPLICATE, *first, partition=3)


async def test_a_repeat_says_whether_the_log_has_it(store: LiveStore) -> None:
    session = new_session()
    await put(store, message(session, b"1", seq=1))
    ahead = await put(store, message(session, b"2", seq=2))
    await store.confirm(session, ahead.epoch, [(2, 513)])
    answers = await ask_all(store, [message(session, b"1", seq=1), message(session, b"2", seq=2)])
    assert [answer.confirmed for answer in answers if isinstance(answer, Appended)] == [False, True]


async def test_an_earlier_message_refused_and_a_later_one_admitted_can_not_be(store: LiveStore) -> None:
    """A last-seen counter alone would admit 3 after 2 was refused, and call 2 a repeat for ever."""
    session = new_session()
    first = await put(store, message(session, b"1", seq=1))
    refused = await ask(store, message(session, b"2", seq=2), replace(ROOMY, unconfirmed_messages=1))
    assert status(refused) is AppendStatus.BACKLOG
    await store.confirm(session, first.epoch, [(1, 513)])
    later = await ask(store, message(session, b"3", seq=3))
    assert later == Appended(AppendStatus.OUT_OF_ORDER, expected=2)
    answers = await ask_all(store, [message(session, b"2", seq=2), message(session, b"3", seq=3)])
    assert [(status(answer), answer.seq) for answer in answers if isinstance(answer, Appended)] == [(OK, 2), (OK, 3)]


async def test_a_pipeline_behind_a_refused_message_is_refused_with_it(store: LiveStore) -> None:
    session = new_session()
    bounds = replace(ROOMY, unconfirmed_messages=2)
    answers = await ask_all(store, [message(session, b"%d" % seq, seq=seq) for seq in (1, 2, 3, 4)], bounds)
    assert [status(answer) for answer in answers] == [OK, OK, AppendStatus.BACKLOG, AppendStatus.OUT_OF_ORDER]


async def test_a_producer_restarted_at_1_is_not_mistaken_for_its_former_self(store: LiveStore) -> None:
    """Judged by name and counter alone, its first message would be answered as a repeat and lost."""
    session = new_session()
    for seq in (1, 2, 3):
        await put(store, message(session, b"old %d" % seq, seq=seq))
    again = await put(store, message(session, b"new 1", seq=1, incarnation="inc-00000002"))
    assert again.seq == 4
    late = await ask(store, message(session, b"old 3", seq=3))
    assert isinstance(late, Appended)
    assert (late.status, late.seq) == (DUPLICATE, 3)


async def test_the_same_seq_with_another_body_is_refused(store: LiveStore) -> None:
    """Acknowledged as a repeat, the second body would be lost while its publisher believes it is in."""
    session = new_session()
    await put(store, message(session, b"1", seq=1))
    assert status(await ask(store, message(session, b"2", seq=1))) is AppendStatus.PRODUCER_SEQ_REUSED
    assert len((await store.page(session, None)).frames) == 1


async def test_a_skipped_seq_is_refused_with_the_expected_one(store: LiveStore) -> None:
    session = new_session()
    await put(store, message(session, b"1", seq=1))
    assert await ask(store, message(session, b"3", seq=3)) == Appended(AppendStatus.OUT_OF_ORDER, expected=2)


async def test_an_unknown_producer_must_begin_at_1(store: LiveStore) -> None:
    session = new_session()
    assert status(await ask(store, message(session, b"2", seq=2))) is AppendStatus.PRODUCER_UNKNOWN
    await put(store, message(session, b"1", seq=1))
    stranger = message(session, b"2", seq=2, producer="other")
    assert status(await ask(store, stranger)) is AppendStatus.PRODUCER_UNKNOWN


async def test_the_last_64_of_a_producer_are_judged_and_older_ones_refused(store: LiveStore) -> None:
    session, last = new_session(), PRODUCER_RING + 10
    await ask_all(store, [message(session, b"%d" % seq, seq=seq) for seq in range(1, last + 1)])
    oldest = last - PRODUCER_RING + 1
    known = await ask(store, message(session, b"%d" % oldest, seq=oldest))
    assert isinstance(known, Appended)
    assert (known.status, known.seq) == (DUPLICATE, oldest)
    gone = await ask(store, message(session, b"%d" % (oldest - 1), seq=oldest - 1))
    assert status(gone) is AppendStatus.PRODUCER_SEQ_EXPIRED


async def test_a_refused_event_does_not_block_control(store: LiveStore) -> None:
    session = new_session()
    await put(store, message(session, b"1", seq=1))
    assert status(await ask(store, message(session, b"3", seq=3))) is AppendStatus.OUT_OF_ORDER
    await put(store, message(session, b"1", seq=1, class_=MessageClass.CONTROL))


@pytest.mark.parametrize("name", ["a|b", "|", "ä☃", "x" * 128, "a b\\"])
async def test_any_producer_name_is_itself(store: LiveStore, name: str) -> None:
    session = new_session()
    first = await put(store, message(session, b"1", seq=1, producer=name))
    assert await ask(store, message(session, b"1", seq=1, producer=name)) == Appended(DUPLICATE, *first, partition=3)
    assert (await put(store, message(session, b"1", seq=1, producer=name + "x"))).seq == 2


async def test_rings_used_longest_ago_are_forgotten_first(store: LiveStore) -> None:
    session = new_session()
    first = [message(session, b"1", seq=1, producer=f"p{number}") for number in range(PRODUCERS_STORED)]
    await ask_all(store, first)
    await put(store, message(session, b"2", seq=2, producer="p0"))
    await put(store, message(session, b"1", seq=1, producer="one too many"))
    kept = PRODUCERS_STORED + 1 - PRODUCERS_PER_SESSION
    probes = [message(session, b"2", seq=2, producer=f"p{number}") for number in (0, kept, kept + 1)]
    forgotten = message(session, b"2", seq=2, producer="p1")
    assert status(await ask(store, forgotten)) is AppendStatus.PRODUCER_UNKNOWN
    answers = [status(answer) for answer in await ask_all(store, probes)]
    assert answers == [DUPLICATE, AppendStatus.PRODUCER_UNKNOWN, OK]


# ---- message ids ----------------------------------------------------------------------------------------------------


async def test_an_explicit_id_sent_again_by_a_restarted_process_is_the_same_message(store: LiveStore) -> None:
    """By the counter alone it would be new: another incarnation, seq 1."""
    session = new_session()
    first = await put(store, message(session, b"1", seq=1, message_id="order-7"))
    again = message(session, b"1", seq=1, incarnation="inc-00000002", message_id="order-7")
    assert await ask(store, again) == Appended(DUPLICATE, *first, partition=3)
    following = message(session, b"2", seq=2, incarnation="inc-00000002")
    assert (await put(store, following)).seq == 2, "the repeat used up its producer seq"
    assert await ask(store, again) == Appended(DUPLICATE, *first, partition=3)


async def test_an_id_without_a_counter_is_judged(store: LiveStore) -> None:
    session = new_session()
    first = await put(store, message(session, b"1", message_id="order-7"))
    assert await ask(store, message(session, b"1", message_id="order-7")) == Appended(DUPLICATE, *first, partition=3)
    assert (await put(store, message(session, b"1", message_id="order-8"))).seq == 2


async def test_an_id_used_for_another_content_is_refused_and_uses_up_no_seq(store: LiveStore) -> None:
    session = new_session()
    await put(store, message(session, b"1", seq=1, message_id="order-7"))
    assert status(await ask(store, message(session, b"2", seq=2, message_id="order-7"))) is (
        AppendStatus.MESSAGE_ID_REUSED
    )
    assert (await put(store, message(session, b"2", seq=2, message_id="order-8"))).seq == 2


async def test_ids_of_one_session_are_nothing_to_another(store: LiveStore) -> None:
    tenant = "t1"
    one, other = new_session(tenant), new_session(tenant)
    await put(store, message(one, b"1", message_id="order-7"))
    assert (await put(store, message(other, b"2", message_id="order-7"))).seq == 1


# ---- bounds ---------------------------------------------------------------------------------------------------------


async def test_a_session_is_refused_at_its_bound_in_messages_and_admitted_below(store: LiveStore) -> None:
    session = new_session()
    bounds = replace(ROOMY, unconfirmed_messages=2)
    first, _ = await put_many(store, session, [b"1", b"2"], bounds)
    assert status(await ask(store, message(session, b"3"), bounds)) is AppendStatus.BACKLOG
    await store.confirm(session, first.epoch, [(2, 513)])
    assert status(await ask(store, message(session, b"3"), bounds)) is AppendStatus.BACKLOG, "1 is a hole"
    await store.confirm(session, first.epoch, [(1, 513)])
    await put(store, message(session, b"3"), bounds)


async def test_a_session_is_refused_at_its_bound_in_bytes_and_admitted_below(store: LiveStore) -> None:
    session = new_session()
    bounds = replace(ROOMY, unconfirmed_bytes=1_500)
    first = await put(store, message(session, b"1", size_bytes=1_000), bounds)
    await put(store, message(session, b"2", size_bytes=600), bounds)
    assert status(await ask(store, message(session, b"3"), bounds)) is AppendStatus.BACKLOG
    await store.confirm(session, first.epoch, [(2, 600)])
    await put(store, message(session, b"3"), bounds)


async def test_a_tenant_is_refused_at_its_bound_over_all_its_sessions_and_others_are_not(store: LiveStore) -> None:
    session = new_session()
    tenant = session.partition(":")[0]
    bounds = replace(ROOMY, tenant_shard_bytes=1_000)
    sibling = in_shard_of(session, tenant)
    stranger = in_shard_of(session, "someone-else")
    first = await put(store, message(session, b"1", size_bytes=1_000), bounds)
    assert status(await ask(store, message(sibling, b"1"), bounds)) is AppendStatus.BACKLOG
    await put(store, message(stranger, b"1"), bounds)
    await store.confirm(session, first.epoch, [(1, 1_000)])
    await put(store, message(sibling, b"1"), bounds)


async def test_a_repeat_is_answered_whatever_the_backlog(store: LiveStore) -> None:
    session = new_session()
    bounds = replace(ROOMY, unconfirmed_messages=1)
    first = await put(store, message(session, b"1", seq=1), bounds)
    assert await ask(store, message(session, b"1", seq=1), bounds) == Appended(DUPLICATE, *first, partition=3)


async def test_a_refused_append_writes_nothing(store: LiveStore) -> None:
    session = new_session()
    bounds = replace(ROOMY, unconfirmed_messages=1)
    await put(store, message(session, b"1", seq=1, size_bytes=700), bounds)
    before = (await store.heads([session]), (await store.page(session, None)).frames)
    for refused in (
        message(session, b"x", seq=2),
        message(session, b"x", seq=1),
        message(session, b"x", seq=9),
        message(session, b"x", seq=5, producer="q"),
    ):
        assert status(await ask(store, refused, bounds)) not in {OK, DUPLICATE}
    assert (await store.heads([session]), (await store.page(session, None)).frames) == before
    await store.confirm(session, before[0][0].epoch, [(1, 700)])
    assert await store.unconfirmed(session, 10) == []


async def test_a_session_keeps_the_partition_of_its_first_append(store: LiveStore) -> None:
    session = new_session()
    assert await store.partition_of(session) is None
    answers = [await ask(store, message(session, b"1", seq=seq, partition=6 + seq)) for seq in (1, 2, 1)]
    assert [answer.partition for answer in answers if isinstance(answer, Appended)] == [7, 7, 7]
    assert await store.partition_of(session) == 7
