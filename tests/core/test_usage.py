"""usage: what is limited over all edges, as each of them sees it."""

from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliograph.core.usage import (
    ELSEWHERE_S,
    KEEP_S,
    MOST_TOLD,
    SLACK,
    SharedUse,
    connections_of,
    connections_of_subject,
    member_of,
    sessions_of,
)

ACME = connections_of("acme")
SESSIONS = sessions_of("acme")
BELIEVE_S = 6.0


class Store:
    """What all have told, exactly."""

    def __init__(self) -> None:
        self.of: dict[str, dict[str, int]] = {}

    def total(self, name: str) -> int:
        members = {key for of in self.of.values() for key, count in of.items() if key.startswith(name + "\0") and count}
        return sum(of.get(name, 0) for of in self.of.values()) + len(members)

    def exchange(self, use: SharedUse, holder: str, now: float) -> dict[str, int]:
        """One round; what was told."""
        told, asked = use.round(now)
        self.of.setdefault(holder, {}).update(told)
        use.learned(now, told, asked, [self.total(name) for name in asked], len(self.of))
        return told


def edges(number: int) -> list[SharedUse]:
    return [SharedUse(believe_s=BELIEVE_S) for _ in range(number)]


def settle(store: Store, uses: Sequence[SharedUse], now: float, rounds: int = 3) -> None:
    """All know what the others have."""
    for _ in range(rounds):
        for number, use in enumerate(uses):
            store.exchange(use, f"edge-{number}", now)


def fill(use: SharedUse, name: str, limit: int, now: float = 0.0) -> int:
    """Take whatever there is room for."""
    taken = 0
    while use.room(name, limit, now):
        use.add(name, limit, now)
        taken += 1
        assert taken <= limit
    return taken


def test_one_edge_has_the_whole_limit() -> None:
    (use,) = edges(1)
    assert fill(use, ACME, 7) == 7
    use.remove(ACME, 1.0)
    assert use.room(ACME, 7, 1.0)
    assert use.here(ACME) == 6


def test_what_others_have_is_not_had_twice() -> None:
    store, (first, second) = Store(), edges(2)
    assert fill(first, ACME, 10) == 10
    assert second.room(ACME, 10, 0.0), "it knows of nobody yet"
    settle(store, (first, second), 1.0)
    assert not second.room(ACME, 10, 1.0)
    for _ in range(4):
        first.remove(ACME, 2.0)
    settle(store, (first, second), 2.0)
    assert fill(second, ACME, 10, 2.0) == 4


def test_a_limit_below_what_is_there_takes_nothing_away() -> None:
    (use,) = edges(1)
    fill(use, ACME, 10)
    assert not use.room(ACME, 3, 0.0)
    assert use.here(ACME) == 10
    for _ in range(8):
        use.remove(ACME, 1.0)
    assert fill(use, ACME, 3, 1.0) == 1


def test_what_is_far_from_its_limit_is_not_told() -> None:
    store, (use, _) = Store(), edges(2)
    store.of["other"] = {}
    for number in range(50):
        use.add(connections_of_subject("acme", f"bot-{number}"), 1_000, 0.0, seldom=True)
        use.add(ACME, 1_000, 0.0)
    assert store.exchange(use, "edge", 0.0) == {}
    assert use.round(0.0)[1] == [ACME], "and of small subjects nothing is asked"
    for _ in range(1_000 // SLACK):
        use.add(ACME, 1_000, 0.0)
    assert store.exchange(use, "edge", 0.0) == {ACME: 50 + 1_000 // SLACK}


@given(st.integers(1, 300), st.integers(1, 6), st.integers())
@settings(deadline=None, max_examples=60)
def test_no_more_than_an_eighth_above_the_limit_is_admitted(limit: int, number: int, seed: int) -> None:
    """Where edges take turns, so that what each has is told before another admits."""
    store, uses, random = Store(), edges(number), Random(seed)
    settle(store, uses, 0.0)
    for _ in range(2 * limit + 10 * number):
        use = random.choice(uses)
        if use.room(ACME, limit, 0.0):
            use.add(ACME, limit, 0.0)
            settle(store, uses, 0.0, rounds=2)
    total = sum(use.here(ACME) for use in uses)
    assert limit <= total <= limit + limit / SLACK + number, "besides one an edge that did not ask before"


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from("+-r"), st.sampled_from("abcdef")), max_size=200))
@settings(deadline=None)
def test_a_member_on_several_edges_counts_once(steps: list[tuple[int, str, str]]) -> None:
    store, uses = Store(), edges(3)
    here: list[set[str]] = [set(), set(), set()]
    for at, what, member in steps:
        if what == "+":
            uses[at].put_in(SESSIONS, member, 4, 0.0)
            here[at].add(member)
        elif what == "-" and member in here[at]:
            uses[at].take_out(SESSIONS, member, 0.0)
            here[at].discard(member)
        elif what == "r":
            store.exchange(uses[at], f"edge-{at}", 0.0)
        assert uses[at].here(SESSIONS) == len(here[at])
    settle(store, uses, 0.0)
    assert store.total(SESSIONS) == len(set.union(*here))


