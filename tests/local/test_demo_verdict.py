"""The demo's verdict: good evidence is good, and each way to be off is found and named."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from heliograph.local.demo.verdict import ClientCounters, Delivered, Evidence, Published, Reading, judge

SESSION = "demo:person:ada"
EPOCH = "1764000000000-1a2b3c4d"
QUESTION = "question-1"
MESSAGES = 6


def position(seq: int) -> str:
    return f"{EPOCH}-{seq:016d}"


def frame(seq: int) -> bytes:
    return b'{"type":"message","payload":%d}' % seq


def message(seq: int) -> Delivered:
    class_ = "control" if seq == 1 else "event"
    return Delivered(QUESTION if seq == 1 else f"m-{seq}", class_, position(seq), frame(seq), at_s=seq + 0.004)


def call(seq: int, **changes: object) -> Published:
    one = message(seq)
    made = Published("planner", SESSION, one.class_, float(seq), one.message_id, one.position, durable=True)
    return replace(made, **changes)  # type: ignore[arg-type]


def telemetry() -> Delivered:
    return Delivered("t-1", "telemetry", None, b"{}", at_s=3.502)


def log() -> list[tuple[str, bytes]]:
    return [(position(seq), frame(seq)) for seq in range(1, MESSAGES + 1)]


def good() -> Evidence:
    """One session, read by the auditor from the beginning, and by a phone that was away from the third message on."""
    heard = [message(seq) for seq in range(1, MESSAGES + 1)]
    return Evidence(
        published=[
            *(call(seq) for seq in range(1, MESSAGES + 1)),
            call(1, began_s=1.001, duplicate=True),
            Published("search", SESSION, "telemetry", 3.5, "t-1"),
        ],
        readings=[
            Reading("auditor", SESSION, messages=[*heard[:3], telemetry(), *heard[3:]], complete=True),
            Reading("phone", SESSION, messages=heard[:2]),
            Reading("phone", SESSION, after=position(2), messages=heard[2:], complete=True, live=False),
        ],
        kafka={SESSION: log()},
        replay={SESSION: log()},
        clients={"planner": ClientCounters(connections=2, resends=3, duplicates=2, holes=0)},
        killed="edge-1",
        moved=["planner"],
        repeats=1,
        questions=1,
        answers=[(QUESTION, "yes")],
        expected={QUESTION: "yes"},
        rewritten=2,
        resumed_from=position(2),
        missed=3,
        away_s=4.04,
        took_s=12.34,
    )


def test_what_is_as_promised_is_found_good_and_counted() -> None:
    assert judge(good()).as_json() == {
        "ok": True,
        "problems": [],
        "messages": {
            "control": {"published": 1, "delivered": 1, "durable": 1},
            "event": {"published": 5, "delivered": 5, "durable": 5},
            "telemetry": {"published": 1, "delivered": 1, "durable": 0},
        },
        "duplicates": {"on_purpose": 1, "resent": 3, "collapsed": 2, "left": 0},
        "gaps": 0,
        "killed": "edge-1",
        "moved": ["planner"],
        "reconnects": 1,
        "latency_ms": {"p50": 4.0, "p99": 4.0, "longest": 4.0},
        "read_back": {"kafka": 6, "replay": 6},
        "resumed": {"from": position(2), "away_s": 4.0, "missed": 3},
        "questions": 1,
        "answers": 1,
        "rewritten": 2,
        "took_s": 12.3,
    }


def test_the_log_may_hold_a_message_twice_and_out_of_order_while_it_is_the_same() -> None:
    evidence = good()
    evidence.kafka = {SESSION: [*reversed(log()), log()[2]]}
    assert judge(evidence).ok


def lose_in_kafka(evidence: Evidence) -> None:
    evidence.kafka = {SESSION: log()[:3] + log()[4:]}


def add_to_kafka(evidence: Evidence) -> None:
    evidence.kafka = {SESSION: [*log(), (position(MESSAGES + 1), frame(MESSAGES + 1))]}


def add_a_session_to_kafka(evidence: Evidence) -> None:
    evidence.kafka = {SESSION: log(), "demo:person:bob": log()}


def change_a_byte_in_kafka(evidence: Evidence) -> None:
    evidence.kafka = {SESSION: [*log()[:-1], (position(MESSAGES), frame(MESSAGES).replace(b"6", b"7"))]}


def lose_in_replay(evidence: Evidence) -> None:
    evidence.replay = {SESSION: log()[1:]}


def change_a_byte_in_replay(evidence: Evidence) -> None:
    evidence.replay = {SESSION: [(position(1), frame(1) + b" "), *log()[1:]]}


def disorder_replay(evidence: Evidence) -> None:
    evidence.replay = {SESSION: [log()[1], log()[0], *log()[2:]]}


def repeat_in_replay(evidence: Evidence) -> None:
    evidence.replay = {SESSION: [log()[0], *log()]}


def leave_a_hole(evidence: Evidence) -> None:
    del evidence.readings[0].messages[2]


def swap_two(evidence: Evidence) -> None:
    given = evidence.readings[0].messages
    given[0], given[1] = given[1], given[0]


def begin_late(evidence: Evidence) -> None:
    del evidence.readings[0].messages[0]


def end_early(evidence: Evidence) -> None:
    evidence.readings[2].messages.pop()


def resume_past_a_message(evidence: Evidence) -> None:
    evidence.readings[2].messages.pop(0)


def give_the_phone_another_byte(evidence: Evidence) -> None:
    evidence.readings[1].messages[0] = replace(message(1), frame=b"{}")


def tell_a_gap(evidence: Evidence) -> None:
    evidence.readings[1].gaps.append("retention")


def skip_in_silence(evidence: Evidence) -> None:
    evidence.clients = {"planner": ClientCounters(connections=2, resends=0, duplicates=1, holes=1)}


def promise_in_vain(evidence: Evidence) -> None:
    evidence.published.append(call(MESSAGES + 1))


def stay_pending(evidence: Evidence) -> None:
    evidence.published[1] = call(2, durable=False)


def fail_to_publish(evidence: Evidence) -> None:
    evidence.published.append(Published("ada", SESSION, "event", 1.0, error="rate_limited: too many"))


def take_a_repeat_for_another(evidence: Evidence) -> None:
    evidence.readings[0].messages[-1] = replace(message(MESSAGES), message_id="m-5")


def give_a_repeat_its_own_position(evidence: Evidence) -> None:
    evidence.published[MESSAGES] = call(1, position=position(2), duplicate=True)


def miss_a_repeat(evidence: Evidence) -> None:
    evidence.published[MESSAGES] = call(1)


def kill_nobody(evidence: Evidence) -> None:
    evidence.killed = None


def move_nobody(evidence: Evidence) -> None:
    evidence.moved = []


def never_return(evidence: Evidence) -> None:
    evidence.resumed_from = None


def miss_nothing(evidence: Evidence) -> None:
    evidence.missed = 0


def answer_twice(evidence: Evidence) -> None:
    evidence.answers = [(QUESTION, "yes"), (QUESTION, "yes")]


def answer_wrongly(evidence: Evidence) -> None:
    evidence.answers = [(QUESTION, "no")]


def ask_nothing(evidence: Evidence) -> None:
    evidence.questions = 0


def hear_nothing(evidence: Evidence) -> None:
    evidence.readings = []


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lose_in_kafka, f"delivered, but not in Kafka: {SESSION} at {position(4)}"),
        (add_to_kafka, f"in Kafka, but never delivered: {SESSION} at {position(7)}"),
        (add_a_session_to_kafka, "in Kafka, but nobody published to: demo:person:bob"),
        (change_a_byte_in_kafka, f"not in Kafka as it was delivered: {SESSION} at {position(6)}"),
        (lose_in_replay, f"delivered, but not in replay: {SESSION} at {position(1)}"),
        (change_a_byte_in_replay, f"replay gives what was not delivered: {SESSION} at {position(1)}"),
        (disorder_replay, f"replay is out of order or repeats itself: {SESSION}"),
        (repeat_in_replay, f"replay is out of order or repeats itself: {SESSION}"),
        (leave_a_hole, "out of order, or a silent hole: auditor of"),
        (swap_two, "out of order, or a silent hole: auditor of"),
        (begin_late, "the first message was not delivered: auditor of"),
        (end_early, f"not everything was delivered: phone of {SESSION} ends at {position(5)}"),
        (resume_past_a_message, f"out of order, or a silent hole: phone of {SESSION}: {position(4)} after"),
        (give_the_phone_another_byte, f"two readers were given different messages: phone of {SESSION}"),
        (tell_a_gap, f"a gap was told: phone of {SESSION}: retention"),
        (skip_in_silence, "positions were left out without a word: 1 for planner"),
        (promise_in_vain, "published, but not delivered at its position: planner"),
        (stay_pending, "never became durable: planner"),
        (fail_to_publish, "a publish failed: ada to demo:person:ada: rate_limited"),
        (take_a_repeat_for_another, "a repeated message was delivered as another one: m-5"),
        (give_a_repeat_its_own_position, f"a repeat was given a position of its own: {QUESTION}"),
        (miss_a_repeat, "repeats were not recognised: 1 of 1"),
        (kill_nobody, "no edge was: killed"),
        (move_nobody, "no client: moved"),
        (never_return, "nobody came back"),
        (miss_nothing, "nobody came back"),
        (answer_twice, f"not answered exactly once: {QUESTION} (2 times)"),
        (answer_wrongly, f"answered wrongly: {QUESTION}"),
        (ask_nothing, "nothing was: asked"),
        (hear_nothing, "the auditor was given: nothing"),
    ],
)
def test_each_way_to_be_off_is_found_and_named(spoil: Callable[[Evidence], None], problem: str) -> None:
    evidence = good()
    spoil(evidence)
    result = judge(evidence)
    assert not result.ok
    assert [sentence for sentence in result.problems if sentence.startswith(problem)] != [], result.problems


def test_of_many_breaches_of_one_rule_three_are_named_and_the_rest_counted() -> None:
    evidence = good()
    evidence.kafka = {SESSION: []}
    (sentence,) = judge(evidence).problems
    assert sentence.count(position(1)[:22]) == 3
    assert sentence.endswith("and 3 more")
