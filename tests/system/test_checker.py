"""Each rule of the checker against a history written by hand: a good one that passes, bad ones that it must catch."""

import pytest
from tests.system.checker import check, summary
from tests.system.history import (
    Answer,
    Attempt,
    Confirmed,
    Delivered,
    EpochTold,
    GapTold,
    History,
    Kind,
    LogEntry,
    Outcome,
    Parted,
    Subscribed,
)

from heliograph.core.messages import AckMode, MessageClass
from heliograph.core.positions import Position
from heliograph.protocol.messages import Message, frame

S = "acme:planner:1"
OLD, NEW = "1764000000000-aaaaaaaa", "1764000009000-bbbbbbbb"
NOWHERE = "0000000000000-00000000-0000000000000000"


def at(seq: int, epoch: str = OLD) -> str:
    return str(Position(epoch, seq))


def frame_of(position: str, content: bytes, message_id: str) -> bytes:
    return frame(
        Message(
            session=S,
            message_id=message_id,
            time_ms=1_764_000_000_500,
            producer="p",
            class_=MessageClass.EVENT,
            payload=content,
            position=position,
        )
    )


class Script:
    """Writes a history step by step, correct unless a step is told otherwise."""

    def __init__(self) -> None:
        self.history = History()
        self._offset = 0

    def publish(
        self,
        key: str,
        outcome: Outcome | None = Outcome.DURABLE,
        position: str | None = None,
        *,
        connection: str = "pub#1",
        ack: AckMode = AckMode.DURABLE,
        duplicate: bool = False,
    ) -> Attempt:
        attempt = Attempt(0.0, connection, S, MessageClass.EVENT, b'"%b"' % key.encode(), key, ack)
        if outcome is not None:
            attempt.answers.append(Answer(0.1, outcome, position, key, duplicate))
        self.history.attempts.append(attempt)
        return attempt

    def log(
        self,
        key: str,
        position: str,
        *,
        message_id: str | None = None,
        kind: Kind = Kind.MESSAGE,
        partition: int = 0,
        seq: int | None = None,
        marked: bool = False,
        written_ms: int = 0,
    ) -> None:
        content, id_ = b'"%b"' % key.encode(), message_id or key
        self.history.log.append(
            LogEntry(
                topic="heliograph.acme.log",
                partition=partition,
                offset=self._offset,
                session=S,
                kind=kind,
                position=position,
                message_id=id_,
                content=content,
                frame=frame_of(position, content, id_),
                producer="p",
                incarnation=None if seq is None else "incarnation",
                producer_seq=seq,
                written_ms=written_ms,
                marked=marked,
            )
        )
        self._offset += 1

    def subscribed(
        self, asked: str = "earliest", position: str = NOWHERE, *, recovered: bool = True, who: str = "sub"
    ) -> None:
        self.history.view(who, S).sights.append(Subscribed(0.0, f"{who}#1", asked, position, recovered))

    def delivered(self, key: str, position: str, *, who: str = "sub", message_id: str | None = None) -> None:
        content = b'"%b"' % key.encode()
        data = frame_of(position, content, message_id or key)
        self.history.view(who, S).sights.append(Delivered(0.2, position, message_id or key, content, data))

    def gap(self, first: str | None, last: str | None, reason: str = "too_far_behind") -> None:
        self.history.view("sub", S).sights.append(GapTold(0.2, first, last, reason))

    def epoch(self, epoch: str = NEW, last: str | None = None, *, certain: bool = True) -> None:
        self.history.view("sub", S).sights.append(EpochTold(0.2, epoch, last, certain))

    def parted(self) -> None:
        self.history.view("sub", S).sights.append(Parted(0.3, "sub#1"))

    def all(self, count: int = 3) -> "Script":
        """`count` messages, each published, in the log and delivered."""
        self.subscribed()
        for seq in range(1, count + 1):
            self.publish(f"m{seq}", position=at(seq))
            self.log(f"m{seq}", at(seq), seq=seq)
            self.delivered(f"m{seq}", at(seq))
        return self

    @property
    def rules(self) -> set[str]:
        return {violation.rule for violation in check(self.history)}


@pytest.fixture
def script() -> Script:
    return Script()


def test_a_run_as_it_should_be_has_no_violation(script: Script) -> None:
    assert check(script.all().history) == []
    assert summary(script.history)["messages"] == 3
    assert summary(script.history)["deliveries"] == 3


