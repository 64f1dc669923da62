"""What a process met at its stores, counted for its service to export: apart from them, so that a count needs no
client library.

Each part of a store has a `Tally` of its own; whatever it counts, the process counts as well.
"""

import threading
from collections import Counter
from enum import StrEnum


class StoreEvent(StrEnum):
    """What is not an answer: a store, or this process' way to it, was not as it should be; or is again."""

    # of the live Redis
    CONNECTION_LOST = "connection_lost"
    ANSWER_LATE = "answer_late"
    NOT_SENT = "not_sent"
    LIBRARY_LOADED = "library_loaded"
    REDIRECTED = "redirected"
    APPEND_GIVEN_UP = "append_given_up"
    VALUE_CORRUPT = "value_corrupt"
    # of Kafka
    CLIENT_REPLACED = "client_replaced"
    PRODUCER_REBUILT = "producer_rebuilt"
    MEMBER_REBUILT = "member_rebuilt"
    REBALANCED = "rebalanced"
    COMMIT_NOT_OURS = "commit_not_ours"
    OFFSET_SKIPPED = "offset_skipped"
    PARTITION_REWOUND = "partition_rewound"
    TOPIC_RECREATED = "topic_recreated"
    CALLBACK_FAILED = "callback_failed"


LIVE, LOG, METADATA = "live", "log", "metadata"

MEANINGS = {
    LIVE: {
        StoreEvent.CONNECTION_LOST: "A connection that was used ended.",
        StoreEvent.ANSWER_LATE: "Of these: given up, because nothing was answered in time.",
        StoreEvent.NOT_SENT: "A command was refused on the spot: no connection, or too many commands under way.",
        StoreEvent.LIBRARY_LOADED: "The functions were not there, or older ones, and were loaded.",
        StoreEvent.REDIRECTED: "A command was put off: its slot is elsewhere or on its way, or functions are missing.",
        StoreEvent.APPEND_GIVEN_UP: "An append was refused: its virtual shard was too long between two primaries.",
        StoreEvent.VALUE_CORRUPT: "A stored value was not ours.",
    },
    LOG: {
        StoreEvent.CLIENT_REPLACED: "A client heard nothing for 15 s, and another one took its place.",
        StoreEvent.PRODUCER_REBUILT: "A producer met an error that ends it. What it held is reconciled.",
        StoreEvent.MEMBER_REBUILT: "The same of a member of a group; or the brokers don't know the newer protocol.",
        StoreEvent.REBALANCED: "Partitions came or went.",
        StoreEvent.COMMIT_NOT_OURS: "A partition of a commit belongs to another member by now, or is gone.",
        StoreEvent.OFFSET_SKIPPED: "An offset that was wanted was not in the log any more: retention was faster.",
        StoreEvent.PARTITION_REWOUND: "A partition goes on at a lower offset: it was made anew, or lost its end.",
        StoreEvent.TOPIC_RECREATED: "A topic is another one of the same name.",
        StoreEvent.CALLBACK_FAILED: "A report of a write could not be handled: a defect.",
    },
}
"""Store → what may happen there, in words."""


class Tally:
    """Events and errors of one part of a store. Any thread may count."""

    __slots__ = ("errors", "events", "store")

    def __init__(self, store: str) -> None:
        self.store = store
        self.events: Counter[StoreEvent] = Counter()
        self.errors: Counter[str] = Counter()
        """By the store's name of the code, or ours."""

    def count(self, event: StoreEvent, times: int = 1) -> None:
        """`event` happened."""
        if times:
            with _LOCK:
                self.events[event] += times
                SINCE_START.events[self.store, event] += times

    def error(self, code: str) -> None:
        """The store, or its client library, told an error."""
        with _LOCK:
            self.errors[code] += 1
            SINCE_START.errors[self.store, code] += 1

    def __getitem__(self, event: StoreEvent) -> int:
        return self.events[event]


class SinceStart:
    """Of the whole process, by store."""

    def __init__(self) -> None:
        self.events: Counter[tuple[str, ...]] = Counter()
        self.errors: Counter[tuple[str, ...]] = Counter()

    def event_counts(self) -> dict[tuple[str, ...], int]:
        """By store and event, those that did not happen too."""
        never: dict[tuple[str, ...], int] = {
            (store, str(event)): 0 for store, events in MEANINGS.items() for event in events
        }
        with _LOCK:
            return never | self.events

    def error_counts(self) -> dict[tuple[str, ...], int]:
        """By store and code."""
        with _LOCK:
            return dict(self.errors)


SINCE_START = SinceStart()
_LOCK = threading.Lock()
