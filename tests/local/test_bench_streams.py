"""What a storm's clients keep account of: each message's number, its answer, and what a reader saw of it."""

import json
from typing import Any

from heliograph.local.bench.storms.streams import MOST_UNANSWERED, Reading, Stream

SESSION = "calm:planner:1"
EPOCH = "1764000000000-1a2b3c4d"


def message(number: int, intended_ns: int = 7) -> bytes:
    payload = f'{{"n":{number},"t":{intended_ns},"p":"x"}}'
    head = f'{{"type":"message","position":"{EPOCH}-{number:016d}","session":"{SESSION}",'
    return f'{head}"payload":{payload}}}'.encode()


def given(stream: Stream, count: int) -> list[dict[str, Any]]:
    """So many messages, and the frames that are due."""
    for number in range(count):
        stream.give(100 + number, number)
    return [json.loads(frame) for frame in stream.due()]


def published(**more: Any) -> dict[str, Any]:
    return {"type": "published", "durable": True, **more}


REFUSED = {"type": "refused", "code": "live_unavailable"}


def test_a_reader_that_saw_all_in_order_misses_nothing() -> None:
    times: list[int] = []
    reading = Reading(SESSION, times.append)
    for number in (1, 2, 3):
        reading.message(message(number, intended_ns=number * 10))
    account = reading.account()
    assert (account.last, account.received, account.missing, account.repeated, account.late) == (3, 3, 0, 0, 0)
    assert times == [10, 20, 30]
    assert reading.position == f"{EPOCH}-{3:016d}"


def test_what_is_left_out_is_missing_until_it_comes_and_then_it_is_late() -> None:
    reading = Reading(SESSION)
    reading.message(message(1))
    reading.message(message(4))
    assert reading.account().missing == 2
    reading.message(message(2))
    account = reading.account()
    assert (account.missing, account.late, account.received) == (1, 1, 3)


def test_what_comes_twice_is_counted_and_not_timed_again() -> None:
    times: list[int] = []
    reading = Reading(SESSION, times.append)
    reading.message(message(1))
    reading.message(message(1))
    assert reading.account().repeated == 1
    assert len(times) == 1


def test_a_message_carries_its_number_and_the_time_it_was_meant_to_be_sent() -> None:
    (frame,) = given(Stream(SESSION, "control", 200), 1)
    assert frame["seq"] == 1
    assert frame["class"] == "control"
    assert (frame["payload"]["n"], frame["payload"]["t"]) == (1, 100)
    assert len(json.dumps(frame["payload"], separators=(",", ":"))) in range(180, 210)


def test_a_stream_keeps_no_more_unanswered_than_an_edge_remembers() -> None:
    stream = Stream(SESSION, "event", 100)
    assert len(given(stream, MOST_UNANSWERED + 5)) == MOST_UNANSWERED
    assert stream.due() == []
    stream.answered(1, published())
    assert [json.loads(frame)["seq"] for frame in stream.due()] == [MOST_UNANSWERED + 1]


def test_after_a_refusal_nothing_is_sent_until_it_goes_again_in_order() -> None:
    stream = Stream(SESSION, "control", 100)
    given(stream, 3)
    stream.answered(1, published())
    assert stream.answered(2, REFUSED)
    stream.give(1, 9)
    assert stream.due() == []
    assert not stream.send_again(), "the answer to 3 is still due"
    assert stream.answered(3, REFUSED)
    assert stream.send_again()
    assert [json.loads(frame)["seq"] for frame in stream.due()] == [2, 3, 4]
    assert stream.account().codes == {"live_unavailable": 2}


def test_what_was_under_way_when_a_connection_was_lost_goes_again_first() -> None:
    stream = Stream(SESSION, "event", 100)
    given(stream, 2)
    stream.give(1, 8)
    stream.answered(1, published())
    stream.connection_lost()
    assert [json.loads(frame)["seq"] for frame in stream.due()] == [2, 3]


def test_a_pending_message_is_durable_once_it_is_confirmed() -> None:
    stream = Stream(SESSION, "event", 100)
    given(stream, 2)
    stream.answered(1, published(durable=False, pending=True, position="p-1"))
    stream.answered(2, published(deferred=True))
    assert (stream.published, stream.durable, stream.deferred) == (2, 1, 1)
    stream.confirmed("p-2")
    assert stream.durable == 1
    stream.confirmed("p-1")
    assert stream.durable == 2


def test_an_uncounted_stream_sends_all_at_once_and_never_again() -> None:
    stream = Stream(SESSION, "event", 100, counted=False)
    frames = given(stream, MOST_UNANSWERED * 3)
    assert len(frames) == MOST_UNANSWERED * 3
    assert "seq" not in frames[0]
    assert not stream.answered(1, REFUSED)
    assert stream.due() == []
    assert stream.unanswered == MOST_UNANSWERED * 3 - 1
