"""Subscribers that come from behind, alone: pages fail, are late, or are not wanted any more."""

from typing import Any

import pytest
from tests.services.edge.sessions_bench import (
    NAME,
    Bench,
    at,
    message,
    page,
    settle,
)

from heliograph.core.history import Start
from heliograph.stores.ports import CorruptError, Page, RehydratedPage, RehydrationRequest, StoreError


async def test_nothing_is_read_before_live_frames_would_arrive(bench: Bench) -> None:
    reader, _ = bench.subscribe(at(1), confirm=False)
    await settle()
    assert bench.store.asked == []
    bench.sessions.on_subscribed(NAME)
    assert await bench.store.answer(page(2)) == at(1)
    assert reader.payloads == [2]


async def test_frames_that_arrive_while_a_page_is_read_come_behind_it_once(bench: Bench) -> None:
    reader, _ = bench.subscribe(at(1))
    await bench.store.question()
    bench.arrive(3, 4)
    await bench.store.answer(page(2, 3))
    bench.arrive(5)
    assert reader.payloads == [2, 3, 4, 5]


async def test_a_subscription_that_ends_while_a_page_is_read_gets_nothing_of_it(bench: Bench) -> None:
    reader, subscription = bench.subscribe(at(1))
    await bench.store.question()
    bench.sessions.unsubscribe(subscription)
    assert bench.store.unsubscribed == [NAME]
    await bench.store.answer(page(2))
    bench.arrive(3)
    assert reader.out == []
    again, _ = bench.subscribe(at(1))
    await bench.store.answer(page(2, 3))
    assert again.payloads == [2, 3]
    assert reader.out == []


@pytest.mark.parametrize(
    "failure",
    [
        StoreError("live_unavailable", "away"),
        CorruptError("key", "no page"),
        Page([b"no message"], page(2).head, complete=True, more=False),
    ],
    ids=["away", "corrupt", "no frame"],
)
async def test_a_page_that_cannot_be_had_is_asked_for_again(bench: Bench, failure: Any) -> None:
    reader, _ = bench.subscribe(at(1))
    for _ in range(3):
        await bench.store.answer(failure)
    assert reader.out == []
    await bench.store.answer(page(2))
    assert reader.payloads == [2]
    assert reader.kinds()[0] == "subscribed"


async def test_a_connection_without_room_is_read_for_once_it_has(bench: Bench) -> None:
    reader, _ = bench.subscribe(at(0))
    reader.room = False
    await bench.store.answer(page(1, 2, head=4, more=True))
    assert reader.payloads == [1, 2]
    assert bench.store.asked == []
    bench.arrive(5)
    reader.room = True
    for joiner in reader.parked:
        joiner.pump()
    assert await bench.store.answer(page(3, 4, 5)) == at(2)
    assert reader.payloads == [1, 2, 3, 4, 5]


async def test_latest_is_answered_with_the_head(bench: Bench) -> None:
    bench.store.head = page(head=9).head
    reader, _ = bench.subscribe(Start.LATEST)
    await settle()
    assert [(frame["type"], frame.get("position")) for frame in reader.frames] == [("subscribed", str(at(9)))]
    bench.arrive(10)
    assert reader.payloads == [10]


async def test_the_log_that_cannot_be_asked_leaves_a_gap_up_to_the_window(bench: Bench) -> None:
    reader, _ = bench.subscribe(at(1))
    await bench.store.answer(page(5, 6, complete=False))
    assert isinstance(await bench.store.answer(StoreError("history_unavailable", "no replay")), RehydrationRequest)
    await bench.store.answer(page(5, 6, complete=False))
    assert reader.kinds() == ["subscribed", "gap", "message", "message"]
    answer, gap = reader.frames[:2]
    assert answer["recovered"] is False
    assert (gap["from"], gap["to"], gap["reason"]) == (str(at(2)), str(at(4)), "history_unavailable")
    assert bench.metrics.history_failures.labels("log").n == 1


async def test_replay_that_answers_with_an_error_is_as_if_it_were_away(bench: Bench) -> None:
    reader, _ = bench.subscribe(at(1))
    await bench.store.answer(page(5, complete=False))
    await bench.store.answer(RehydratedPage([], more=False, code="too_many_requests"))
    await bench.store.answer(page(5, complete=False))
    assert reader.kinds() == ["subscribed", "gap", "message"]


async def test_replay_that_answers_nonsense_is_as_if_it_were_away(bench: Bench) -> None:
    reader, _ = bench.subscribe(at(1))
    await bench.store.answer(page(5, complete=False))
    await bench.store.answer(RehydratedPage([message(2)], more=False, gap_before=["x", "y", "no reason"]))
    await bench.store.answer(page(5, complete=False))
    assert reader.kinds() == ["subscribed", "gap", "message"]


@pytest.mark.parametrize("more", [False, True])
async def test_earliest_without_the_log_is_told_before_the_first_message_that_some_may_be_missing(
    bench: Bench, more: bool
) -> None:
    """Also where the window begins with the first message of its epoch: the live store may have lost epochs before."""
    reader, _ = bench.subscribe(Start.EARLIEST)
    await bench.store.answer(StoreError("history_unavailable", "no replay"))
    await bench.store.answer(page(1, 2, head=3 if more else None, more=more))
    answer, gap, *messages = reader.frames
    assert (answer["type"], answer["recovered"]) == ("subscribed", False)
    assert gap == {"type": "gap", "session": NAME, "reason": "history_unavailable"}, "up to the next message"
    assert [message["payload"] for message in messages] == [1, 2]
    if more:
        await bench.store.answer(page(3))
    assert reader.kinds().count("gap") == 1
    assert bench.metrics.gaps.labels("history_unavailable").n == 1


async def test_a_loss_is_told_at_each_return_and_not_only_at_the_first(bench: Bench) -> None:
    """Without the log, and with nothing of it in the window either, there is no gap to name."""
    reader, subscription = bench.subscribe(Start.EARLIEST)
    await bench.store.answer(StoreError("history_unavailable", "no replay"))
    await bench.store.answer(page(3))
    assert reader.kinds() == ["subscribed", "gap", "gap", "message"]
    reader.out.clear()
    last = bench.sessions.detach(subscription)
    assert last == at(3)
    bench.sessions.join(subscription, at(9))  # as if it had been told a position that is lost since
    await bench.store.answer(page(head=3))
    assert reader.kinds() == ["gap"]
