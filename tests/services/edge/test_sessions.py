"""Live sessions alone: holes, repairs, subscribers ahead and behind, in whatever order things come."""

import asyncio
from collections.abc import Callable

import pytest
from tests.services.edge.sessions_bench import (
    EPOCH,
    LATER,
    NAME,
    Bench,
    at,
    message,
    page,
    settle,
    telemetry,
)

from heliograph.stores.ports import CorruptError, LiveLoad, StoreError


async def test_who_is_behind_what_the_others_have_joins_again(bench: Bench) -> None:
    """The page was read before the others' repair; live frames never brought what the repair did."""
    first, _ = await bench.live_at(2)
    second, _ = bench.subscribe(at(1))
    await bench.store.question()
    bench.store.head = page(head=4).head
    checking = asyncio.create_task(bench.sessions.check_heads(0.01))
    await bench.store.question(2)
    checking.cancel()
    await bench.store.answer(page(3, 4), which=1)
    assert first.payloads == [3, 4]
    await bench.store.answer(page(2))
    assert second.payloads == [2]
    assert await bench.store.answer(page(3, 4)) == at(2)
    assert second.payloads == [2, 3, 4]
    bench.arrive(5)
    assert first.payloads == [3, 4, 5]
    assert second.payloads == [2, 3, 4, 5]


async def test_who_is_ahead_of_the_others_gets_nothing_twice(bench: Bench) -> None:
    first, _ = await bench.live_at(2)
    second, _ = bench.subscribe(at(2))
    await bench.store.answer(page(3, 4))
    assert second.payloads == [3, 4]
    bench.arrive(5)
    assert (first.payloads, second.payloads) == ([], [3, 4])
    await bench.store.answer(page(3, 4, 5))
    assert (first.payloads, second.payloads) == ([3, 4, 5], [3, 4, 5])
    bench.arrive(6)
    assert (first.payloads, second.payloads) == ([3, 4, 5, 6], [3, 4, 5, 6])


async def test_who_is_ahead_leaves_with_its_own_position(bench: Bench) -> None:
    await bench.live_at(2)
    _, ahead = bench.subscribe(at(2))
    await bench.store.answer(page(3, 4))
    assert bench.sessions.detach(ahead) == at(4)


async def test_frames_during_a_repair_come_behind_it(bench: Bench) -> None:
    reader, _ = await bench.live_at(1)
    bench.arrive(3)
    await bench.store.question()
    bench.arrive(4, 5)
    assert reader.payloads == []
    await bench.store.answer(page(2, 3))
    bench.arrive(6)
    assert reader.payloads == [2, 3, 4, 5, 6]
    assert bench.metrics.repairs.labels("hole").n == 1


@pytest.mark.parametrize("failure", [StoreError("live_unavailable", "away"), CorruptError("key", "no page")])
async def test_a_repair_that_cannot_be_read_is_tried_again(bench: Bench, failure: StoreError) -> None:
    reader, _ = await bench.live_at(1)
    bench.arrive(3)
    await bench.store.answer(failure)
    await bench.store.answer(failure)
    await bench.store.answer(page(2, 3))
    bench.arrive(4)
    assert reader.payloads == [2, 3, 4]


async def test_a_repair_ends_with_its_last_subscriber(bench: Bench) -> None:
    reader, subscription = await bench.live_at(1)
    bench.arrive(3)
    await bench.store.question()
    bench.sessions.unsubscribe(subscription)
    await bench.store.answer(page(2, 3))
    assert reader.payloads == []
    again, _ = await bench.live_at(3)
    bench.arrive(4)
    assert again.payloads == [4]


async def test_who_joins_during_a_repair_gets_everything_once(bench: Bench) -> None:
    first, _ = await bench.live_at(1)
    bench.arrive(3)
    await bench.store.question()
    second, _ = bench.subscribe(at(0))
    await bench.store.question(2)
    bench.arrive(4)
    await bench.store.answer(page(1, 2, 3, 4), which=1)
    await bench.store.answer(page(2, 3))
    bench.arrive(5)
    assert first.payloads == [2, 3, 4, 5]
    assert second.payloads == [1, 2, 3, 4, 5]


async def test_who_comes_back_in_the_middle_of_a_repair_is_sent_the_rest(bench: Bench) -> None:
    reader, subscription = await bench.live_at(1)
    other, _ = bench.subscribe(at(1))
    await bench.store.answer(page(head=1))
    bench.arrive(3)
    await bench.store.question()
    last = bench.sessions.detach(subscription)
    assert last == at(1)
    await bench.store.answer(page(2, 3))
    assert (reader.payloads, other.payloads) == ([], [2, 3])
    bench.sessions.join(subscription, last)
    await bench.store.answer(page(2, 3))
    bench.arrive(4)
    assert (reader.payloads, other.payloads) == ([2, 3, 4], [2, 3, 4])


