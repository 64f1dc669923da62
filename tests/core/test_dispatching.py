"""Who gets which session: the rules hold for any workers and any sessions."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from heliograph.core.dispatching import Room, Waiting, plan

workers = st.sampled_from([f"w{number}" for number in range(6)])
rooms = st.lists(
    st.builds(Room, workers, st.integers(0, 5), st.integers(0, 7)), max_size=6, unique_by=lambda room: room.worker
)
waiting = st.lists(st.builds(Waiting, st.from_regex(r"s[0-9]{1,2}", fullmatch=True), st.none() | workers), max_size=30)


@given(rooms, waiting)
def test_a_session_has_one_worker_and_no_worker_more_than_it_offered(
    offered: list[Room], wanted: list[Waiting]
) -> None:
    given_out = plan(offered, wanted)
    assert len({session for session, _ in given_out}) == len(given_out)
    assert {session for session, _ in given_out} <= {one.session for one in wanted}
    free = {room.worker: room.free for room in offered}
    for worker, count in Counter(worker for _, worker in given_out).items():
        assert count <= free[worker]


@given(rooms, waiting)
def test_nobody_waits_while_there_is_room(offered: list[Room], wanted: list[Waiting]) -> None:
    room = sum(max(room.free, 0) for room in offered)
    sessions = list(dict.fromkeys(one.session for one in wanted))
    assert [session for session, _ in plan(offered, wanted)] == sessions[:room]


@given(rooms, waiting)
def test_each_goes_to_who_had_it_or_else_to_the_one_with_most_room(offered: list[Room], wanted: list[Waiting]) -> None:
    free = {room.worker: room.free for room in offered}
    previous: dict[str, str | None] = {}
    for one in wanted:
        previous.setdefault(one.session, one.previous)
    for session, worker in plan(offered, wanted):
        before = previous[session]
        if before is not None and free.get(before, 0) > 0:
            assert worker == before
        else:
            assert free[worker] == max(free.values())
        free[worker] -= 1


def test_the_most_free_worker_is_filled_first() -> None:
    offered = [Room("a", 4, 3), Room("b", 4, 1), Room("c", 4, 2)]
    given_out = plan(offered, [Waiting(f"s{number}") for number in range(8)])
    assert Counter(worker for _, worker in given_out) == {"a": 1, "b": 3, "c": 2}
    assert given_out[0] == ("s0", "b")


def test_a_worker_that_offers_less_than_it_holds_gets_nothing() -> None:
    assert plan([Room("a", 0, 3)], [Waiting("s1", "a")]) == []
