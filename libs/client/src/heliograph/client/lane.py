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

    __slots__ = ("backoff", "base", "cursor", "forgotten", "halted", "items", "key", "resume_s", "stalls", "under_way")

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
        self.resume_s = 0.0
        self.stalls = 0
        self.backoff: Backoff | None = None

    def pop_done(self) -> int:
        """Forget the answered ones at the front; how many."""
        count = 0
        while self.items and self.items[0].state is State.DONE:
            self.items.popleft()
            self.base += 1
            self.cursor = max(0, self.cursor - 1)
            count += 1
        return count
