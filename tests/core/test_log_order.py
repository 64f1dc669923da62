"""The log's order made the session's order."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.core.contiguity import Contiguity, EpochChange, Hole, Verdict
from heliograph.core.history import Gap, Why
from heliograph.core.log_order import LogOrder
from heliograph.core.positions import Position

E1, E2, E3 = "1764000000000-1a2b3c4d", "1764000001000-1a2b3c4d", "1764000002000-00000001"
W = 10


def at(seq: int, epoch: str = E1) -> Position:
    return Position(epoch, seq)


def gap(first: int, last: int, why: Why = Why.NEVER_WRITTEN, epoch: str = E1) -> Gap:
    return Gap(Hole(epoch, first, last), why)


def push_all(order: LogOrder[str], *positions: Position) -> list[Position | Gap]:
    return [
        event if isinstance(event, Gap) else event[0]
        for position in positions
        for event in order.push(position, str(position))
    ]


def finish(order: LogOrder[str], *pending: Position) -> list[Position | Gap]:
    return [event if isinstance(event, Gap) else event[0] for event in order.finish(pending)]


def test_what_is_next_is_handed_out_at_once() -> None:
    order = LogOrder[str](at(4), window=W)
    assert order.push(at(5), "five") == [(at(5), "five")]
    assert order.last == at(5)


def test_what_comes_early_waits_for_its_turn() -> None:
    order = LogOrder[str](at(4), window=W)
    assert push_all(order, at(7), at(6)) == []
    assert push_all(order, at(5)) == [at(5), at(6), at(7)]


def test_a_position_is_handed_out_once() -> None:
    order = LogOrder[str](at(4), window=W)
    assert push_all(order, at(4), at(5), at(5), at(7), at(7), at(6), at(7)) == [at(5), at(6), at(7)]
    assert order.dropped == 4


def test_a_hole_is_a_gap_once_w_past_it_was_seen() -> None:
    order = LogOrder[str](at(4), window=W)
    assert push_all(order, *(at(seq) for seq in range(6, 15))) == []
    assert push_all(order, at(15)) == [gap(5, 5), *(at(seq) for seq in range(6, 16))]


def test_only_what_w_is_past_is_a_gap() -> None:
    order = LogOrder[str](at(4), window=W)
    assert push_all(order, at(16)) == [gap(5, 6)]
    assert push_all(order, at(7)) == [at(7)]


def test_the_beginning_that_retention_took_is_named_so_and_later_holes_are_not() -> None:
    order = LogOrder[str](None, leading=Why.RETENTION, window=W)
    out = push_all(order, *(at(seq) for seq in range(501, 513)), *(at(seq) for seq in range(514, 530)))
    assert out == [
        gap(1, 500, Why.RETENTION),
        *(at(seq) for seq in range(501, 513)),
        gap(513, 513),
        *(at(seq) for seq in range(514, 530)),
    ]


def test_from_the_beginning_the_first_position_is_handed_out_at_once() -> None:
    assert push_all(LogOrder[str](None, window=W), at(1), at(2)) == [at(1), at(2)]


def test_an_older_epoch_comes_before_a_newer_one() -> None:
    order = LogOrder[str](at(4), window=W)
    assert push_all(order, at(5), at(1, E2), at(6), at(2, E2), at(7)) == [at(5), at(6), at(7)]
    assert finish(order) == [at(1, E2), at(2, E2)]


def test_an_epoch_is_over_once_w_of_later_ones_were_seen() -> None:
    order = LogOrder[str](at(4), window=W)
    assert push_all(order, at(6), *(at(seq, E2) for seq in range(1, W))) == []
    later = [at(seq, E2) for seq in range(1, W + 1)]
    assert push_all(order, at(W, E2)) == [gap(5, 5), at(6), *later]
    assert push_all(order, at(7)) == []
    assert order.dropped == 1


def test_at_the_end_what_is_held_is_handed_out_and_holes_are_named() -> None:
    order = LogOrder[str](at(4), window=W)
    push_all(order, at(6), at(9), at(2, E2), at(1, E3))
    assert finish(order) == [gap(5, 5), at(6), gap(7, 8), at(9), gap(1, 1, epoch=E2), at(2, E2), at(1, E3)]


def test_what_may_still_be_written_is_no_gap() -> None:
    order = LogOrder[str](at(4), window=W)
    push_all(order, at(6), at(9), at(1, E2))
    assert finish(order, at(8)) == [gap(5, 5), at(6), gap(7, 7)]
    assert order.last == at(7)
    assert push_all(order, at(8)) == [at(8), at(9)]


def test_an_epoch_with_a_tail_to_be_written_is_not_over() -> None:
    order = LogOrder[str](at(4), window=W)
    push_all(order, at(5), at(1, E3))
    assert finish(order, at(6)) == []
    assert finish(order, at(1, E2)) == []
    assert finish(order, at(5)) == [at(1, E3)]


def test_nothing_read_is_nothing_to_finish() -> None:
    assert finish(LogOrder[str](None, window=W)) == []
    assert finish(LogOrder[str](at(4), window=W), at(5)) == []


def test_what_the_log_says_is_missing_is_named_in_its_place() -> None:
    order = LogOrder[str](at(4), window=W)
    assert order.missing(at(6), at(7), Why.CORRUPT) == []
    assert push_all(order, at(8)) == []
    assert push_all(order, at(5)) == [at(5), gap(6, 7, Why.CORRUPT), at(8)]


def test_a_record_that_comes_after_all_takes_the_place_of_a_missing_one() -> None:
    order = LogOrder[str](at(4), window=W)
    assert order.missing(at(6), at(6), Why.CORRUPT) == []
    assert push_all(order, at(6), at(5)) == [at(5), at(6)]
    assert order.missing(at(6), at(6), Why.CORRUPT) == []
    assert order.dropped == 0


def test_a_message_that_is_there_is_not_missing() -> None:
    order = LogOrder[str](at(4), window=W)
    push_all(order, at(6))
    assert order.missing(at(6), at(6), Why.NEVER_WRITTEN) == []
    assert push_all(order, at(5)) == [at(5), at(6)]


@pytest.mark.parametrize("why", [Why.CORRUPT, Why.NEVER_WRITTEN])
def test_missing_positions_of_a_later_epoch_wait_for_it(why: Why) -> None:
    order = LogOrder[str](at(4), window=W)
    assert order.missing(at(1, E2), at(2, E2), why) == []
    push_all(order, at(3, E2))
    assert finish(order) == [gap(1, 2, why, E2), at(3, E2)]


@st.composite
def logs(draw: st.DrawFn) -> tuple[list[Position], set[Position]]:
    """A log as the live path and the routers may leave it, and the positions that are not in it."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    epochs = draw(st.lists(st.integers(1, 60), min_size=1, max_size=3))
    lost_share = draw(st.sampled_from([0.0, 0.05, 0.5]))
    written: list[Position] = []
    lost: set[Position] = set()
    for epoch, count in zip((E1, E2, E3), epochs, strict=False):
        unwritten: list[Position] = []
        for seq in range(1, count + 1):
            position = at(seq, epoch)
            # `append` refuses W past what is not in the log: the router has given up on (or written) what is older
            for old in [old for old in unwritten if old.seq + W <= seq]:
                unwritten.remove(old)
                (lost.add if rng.random() < lost_share else written.append)(old)
            if rng.random() < 0.4:
                unwritten.append(position)
            else:
                written.append(position)
                if rng.random() < 0.2:
                    written.append(rng.choice(written))  # a retry: there twice
        rng.shuffle(unwritten)
        for old in unwritten:
            (lost.add if rng.random() < lost_share else written.append)(old)
    return written, lost


