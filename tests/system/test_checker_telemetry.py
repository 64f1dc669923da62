"""Rules of telemetry against histories written by hand: a good one that passes, bad ones that they must catch."""

import pytest
from tests.system.checker import check
from tests.system.history import (
    Answer,
    Attempt,
    Delivered,
    History,
    Kind,
    LogEntry,
    Outcome,
    Parted,
    Subscribed,
    Tally,
    Trouble,
)
from tests.system.telemetry_rules import LIVE_DEADLINE_S, missing_of

from heliograph.core.messages import AckMode, MessageClass
from heliograph.core.positions import Position

S = "acme:planner:1"
EPOCH = "1764000000000-aaaaaaaa"
NOWHERE = "0000000000000-00000000-0000000000000000"
URL, OTHER_URL = "http://edge-1", "http://edge-2"


class Script:
    """Two subscribers that are there; each second a telemetry message, and an event behind it."""

    def __init__(self) -> None:
        self.history = History()
        self.history.edges = {"t#1": URL}
        self.now = 0.0
        self.seq = 0
        self.there = ["near", "far"]
        for who in self.there:
            self.connect(who)

    def connect(self, who: str, asked: str = "earliest", position: str = NOWHERE) -> None:
        self.history.view(who, S).sights.append(Subscribed(self.now, f"{who}#1", asked, position, recovered=True))

    def part(self, who: str) -> None:
        self.history.view(who, S).sights.append(Parted(self.now, f"{who}#1"))

    def telemetry(
        self,
        *readers: str,
        outcome: Outcome | None = Outcome.ACCEPTED,
        times: int = 1,
        connection: str = "t#1",
    ) -> Attempt:
        """Sent, answered, and come to these readers."""
        self.now += 1.0
        key = f"t{self.now:g}"
        attempt = Attempt(
            self.now, connection, S, MessageClass.TELEMETRY, key.encode(), key, AckMode.ACCEPTED, producer="t"
        )
        if outcome is not None:
            attempt.answers.append(Answer(self.now + 0.1, outcome, None, key))
        else:
            self.history.ended.add(connection)
        self.history.attempts.append(attempt)
        for who in readers:
            self.history.view(who, S).sights += times * [Delivered(self.now + 0.2, None, key, key.encode())]
        return attempt

    def event(self, *readers: str) -> None:
        """Published, in the log, and come to these readers: what came before it over their connections is through."""
        self.now += 1.0
        self.seq += 1
        key, position = f"e{self.now:g}", str(Position(EPOCH, self.seq))
        attempt = Attempt(self.now, "p#1", S, MessageClass.EVENT, key.encode(), key)
        attempt.answers.append(Answer(self.now + 0.1, Outcome.DURABLE, position, key))
        self.history.attempts.append(attempt)
        self.history.log.append(LogEntry("log", 0, self.seq, S, Kind.MESSAGE, position, key, content=key.encode()))
        for who in readers:
            self.history.view(who, S).sights.append(Delivered(self.now + 0.2, position, key, key.encode()))

    def flow(self, count: int = 3) -> "Script":
        """Telemetry and events that come to everybody."""
        for _ in range(count):
            self.telemetry(*self.there)
            self.event(*self.there)
        return self

    def counted(
        self, published: int, *, dropped: int = 0, shed: int = 0, died_s: float | None = None, unanswered: int = 0
    ) -> "Script":
        self.history.tallies.append(Tally("edge-1", URL, published, dropped, shed, self.now, died_s, unanswered))
        return self

    @property
    def violations(self) -> list[str]:
        return [str(violation) for violation in check(self.history)]


@pytest.fixture
def script() -> Script:
    return Script()


def test_telemetry_that_came_and_was_counted_has_nothing_wrong(script: Script) -> None:
    assert script.flow().counted(3).violations == []


def test_one_that_is_missing_and_was_counted_as_shed_is_as_it_should_be(script: Script) -> None:
    script.flow()
    script.telemetry("near")
    assert script.flow().counted(7, shed=1).violations == []


def test_one_that_is_missing_and_was_not_counted_is_found(script: Script) -> None:
    script.flow()
    lost = script.telemetry("near")
    (violation,) = script.flow().counted(7).violations
    assert "1 are missing at subscribers that were there, edges counted 0 as shed and 0 as dropped" in violation
    assert f"{lost.key} at far" in violation


def test_one_that_was_counted_as_shed_and_came_is_found(script: Script) -> None:
    (violation,) = script.flow().counted(3, shed=1).violations
    assert "edges counted 1 as shed and 0 as dropped" in violation
    assert "only 0 are missing" in violation


def test_one_that_was_dropped_before_the_live_path_is_missing_at_every_subscriber(script: Script) -> None:
    script.flow()
    script.telemetry()
    assert script.flow().counted(6, dropped=1).violations == []


def test_one_that_was_dropped_for_all_and_came_to_one_is_found(script: Script) -> None:
    script.flow()
    script.telemetry("near")
    (violation,) = script.flow().counted(6, dropped=1).violations
    assert "only 1 are missing" in violation


def test_one_that_the_live_path_did_not_answer_for_may_have_come_to_all(script: Script) -> None:
    assert script.flow().counted(2, dropped=1, unanswered=1).violations == []


