"""producers: is a message new, a repeat, or one that can't be told?"""

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from heliograph.core.limits import MESSAGE_ID_MEMORY_S, PRODUCER_RING, PRODUCERS_PER_SESSION
from heliograph.core.positions import MAX_SEQ, Position
from heliograph.core.producers import (
    ACCEPT,
    PRODUCERS_STORED,
    Accept,
    Claim,
    Duplicate,
    Judgement,
    MessageIdReused,
    OutOfOrder,
    ProducerLedger,
    ProducerSeqExpired,
    ProducerSeqReused,
    ProducerUnknown,
)

EPOCH = "1764000000000-1a2b3c4d"
MEMORY_MS = MESSAGE_ID_MEMORY_S * 1000
P, Q = b"event|alice/worker|i1", b"event|bob|i1"


class Session:
    """The least store that a ledger can serve: positions from 1, confirmed up to a seq."""

    def __init__(self) -> None:
        self.head = 0
        self.confirmed = 0
        self.ledger = ProducerLedger(lambda position: position.seq <= self.confirmed)

    def publish(self, claim: Claim, now_ms: int = 0) -> Judgement | Position:
        """The position of what was new, else the judgement."""
        judgement = self.ledger.judge(claim, now_ms)
        if isinstance(judgement, Accept):
            self.head += 1
            position = Position(EPOCH, self.head)
            self.ledger.record(claim, position, now_ms)
            return position
        if isinstance(judgement, Duplicate) and judgement.consumes:
            self.ledger.record(claim, judgement.position, now_ms)
        return judgement


def at(seq: int) -> Position:
    return Position(EPOCH, seq)


def body(number: int) -> bytes:
    return number.to_bytes(8, "big")


def claim(seq: int, content: int | None = None, producer: bytes = P, message_id: str = "") -> Claim:
    return Claim(body(seq if content is None else content), producer, seq, message_id)


def test_a_repeated_publish_gets_the_first_position_back() -> None:
    session = Session()
    assert [session.publish(claim(seq)) for seq in (1, 2, 3)] == [at(1), at(2), at(3)]
    assert session.publish(claim(2)) == Duplicate(at(2), confirmed=False)
    session.confirmed = 2
    assert session.publish(claim(2)) == Duplicate(at(2), confirmed=True)
    assert session.publish(claim(4)) == at(4)


def test_the_same_seq_with_another_body_is_refused() -> None:
    session = Session()
    session.publish(claim(1, content=7))
    assert session.publish(claim(1, content=8)) == ProducerSeqReused()


def test_an_earlier_message_refused_keeps_a_later_one_out() -> None:
    session = Session()
    session.publish(claim(1))  # 2 was refused for a reason of the store's, such as its backlog
    assert session.publish(claim(3)) == OutOfOrder(expected=2)
    assert [session.publish(claim(seq)) for seq in (2, 3)] == [at(2), at(3)]


def test_the_last_64_are_judged_and_older_ones_refused() -> None:
    session = Session()
    for seq in range(1, PRODUCER_RING + 2):
        session.publish(claim(seq))
    assert session.publish(claim(1)) == ProducerSeqExpired()
    assert session.publish(claim(2)) == Duplicate(at(2), confirmed=False)


def test_an_unknown_producer_begins_at_1() -> None:
    session = Session()
    assert session.publish(claim(2)) == ProducerUnknown()
    assert session.publish(claim(1)) == at(1)


def test_a_restarted_producer_begins_at_1_and_its_former_life_is_still_judged() -> None:
    session = Session()
    for seq in (1, 2):
        session.publish(claim(seq))
    again = b"event|alice/worker|i2"
    assert session.publish(claim(1, 100, again)) == at(3)
    assert session.publish(claim(2)) == Duplicate(at(2), confirmed=False)
    assert session.publish(claim(3)) == at(4)


def test_a_refused_class_does_not_block_another() -> None:
    session = Session()
    session.publish(claim(1))
    assert session.publish(claim(3)) == OutOfOrder(2)
    assert session.publish(claim(1, 50, b"control|alice/worker|i1")) == at(2)


