"""What happens at a store is counted by the part that met it and by its process, whichever thread it was in."""

import sys
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from heliograph.stores.events import LIVE, LOG, MEANINGS, SINCE_START, StoreEvent, Tally


def test_each_event_is_of_one_store_and_has_a_meaning() -> None:
    assert Counter(event for events in MEANINGS.values() for event in events) == Counter(StoreEvent)
    assert all(meaning.endswith(".") for events in MEANINGS.values() for meaning in events.values())


def test_what_a_part_counts_its_process_counts_by_store() -> None:
    before, errors = SINCE_START.event_counts(), SINCE_START.error_counts()
    one, other = Tally(LIVE), Tally(LIVE)
    one.count(StoreEvent.CONNECTION_LOST)
    other.count(StoreEvent.CONNECTION_LOST, 2)
    other.count(StoreEvent.NOT_SENT, 0)
    other.error("live_unavailable")
    after = SINCE_START.event_counts()
    assert {key: after[key] - before[key] for key in after if after[key] != before[key]} == {
        (LIVE, "connection_lost"): 3
    }
    assert (one[StoreEvent.CONNECTION_LOST], other[StoreEvent.CONNECTION_LOST]) == (1, 2)
    key = (LIVE, "live_unavailable")
    assert SINCE_START.error_counts()[key] == errors.get(key, 0) + 1
    assert other.errors == {"live_unavailable": 1}


def test_what_never_happened_is_told_as_none() -> None:
    assert set(SINCE_START.event_counts()) >= {
        (store, str(event)) for store, events in MEANINGS.items() for event in events
    }


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads take turns often enough to lose a count that isn't guarded."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty_threads")
def test_no_count_is_lost_between_threads() -> None:
    tally, before = Tally(LOG), SINCE_START.event_counts()[LOG, "rebalanced"]

    def count() -> None:
        for _ in range(5_000):
            tally.count(StoreEvent.REBALANCED)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tally[StoreEvent.REBALANCED] == 20_000
    assert SINCE_START.event_counts()[LOG, "rebalanced"] == before + 20_000