async def test_a_hub_stays_for_who_fell_behind(bench: Bench) -> None:
    reader, behind = await bench.live_at(1)
    last = bench.sessions.detach(behind)
    assert last == at(1)
    _, other = bench.subscribe(at(1))
    await bench.store.answer(page(head=1))
    bench.sessions.unsubscribe(other)
    assert bench.store.unsubscribed == []
    bench.sessions.join(behind, last)
    await bench.store.answer(page(2))
    bench.arrive(3)
    assert reader.payloads == [2, 3]
    bench.sessions.unsubscribe(behind)
    assert bench.store.unsubscribed == [NAME]


async def test_after_a_broken_subscription_the_head_tells_what_was_missed(bench: Bench) -> None:
    reader, _ = await bench.live_at(1)
    checking = asyncio.create_task(bench.sessions.check_heads(3_600))
    bench.sessions.on_lost([NAME])
    bench.store.head = page(head=3).head
    await settle()
    assert bench.store.asked == []
    bench.sessions.on_subscribed(NAME)
    await bench.store.answer(page(2, 3))
    assert reader.payloads == [2, 3]
    assert bench.metrics.repairs.labels("head").n == 1
    checking.cancel()


async def test_heads_are_compared_more_often_while_virtual_shards_move(bench: Bench) -> None:
    """What is published where one goes reaches nobody who listens where it was."""
    await bench.live_at(1)
    bench.store.load = LiveLoad(0, 1, moving=True)
    bench.store.head = page(head=3).head
    checking = asyncio.create_task(bench.sessions.check_heads(3_600))
    await bench.store.question()
    checking.cancel()
    assert bench.metrics.repairs.labels("head").n == 1


async def test_a_repair_waits_while_the_subscription_is_broken(bench: Bench) -> None:
    reader, _ = await bench.live_at(1)
    bench.sessions.on_lost([NAME])
    bench.arrive(3)
    await settle()
    assert bench.store.asked == []
    bench.sessions.on_subscribed(NAME)
    await bench.store.answer(page(2, 3))
    assert reader.payloads == [2, 3]


async def test_heads_that_cannot_be_asked_change_nothing(bench: Bench) -> None:
    reader, _ = await bench.live_at(1)
    bench.store.head = StoreError("live_unavailable", "away")
    checking = asyncio.create_task(bench.sessions.check_heads(0.001))
    await asyncio.sleep(0.02)
    bench.store.head = page(head=2).head
    await bench.store.answer(page(2))
    assert reader.payloads == [2]
    checking.cancel()


async def test_an_epoch_is_told_before_its_first_message_and_not_to_who_knows_it(bench: Bench) -> None:
    first, _ = await bench.live_at(2)
    second, _ = bench.subscribe(at(0, LATER))
    await bench.store.answer(page(1, epoch=LATER))
    assert second.kinds() == ["subscribed", "message"]
    bench.arrive(2, epoch=LATER)
    await bench.store.answer(page(1, 2, epoch=LATER))
    assert first.kinds() == ["subscribed", "epoch", "message", "message"]
    assert second.kinds() == ["subscribed", "message", "message"]
    epoch = first.frames[1]
    assert (epoch["last"], epoch["from"], epoch["certain"]) == (str(at(2)), LATER, True)


async def test_telemetry_goes_to_live_subscribers_only(bench: Bench) -> None:
    reader, _ = await bench.live_at(1)
    joining, _ = bench.subscribe(at(0))
    bench.sessions.on_frame(NAME, telemetry())
    assert (reader.telemetry, joining.telemetry) == (1, 0)


async def test_frames_of_a_session_nobody_follows_are_dropped(bench: Bench) -> None:
    bench.sessions.on_frame("acme:planner:2", message(1))
    bench.sessions.on_subscribed("acme:planner:2")
    assert bench.store.asked == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:40],
        lambda data: data.replace(b"0000000000000009", b"000000000000000x"),
        lambda data: data.replace(b"0000000000000009", b"0000000000000000"),
        lambda data: data.replace(EPOCH.encode(), b"\xff" * len(EPOCH)),
        lambda data: data.replace(EPOCH.encode(), b"z" * len(EPOCH)),
        lambda data: data.replace(b"message", b"massage"),
    ],
)
async def test_a_frame_without_a_position_is_counted_and_changes_nothing(
    bench: Bench, spoil: Callable[[bytes], bytes]
) -> None:
    reader, _ = await bench.live_at(1)
    bench.sessions.on_frame(NAME, spoil(message(9)))
    assert bench.metrics.corrupt_frames.n == 1
    assert bench.store.asked == []
    bench.arrive(2)
    assert reader.payloads == [2]


async def test_closing_ends_every_read(bench: Bench) -> None:
    bench.subscribe(at(1))
    await bench.store.question()
    before = len(asyncio.all_tasks())
    await bench.sessions.close()
    assert len(asyncio.all_tasks()) < before