def test_a_run_with_everything_that_may_happen_has_no_violation(script: Script) -> None:
    """Pending and confirmed, a lost answer and its repeat, a gap, a resume, two epochs, a record written twice."""
    script.subscribed()
    script.publish("m1", Outcome.PENDING, at(1))
    script.history.confirmed.append(Confirmed(1.0, "pub#1", S, at(1)))
    script.publish("m2", None, connection="pub#1")
    script.history.ended.add("pub#1")
    script.publish("m2", position=at(2), duplicate=True, connection="pub#2")
    script.publish("m3", Outcome.REFUSED, connection="pub#2")
    script.publish("m3", None, connection="pub#2", ack=AckMode.NONE)
    for seq in (2, 1, 3, 1):
        script.log(f"m{seq}", at(seq))
    script.log("gap", at(4), kind=Kind.GAP)
    script.log("m5", at(1, NEW))
    script.delivered("m1", at(1))
    script.parted()
    script.subscribed(at(1), at(1), recovered=False)
    script.gap(at(2), at(2))
    script.delivered("m3", at(3))
    script.gap(at(4), at(4), "never_written")
    script.epoch(last=at(4))
    script.delivered("m5", at(1, NEW))
    assert check(script.history) == []


def test_a_deferred_message_is_in_the_log_in_the_end(script: Script) -> None:
    script.publish("m1", Outcome.DEFERRED).class_ = MessageClass.CONTROL
    assert script.rules == {"deferred"}
    script.log("m1", at(1))
    assert check(script.history) == []


def test_a_deferred_message_excuses_nothing_even_with_the_live_store_lost(script: Script) -> None:
    script.publish("m1", Outcome.DEFERRED).class_ = MessageClass.CONTROL
    script.history.lost_runs.add("aaaaaaaa")
    assert script.rules == {"deferred"}


@pytest.mark.parametrize(("class_", "position"), [(MessageClass.EVENT, None), (MessageClass.CONTROL, at(1))])
def test_only_control_is_deferred_and_without_a_position(
    script: Script, class_: MessageClass, position: str | None
) -> None:
    script.publish("m1", Outcome.DEFERRED, position).class_ = class_
    script.log("m1", at(1))
    assert script.rules == {"deferred"}


def test_a_durable_answer_that_is_not_in_the_log_is_found(script: Script) -> None:
    script.publish("m1", position=at(1))
    (violation,) = check(script.history)
    assert (violation.rule, violation.positions, violation.who) == ("durable", (at(1),), "pub#1")


def test_a_durable_answer_for_which_the_log_has_a_gap_is_found(script: Script) -> None:
    script.publish("m1", position=at(1))
    script.log("gap", at(1), kind=Kind.GAP)
    assert script.rules == {"durable"}


def test_a_durable_answer_without_a_position_is_found(script: Script) -> None:
    script.publish("m1")
    assert script.rules == {"durable"}


def test_a_confirmed_message_that_is_not_in_the_log_is_found(script: Script) -> None:
    script.history.confirmed.append(Confirmed(1.0, "pub#1", S, at(1)))
    assert script.rules == {"durable"}


def test_durable_is_a_promise_even_when_the_live_store_is_gone(script: Script) -> None:
    script.history.lost_runs.add("aaaaaaaa")
    script.publish("m1", position=at(1))
    assert script.rules == {"durable"}


@pytest.mark.parametrize("outcome", [Outcome.ACCEPTED, Outcome.PENDING])
def test_what_was_accepted_and_never_reaches_the_log_is_found(script: Script, outcome: Outcome) -> None:
    script.publish("m1", outcome, at(1), ack=AckMode.ACCEPTED)
    assert "accepted" in script.rules


@pytest.mark.parametrize("outcome", [Outcome.ACCEPTED, Outcome.PENDING])
def test_what_was_only_accepted_may_go_with_its_live_store(script: Script, outcome: Outcome) -> None:
    script.history.lost_runs.add("aaaaaaaa")
    script.publish("m1", outcome, at(1), ack=AckMode.ACCEPTED)
    script.subscribed()
    script.delivered("m1", at(1))
    assert check(script.history) == []


def test_a_delivered_message_that_the_log_never_gets_is_found(script: Script) -> None:
    script.all()
    script.delivered("m4", at(4))
    assert script.rules == {"delivered"}


def test_a_publish_without_an_answer_is_found(script: Script) -> None:
    script.publish("m1", None)
    assert script.rules == {"answers"}


def test_a_publish_with_two_answers_is_found_even_on_a_connection_that_ended(script: Script) -> None:
    script.history.ended.add("pub#1")
    attempt = script.publish("m1", position=at(1))
    attempt.answers.append(Answer(0.2, Outcome.DURABLE, at(1)))
    script.log("m1", at(1))
    assert script.rules == {"answers"}