def test_one_that_was_taken_and_never_counted_is_found(script: Script) -> None:
    (violation,) = script.flow().counted(2).violations
    assert "3 were taken, edges counted 2 as published and 0 as dropped" in violation


def test_one_that_was_counted_twice_is_found(script: Script) -> None:
    (violation,) = script.flow().counted(4).violations
    assert "edges counted 4 as published and 0 as dropped, 3 were taken" in violation


def test_one_that_was_not_answered_may_be_counted_or_not(script: Script) -> None:
    script.flow()
    script.telemetry(outcome=None)
    script.history.edges["t#2"] = OTHER_URL
    script.flow()
    for published, right in ((6, True), (7, True), (8, False), (5, False)):
        script.history.tallies.clear()
        assert (script.counted(published).violations == []) is right


def test_one_that_was_refused_may_be_counted_as_dropped_and_not_as_published(script: Script) -> None:
    script.flow()
    script.telemetry(outcome=Outcome.REFUSED)
    script.flow()
    assert script.counted(6, dropped=1).violations == []
    script.history.tallies.clear()
    assert "edges counted 7 as published" in script.counted(7).violations[0]


def test_nobody_may_get_what_nobody_sent(script: Script) -> None:
    script.flow().counted(3)
    script.history.view("near", S).sights.append(Delivered(9.0, None, "x", b"invented"))
    (violation,) = script.violations
    assert "came 1 times and was sent 0 times" in violation


def test_one_that_came_twice_is_found(script: Script) -> None:
    script.flow()
    script.telemetry("near", "near", "far")
    (violation,) = script.flow().counted(7).violations
    assert "came 2 times and was sent 1 times" in violation


def test_behind_the_last_event_that_came_before_a_connection_broke_all_was_on_its_way(script: Script) -> None:
    script.flow()
    script.telemetry("near")
    script.part("far")
    script.event("near")
    script.connect("far", str(Position(EPOCH, 3)), str(Position(EPOCH, 3)))
    script.history.view("far", S).sights.append(
        Delivered(script.now + 0.5, str(Position(EPOCH, 4)), "e", script.history.log[-1].content)
    )
    script.flow().counted(7)
    assert script.violations == []
    assert missing_of(script.history).possible == 1


def test_before_the_last_event_that_came_nothing_was_on_its_way_any_more(script: Script) -> None:
    script.flow()
    script.telemetry("near")
    script.event("near", "far")
    script.part("far")
    (violation,) = script.counted(4).violations
    assert "1 are missing" in violation


def test_while_a_connection_begins_nothing_is_due_to_it_yet(script: Script) -> None:
    """Telemetry comes once a subscription is live; only the first that comes shows when that was."""
    script.telemetry("near")
    assert script.flow().counted(4).violations == []


def test_what_was_read_from_the_log_is_no_subscriber_of_telemetry(script: Script) -> None:
    script.flow()
    script.telemetry()
    script.flow()
    script.history.view("replay", S).from_log = True
    script.history.view("replay", S).sights += [
        sight for sight in script.history.view("near", S).sights if not isinstance(sight, Delivered) or sight.position
    ]
    assert script.counted(6, dropped=1).violations == []
    assert missing_of(script.history).audience[S] == 2


def test_in_a_trouble_of_the_live_path_what_was_on_its_way_may_be_gone(script: Script) -> None:
    script.flow()
    script.telemetry()
    script.history.troubles.append(Trouble(script.now - 0.5, script.now + 0.5))
    script.flow().counted(7)
    assert script.violations == []
    script.telemetry()
    assert "2 are missing" in script.flow(1).violations[-1]


def test_in_a_trouble_of_the_live_path_one_may_be_counted_as_dropped_and_come_all_the_same(script: Script) -> None:
    """Its edge had no answer: it can't know. Outside of a trouble it does."""
    script.flow()
    script.telemetry("near", "far")
    script.history.troubles.append(Trouble(script.now - 0.5, script.now + 0.5))
    script.flow().counted(6, dropped=1)
    assert script.violations == []
    script.history.troubles.clear()
    assert "only 0 are missing" in script.violations[0]


def test_what_an_edge_had_in_flight_when_it_died_may_be_uncounted_and_missing_and_no_more(script: Script) -> None:
    script.flow()
    before = script.now
    lost = script.telemetry()
    script.now += 2 * LIVE_DEADLINE_S
    died_s = script.now
    script.history.edges["t#2"] = OTHER_URL
    script.flow()
    script.history.tallies.append(Tally("edge-1", URL, 3, read_s=before + 0.5, died_s=died_s))
    script.history.tallies.append(Tally("edge-2", OTHER_URL, 3, read_s=script.now))
    assert script.violations == []
    answered_s = lost.answers[0].at_s
    script.history.tallies[0].read_s = answered_s + LIVE_DEADLINE_S / 2  # asked before it had the live store's answer
    assert len(script.violations) == 1, "missing and not counted"
    script.history.tallies[0].read_s = answered_s + LIVE_DEADLINE_S + 0.01
    assert len(script.violations) == 2, "taken and not counted, missing and not counted"
    script.history.tallies[0].read_s = before + 0.5
    script.history.tallies[1].published = 2
    assert len(script.violations) == 1, "it was the other edge's"
