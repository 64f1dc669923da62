"""What may be committed."""

from hypothesis import given
from hypothesis import strategies as st

from heliograph.router.progress import Progress
from heliograph.stores.ports import LogRecord


def record(offset: int, partition: int = 0) -> LogRecord:
    return LogRecord("t", partition, offset, 0, None, None, [])


def committable(progress: Progress) -> dict[int, int]:
    return {found.partition: found.offset for found in progress.committable()}


def test_the_last_record_of_each_partition_is_committed() -> None:
    progress = Progress()
    progress.done([record(3), record(4), record(7, 1), record(5), record(8, 1)])
    assert committable(progress) == {0: 5, 1: 8}


def test_what_was_committed_is_not_committed_again() -> None:
    progress = Progress()
    progress.done([record(3)])
    progress.committed(progress.committable())
    assert committable(progress) == {}
    progress.done([record(4)])
    assert committable(progress) == {0: 4}


def test_a_partition_that_begins_anew_is_committed_again() -> None:
    progress = Progress()
    progress.done([record(4)])
    progress.committed(progress.committable())
    progress.done([record(4)])
    assert committable(progress) == {0: 4}


def test_nothing_at_or_past_an_owed_record_is_committed() -> None:
    progress = Progress()
    progress.owe(("t", 0), 5)
    progress.owe(("t", 0), 8)
    progress.done([record(offset) for offset in range(3, 10)] + [record(1, 1)])
    assert committable(progress) == {0: 4, 1: 1}
    progress.committed(progress.committable())
    assert committable(progress) == {}
    progress.settle(("t", 0), 5)
    assert committable(progress) == {0: 7}
    progress.settle(("t", 0), 8)
    assert committable(progress) == {0: 9}
    assert progress.owed() == 0


def test_an_owed_first_record_keeps_its_partition_uncommitted() -> None:
    progress = Progress()
    progress.owe(("t", 0), 0)
    progress.done([record(0), record(1)])
    assert committable(progress) == {}


@given(st.lists(st.tuples(st.sampled_from(["done", "owe", "settle", "commit"]), st.integers(0, 30)), max_size=60))
def test_what_is_committed_never_passes_what_is_owed_and_ends_at_what_is_done(steps: list[tuple[str, int]]) -> None:
    progress, end, owed, at = Progress(), -1, set[int](), -1
    for step, number in steps:
        if step == "done":
            progress.done([record(offset) for offset in range(end + 1, end + 1 + number % 4)])
            end += number % 4
        elif step == "owe" and number > end:  # a record is owed before its batch is done
            progress.owe(("t", 0), end + 1)
            owed.add(end + 1)
            progress.done([record(end + 1)])
            end += 1
        elif step == "settle" and owed:
            settled = sorted(owed)[number % len(owed)]
            progress.settle(("t", 0), settled)
            owed.discard(settled)
        elif step == "commit":
            found = progress.committable()
            at = found[0].offset if found else at
            assert all(at < one for one in owed)
            progress.committed(found)
    for one in owed:
        progress.settle(("t", 0), one)
    found = progress.committable()
    assert (found[0].offset if found else at) == end
