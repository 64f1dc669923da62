"""Conditions: what says the same again is equal to what is there."""

from heliograph.operator.conditions import MAX_MESSAGE_CHARS, Condition, Truth, find, merged


def test_a_condition_that_stays_keeps_its_time_and_one_that_changes_gets_a_new_one() -> None:
    ready = Condition("Ready", Truth.TRUE, "Reconciled", "all is well")
    first = merged([], [ready], 1, "t1")
    assert merged(first, [ready], 1, "t2") == first
    again = merged(first, [Condition("Ready", Truth.TRUE, "Reconciled", "still")], 2, "t2")
    assert again[0]["lastTransitionTime"] == "t1"
    assert (again[0]["message"], again[0]["observedGeneration"]) == ("still", 2)
    lost = merged(again, [Condition("Ready", Truth.FALSE, "KafkaAway", "no")], 2, "t3")
    assert lost[0]["lastTransitionTime"] == "t3"


def test_conditions_of_others_stay() -> None:
    theirs = {"type": "Blessed", "status": "True", "reason": "ByHand", "message": ""}
    both = merged([theirs], [Condition("Ready", Truth.UNKNOWN, "New", "")], 1, "t")
    assert find(both, "Blessed") == theirs
    assert find(both, "Ready") is not None
    assert find(both, "Other") is None


def test_a_message_is_bounded() -> None:
    assert len(Condition("Ready", Truth.TRUE, "A", "x" * 5_000).message) == MAX_MESSAGE_CHARS
