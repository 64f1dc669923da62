"""The rules of cursors against histories written by hand: a good one that passes, bad ones that they must catch."""

import pytest
from tests.system.checker import check, summary
from tests.system.history import AckAnswered, AckSent, CursorFound, CursorRead, EpochTold
from tests.system.test_checker import NEW, NOWHERE, S, Script, at


class Lives(Script):
    """A log of five messages, and one consumer's lives on it."""

    def __init__(self) -> None:
        super().__init__()
        self.requests = 0
        self.life = 0
        for seq in range(1, 6):
            self.publish(f"m{seq}", position=at(seq))
            self.log(f"m{seq}", at(seq), seq=seq)

    def come(self, position: str | None, *seqs: int) -> None:
        """A life that is put at `position`, and given these."""
        if self.life:
            self.view.to_the_end = False
        self.life += 1
        self.history.cursors.append(CursorFound(0.0, "c", S, position))
        self.subscribed("cursor", position or NOWHERE, who=self.who)
        for seq in seqs:
            self.delivered(f"m{seq}", at(seq), who=self.who)

    @property
    def who(self) -> str:
        return f"c~{self.life}"

    @property
    def view(self):  # type: ignore[no-untyped-def]
        return self.history.view(self.who, S)

    def ack(self, position: str, answer: str | None = "", code: str | None = None, *, given: bool = True) -> None:
        """`answer`: where the cursor stands, by default there; None: no answer, or `code`."""
        self.requests += 1
        self.history.cursors.append(AckSent(0.0, "c", S, position, f"c#{self.life}", self.requests, given))
        if answer is not None or code is not None:
            stands = None if code else answer or position
            self.history.cursors.append(AckAnswered(0.1, "c", S, f"c#{self.life}", self.requests, stands, code))

    def read(self, position: str | None) -> None:
        self.history.cursors.append(CursorRead(0.2, "c", S, position))


@pytest.fixture
def lives() -> Lives:
    return Lives()


def test_lives_as_they_should_be_have_no_violation(lives: Lives) -> None:
    """Acks out of order, one that was lost with its connection but stored, one that was not, a lie that was refused."""
    lives.come(None, 1, 2, 3)
    lives.ack(at(2))
    lives.ack(at(1), at(2))
    lives.ack(at(900), None, "position_ahead", given=False)
    lives.read(at(2))
    lives.ack(at(3), None)
    lives.history.ended.add("c#1")
    lives.come(at(3), 4)
    lives.ack(at(4), None)
    lives.history.ended.add("c#2")
    lives.come(at(3), 4, 5)
    lives.ack(at(5), None, "live_unavailable")
    lives.read(at(3))
    assert check(lives.history) == []
    assert (summary(lives.history)["acks"], summary(lives.history)["cursors found"]) == (6, 3)


def test_a_cursor_that_moved_back_is_found_on_return(lives: Lives) -> None:
    lives.come(None, 1, 2, 3)
    lives.ack(at(3))
    lives.come(at(2), 3, 4, 5)
    (violation,) = check(lives.history)
    assert (violation.rule, violation.positions, violation.who) == ("cursor back", (at(3),), "c")


def test_a_cursor_that_moved_back_is_found_in_an_answer(lives: Lives) -> None:
    lives.come(None, 1, 2, 3, 4, 5)
    lives.ack(at(3))
    lives.ack(at(2))
    assert lives.rules == {"cursor back"}


def test_a_cursor_that_moved_back_is_found_in_the_store(lives: Lives) -> None:
    lives.come(None, 1, 2, 3, 4, 5)
    lives.ack(at(3))
    for position in (at(3), at(1)):
        lives.read(position)
    assert lives.rules == {"cursor back"}


def test_an_answer_below_what_was_acknowledged_is_found(lives: Lives) -> None:
    lives.come(None, 1, 2, 3, 4, 5)
    lives.ack(at(3), at(2))
    assert lives.rules == {"ack"}


@pytest.mark.parametrize("answers", [0, 2])
def test_an_ack_without_one_answer_is_found(lives: Lives, answers: int) -> None:
    lives.come(None, 1, 2, 3, 4, 5)
    lives.ack(at(3), None)
    for _ in range(answers):
        lives.history.cursors.append(AckAnswered(0.1, "c", S, "c#1", 1, at(3)))
    assert lives.rules == {"ack"}


def test_an_ack_of_what_was_never_given_must_be_refused(lives: Lives) -> None:
    lives.come(None, 1, 2, 3, 4, 5)
    lives.ack(at(900), given=False)
    assert "ack" in lives.rules


def test_an_ack_of_what_was_given_must_be_taken_unless_its_store_is_gone(lives: Lives) -> None:
    lives.come(None, 1, 2, 3, 4, 5)
    lives.ack(at(3), None, "position_ahead")
    assert lives.rules == {"ack"}
    lives.history.lost_runs.add("aaaaaaaa")
    assert lives.rules == set()


def test_a_consumer_that_is_put_further_than_it_said_is_found(lives: Lives) -> None:
    lives.come(None, 1, 2)
    lives.ack(at(2))
    lives.come(at(4), 5)
    assert lives.rules == {"cursor", "cursor skips"}


def test_a_cursor_in_the_store_that_nobody_asked_for_is_found(lives: Lives) -> None:
    lives.come(None, 1, 2, 3, 4, 5)
    lives.read(at(1))
    assert lives.rules == {"cursor"}


def test_a_cursor_that_is_said_to_be_missing_is_found_unless_its_store_is_gone(lives: Lives) -> None:
    lives.come(None, 1, 2, 3)
    lives.ack(at(3))
    lives.come(None, 1, 2, 3, 4, 5)
    assert lives.rules == {"cursor", "cursor back"}
    lives.history.lost_runs.add("aaaaaaaa")
    assert lives.rules == set()


def test_a_message_that_no_life_was_given_is_found(lives: Lives) -> None:
    lives.come(None, 1, 2, 3)
    lives.ack(at(3))
    lives.come(at(3), 5)
    assert lives.rules >= {"cursor skips"}


def test_a_message_that_a_life_did_not_get_to_is_not_missing_before_the_last_one(lives: Lives) -> None:
    lives.come(None, 1, 2, 3)
    lives.view.to_the_end = False
    assert lives.rules == set()
    lives.view.to_the_end = True
    assert lives.rules == {"missed", "cursor skips"}


def test_a_life_that_begins_behind_its_cursor_with_a_hole_is_found(lives: Lives) -> None:
    lives.come(None, 1, 2, 3)
    lives.ack(at(2))
    lives.come(at(2), 4, 5)
    assert "order" in lives.rules


def test_a_cursor_of_an_old_epoch_goes_on_into_the_new_one(lives: Lives) -> None:
    lives.log("n1", at(1, NEW))
    lives.come(None, 1, 2, 3, 4)
    lives.ack(at(4))
    lives.come(at(4), 5)
    lives.view.sights.append(EpochTold(0.2, NEW, at(5), certain=True))
    lives.delivered("n1", at(1, NEW), who=lives.who)
    lives.ack(at(1, NEW))
    assert check(lives.history) == []
