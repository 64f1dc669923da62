"""The live path: sequencing, hot window, pub/sub; and what it says about its own state."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from msgspec import Struct

from heliograph.core.positions import Position
from heliograph.stores.ports.errors import StoreError


class Append(Struct):
    """One message for the live store, everything but its position decided."""

    session: str
    rest: bytes
    """The client frame from `"session":` on."""
    extras: bytes
    """What the log has and the frame has not (`heliograph.protocol.messages.extras`)."""
    size_bytes: int
    """What it counts in bounds: payload as stored in the log + RECORD_OVERHEAD_BYTES. `confirm` passes the same."""
    partition: int
    """Kafka partition by today's count; the session keeps the one of its first append."""
    content_hash: bytes
    """8 bytes."""
    producer: bytes = b""
    """`<class>|<producer>|<incarnation>`, or empty: then only `message_id` is judged."""
    producer_seq: int = 0
    message_id: str = ""
    """Only an id that the caller chose."""


class Bounds(Struct, frozen=True):
    """What `append` refuses at. Per tenant and shard: a share of the tenant's bound."""

    unconfirmed_messages: int
    unconfirmed_bytes: int
    tenant_shard_bytes: int
    window_messages: int
    window_bytes: int


class AppendStatus(StrEnum):
    """`OK` and `DUPLICATE` have a position; every other value is a refusal code of `heliograph.protocol.codes`."""

    OK = "ok"
    DUPLICATE = "duplicate"
    PRODUCER_SEQ_REUSED = "producer_seq_reused"
    PRODUCER_SEQ_EXPIRED = "producer_seq_expired"
    PRODUCER_UNKNOWN = "producer_unknown"
    OUT_OF_ORDER = "out_of_order"
    MESSAGE_ID_REUSED = "message_id_reused"
    BACKLOG = "backlog"
    RECOVERING = "recovering"


class Appended(Struct):
    """What `append` answers."""

    status: AppendStatus
    epoch: str = ""
    seq: int = 0
    confirmed: bool = False
    """A duplicate that the log is known to have."""
    partition: int = -1
    expected: int = 0
    """With `out_of_order`."""


class Head(Struct, frozen=True):
    """A session's present. `epoch` is empty, and all else 0, where the session has no keys."""

    epoch: str
    seq: int
    confirmed: int
    first_seq: int
    """Lowest seq of `epoch` still in the window; seq + 1 where the window holds none."""
    next_epoch: str
    """The earliest epoch that a session of the virtual shard may begin with from now on, under the present primary. A
    position whose epoch is of another `run` (the last 8 characters) was given by a process that is gone: what it had
    only accepted may be lost."""


class Page(Struct, frozen=True):
    """A page of the hot window: frames in order, at most PAGE_BYTES and at least one where any is left."""

    frames: list[bytes]
    head: Head
    complete: bool
    """No hole between the asked position and the first frame, nor among them, in this window. False: the log has the
    older ones (the asked position is before the window's first, or of an older epoch).

    After seq 0 of what was `next_epoch` while the session had no keys it is complete as long as nothing of the session
    was forgotten since, the primary is the same, and the window has all there is of its only epoch."""
    more: bool
    """The page ended before the window did."""


class Unconfirmed(Struct, frozen=True):
    """A message that the log is not known to have. `frame` is None where the window lost it: it can't be written."""

    position: Position
    frame: bytes | None
    extras: bytes


class Ack(Struct, frozen=True):
    """A consumer of a session has handled everything up to `position`. None, or BEFORE_ALL: only claim, or look."""

    session: str
    consumer: str
    """`keys.client_consumer` or `keys.serving_consumer`."""
    position: Position | None
    fence: int = 0
    """Number of a lease: the cursor takes it if it is higher than the one before. 0: without a lease."""


class AckStatus(StrEnum):
    """What became of an `Ack`. Only `OK` changed anything (or had nothing to change)."""

    OK = "ok"
    AHEAD = "ahead"
    """Above the session's head, or the former epoch's last; of no epoch of the session's; or it has no keys."""
    FENCED = "fenced"
    """A higher fence was there before."""
    FULL = "full"
    """The session remembers CONSUMERS_PER_SESSION consumers, and this is none of them."""


class Acknowledged(Struct, frozen=True):
    """What `acknowledge` answers: the cursor as it stands (None: the consumer has acknowledged nothing)."""

    status: AckStatus
    cursor: Position | None
    fence: int


@dataclass(frozen=True, slots=True)
class LiveLoad:
    """What a live store waits for, and where it stands."""

    in_flight: int
    """Commands without an answer, of the shard that has most of them."""
    capacity: int
    """How many there may be: what comes then fails at once."""
    shards: int = 1
    """Servers that have it together."""
    shards_away: int = 0
    """Of these, those that can't be reached."""
    moves: int = 0
    """So far: how often a virtual shard, or all of them together, came to another server."""
    redirects: int = 0
    """So far: times that something could only be done at another server, or later."""
    moving: bool = False
    """Virtual shards change their server now, or did a moment ago."""


@dataclass(frozen=True, slots=True)
class LiveMemory:
    """`used_bytes` of `max_bytes` (0: unlimited)."""

    used_bytes: int
    max_bytes: int

    @property
    def share(self) -> float:
        """0 where there is no limit."""
        return self.used_bytes / self.max_bytes if self.max_bytes else 0.0


@dataclass(frozen=True, slots=True)
class LivePressure:
    """`used_bytes` of `max_bytes` memory (0: unlimited); unconfirmed bytes over all sessions."""

    used_bytes: int
    max_bytes: int
    unconfirmed_bytes: int


