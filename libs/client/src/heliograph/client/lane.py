"""One message on its way, and one lane of them. What happens to them is decided in `heliograph.client.lanes`."""

from collections import deque
from collections.abc import Callable
from enum import Enum

from heliograph.client.errors import ClientError
from heliograph.core.backoff import Backoff
from heliograph.core.messages import MessageClass
from heliograph.protocol.frames import Publish, Published, Refused

LaneKey = tuple[str, MessageClass]
Answer = Published | Refused | ClientError
"""ClientError: the client ended before there was one."""


class State(Enum):
    """Where one message is."""

    QUEUED = "queued"
    SENT = "sent"
    REFUSED = "refused"
    DONE = "done"


class Outgoing:
    """One message on its way. `done` is called once: with the answer, or the refusal that ended it."""

    __slots__ = (
        "deadline_s", "done", "doubtful", "frame", "refusal", "sends", "sent_as", "state", "weight_bytes",
    )  # fmt: skip

    def __init__(self, frame: Publish, deadline_s: float | None, done: Callable[[Answer], None]) -> None:
        self.frame = frame
        """What is sent; `id` and `seq` are set for each send."""
        self.deadline_s = deadline_s
        """Until when a refusal for now is tried again; None: for ever."""
        self.done = done
        self.state = State.QUEUED
        self.refusal: Refused | None = None
        self.sends = 0
        self.sent_as: tuple[str, int] | None = None
        """Incarnation and seq of the last send."""
        self.doubtful = False
        """It may be in although no answer said so."""
        self.weight_bytes = len(bytes(frame.payload))


class Lane:
    """One session and class."""

    __slots__ = (
        "backoff", "base", "behind_since_s", "cursor", "deferred", "forgotten", "halted", "items", "key", "resume_s",
        "stalls", "under_way",
    )  # fmt: skip

    def __init__(self, key: LaneKey) -> None:
        self.key = key
        self.items: deque[Outgoing] = deque()
        self.base = 1
        """Seq of the first item; each further one has the next."""
        self.cursor = 0
        """Items from the front that were sent on this connection, in this round."""
        self.under_way = 0
        """Sends without an answer on this connection."""
        self.halted = False
        """Something was refused: nothing is sent until `under_way` is 0 and the round is settled."""
        self.forgotten = False
        self.deferred: tuple[int, int] | None = None
        """First and last seq answered as deferred, until one behind them has its position: the server may still expect
        any of them.
        """
        self.behind_since_s: float | None = None
        """Since when messages are refused because deferred ones are not in their place."""
        self.resume_s = 0.0
        self.stalls = 0
        self.backoff: Backoff | None = None

    def answered(self, item: Outgoing, *, deferred: bool) -> None:
        """The server took one. Where it has a position and stands behind the deferred ones, they have theirs too."""
        self.behind_since_s = None
        seq = item.sent_as[1] if item.sent_as is not None else 0
        if deferred:
            first, last = self.deferred or (seq, seq)
            self.deferred = (min(first, seq), max(last, seq))
        elif self.deferred is not None and seq > self.deferred[1]:
            self.deferred = None

    def is_behind_deferred(self, refusal: Refused) -> bool:
        """Whether this is refused only because what was deferred is not in its place yet."""
        if self.deferred is None:
            return False
        if refusal.code == "producer_unknown":  # of a counter whose very first message was deferred
            return self.deferred[0] == 1
        return refusal.code == "out_of_order" and self.deferred[0] <= (refusal.expected or 0) < self.base

    def pop_done(self) -> int:
        """Forget the answered ones at the front; how many."""
        count = 0
        while self.items and self.items[0].state is State.DONE:
            self.items.popleft()
            self.base += 1
            self.cursor = max(0, self.cursor - 1)
            count += 1
        return count
