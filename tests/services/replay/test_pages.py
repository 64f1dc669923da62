"""Pages of a session's history."""

import asyncio

import pytest
from tests.services.replay.rig import (
    BEGUN_MS,
    DEADLINE_S,
    E1,
    E2,
    OTHER_RUN,
    PARTITIONS,
    SESSION,
    World,
    frames_of,
    message,
)

from heliograph.core.positions import Position
from heliograph.protocol.codes import GapReason
from heliograph.protocol.gaps import gap_message
from heliograph.protocol.messages import record_headers, rfc3339
from heliograph.stores.ports import TopicSpec


def at(seq: int, epoch: str = E1) -> str:
    return str(Position(epoch, seq))


def gap(first: int, last: int, reason: str, epoch: str = E1) -> dict[str, str]:
    return {"type": "gap", "session": SESSION, "reason": reason, "from": at(first, epoch), "to": at(last, epoch)}


async def test_a_page_holds_the_frames_byte_for_byte_in_order(world: World) -> None:
    sent = [message(seq) for seq in range(1, 21)]
    sent[4] = message(5, event_type="note", correlation_id="c-ü", content_type="image/png", payload=b'"iVBORw=="')
    world.write(*sent)
    await world.start()
    page = await world.page()
    assert page.frames == frames_of(*sent)
    assert (page.gaps, page.epochs, page.next, page.complete, page.resume) == ([], [], None, True, None)


async def test_other_sessions_are_not_in_it(world: World) -> None:
    world.write(message(1), message(1, session="acme:planner:trip-43"), message(2))
    await world.start()
    assert (await world.page()).frames == frames_of(message(1), message(2))
    assert (await world.page("acme:planner:trip-43")).frames == frames_of(message(1, session="acme:planner:trip-43"))


async def test_a_session_without_messages_is_empty(world: World) -> None:
    await world.start()
    page = await world.page("acme:planner:never")
    assert (page.frames, page.next, page.complete) == ([], None, True)


async def test_a_topic_that_is_not_there_yet_is_empty(world: World) -> None:
    world.log.delete(world.topic)
    await world.start()
    assert (await world.page()).complete


async def test_pages_that_are_followed_are_the_whole(world: World) -> None:
    sent = [message(seq) for seq in range(1, 51)]
    world.write(*sent)
    await world.start()
    for with_resume in (True, False):
        seen: list[bytes] = []
        page = await world.page(limit=7)
        while not page.complete:
            assert len(page.frames) == 7
            seen += page.frames
            assert page.next == at(len(seen))
            resume = {"resume": page.resume or ""} if with_resume else {}
            page = await world.page(limit=7, after=page.next or "", **resume)
        assert seen + page.frames == frames_of(*sent)


async def test_a_resumed_read_goes_on_where_the_first_broke_off(world: World) -> None:
    world.write(*(message(seq, session="acme:planner:noise") for seq in range(1, 1_001)), partition=0)
    world.write(*(message(seq) for seq in range(1, 11)), partition=0)
    await world.append(1, partition=0)  # so that the partition is known, as it is of a session that lives
    await world.start()
    first = await world.page(limit=5)
    scanned = world.value("records_scanned_total")
    assert scanned >= 1_000
    second = await world.page(limit=5, after=first.next or "", resume=first.resume or "")
    assert second.frames == frames_of(*(message(seq) for seq in range(6, 11)))
    assert world.value("records_scanned_total") - scanned <= 10


async def test_a_page_is_bounded_in_bytes(world: World) -> None:
    big = [message(seq, payload=b'"' + b"x" * 100_000 + b'"') for seq in range(1, 8)]
    world.write(*big)
    await world.start(page_bytes=300_000)
    page = await world.page()
    assert page.frames == frames_of(*big[:2])
    assert page.next == at(2)


async def test_it_begins_after_a_position_and_ends_with_one(world: World) -> None:
    world.write(*(message(seq) for seq in range(1, 21)))
    await world.start()
    page = await world.page(after=at(5), until=at(8))
    assert page.frames == frames_of(*(message(seq) for seq in range(6, 9)))
    assert (page.complete, page.next) == (True, None)
    assert (await world.page(after=at(8), until=at(5))).frames == []
    assert (await world.page(after=at(20))).frames == []