def test_an_answer_that_nobody_asked_for_is_found(script: Script) -> None:
    script.publish("m1", Outcome.ACCEPTED, at(1), ack=AckMode.NONE)
    script.log("m1", at(1))
    assert script.rules == {"answers"}


def test_a_pending_publish_that_is_never_confirmed_is_found(script: Script) -> None:
    script.publish("m1", Outcome.PENDING, at(1))
    script.log("m1", at(1))
    assert script.rules == {"pending"}


def test_one_position_with_two_contents_in_the_log_is_found(script: Script) -> None:
    script.log("m1", at(1))
    script.log("m2", at(1))
    assert script.rules == {"content", "frame"}


def test_a_position_given_to_two_messages_is_found(script: Script) -> None:
    script.publish("m1", position=at(1))
    script.publish("m2", position=at(1))
    script.log("m1", at(1))
    assert script.rules == {"content"}


def test_two_subscribers_that_see_different_messages_at_one_position_are_found(script: Script) -> None:
    script.history.lost_runs.add("aaaaaaaa")
    for who, key in (("one", "m1"), ("two", "m2")):
        script.subscribed(who=who)
        script.delivered(key, at(1), who=who)
    assert script.rules == {"content"}


def test_a_record_that_does_not_give_the_delivered_frame_is_found(script: Script) -> None:
    script.subscribed()
    script.log("m1", at(1), message_id="one")
    script.delivered("m1", at(1), message_id="another")
    assert script.rules == {"frame"}


def test_a_message_id_under_two_positions_is_found(script: Script) -> None:
    script.log("m1", at(1), message_id="same")
    script.log("m2", at(2), message_id="same")
    assert script.rules == {"duplicate"}


def test_a_message_under_two_positions_is_found_though_its_ids_differ(script: Script) -> None:
    script.publish("m1", position=at(1))
    script.publish("m1", position=at(2))
    script.log("m1", at(1), message_id="one")
    script.log("m1", at(2), message_id="two")
    assert script.rules == {"duplicate"}


def test_a_marked_duplicate_is_none(script: Script) -> None:
    script.log("m1", at(1))
    script.log("m1", at(2), marked=True)
    assert check(script.history) == []


def test_a_duplicate_of_what_a_lost_store_remembered_is_excused(script: Script) -> None:
    script.log("m1", at(1))
    script.log("m1", at(1, NEW))
    assert script.rules == {"duplicate"}
    script.history.lost_runs.add("aaaaaaaa")
    assert check(script.history) == []


def test_a_hole_without_a_word_is_found(script: Script) -> None:
    script.all()
    script.history.view("sub", S).sights.pop(2)
    violations = {violation.rule: violation for violation in check(script.history)}
    assert set(violations) == {"order", "missed"}
    assert violations["order"].positions == (at(2), at(2))


def test_a_message_that_comes_again_or_late_is_found(script: Script) -> None:
    script.all()
    script.delivered("m2", at(2))
    assert script.rules == {"order"}


def test_a_hole_over_a_reconnection_is_found(script: Script) -> None:
    script.all(4)
    sights = script.history.view("sub", S).sights
    sights[2:4] = [Parted(0.3, "sub#1"), Subscribed(0.4, "sub#2", at(1), at(1), recovered=True)]
    assert script.rules == {"order", "missed"}


def test_a_resume_that_is_put_elsewhere_is_found(script: Script) -> None:
    script.all(2)
    script.parted()
    script.subscribed(at(2), at(3))
    assert script.rules == {"order"}


def test_a_new_epoch_without_a_word_is_found(script: Script) -> None:
    script.all(1)
    script.log("m2", at(1, NEW))
    script.delivered("m2", at(1, NEW))
    assert script.rules == {"order"}


def test_an_sdk_says_nothing_of_an_epoch_that_lost_nothing(script: Script) -> None:
    script.history.view("sub", S).silent_epochs = True
    for key, position in (("m1", at(1)), ("m2", at(2)), ("m3", at(1, NEW))):
        script.log(key, position)
        script.delivered(key, position)
    assert check(script.history) == []


def test_an_epoch_that_begins_in_its_middle_is_found(script: Script) -> None:
    script.all(1)
    script.log("m2", at(1, NEW))
    script.log("m3", at(2, NEW))
    script.epoch(last=at(1))
    script.delivered("m3", at(2, NEW))
    assert script.rules == {"order", "missed"}


def test_an_epoch_frame_that_names_another_last_position_is_found(script: Script) -> None:
    script.all(2)
    script.epoch(last=at(1))
    assert script.rules == {"order"}


def test_an_epoch_called_certain_that_left_a_message_out_is_found(script: Script) -> None:
    script.all(2)
    script.log("m3", at(3))
    script.log("m4", at(1, NEW))
    script.epoch(last=at(2), certain=True)
    script.delivered("m4", at(1, NEW))
    assert script.rules == {"missed"}