def test_a_member_that_another_edge_has_needs_no_room() -> None:
    store, (first, second) = Store(), edges(2)
    for number in range(4):
        assert first.room_for(SESSIONS, f"s{number}", 4, 0.0)
        first.put_in(SESSIONS, f"s{number}", 4, 0.0)
    second.room(SESSIONS, 4, 0.0)
    settle(store, (first, second), 1.0)
    assert first.room_for(SESSIONS, "s1", 4, 1.0), "it is there"
    assert not second.room_for(SESSIONS, "s1", 4, 1.0), "not known yet"
    assert not second.room_for(SESSIONS, "new", 4, 1.0)
    settle(store, (first, second), 2.0)
    assert second.room_for(SESSIONS, "s1", 4, 2.0)
    assert not second.room_for(SESSIONS, "new", 4, 2.0)
    settle(store, (first, second), 2.0 + ELSEWHERE_S)
    assert not second.room_for(SESSIONS, "s1", 4, 2.0 + ELSEWHERE_S), "it may have ended by now"


def test_what_an_edge_has_itself_is_not_elsewhere() -> None:
    store, (use,) = Store(), edges(1)
    use.put_in(SESSIONS, "one", 1, 0.0)
    assert not use.room_for(SESSIONS, "two", 1, 0.0)
    use.put_in(SESSIONS, "two", 1, 0.0)  # as somebody did meanwhile, for whom there was room
    settle(store, [use], 1.0)
    use.take_out(SESSIONS, "two", 2.0)
    assert not use.room_for(SESSIONS, "two", 1, 2.0)


def test_while_nobody_answers_the_last_counts_are_believed_then_the_share() -> None:
    store, uses = Store(), edges(4)
    for use in uses[1:]:
        for _ in range(30):
            use.add(ACME, 100, 0.0)
    uses[0].room(ACME, 100, 0.0)
    settle(store, uses, 0.0)
    assert not uses[0].on_share(BELIEVE_S / 2)
    assert fill(uses[0], ACME, 100, BELIEVE_S / 2) == 10, "the others have 90"
    assert uses[0].on_share(BELIEVE_S)
    assert fill(uses[0], ACME, 100, BELIEVE_S) == 15, "a quarter of 100"
    assert not uses[1].room(ACME, 100, BELIEVE_S), "it has more than its share, and keeps it"
    assert uses[1].here(ACME) == 30


def test_what_nobody_took_is_told_again() -> None:
    store, (use,) = Store(), edges(1)
    use.add(ACME, 4, 0.0)
    told, _ = use.round(0.0)
    assert told == {ACME: 1}
    assert use.round(0.0)[0] == {}
    use.untold(told)
    assert store.exchange(use, "edge", 0.0) == {ACME: 1}


def test_who_begins_anew_tells_all_again() -> None:
    store, (use,) = Store(), edges(1)
    use.add(ACME, 4, 0.0)
    use.put_in(SESSIONS, "one", 4, 0.0)
    settle(store, [use], 0.0)
    store.of.clear()
    use.begin_anew()
    settle(store, [use], 1.0)
    assert store.of["edge-0"] == {ACME: 1, member_of(SESSIONS, "one"): 1}


def test_a_round_tells_no_more_than_fits_and_the_next_ones_the_rest() -> None:
    store, (use,) = Store(), edges(1)
    for number in range(2 * MOST_TOLD + 10):
        use.put_in(SESSIONS, str(number), 100, 0.0)
    assert max(len(store.exchange(use, "edge", 0.0)) for _ in range(5)) <= MOST_TOLD
    assert store.total(SESSIONS) == 2 * MOST_TOLD + 10


def test_what_becomes_little_is_taken_back_and_does_not_flutter() -> None:
    store, (use,) = Store(), edges(1)
    store.of["other"] = {}
    for number in range(40):
        use.put_in(SESSIONS, str(number), 400, 0.0)
    settle(store, [use], 0.0)
    assert store.total(SESSIONS) == 40
    for number in range(25):
        use.take_out(SESSIONS, str(number), 1.0)
    settle(store, [use], 1.0)
    assert store.total(SESSIONS) == 15, "told on: it was more"
    use.take_out(SESSIONS, "30", 2.0)
    for number in range(31, 36):
        use.take_out(SESSIONS, str(number), 2.0)
    settle(store, [use], 2.0)
    assert store.total(SESSIONS) == 0
    assert use.here(SESSIONS) == 9


def test_many_names_are_asked_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heliograph.core.usage.MOST_ASKED", 10)
    store, (use,) = Store(), edges(1)
    names = [connections_of_subject("acme", str(number)) for number in range(25)]
    for name in names:
        use.add(name, 2, 0.0, seldom=True)
    asked: set[str] = set()
    for _ in range(3):
        _, now_asked = use.round(0.0)
        assert len(now_asked) == 10
        asked.update(now_asked)
        store.exchange(use, "edge", 0.0)
    for _ in range(3):
        asked.update(use.round(0.0)[1])
    assert asked == set(names)


def test_what_is_gone_is_forgotten_in_the_end() -> None:
    store, (use,) = Store(), edges(1)
    use.add(ACME, 4, 0.0)
    settle(store, [use], 0.0)
    use.remove(ACME, 1.0)
    settle(store, [use], 1.0)
    assert use.round(KEEP_S)[1] == [ACME], "others may have some"
    assert use.round(1.0 + KEEP_S)[1] == []
    use.add(ACME, 4, 90.0)
    assert use.here(ACME) == 1