async def test_it_begins_and_ends_with_a_time(world: World) -> None:
    world.write(*(message(seq) for seq in range(1, 21)))
    await world.start()
    page = await world.page(from_time=rfc3339(BEGUN_MS + 5_500), until_time=rfc3339(BEGUN_MS + 8_000))
    assert page.frames == frames_of(message(6), message(7), message(8))
    assert page.complete
    assert (await world.page(from_time="2030-01-01T00:00:00+01:00")).frames == []
    assert len((await world.page(from_time="1969-01-01T00:00:00Z")).frames) == 20
    # whoever follows pages may leave the time in the request
    page = await world.page(from_time=rfc3339(BEGUN_MS + 5_500), after=at(19))
    assert page.frames == frames_of(message(20))


async def test_a_late_copy_is_not_where_a_time_begins(world: World) -> None:
    """A router wrote 2 again after 12: a read from the time of 12 must not begin at 2."""
    world.write(*(message(seq) for seq in range(1, 12)))
    world.now_ms += 600_000
    world.write(message(2), message(13, time_ms=BEGUN_MS + 700_000), message(12, time_ms=BEGUN_MS + 700_000))
    await world.start()
    page = await world.page(from_time=rfc3339(BEGUN_MS + 650_000))
    assert page.frames == frames_of(message(13, time_ms=BEGUN_MS + 700_000))


async def test_messages_are_ordered_and_duplicates_dropped(world: World) -> None:
    world.write(*(message(seq) for seq in (2, 1, 1, 5, 3, 4, 2, 6)))
    await world.start()
    page = await world.page()
    assert page.frames == frames_of(*(message(seq) for seq in range(1, 7)))
    assert page.gaps == []
    assert world.value("duplicates_total") == 2


async def test_what_the_log_has_not_and_never_will_is_a_gap(world: World) -> None:
    world.write(*(message(seq) for seq in (1, 2, 5, 6)))
    await world.start()
    page = await world.page()
    assert page.frames == frames_of(*(message(seq) for seq in (1, 2, 5, 6)))
    assert page.gaps == [gap(3, 4, "never_written")]
    assert world.value("gaps_total", reason="never_written") == 1


async def test_what_may_still_be_written_is_no_gap_and_ends_the_page(world: World) -> None:
    sent = await world.append(6)
    world.write(*(sent[number] for number in (0, 1, 3, 4)))
    await world.confirm(*(sent[number] for number in (0, 1, 3, 4)))
    await world.start()
    page = await world.page()
    assert page.frames == frames_of(*sent[:2])
    assert (page.gaps, page.complete, page.next) == ([], False, sent[1].position)
    world.write(sent[2])
    page = await world.page(after=page.next or "", resume=page.resume or "")
    assert page.frames == frames_of(*sent[2:5])
    assert page.complete


async def test_without_the_live_store_nobody_says_what_may_still_be_written(world: World) -> None:
    world.write(*(message(seq) for seq in (1, 2, 5, 6)))
    await world.start()
    world.live.stop()
    page = await world.page()
    assert page.frames == frames_of(message(1), message(2))
    assert (page.gaps, page.complete, page.next) == ([], False, at(2))
    assert world.value("store_failures_total", store="live") > 0


async def test_a_read_ends_with_the_head_that_the_log_has(world: World) -> None:
    sent = await world.append(3)
    world.write(*sent)
    world.write(*(message(seq, session="acme:planner:noise") for seq in range(1, 5_001)), partition=0)
    await world.confirm(*sent)
    await world.start()
    assert (await world.page()).frames == frames_of(*sent)
    scanned = world.value("records_scanned_total")
    assert (await world.page(after=sent[2].position or "")).complete
    assert world.value("records_scanned_total") == scanned


async def test_a_gap_record_is_a_gap_with_its_reason(world: World) -> None:
    world.write(message(1), gap_message(SESSION, Position(E1, 2), GapReason.TOO_FAR_BEHIND, BEGUN_MS), message(3))
    await world.start()
    page = await world.page()
    assert page.frames == frames_of(message(1), message(3))
    assert page.gaps == [gap(2, 2, "too_far_behind")]