def test_1000_producers_are_remembered_and_the_least_recently_used_go_in_batches() -> None:
    session = Session()
    names = [b"event|p%d|i" % number for number in range(PRODUCERS_STORED + 1)]
    for name in names[:-1]:
        session.publish(claim(1, producer=name))
    session.publish(claim(2, producer=names[0]))
    assert len(session.ledger) == PRODUCERS_STORED
    session.publish(claim(1, producer=names[-1]))
    assert len(session.ledger) == PRODUCERS_PER_SESSION
    assert session.publish(claim(3, producer=names[0])) == at(session.head)
    assert session.publish(claim(2, producer=names[1])) == ProducerUnknown()
    oldest_left = PRODUCERS_STORED - PRODUCERS_PER_SESSION + 2
    assert session.publish(claim(2, producer=names[oldest_left - 1])) == ProducerUnknown()
    assert session.publish(claim(2, producer=names[oldest_left])) == at(session.head)


def test_an_explicit_id_sent_again_by_a_restarted_process_is_a_duplicate() -> None:
    session = Session()
    first = Claim(body(9), b"event|alice|i1", 1, "order-9")
    assert session.publish(first, 0) == at(1)
    retry = Claim(body(9), b"event|alice|i2", 1, "order-9")
    assert session.publish(retry, 1_000) == Duplicate(at(1), confirmed=False, consumes=True)
    assert session.publish(retry, 2_000) == Duplicate(at(1), confirmed=False)  # now by its seq
    assert session.publish(claim(2, producer=b"event|alice|i2"), 3_000) == at(2)


def test_an_id_with_another_content_is_refused_and_uses_no_seq_up() -> None:
    session = Session()
    session.publish(Claim(body(9), message_id="order-9"))
    assert session.publish(claim(1, content=8, message_id="order-9")) == MessageIdReused()
    assert session.publish(claim(1, content=7)) == at(2)


def test_an_id_without_a_counter_is_judged_for_10_minutes_from_the_first_time() -> None:
    session = Session()
    order = Claim(body(9), message_id="order-9")
    assert session.publish(order, 0) == at(1)
    assert session.publish(order, MEMORY_MS - 1) == Duplicate(at(1), confirmed=False)
    assert session.publish(order, MEMORY_MS) == at(2)
    assert session.publish(order, 2 * MEMORY_MS - 1) == Duplicate(at(2), confirmed=False)


def test_a_repeat_under_a_new_seq_does_not_prolong_the_10_minutes() -> None:
    session = Session()
    session.publish(Claim(body(9), message_id="order-9"), 0)
    assert session.publish(claim(1, 9, message_id="order-9"), MEMORY_MS - 1) == Duplicate(at(1), False, consumes=True)
    assert session.publish(claim(2, 9, message_id="order-9"), MEMORY_MS) == at(2)


def test_ids_past_their_time_are_forgotten() -> None:
    session = Session()
    for number in range(1_000):
        session.publish(Claim(body(number), message_id=f"m{number}"), number * 10_000)
    assert len(session.ledger._ids) == MEMORY_MS // 10_000


def test_the_counter_is_asked_before_the_id() -> None:
    session = Session()
    session.publish(claim(1, message_id="a"))
    session.publish(claim(2, message_id="b"))
    # The same message again: known by its seq, whatever id it now says it has.
    assert session.publish(claim(1, message_id="b")) == Duplicate(at(1), confirmed=False)


def test_without_a_counter_and_an_id_nothing_is_a_duplicate() -> None:
    session = Session()
    assert [session.publish(Claim(body(1))) for _ in range(3)] == [at(1), at(2), at(3)]


def test_a_step_that_fails_before_it_is_recorded_changes_nothing() -> None:
    session = Session()
    for _ in range(3):
        assert session.ledger.judge(claim(1, message_id="a"), 0) is ACCEPT
    assert session.publish(claim(1, message_id="a")) == at(1)


def test_memory_restored_from_the_log_may_begin_anywhere() -> None:
    session = Session()
    for seq in (41, 42):
        session.ledger.record(claim(seq), at(seq), 0)
    assert session.publish(claim(42)) == Duplicate(at(42), confirmed=False)
    assert session.publish(claim(40)) == ProducerSeqExpired()
    assert session.publish(claim(43)) == at(1)


def test_only_what_was_judged_the_next_can_be_recorded() -> None:
    session = Session()
    session.publish(claim(1))
    with pytest.raises(ValueError, match="only the next"):
        session.ledger.record(claim(3), at(2), 0)


@pytest.mark.parametrize("seq", [0, -1, MAX_SEQ + 1])
def test_a_seq_that_the_protocol_should_have_refused_is_an_error(seq: int) -> None:
    session = Session()
    with pytest.raises(ValueError, match="producer_seq"):
        session.ledger.judge(claim(seq, content=0), 0)


