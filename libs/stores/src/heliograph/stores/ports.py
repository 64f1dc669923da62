"""Every port of the services to the outside; orders to edges have a file of their own (`edge_orders`). `memory/`,
`redis/` and `kafka/` implement them.

One contract suite (`tests/stores/contracts`) runs against each implementation; what is not in it is not promised.

Two styles, on purpose: what the hot path calls takes a callback and returns at once (no task, no future a message; the
callback runs on the event loop, never inside the call), everything else is a coroutine. Sessions are passed as their
canonical text (`SessionKey` has checked it). Times are Unix ms where stores compare them, durations seconds.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from msgspec import Struct

from heliograph.core.buckets import SenderLimits
from heliograph.core.errors import HeliographError
from heliograph.core.expiry import Expiry
from heliograph.core.positions import Position


class StoreError(HeliographError):
    """A store could not do what it was asked. `code`: `live_unavailable`, `log_unavailable`, `overloaded` (the live
    store is full: nothing was written) or `unavailable`.

    `maybe_done`: the request may have been carried out (the connection broke before the answer).
    """

    def __init__(self, code: str, message: str, *, maybe_done: bool = False) -> None:
        super().__init__(code, message)
        self.maybe_done = maybe_done


class CorruptError(StoreError):
    """A stored value is not what this code writes. `key` says which; the value is never shown."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__("internal", f"{key}: {message}")
        self.key = key


# ---- live store -----------------------------------------------------------------------------------------------------


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
    def load(self) -> "LiveLoad":
        """What this store waits for; asks nobody."""

    async def memory(self) -> "LiveMemory":
        """How full the store is; of several shards, the fullest that answers. Asked beside the hot path; its round trip
        tells how fast the store answers.
        """

    async def pressure(self) -> "LivePressure":
        """How full the store is, and of what: asks every virtual shard."""


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


# ---- the log --------------------------------------------------------------------------------------------------------