async def test_a_corrupt_record_is_a_gap_and_counted(world: World) -> None:
    world.write(message(1))
    world.write_record(b"{", record_headers(message(2)))
    world.write_record(b"{}", [("ce_sequence", b"nonsense")])
    world.write_record(None, [])
    world.write(message(3))
    await world.start()
    page = await world.page()
    assert page.frames == frames_of(message(1), message(3))
    assert page.gaps == [gap(2, 2, "corrupt")]
    assert world.value("records_corrupt_total", reason="payload_not_json") == 1
    assert world.value("records_corrupt_total", reason="header_missing") == 1
    assert world.value("records_corrupt_total", reason="value_missing") == 1


async def test_a_new_epoch_is_told_and_whether_the_old_one_is_whole(world: World) -> None:
    world.write(message(1), message(1, E2), message(2), message(2, E2), message(1, OTHER_RUN))
    await world.start()
    page = await world.page()
    assert page.frames == frames_of(message(1), message(2), message(1, E2), message(2, E2), message(1, OTHER_RUN))
    assert page.epochs == [
        {"type": "epoch", "session": SESSION, "from": E2, "certain": True, "last": at(2)},
        {"type": "epoch", "session": SESSION, "from": OTHER_RUN, "certain": False, "last": at(2, E2)},
    ]
    page = await world.page(after=at(2))
    assert [epoch["from"] for epoch in page.epochs] == [E2, OTHER_RUN]


async def test_what_retention_took_is_a_gap(world: World) -> None:
    records = world.write(*(message(seq) for seq in range(1, 11)))
    world.log.truncate(world.topic, records[0].partition, 6)
    await world.start()
    page = await world.page(after=at(2))
    assert page.frames == frames_of(*(message(seq) for seq in range(7, 11)))
    assert page.gaps == [gap(3, 6, "retention")]


async def test_an_epoch_whose_end_retention_took_is_not_certain(world: World) -> None:
    records = world.write(*(message(seq) for seq in range(1, 11)), message(1, E2))
    world.log.truncate(world.topic, records[0].partition, 10)
    await world.start()
    page = await world.page(after=at(2))
    assert page.frames == frames_of(message(1, E2))
    assert page.gaps == [{"type": "gap", "session": SESSION, "reason": "retention", "from": at(3)}]
    assert [epoch["certain"] for epoch in page.epochs] == [False]


async def test_the_index_spares_a_scan(world: World) -> None:
    records = world.write(*(message(seq) for seq in range(1, 5_001)))
    await world.add_to_index(records[0], at(1))
    await world.add_to_index(records[3_000], at(3_001))
    await world.start()
    page = await world.page(after=at(4_100), limit=10)
    assert page.frames == frames_of(*(message(seq) for seq in range(4_101, 4_111)))
    assert world.value("starts_total", how="index") == 1
    assert world.value("records_scanned_total") <= 2_000


async def test_an_index_entry_that_is_too_near_is_not_used(world: World) -> None:
    """X may be in the log before X − W + 1 and what follows: an entry there is no start."""
    records = world.write(*(message(seq) for seq in range(1, 2_001)))
    await world.add_to_index(records[1_500], at(1_501))
    await world.start()
    page = await world.page(after=at(1_600), limit=10)
    assert page.frames == frames_of(*(message(seq) for seq in range(1_601, 1_611)))
    assert world.value("starts_total", how="time") == 1


async def test_an_entry_of_another_topic_of_the_name_is_void(world: World) -> None:
    records = world.write(*(message(seq) for seq in range(1, 21)))
    await world.add_to_index(records[15], at(16))
    world.log.delete(world.topic)
    await world.put_tenant("acme")
    world.write(*(message(seq, E2) for seq in range(1, 6)))
    await world.start()
    assert (await world.page(after=at(16))).frames == frames_of(*(message(seq, E2) for seq in range(1, 6)))