def test_each_refusal_has_a_code_of_its_own() -> None:
    kinds = (ProducerSeqReused, OutOfOrder, ProducerSeqExpired, ProducerUnknown, MessageIdReused)
    assert len({kind.code for kind in kinds}) == len(kinds)


@given(st.lists(st.tuples(st.sampled_from([P, Q]), st.integers(1, 90)), max_size=150))
@settings(deadline=None)
def test_each_producers_messages_are_sequenced_once_and_in_its_order(arrivals: list[tuple[bytes, int]]) -> None:
    """Whatever repeats, losses and reorderings come: what is sequenced of a producer is 1, 2, 3 … and once each."""
    session = Session()
    sequenced: dict[bytes, list[int]] = {P: [], Q: []}
    for producer, seq in arrivals:
        if isinstance(session.publish(claim(seq, producer=producer)), Position):
            sequenced[producer].append(seq)
    for seqs in sequenced.values():
        assert seqs == list(range(1, len(seqs) + 1))


class Judged(RuleBasedStateMachine):
    """The ledger against everything that ever happened, kept without forgetting."""

    @initialize()
    def begin(self) -> None:
        self.session = Session()
        self.now_ms = 0
        self.history: dict[bytes, list[tuple[bytes, Position]]] = {}
        self.ids: dict[str, tuple[bytes, Position, int]] = {}

    producers = st.sampled_from([b"", b"event|a|1", b"event|a|2", b"control|a|1", b"event|b|1"])

    @rule(wait_ms=st.sampled_from([1, MEMORY_MS // 3, MEMORY_MS]))
    def wait(self, wait_ms: int) -> None:
        self.now_ms += wait_ms

    @rule(producer=producers, count=st.integers(1, 70))
    def stream(self, producer: bytes, count: int) -> None:
        for _ in range(count):
            self.publish(producer, 0, 1, "")

    @rule(
        producer=producers,
        back=st.integers(-2, 70),
        content=st.integers(0, 1),
        message_id=st.sampled_from(["", "x", "y"]),
    )
    def publish(self, producer: bytes, back: int, content: int, message_id: str) -> None:
        had = self.history.setdefault(producer, []) if producer else []
        seq = max(1, len(had) + 1 - back)
        content_hash = body(content)
        answer = self.session.publish(Claim(content_hash, producer, seq, message_id), self.now_ms)
        if producer and seq <= len(had):
            known = had[seq - 1]
            if len(had) - seq >= PRODUCER_RING:
                assert answer == ProducerSeqExpired()
            elif known[0] != content_hash:
                assert answer == ProducerSeqReused()
            else:
                assert answer == Duplicate(known[1], confirmed=False)
            return
        if producer and seq > len(had) + 1:
            assert answer == (OutOfOrder(len(had) + 1) if had else ProducerUnknown())
            return
        known_id = self.ids.get(message_id)
        position = at(self.session.head)
        if known_id is not None and self.now_ms - known_id[2] < MEMORY_MS:
            if known_id[0] != content_hash:
                assert answer == MessageIdReused()
                return
            position = known_id[1]
            assert answer == Duplicate(position, confirmed=False, consumes=bool(producer))
        else:
            assert answer == position
            if message_id:
                self.ids[message_id] = (content_hash, position, self.now_ms)
        had.append((content_hash, position))

    @invariant()
    def rings_are_bounded(self) -> None:
        if hasattr(self, "session"):
            assert all(len(ring.known) <= PRODUCER_RING for ring in self.session.ledger._rings.values())


TestJudged = Judged.TestCase
TestJudged.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


@given(st.lists(st.integers(0, 30), max_size=400))
@settings(max_examples=20, deadline=None)
def test_the_most_recently_used_producers_are_never_forgotten(order: list[int]) -> None:
    """With small numbers, by a stand-in for the bound: the order of eviction is the order of use."""
    session, used = Session(), deque[bytes]()
    fill = [b"event|fill%d|i" % number for number in range(PRODUCERS_PER_SESSION - 40)]
    for name in fill:
        session.publish(claim(1, producer=name))
        used.append(name)
    seqs: dict[bytes, int] = {}
    for number in order:
        name = b"event|busy%d|i" % number
        seqs[name] = seqs.get(name, 0) + 1
        assert isinstance(session.publish(claim(seqs[name], producer=name)), Position)
        if name in used:
            used.remove(name)
        used.append(name)
    for number in range(PRODUCERS_STORED - len(used) + 1):
        name = b"event|new%d|i" % number
        session.publish(claim(1, producer=name))
        used.append(name)
    assert list(session.ledger._rings) == list(used)[-PRODUCERS_PER_SESSION:]
