"""What happened in a run, as evidence: what publishers tried and were told, what subscribers saw, what the log holds.

Written by the drivers (`drivers.py`) and the log's reader (`rig.py`), judged by `checker.py`. Nothing here judges, and
nothing here does I/O: a test can write a history by hand. Times are seconds since the history began.

What a later room records becomes a list here and a rule there.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from heliograph.core.messages import AckMode, MessageClass


class Outcome(StrEnum):
    """What one publish was answered."""

    DURABLE = "durable"
    PENDING = "pending"
    """Not durable yet; `confirmed` follows."""
    ACCEPTED = "accepted"
    DEFERRED = "deferred"
    """Durable, without a position until the live path is back."""
    REFUSED = "refused"


@dataclass(slots=True)
class Answer:
    """One answer to one publish."""

    at_s: float
    outcome: Outcome
    position: str | None = None
    message_id: str | None = None
    duplicate: bool = False
    code: str | None = None


@dataclass(slots=True)
class Attempt:
    """One publish frame (or HTTP request) as it was sent. A message that is sent again is another attempt."""

    at_s: float
    connection: str
    session: str
    class_: MessageClass
    content: bytes
    """The payload, as sent."""
    key: str
    """What the publisher calls this message, in all attempts of it and nowhere else."""
    ack: AckMode = AckMode.DURABLE
    producer: str = ""
    incarnation: str | None = None
    producer_seq: int | None = None
    message_id: str | None = None
    """Where the caller chose one."""
    answers: list[Answer] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A `confirmed` frame, or a `status` that says durable."""

    at_s: float
    connection: str
    session: str
    position: str


# ---- what a subscriber sees -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Subscribed:
    """`subscribed`, and what was asked for."""

    at_s: float
    connection: str
    asked: str
    position: str
    recovered: bool


@dataclass(frozen=True, slots=True)
class Delivered:
    """A message. `frame` None: seen through an SDK, which shows no bytes."""

    at_s: float
    position: str | None
    message_id: str
    content: bytes
    frame: bytes | None = None


@dataclass(frozen=True, slots=True)
class GapTold:
    """A `gap` frame; without `last` it reaches up to the next message."""

    at_s: float
    first: str | None
    last: str | None
    reason: str
    certain: bool = True


@dataclass(frozen=True, slots=True)
class EpochTold:
    """An `epoch` frame."""

    at_s: float
    epoch: str
    last: str | None
    certain: bool


@dataclass(frozen=True, slots=True)
class Parted:
    """The connection ended, or the subscription did."""

    at_s: float
    connection: str


Sight = Subscribed | Delivered | GapTold | EpochTold | Parted


@dataclass(slots=True)
class View:
    """One subscriber's view of one session, over all its connections."""

    subscriber: str
    session: str
    sights: list[Sight] = field(default_factory=list)
    silent_epochs: bool = False
    """An SDK says nothing about a new epoch that lost nothing."""
    from_log: bool = False
    """Read through replay: no telemetry is due to it."""
    to_the_end: bool = True
    """It was connected when the run came to rest: it must have seen all."""

    @property
    def delivered(self) -> list[Delivered]:
        return [sight for sight in self.sights if isinstance(sight, Delivered)]


# ---- what consumers acknowledge -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AckSent:
    """A consumer says that it is done with everything up to a position."""

    at_s: float
    consumer: str
    session: str
    position: str
    connection: str = ""
    request: int = 0
    given: bool = True
    """The session gave that position; False: a lie, to be refused."""


@dataclass(frozen=True, slots=True)
class AckAnswered:
    """What the consumer was told: where its cursor stands, or the code of a refusal."""

    at_s: float
    consumer: str
    session: str
    connection: str = ""
    request: int = 0
    position: str | None = None
    code: str | None = None


@dataclass(frozen=True, slots=True)
class CursorFound:
    """A consumer came back with `from: cursor`; `position` None: there was none, it begins at the earliest."""

    at_s: float
    consumer: str
    session: str
    position: str | None