async def test_a_session_that_moved_to_another_partition_is_read_whole(world: World) -> None:
    """The live store had forgotten it, the topic had grown: its later epochs are elsewhere."""
    old = world.write(*(message(seq) for seq in range(1, 6)), partition=0)
    new = world.write(*(message(seq, E2) for seq in range(1, 6)), partition=1)
    await world.add_to_index(old[0], at(1))
    await world.add_to_index(new[0], at(1, E2))
    await world.start()
    wanted = [*(message(seq) for seq in range(1, 6)), *(message(seq, E2) for seq in range(1, 6))]
    assert (await world.page()).frames == frames_of(*wanted)
    seen: list[bytes] = []
    page = await world.page(limit=3)
    while not page.complete:
        seen += page.frames
        page = await world.page(limit=3, after=page.next or "", resume=page.resume or "")
    assert seen + page.frames == frames_of(*wanted)


async def test_the_partition_of_a_sessions_first_append_is_read(world: World) -> None:
    sent = await world.append(3, partition=0)
    world.write(*sent, partition=0)
    await world.start()
    assert (await world.page()).frames == frames_of(*sent)


async def test_a_beginning_that_was_not_looked_for_is_said(world: World) -> None:
    """The log is long, and the first sign of the session is late in it."""
    world.write(*(message(seq, session="acme:planner:noise") for seq in range(1, 101)), partition=0)
    world.now_ms = BEGUN_MS + 5_000_000
    late = "1764005000000-1a2b3c4d"
    (record,) = world.write(message(1, late), partition=0)
    await world.add_to_index(record, at(1, late))
    await world.start(beginning_scan_records=50)
    page = await world.page()
    assert page.frames == frames_of(message(1, late))
    assert page.gaps == [{"type": "gap", "session": SESSION, "reason": "history_unavailable"}]
    assert world.value("starts_total", how="first_sign") == 1


@pytest.mark.parametrize("stood", ["0000000000001-1a2b3c4d", "1764004999999-1a2b3c4d"])
async def test_who_stood_before_the_first_message_gets_it_from_the_log(world: World, stood: str) -> None:
    """Its epoch may be as old as the live store's first, or as young as the message: the log is not looked through for
    longer than for a beginning.
    """
    world.write(*(message(seq, session="acme:planner:noise") for seq in range(1, 101)), partition=0)
    world.now_ms = BEGUN_MS + 5_000_000
    late = "1764005000000-1a2b3c4d"
    (record,) = world.write(message(1, late), partition=0)
    await world.add_to_index(record, at(1, late))
    await world.start(beginning_scan_records=50)
    page = await world.page(after=at(0, stood))
    assert page.frames == frames_of(message(1, late))
    old = stood.startswith("0")
    unread = [one for one in page.gaps if one["type"] == "gap"]
    assert unread == ([{"type": "gap", "session": SESSION, "reason": "history_unavailable"}] if old else [])


async def test_without_any_sign_the_whole_log_is_looked_through(world: World) -> None:
    partition = world.write(message(1, session="acme:planner:noise"), message(1))[1].partition
    world.write(*(message(seq, session="acme:planner:noise") for seq in range(1, 101)), partition=partition)
    await world.start(beginning_scan_records=50)
    page = await world.page()
    assert (page.frames, page.gaps) == (frames_of(message(1)), [])


async def test_a_topic_made_again_is_said_and_what_was_in_it_is_gone_as_by_retention(world: World) -> None:
    (record, *_) = world.write(*(message(seq) for seq in range(1, 6)))
    await world.add_to_index(record, at(1))
    await world.start()
    assert len((await world.page(after=at(2))).frames) == 3
    world.log.delete(world.topic)
    world.log.create(TopicSpec(world.topic, PARTITIONS, 1, {}))
    world.write(message(8), message(9))
    async with asyncio.timeout(DEADLINE_S):
        while world.value("topics_recreated_total") == 0:
            page = await world.page(after=at(2))
    assert page.gaps == [gap(3, 7, "retention")]
    assert page.frames == frames_of(message(8), message(9))
    ready = (await world.client.get("/readyz")).json()
    assert "topics" in ready["degraded"]