@given(logs(), st.integers(0, 3), st.integers(0, 60))
def test_every_position_is_handed_out_or_named_once_and_in_order(
    log: tuple[list[Position], set[Position]], epoch_number: int, seq: int
) -> None:
    written, lost = log
    after = None if epoch_number == 0 else at(seq, (E1, E2, E3)[epoch_number - 1])
    order = LogOrder[str](after, window=W)
    events = [event for position in written for event in order.push(position, str(position))]
    assert len(list(order.held())) <= 2 * W
    events += order.finish(())

    handed_out: list[Position] = []
    named: set[Position] = set()
    contiguity = Contiguity(after)
    if after is None:
        contiguity.enter(E1)
    for event in events:
        if isinstance(event, Gap):
            named |= {at(seq, event.hole.epoch) for seq in range(event.hole.from_seq, event.hole.to_seq + 1)}
            judged = contiguity.skip(event.hole)
            if isinstance(judged, EpochChange):
                contiguity.enter(event.hole.epoch)
                judged = contiguity.skip(event.hole)
        else:
            position, item = event
            assert item == str(position)
            handed_out.append(position)
            judged = contiguity.observe(position)
            if isinstance(judged, EpochChange):
                contiguity.enter(position.epoch)
                judged = contiguity.observe(position)
        assert judged is Verdict.DELIVER

    wanted = {position for position in written if after is None or position > after}
    assert handed_out == sorted(wanted)
    assert named <= lost
    assert not list(order.held())


@given(logs(), st.integers(0, 60), st.integers(1, 20))
def test_many_at_once_are_as_one_by_one(log: tuple[list[Position], set[Position]], seq: int, size: int) -> None:
    records = [(position, str(position)) for position in log[0]]
    singles, batches = LogOrder[str](at(seq), window=W), LogOrder[str](at(seq), window=W)
    expected = [event for position, item in records for event in singles.push(position, item)]
    got = [event for start in range(0, len(records), size) for event in batches.push_all(records[start : start + size])]
    assert singly(got) == singly(expected)
    assert (batches.last, batches.dropped) == (singles.last, singles.dropped)
    assert singly(batches.finish(())) == singly(singles.finish(()))


@given(logs(), st.randoms(use_true_random=False))
def test_a_read_that_is_cut_anywhere_goes_on_from_its_last_position(
    log: tuple[list[Position], set[Position]], rng: random.Random
) -> None:
    """Reading again, from the log's beginning, after the last position that was handed out."""
    written, _ = log
    whole = LogOrder[str](None, window=W)
    expected = [event for position in written for event in whole.push(position, "")]
    expected += whole.finish(())
    seen: list[tuple[Position, str] | Gap] = []
    after: Position | None = None
    while singly(seen) != singly(expected):
        order = LogOrder[str](after, window=W)
        events = [event for position in written for event in order.push(position, "")]
        events += order.finish(())
        assert events
        for event in events[: rng.randint(1, 5)]:
            seen.append(event)
            after = at(event.hole.to_seq, event.hole.epoch) if isinstance(event, Gap) else event[0]


def singly(events: list[tuple[Position, str] | Gap]) -> list[tuple[Position, Why | None]]:
    """Gaps position by position: how they are grouped depends on where a read is cut."""
    return [
        entry
        for event in events
        for entry in (
            [(at(seq, event.hole.epoch), event.why) for seq in range(event.hole.from_seq, event.hole.to_seq + 1)]
            if isinstance(event, Gap)
            else [(event[0], None)]
        )
    ]