@dataclass(frozen=True, slots=True)
class CursorRead:
    """A cursor as the live store has it; None: it has none."""

    at_s: float
    consumer: str
    session: str
    position: str | None


CursorEvent = AckSent | AckAnswered | CursorFound | CursorRead

LIFE = "~"
"""Between a consumer's name and the number of its life, in the name of a view: each life begins at the cursor."""


# ---- what the log holds ---------------------------------------------------------------------------------------------


class Kind(StrEnum):
    """What a log record is."""

    MESSAGE = "message"
    GAP = "gap"
    """The log's word that a position will not come."""
    OWN = "own"
    """Another record of Heliograph's own."""
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One record, read by a plain consumer."""

    topic: str
    partition: int
    offset: int
    session: str
    kind: Kind
    position: str | None = None
    message_id: str = ""
    class_: MessageClass = MessageClass.EVENT
    content: bytes = b""
    frame: bytes = b""
    """The client frame, rebuilt from the record alone."""
    producer: str = ""
    incarnation: str | None = None
    producer_seq: int | None = None
    accepted_ms: int = 0
    """When an edge accepted the message."""
    written_ms: int = 0
    """When the log took the record."""
    marked: bool = False
    """It says that it is another position's message (header `origin`)."""

    @property
    def place(self) -> str:
        return f"{self.topic}[{self.partition}]@{self.offset}"


# ---- what edges counted ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Tally:
    """What one life of an edge counted of telemetry during the run."""

    edge: str
    url: str
    published: int = 0
    dropped: int = 0
    """Sampled or shed before the live path had it: gone for every subscriber."""
    shed: int = 0
    """Not given to one subscriber, each of them counted."""
    read_s: float = 0.0
    """When it was last asked."""
    died_s: float | None = None
    """When it was killed: what it counted since it was last asked is gone with it."""
    unanswered: int = 0
    """Of `dropped`: the live path was away, or went without an answer and may have had them."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """A time in which the live path lost what was on its way: nobody can count that."""

    from_s: float
    to_s: float


@dataclass(slots=True)
class History:
    """Everything of a run."""

    attempts: list[Attempt] = field(default_factory=list)
    confirmed: list[Confirmed] = field(default_factory=list)
    views: dict[tuple[str, str], View] = field(default_factory=dict)
    cursors: list[CursorEvent] = field(default_factory=list)
    """In the order in which they were known."""
    log: list[LogEntry] = field(default_factory=list)
    ended: set[str] = field(default_factory=set)
    """Connections that ended under their client: answers that were due may be missing, and only there."""
    lost_runs: set[str] = field(default_factory=set)
    """Live store processes (`run` of an epoch, 8 characters) that are gone together with their data."""
    forgotten: dict[str, str] = field(default_factory=dict)
    """Sessions that the live store forgot, idle and wholly confirmed, and the last position before."""
    tallies: list[Tally] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)
    edges: dict[str, str] = field(default_factory=dict)
    """The edge's address of each connection."""
    patience_s: float = 0.0
    """How long an edge tries to write a record: nobody else writes it before."""
    notes: list[tuple[float, str]] = field(default_factory=list)
    """What was done to the system, for whoever debugs."""
    clock: Callable[[], float] = time.monotonic
    began_s: float = 0.0

    def __post_init__(self) -> None:
        self.began_s = self.clock()

    def now(self) -> float:
        return self.clock() - self.began_s

    def note(self, what: str) -> None:
        self.notes.append((self.now(), what))

    def view(self, subscriber: str, session: str) -> View:
        return self.views.setdefault((subscriber, session), View(subscriber, session))

    def sessions(self) -> set[str]:
        """Every session that was published to or looked at."""
        return {attempt.session for attempt in self.attempts} | {view.session for view in self.views.values()}