class LogRecord(Struct):
    """A record of the log as read."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


class LogWriter(Protocol):
    """Idempotent, acks=all."""

    async def start(self) -> None: ...

    async def close(self, timeout_s: float) -> int:
        """Flush; how many records were left unacknowledged."""

    @property
    def in_flight(self) -> int: ...

    @property
    def load(self) -> "LogLoad":
        """What this writer waits for, and what failed; asks nobody."""

    def write(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]],
        done: Callable[[StoreError | None], None] | None,
    ) -> None:
        """Queue one record. `done` runs on the event loop when all in-sync replicas have it, or with the error.

        Raises StoreError(`log_unavailable`) at once where the queue is full or the topic's partition is not known.
        """


@dataclass(frozen=True, slots=True)
class LogLoad:
    """How a writer gets its records out."""

    in_flight: int
    capacity: int
    """Records that may wait; a further one is refused."""
    oldest_s: float
    """Age of the oldest record that is not acknowledged; 0: there is none."""
    broker_errors: int
    """So far. What is wrong with one topic, as that it is missing, is none."""


class LogConsumer(Protocol):
    """A member of the router's consumer group."""

    async def start(self, topics: Sequence[str]) -> None: ...

    async def close(self) -> None:
        """Leave the group at once."""

    async def set_topics(self, topics: Sequence[str]) -> None:
        """Exactly these, from now on; new ones are read within 5 s of their creation."""

    async def poll(self, max_records: int, timeout_s: float) -> list[LogRecord]:
        """The next records; empty after `timeout_s`. Raises StoreError(`log_unavailable`)."""

    async def commit(self, records: Sequence[LogRecord]) -> None:
        """The work of these is done: the group continues behind the highest of each partition."""

    async def committed_past(self, wanted: Mapping[tuple[str, int], int]) -> dict[tuple[str, int], bool]:
        """For each partition, whether the group has committed at or past the offset."""

    async def end_offsets(self, partitions: Iterable[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """The log's ends now, of partitions that exist."""

    async def lag(self) -> dict[tuple[str, int], int]:
        """Records between what the group has committed and the log's end, of each partition this member reads."""


class LogReader(Protocol):
    """Reads ranges of the log, outside of any group."""

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def partitions(self, topic: str) -> "TopicInfo | None":
        """None where there is no such topic."""

    async def offset_for_time(self, topic: str, partition: int, time_ms: int) -> int:
        """The first offset whose timestamp is at or after; the end where none is."""

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """Earliest offset, and end."""

    def read(
        self, topic: str, partition: int, start: int, end: int, batch: int = 500
    ) -> AsyncIterator[list[LogRecord]]:
        """Batches of records from `start` (inclusive, or the first that retention left) to `end` (exclusive).

        Closing the iterator stops the read. Raises StoreError(`log_unavailable`).
        """

    def scan(
        self, topic: str, partition: int, start: int, end: int, key: bytes, batch: int = 500
    ) -> AsyncIterator["Scanned"]:
        """`read`, for the records of one key among all others: nothing else of those is looked at."""


class Scanned(Struct):
    """A step of a scan: the records of the key (maybe none), and the offset that it has come to."""

    records: list[LogRecord]
    next_offset: int


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """A topic as it is: `topic_id` changes when it is deleted and made again."""

    name: str
    topic_id: str
    partitions: int
    replication_factor: int
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic as it should be. None, also as a setting's value: the brokers' default."""

    name: str
    partitions: int
    replication_factor: int | None
    config: Mapping[str, str | None]


class LogAdmin(Protocol):
    """Topics."""

    async def describe(self, topics: Sequence[str]) -> dict[str, TopicInfo]:
        """Those that exist."""

    async def create(self, topic: TopicSpec) -> None:
        """An existing one of this name is left as it is."""

    async def grow(self, topic: str, partitions: int) -> None: ...

    async def alter(self, topic: str, config: Mapping[str, str | None]) -> None:
        """Set these keys, leave others. None: back to the brokers' default."""

    async def delete(self, topic: str) -> None: ...

    async def messages(self, partitions: Mapping[str, int]) -> dict[str, int]:
        """About how many records each topic keeps, by its number of partitions: ends less first offsets."""


class LogAccess(Protocol):
    """Who else may read the log: SCRAM-SHA-512 users, and their rights by prefix of names.

    Raises StoreError(`unavailable`) where the brokers have no authorizer, or don't let us.
    """

    async def has_user(self, user: str) -> bool: ...

    async def set_user(self, user: str, password: str) -> None:
        """Add it, or give it another password."""

    async def drop_user(self, user: str) -> None:
        """A missing one is as good."""

    async def readable(self, user: str) -> set[str]:
        """Prefixes whose topics and consumer groups the user may read."""

    async def allow(self, user: str, prefix: str) -> None:
        """Let it read topics, and use consumer groups, whose names begin so."""

    async def forbid(self, user: str) -> None:
        """Take all its rights away."""


# ---- metadata store -------------------------------------------------------------------------------------------------


class Owner(Struct, frozen=True):
    """Whose a tenant's data is: the resource that made it, or last had it."""

    namespace: str
    name: str
    uid: str
    retained: bool = False
    """The resource is gone, the data is not: another resource may have it, where the rules of adoption allow."""


class TenantStore(Protocol):
    """Tenant records (JSON bytes; `heliograph.protocol.tenants` gives their shape)."""

    async def put(self, tenant: str, record: bytes) -> int:
        """The version that this change has."""

    async def replace(self, tenant: str, before: bytes | None, record: bytes) -> bool:
        """Put `record` unless another one than `before` (None: none) is there by now. Whether it was put."""

    async def get(self, tenant: str) -> bytes | None: ...

    async def delete(self, tenant: str) -> None: ...

    async def version(self) -> int: ...

    async def changes(self, since: int) -> tuple[int, dict[str, bytes | None]]:
        """The version now, and the records changed after `since` (None: deleted). `since=0`: all."""

    async def taken_up(self, service: str, version: int, ttl_s: float) -> None:
        """A service obeys all changes up to `version`; it counts as running for `ttl_s` from now."""

    async def behind(self, version: int) -> list[str]:
        """Running services that do not obey `version` yet, sorted."""

    async def owner(self, tenant: str) -> Owner | None:
        """Whose it is; None: nobody's that is known, as of one that was applied by hand. Raises CorruptError."""

    async def own(self, tenant: str, before: Owner | None, after: Owner | None) -> bool:
        """Make it another's (None: nobody's), unless it is not `before`'s by now. Whether that was done."""


class Connection(Struct, omit_defaults=True):
    """One client connection, as the registry knows it."""

    connection: str
    tenant: str
    subject: str
    agent: str | None
    since_ms: int
    sessions: list[str]
    """Sessions it is subscribed to."""
    registration: int = 1
    """How often its edge had registered all that it has, when this was written: a connection that was registered anew
    joins anew, and what is said about its former registration is no word about this one."""
    joins: list[int] = []
    """For each of `sessions` the number of the subscription, from which the ids of its join and leave are made; 0
    where neither is announced."""


class EdgeLease(Struct, omit_defaults=True):
    """One edge, as the registry knows it."""

    edge: str
    incarnation: str
    address: str
    connections: int
    started_ms: int
    ends_ms: int = 0
    """When the lease runs out, by the store's clock; set by the store."""
    draining: bool = False
    lease_ms: int = 0
    """How long it was renewed for; set by the store."""
    messages_in_per_s: float = 0.0
    """From publishers, since the renewal before."""
    messages_out_per_s: float = 0.0
    """To subscribers."""
    outbound_bytes: int = 0
    """Written for readers that had not taken it yet."""
    cpu: float | None = None
    """Of its process, in cores, since the renewal before; None: not measured yet."""
    ready: bool = True
    """It takes new clients."""
    drain_order: str = ""
    """Id of the drain order that it obeys (`edge_orders`)."""
    shed_order: str = ""
    """Id of the last shed order that it obeyed, and how many clients it has still to ask."""
    shed_left: int = 0


class ConnectionStore(Protocol):
    """Leases of edges and who is connected where."""

    async def renew(self, lease: EdgeLease, ttl_s: float) -> bool:
        """False: the store did not know this incarnation of the edge (it ran out, or is new): register all anew."""

    async def release(self, edge: str) -> None:
        """Lease and connections of an edge that goes."""

    async def update(self, edge: str, changed: Sequence[Connection], gone: Sequence[Connection]) -> None:
        """Add or replace, and remove, in one batch. `changed` of a known connection replaces its sessions."""

    async def edges(self) -> list[EdgeLease]:
        """Those whose lease holds."""

    async def lease(self, edge: str) -> EdgeLease | None:
        """What is stored of an edge, whether its lease holds or not."""

    async def lapsed(self) -> list[EdgeLease]:
        """Leases that ran out and were not buried yet."""

    async def left_behind(self, lease: EdgeLease, limit: int) -> list[Connection]:
        """Some of the connections that were registered under a lease as it was read; none once the edge renewed it or
        registered anew: then they are not lost.
        """

    async def remove(self, lease: EdgeLease, lost: Sequence[Connection]) -> list[bool]:
        """Forget these of `left_behind`, each as it was registered then. For each whether it was still there: of any
        number of callers one is told so.
        """

    async def bury(self, lease: EdgeLease) -> bool:
        """Forget an edge of which nothing is left behind. Whether this call did; never one that is back."""

    async def connections(self, scope: str, limit: int, after: str = "") -> list[tuple[EdgeLease, Connection]]:
        """Of a tenant, `tenant:agent-type` or session, on edges whose lease holds, in the order of their names
        `<edge>/<connection>`, from behind the name `after`."""

    async def agents(self, sessions: Sequence[str], besides: str) -> list[set[tuple[str, str | None]]]:
        """Subject and agent name of each session's subscribers, on edges whose lease holds and not called `besides`."""

    async def counts(self, tenants: Sequence[str]) -> list[int]:
        """About how many connections each tenant has: those of edges that were lost count until they are reaped."""


class IndexEntry(Struct, frozen=True):
    """Where a position is in the log."""

    position: str
    topic_id: str
    partition: int
    offset: int


class PositionIndex(Protocol):
    """Sparse: session and position → place in the log. Losing it makes reads slower, never wrong."""

    async def add(self, entries: Sequence[tuple[str, IndexEntry]], ttl_s: float) -> None:
        """Of a session with many entries the first and the newest are kept."""

    async def at_or_before(self, session: str, position: str) -> IndexEntry | None:
        """The entry with the highest position at or below; positions compare as text."""

    async def first(self, session: str) -> IndexEntry | None: ...

    async def last(self, session: str) -> IndexEntry | None: ...


class RehydrationRequest(Struct, frozen=True):
    """Frames of a session after a position (None: from the first), up to and including `until`."""

    session: str
    after: str | None
    until: str | None

    @property
    def name(self) -> str:
        return f"{self.session}|{self.after or ''}|{self.until or ''}"


class RehydratedPage(Struct):
    """What replay answers. `code` set: it could not."""

    frames: list[bytes]
    more: bool
    gap_before: list[str] | None = None
    """[from, to, reason] where retention took what was asked first."""
    code: str | None = None


class Rehydration(Protocol):
    """Requests of edges to replay, through the metadata store. Equal requests are one read."""

    async def ask(self, request: RehydrationRequest, deadline_s: float) -> RehydratedPage:
        """The page. Raises StoreError(`history_unavailable`) past the deadline."""

    def requests(self, worker: str) -> AsyncIterator[RehydrationRequest]:
        """What this worker of the group should answer; the asking edge has not given up yet."""

    async def answer(self, request: RehydrationRequest, page: RehydratedPage) -> None: ...


class SessionExpiries(Protocol):
    """When sessions' messages are forgotten."""

    async def put(self, session: str, state: Expiry) -> Expiry:
        """What it comes to with the state that is there (`Expiry.merged`), in one step. Also where nothing changes,
        those who follow `versions` look again."""

    async def get(self, sessions: Sequence[str]) -> list[Expiry | None]:
        """In the order asked."""

    async def versions(self) -> dict[str, int]:
        """Tenants that ever had an expiry, with a number that rises with every `put` for one."""

    async def forget(self, tenant: str, before_ms: int) -> int:
        """Remove the states of sessions whose moment came before this: the log has no message so old. How many."""


class Leases(Protocol):
    """Who does what: one holder a name, for a time."""

    async def acquire(self, name: str, holder: str, ttl_s: float) -> bool:
        """Take or renew; False where somebody else holds it."""

    async def release(self, name: str, holder: str) -> None: ...


# ---- serving: which worker has which session ------------------------------------------------------------------------


class Worker(Struct, omit_defaults=True):
    """A connection that serves an agent type, by one offer. Names are never used twice: an edge that has to offer
    anew (it was taken for dead) does so by another name."""

    name: str
    edge: str
    incarnation: str
    """Of the edge: another one means that this worker's connection is gone."""
    connection: str
    subject: str
    capacity: int
    """Sessions that it takes at a time; 0: no more."""
    agent: str | None = None
    offered_ms: int = 0
    """By the store's clock; set by the store."""


class DueSession(Struct, frozen=True):
    """A session that waits for a worker."""

    session: str
    since_ms: int
    first: str
    """The first position that was marked since nothing of it waited: nothing before it is known to be unserved."""
    last: str
    """The newest position that is known of it, of messages that no worker published."""
    cursor: str
    """Where the worker before came to; empty: not known."""
    previous: str | None
    """Worker that had it before."""


class ServeView(Struct):
    """What a dispatcher decides by."""

    workers: list[tuple[Worker, int]]
    """Each with the number of sessions that it holds."""
    due: list[DueSession]
    """Those that have waited longest."""
    now_ms: int
    """The store's clock."""


class Served(Struct):
    """What is known of one session of a served agent type."""

    session: str
    worker: str | None
    fence: int
    since_ms: int
    """When the worker got it, or gave it back."""
    taken: bool
    """The worker's edge has it."""
    last: str
    cursor: str
    """Where the worker before came to, as told when it gave the session back; empty: not known."""


class Order(Struct, frozen=True):
    """To an edge: a connection of yours has this session now. Not taken up within some seconds, it is void."""

    kind: str
    session: str
    worker: str
    fence: int
    start: str | None
    """The cursor; None: there is none."""


class ServeStore(Protocol):
    """Workers, the sessions that wait for one, and who has which: each call is atomic.

    `kind` is an agent type of a tenant, `<tenant>:<agent type>`. A fence is a number that rises with every assignment
    of a kind, also when the store lost its data (it is never below the clock): who has a lower one than another has
    lost the session to it.
    """

    async def kinds(self) -> dict[str, int]:
        """What is served, and when (ms) a worker was last known of."""

    async def keep(self, kind: str) -> None:
        """There is a worker of it now."""

    async def forget(self, kind: str) -> None:
        """Nobody serves it any more."""

    async def offer(self, kind: str, workers: Sequence[Worker]) -> None:
        """Add workers, or change what they offer."""

    async def known(self, kind: str, workers: Sequence[str]) -> list[bool]:
        """Whether each is there: one that is not was taken for lost, or the store lost its data."""

    async def leave(self, kind: str, workers: Sequence[str]) -> None:
        """Remove workers. What they hold is for the caller to release, else for whoever looks for it."""

    async def mark(self, kind: str, positions: Mapping[str, str]) -> None:
        """Session → a position that a worker should see. Due, unless it is held or its cursor is at or past that."""

    async def view(self, kind: str, limit: int) -> ServeView:
        """All workers, and the `limit` sessions that have waited longest."""

    async def assign(self, kind: str, pairs: Sequence[tuple[str, str]], above: int = 0) -> list[int]:
        """(session, worker) → its fence, which is higher than `above`; 0 where somebody has it, it is not due, or the
        worker is gone or full."""

    async def take(self, kind: str, leases: Sequence[tuple[str, int]]) -> list[bool]:
        """(session, fence): the edge has it. False where that is not the lease any more."""

    async def release(self, kind: str, leases: Sequence[tuple[str, int, str]]) -> list[bool]:
        """(session, fence, cursor or empty): given back; due again where a position behind the cursor is known.
        False, and nothing changed, where that is not the lease any more."""

    async def sessions(self, kind: str, cursor: int = 0) -> tuple[int, list[Served]]:
        """Some of all that is known, and where to go on; 0: that was all. One that changes meanwhile may come twice."""

    async def prune(self, kind: str, sessions: Sequence[str], before_ms: int) -> int:
        """Forget those of `sessions` that nobody has, that are not due, and unchanged since; how many."""

    async def order(self, edge: str, orders: Sequence[Order]) -> None: ...

    async def orders(self, edge: str, wait_s: float) -> list[Order]:
        """The next ones, once; empty after `wait_s`."""

    async def changed(self, wait_s: float) -> set[str]:
        """Kinds of which something became due, or a worker got room, since the last call; empty after `wait_s`.

        A hint: some may be missed while the connection is away.
        """


# ---- token store ----------------------------------------------------------------------------------------------------


class QuotaRequest(Struct, frozen=True):
    """Tokens that an edge wants of a bucket which all edges share."""

    bucket: str
    """`<tenant>:<class>`."""
    limits: SenderLimits
    messages: int
    bytes: int


class QuotaGrant(Struct, frozen=True):
    """What it gets: all, or what there is and how long until the rest could be had."""

    messages: int
    bytes: int
    wait_s: float = 0.0


class QuotaStore(Protocol):
    """Token buckets across edges (`heliograph.core.quotas.lease`), by the store's clock."""

    async def lease(self, requests: Sequence[QuotaRequest]) -> list[QuotaGrant]:
        """In the order asked, one call each in one round trip. Raises StoreError(`unavailable`)."""