def test_an_epoch_called_uncertain_may_leave_messages_out(script: Script) -> None:
    script.all(2)
    script.log("m3", at(3))
    script.log("m4", at(1, NEW))
    script.epoch(last=at(2), certain=False)
    script.delivered("m4", at(1, NEW))
    assert check(script.history) == []


def test_a_gap_that_does_not_begin_where_it_should_is_found(script: Script) -> None:
    script.all(1)
    script.log("m2", at(2))
    script.log("m3", at(3))
    script.gap(at(3), at(3))
    assert script.rules == {"order", "missed"}


def test_a_gap_called_never_written_that_the_log_has_is_found(script: Script) -> None:
    script.all(1)
    script.log("m2", at(2))
    script.gap(at(2), at(2), "never_written")
    assert script.rules == {"missed"}


def test_a_gap_without_an_end_reaches_up_to_the_next_message(script: Script) -> None:
    script.all(1)
    for seq in (2, 3, 4, 5):
        script.log(f"m{seq}", at(seq))
    script.gap(None, None)
    script.delivered("m3", at(3))
    script.delivered("m5", at(5))
    violations = check(script.history)
    assert [(violation.rule, violation.positions) for violation in violations] == [
        ("order", (at(4), at(4))),
        ("missed", (at(4), at(4))),
    ]


def test_a_last_message_that_was_never_delivered_is_found(script: Script) -> None:
    script.all()
    script.publish("m4", position=at(4))
    script.log("m4", at(4))
    assert script.rules == {"missed"}
    script.history.view("sub", S).to_the_end = False
    assert check(script.history) == []


def test_a_subscriber_of_latest_owes_nothing_before_its_start(script: Script) -> None:
    script.log("m1", at(1))
    script.log("m2", at(2))
    script.subscribed("latest", at(1))
    script.delivered("m2", at(2))
    assert check(script.history) == []


def test_a_producer_out_of_its_order_is_found(script: Script) -> None:
    script.log("m1", at(1), seq=2)
    script.log("m2", at(2), seq=1)
    assert script.rules == {"producer order"}


@pytest.mark.parametrize(("deferred", "lost"), [(True, True), (True, False), (False, True)])
def test_what_was_deferred_may_come_late_where_the_live_store_is_gone_with_its_data(
    script: Script, deferred: bool, lost: bool
) -> None:
    if lost:
        script.history.lost_runs.add("aaaaaaaa")
    outcome, position = (Outcome.DEFERRED, None) if deferred else (Outcome.DURABLE, at(1, NEW))
    script.publish("m1", outcome, position).class_ = MessageClass.CONTROL
    script.log("m2", at(2), seq=2)
    script.log("m1", at(1, NEW), seq=1)
    assert ("producer order" in script.rules) is not (deferred and lost)


def test_a_repeat_behind_later_ones_is_no_matter_of_order(script: Script) -> None:
    script.log("m1", at(1), seq=1)
    script.log("m2", at(2), seq=2)
    script.log("m1", at(3), seq=1)
    assert script.rules == {"duplicate"}


def test_a_second_copy_is_found_where_it_comes_before_the_first_one_can_have_failed(script: Script) -> None:
    script.history.patience_s = 3.0
    script.log("m1", at(1), written_ms=20)
    script.log("m1", at(1), written_ms=4_000)
    assert check(script.history) == []
    script.log("m2", at(2), written_ms=20)
    script.log("m2", at(2), written_ms=400)
    assert script.rules == {"hasty"}


def test_a_hole_in_the_log_is_found(script: Script) -> None:
    script.log("m1", at(1))
    script.log("m3", at(3))
    assert script.rules == {"log"}
    script.history.lost_runs.add("aaaaaaaa")
    assert check(script.history) == []


def test_a_session_in_two_partitions_is_found(script: Script) -> None:
    script.log("m1", at(1), partition=0)
    script.log("m2", at(2), partition=1)
    assert script.rules == {"log"}


def test_a_record_that_comes_too_late_for_readers_is_found(script: Script) -> None:
    for seq in (*range(2, 1002), 1):
        script.log(f"m{seq}", at(seq))
    assert script.rules == {"log"}
    assert all(violation.positions == (at(1),) for violation in check(script.history))


def test_a_violation_says_where_to_look(script: Script) -> None:
    script.publish("m1", position=at(1))
    (violation,) = check(script.history)
    assert str(violation) == f"durable: {S} pub#1 at 0.100 s: answered durable, the log holds nothing [{at(1)}]"