class LiveListener(Protocol):
    """What the live store tells about subscriptions, on the event loop."""

    def on_frame(self, session: str, frame: bytes) -> None:
        """A client frame published to a subscribed session, in the order of the connection it came by."""

    def on_subscribed(self, session: str) -> None:
        """From here on frames of the session arrive (again, after a reconnect)."""

    def on_lost(self, sessions: Sequence[str]) -> None:
        """The connection that these (one at least) arrive on broke: frames may be missed until the next
        `on_subscribed` of each.
        """


class LiveStore(Protocol):
    """The live path: sequencing, hot window, sharded pub/sub."""

    async def start(self, listener: LiveListener | None = None) -> None:
        """Connect, load the function library, check settings. Raises StoreError."""

    async def close(self) -> None: ...

    @property
    def available(self) -> bool:
        """Whether a command connection is up. Where there are several shards: any; what goes to one that is away fails
        at once with `live_unavailable`.
        """

    def append(self, message: Append, bounds: Bounds, done: Callable[[Appended | StoreError], None]) -> None:
        """Judge, sequence, store, publish: atomic, and nothing written where it is refused."""

    def publish_unsequenced(self, session: str, frame: bytes, done: Callable[[bool], None]) -> None:
        """Telemetry: to whoever is subscribed now. `done` is told whether the store took it; False: it is lost (where
        the connection broke before the answer, it may have been taken all the same).
        """

    async def announce(self, session: str, id: str, frame: bytes) -> bool:  # noqa: A002 - the frame's member
        """Publish a presence frame to whoever is subscribed now, unless one of this id was within ANNOUNCED_S: so
        that any number of services may say the same. Whether it was this call that did.
        """

    async def announce_many(self, batch: Sequence[tuple[str, str, bytes]]) -> list[bool | StoreError]:
        """`announce` of many (session, id, frame) in one round trip, published in the order given."""

    def subscribe(self, session: str) -> None: ...

    def unsubscribe(self, session: str) -> None: ...

    async def heads(self, sessions: Sequence[str]) -> list[Head]:
        """In the order asked. Raises StoreError."""

    async def heads_many(self, sessions: Sequence[str]) -> list[Head | StoreError]:
        """The same; a shard that is away costs its own sessions only."""

    async def page(self, session: str, after: Position | None) -> Page:
        """Frames after a position (None: from the window's first), on the history connection."""

    async def confirm(self, session: str, epoch: str, seqs_and_sizes: Sequence[tuple[int, int]]) -> Head:
        """The log has these positions. Known ones again, or of another epoch, change nothing."""

    async def confirm_many(
        self, batch: Sequence[tuple[str, str, Sequence[tuple[int, int]]]]
    ) -> list[Head | StoreError]:
        """`confirm` of many (session, epoch, [(seq, size)]) in one round trip, in the order asked."""

    async def unconfirm(self, session: str, epoch: str, first_seq: int, last_seq: int, size_bytes: int) -> int:
        """The log has lost these positions of the session's present epoch, which count so much together: they are
        unconfirmed again, and dirty from now on. Those confirmed behind them stay so.

        How many: 0 where the epoch is another, the window has no longer all of them, or not all were confirmed.
        """

    async def confirmed(self, session: str, positions: Sequence[Position]) -> list[bool | None]:
        """Whether the log is known to have each; None where this store can't tell (another epoch, no keys)."""

    async def acknowledge(self, acks: Sequence[Ack]) -> list[Acknowledged | StoreError]:
        """Move cursors, each atomically, in one round trip, in the order asked. A cursor never moves back: an older
        position is `OK` and answered with where the cursor stands. Cursors are kept as long as their session.

        Consumers with a fence are not counted against CONSUMERS_PER_SESSION: a session has one lease at a time.
        """

    async def cursors(self, session: str, consumers: Sequence[str]) -> list[Position | None]:
        """Where each stands, in the order asked; None: it has acknowledged nothing here. Raises StoreError."""

    async def sessions(self, virtual_shard: int, prefix: str, cursor: int = 0) -> tuple[int, list[str]]:
        """Some of the shard's sessions that begin so, and where to go on; 0: that was all. One may come twice."""

    async def beginnings(self, sessions: Sequence[str]) -> list[Position | None]:
        """The first message in each one's window, in the order asked; None where there is none."""

    async def unserved(self, session: str, after: Position | None) -> Position | None:
        """The newest position behind `after` that no worker published (`by_worker`); None: there is none.

        Where the window doesn't reach back to `after` and holds none, it is the newest of all.
        """

    async def dirty(self, virtual_shard: int, before_ms: int, limit: int) -> list[tuple[str, int]]:
        """Sessions with messages unconfirmed since before `before_ms` and since when (ms), oldest first."""

    async def unconfirmed(self, session: str, limit: int) -> list[Unconfirmed]:
        """The session's unconfirmed messages, oldest first, whatever epoch they are of."""

    async def partition_of(self, session: str) -> int | None:
        """The Kafka partition recorded at the session's first append."""

    async def expire(self, virtual_shard: int, idle_s: float, limit: int) -> int:
        """Forget sessions that are idle so long and wholly confirmed; how many."""

    async def forget(self, sessions: Sequence[str]) -> int:
        """Remove all that there is of these, confirmed or not: of a tenant whose data goes. How many had keys."""

    async def placed(self, session: str, message_ids: Sequence[str]) -> list[bool]:
        """Whether the session has a message of each id that its publisher (or a router) appended it under, within the
        time for which such ids are remembered.
        """

    @property
    def load(self) -> LiveLoad:
        """What this store waits for; asks nobody."""

    async def memory(self) -> LiveMemory:
        """How full the store is; of several shards, the fullest that answers. Asked beside the hot path; its round trip
        tells how fast the store answers.
        """

    async def pressure(self) -> LivePressure:
        """How full the store is, and of what: asks every virtual shard."""
