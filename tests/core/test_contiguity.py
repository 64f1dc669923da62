"""contiguity: whether a stream of positions leaves something out."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from heliograph.core.contiguity import NOTHING, Contiguity, EpochChange, Hole, Verdict
from heliograph.core.positions import Position

A, B, C = "1764000000000-1a2b3c4d", "1764000000001-00000000", "1764000000002-ffffffff"
DELIVER, DUPLICATE = Verdict.DELIVER, Verdict.DUPLICATE


def test_the_next_position_is_delivered() -> None:
    stream = Contiguity(Position(A, 0))
    assert [stream.observe(Position(A, seq)) for seq in (1, 2, 3)] == [DELIVER] * 3
    assert stream.last == Position(A, 3)


def test_what_is_at_or_behind_the_last_is_a_duplicate() -> None:
    stream = Contiguity(Position(B, 3))
    assert [stream.observe(position) for position in (Position(B, 3), Position(B, 1), Position(A, 99))] == [
        DUPLICATE
    ] * 3


def test_a_hole_is_named_and_moves_nothing() -> None:
    stream = Contiguity(Position(A, 4))
    for _ in range(2):
        assert stream.observe(Position(A, 8)) == Hole(A, 5, 7)
    assert stream.last == Position(A, 4)


def test_a_filled_hole_lets_the_rest_pass() -> None:
    stream = Contiguity(Position(A, 4))
    stream.observe(Position(A, 6))
    assert [stream.observe(Position(A, seq)) for seq in (5, 6)] == [DELIVER] * 2


def test_a_declared_gap_closes_a_hole() -> None:
    stream = Contiguity(Position(A, 4))
    assert stream.skip(Hole(A, 5, 7)) is DELIVER
    assert stream.observe(Position(A, 8)) is DELIVER


def test_a_gap_that_overlaps_moves_over_the_rest_only() -> None:
    stream = Contiguity(Position(A, 4))
    assert stream.skip(Hole(A, 2, 4)) is DUPLICATE
    assert stream.skip(Hole(A, 2, 6)) is DELIVER
    assert stream.last == Position(A, 6)
    assert stream.skip(Hole(A, 9, 9)) == Hole(A, 7, 8)


def test_a_later_epoch_is_announced_and_must_be_entered() -> None:
    stream = Contiguity(Position(A, 4))
    assert stream.observe(Position(B, 1)) == EpochChange(Position(A, 4), B)
    assert stream.enter(B) is None
    assert stream.observe(Position(B, 2)) == Hole(B, 1, 1)
    assert stream.observe(Position(B, 1)) is DELIVER


def test_an_epoch_is_not_left_before_its_sealed_end_was_seen() -> None:
    stream = Contiguity(Position(A, 4))
    assert stream.enter(B, sealed=Position(A, 6)) == Hole(A, 5, 6)
    assert stream.observe(Position(A, 5)) is DELIVER
    assert stream.skip(Hole(A, 6, 6)) is DELIVER
    assert stream.enter(B, sealed=Position(A, 6)) is None
    assert stream.last == Position(B, 0)


def test_a_position_past_the_seal_is_valid() -> None:
    stream = Contiguity(Position(A, 9))
    assert stream.enter(B, sealed=Position(A, 6)) is None


def test_an_epoch_in_between_is_not_skipped() -> None:
    stream = Contiguity(Position(A, 4))
    assert stream.enter(C, sealed=Position(B, 2)) == EpochChange(Position(A, 4), B)
    assert stream.enter(B) is None
    assert stream.enter(C, sealed=Position(B, 2)) == Hole(B, 1, 2)


def test_entering_twice_or_backwards_changes_nothing() -> None:
    stream = Contiguity(Position(B, 4))
    assert stream.enter(B) is None
    assert stream.enter(A) is None
    assert stream.last == Position(B, 4)


def test_nothing_wants_the_first_of_all() -> None:
    stream = Contiguity(NOTHING)
    assert stream.observe(Position(A, 3)) == EpochChange(NOTHING, A)
    stream.enter(A)
    assert stream.observe(Position(A, 3)) == Hole(A, 1, 2)


def test_none_begins_anywhere() -> None:
    stream = Contiguity(None)
    assert stream.last is None
    assert stream.observe(Position(A, 3)) is DELIVER
    assert stream.observe(Position(A, 5)) == Hole(A, 4, 4)


positions = st.builds(Position, st.sampled_from([A, B, C]), st.integers(1, 12))


@given(st.builds(Position, st.just(A), st.integers(0, 12)), st.lists(positions, max_size=80))
@settings(deadline=None)
def test_whatever_arrives_delivered_and_declared_make_one_line(start: Position, arriving: list[Position]) -> None:
    """Every hole filled by a declaration, every epoch entered: the line has no hole, no repeat and no step back."""
    stream, line = Contiguity(start), [start]
    for position in arriving:
        judgement = stream.observe(position)
        if isinstance(judgement, EpochChange):
            assert judgement == EpochChange(line[-1], position.epoch)
            assert stream.enter(judgement.epoch) is None
            line.append(Position(judgement.epoch, 0))
            judgement = stream.observe(position)
        if isinstance(judgement, Hole):
            assert stream.skip(judgement) is DELIVER
            line.extend(Position(judgement.epoch, seq) for seq in range(judgement.from_seq, judgement.to_seq + 1))
            judgement = stream.observe(position)
        assert (judgement is DUPLICATE) == (position <= line[-1])
        if judgement is DELIVER:
            line.append(position)
        assert stream.last == line[-1]
    assert all(b == a.next or (b.epoch > a.epoch and b.seq == 0) for a, b in pairwise(line))


@given(st.permutations(range(1, 9)), st.integers(0, 3))
@settings(deadline=None)
def test_a_judgement_that_is_no_delivery_changes_nothing(order: list[int], start: int) -> None:
    stream = Contiguity(Position(A, start))
    for seq in order:
        before = stream.last
        if stream.observe(Position(A, seq)) is not DELIVER:
            assert stream.last == before
