"""A watch that keeps something back is found by what a list shows."""

from heliograph.operator.staleness import Staleness

ONE = ("Tenant", "a", "one")
TWO = ("Tenant", "a", "two")


def test_a_watch_that_tells_what_a_list_shows_is_not_behind() -> None:
    judge = Staleness()
    judge.told(ONE, "5", gone=False)
    assert judge.listed("Tenant", {ONE: "5"}, 10.0) == []
    assert judge.behind_s(100.0) == 0


def test_a_watch_that_keeps_a_change_back_is_behind_from_the_list_on_that_shows_it() -> None:
    judge = Staleness()
    judge.told(ONE, "5", gone=False)
    judge.listed("Tenant", {ONE: "6", TWO: "7"}, 10.0)
    judge.listed("Tenant", {ONE: "8", TWO: "7"}, 40.0)
    assert judge.behind_s(100.0) == 90.0
    assert judge.example() in (ONE, TWO)
    judge.told(ONE, "8", gone=False)
    judge.told(TWO, "7", gone=False)
    judge.listed("Tenant", {ONE: "8", TWO: "7"}, 101.0)
    assert judge.behind_s(200.0) == 0


def test_a_watch_that_was_ahead_of_a_list_is_not_behind() -> None:
    judge = Staleness()
    judge.told(ONE, "9", gone=False)
    judge.listed("Tenant", {ONE: "8"}, 10.0)
    judge.listed("Tenant", {ONE: "9"}, 20.0)
    assert judge.behind_s(500.0) == 0


def test_what_went_while_the_watch_began_anew_is_noticed_by_the_second_list_without_it() -> None:
    judge = Staleness()
    judge.told(ONE, "5", gone=False)
    assert judge.listed("Tenant", {}, 10.0) == []
    assert judge.listed("Tenant", {}, 20.0) == [ONE]
    assert judge.listed("Tenant", {}, 30.0) == []
    assert judge.behind_s(500.0) == 0


def test_namespaces_are_judged_each_by_its_own_list() -> None:
    judge, elsewhere = Staleness(), ("Tenant", "b", "one")
    for one in (ONE, elsewhere):
        judge.told(one, "5", gone=False)
    for now in (10.0, 20.0, 30.0):
        assert judge.listed("Tenant", {elsewhere: "5"}, now, "b") == [], "nothing is said of others"
    assert judge.behind_s(500.0) == 0
    judge.listed("Tenant", {}, 40.0, "b")
    assert judge.listed("Tenant", {}, 50.0, "b") == [elsewhere]


def test_kinds_are_judged_each_by_its_own_list() -> None:
    judge = Staleness()
    judge.told(ONE, "5", gone=False)
    assert judge.listed("Secret", {}, 10.0) == []
    assert judge.listed("Secret", {}, 20.0) == []
    assert judge.behind_s(500.0) == 0
