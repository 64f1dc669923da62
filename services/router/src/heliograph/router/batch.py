"""A batch of records, taken apart: which positions it confirms, what may be indexed, what is poison.

A record is poison when it is no message of ours (another writer, a bug, bits gone bad). Where it still names a position
of a session of its topic's tenant, that position is confirmed: the log holds what it will ever hold of it.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from heliograph.core.errors import InvalidValueError
from heliograph.core.expiry import Expiry
from heliograph.core.limits import RECORD_OVERHEAD_BYTES
from heliograph.core.positions import EPOCH_LENGTH, Position
from heliograph.core.sessions import SessionKey
from heliograph.protocol.expiries import expiry_of
from heliograph.protocol.gaps import gap_reason
from heliograph.protocol.messages import (
    EXPIRY_EVENT_TYPE,
    GAP_EVENT_TYPE,
    OWN_EVENT_TYPES,
    Message,
    RecordError,
    message_from_record,
)
from heliograph.router.topics import LogTopic
from heliograph.stores.ports import LogRecord

WRONG_TOPIC = "wrong_topic"
"""A record whose session belongs to another tenant than its topic: it must not touch that session."""

ROUTER_ERROR = "router_error"
"""Working on the record met an error of ours."""

Epoch = tuple[str, str]
"""Session and epoch."""


@dataclass(slots=True)
class Poison:
    """A record for the dead-letter topic."""

    record: LogRecord
    reason: str
    detail: str


@dataclass(slots=True)
class Batch:
    """What to do for some records."""

    positions: dict[Epoch, list[tuple[int, int]]] = field(default_factory=dict)
    """By session and epoch: seqs and the sizes they count."""
    places: list[tuple[str, str, int, LogRecord]] = field(default_factory=list)
    """Session, epoch, seq and record of each message, in the order of the log."""
    by_worker: dict[Epoch, set[int]] = field(default_factory=dict)
    """Seqs of messages that workers of their session's agent type published."""
    poison: list[Poison] = field(default_factory=list)
    unsequenced: int = 0
    """Records without a position: nothing to do."""
    own: Counter[str] = field(default_factory=Counter)
    """Records of Heliograph's own, by type."""
    gaps: Counter[str] = field(default_factory=Counter)
    """Gap records, by reason."""
    expiries: list[tuple[str, Expiry]] = field(default_factory=list)
    """Sessions whose messages somebody had forgotten, in the order of the log."""
    deferred: list[tuple[LogRecord, Message]] = field(default_factory=list)
    """What the live path could not take when it was published, in the order of the log."""
    strangers: set[str] = field(default_factory=set)
    """Tenants of records in shared topics that are not known to have any there."""


def take_apart(records: Iterable[LogRecord], topic_of: Callable[[str], LogTopic | None]) -> Batch:
    """`topic_of`: whose log a topic is, None where that is not known (any more)."""
    batch = Batch()
    positions, places = batch.positions, batch.places
    topic, prefix, sharers, deferred = "", "", None, False
    for record in records:
        if record.topic != topic:
            topic = record.topic
            about = topic_of(topic)
            prefix, sharers = _owners(about)
            deferred = about is not None and about.deferred
        try:
            message = message_from_record(record.key, record.value, record.headers)
            if not message.session.startswith(prefix):
                raise RecordError(WRONG_TOPIC, "the session is another tenant's")
            if sharers is not None and (tenant := message.session.partition(":")[0]) not in sharers:
                batch.strangers.add(tenant)
                raise RecordError(WRONG_TOPIC, "the session's tenant is not one of those that share the topic")
            if deferred and message.position is not None:
                raise RecordError("position_unexpected", "a deferred message has no position yet")
        except RecordError as error:
            batch.poison.append(Poison(record, error.reason, error.message))
            if error.reason != WRONG_TOPIC and not deferred and (prefix or sharers is not None):
                _confirm_poison(record, prefix, sharers, positions)
            continue
        position = message.position
        if deferred:
            batch.deferred.append((record, message))
            continue
        if position is None:
            batch.unsequenced += 1
            state = expiry_of(message)
            if state is not None:
                batch.own[EXPIRY_EVENT_TYPE] += 1
                batch.expiries.append((message.session, state))
            continue
        if message.event_type in OWN_EVENT_TYPES and not _is_gap(message, batch):
            continue
        epoch, seq = position[:EPOCH_LENGTH], int(position[EPOCH_LENGTH + 1 :])
        size_bytes = len(record.value or b"") + RECORD_OVERHEAD_BYTES
        key = (message.session, epoch)
        found = positions.get(key)
        if found is None:
            positions[key] = [(seq, size_bytes)]
        else:
            found.append((seq, size_bytes))
        if message.by_worker:
            batch.by_worker.setdefault(key, set()).add(seq)
        places.append((message.session, epoch, seq, record))
    return batch


def _is_gap(message: Message, batch: Batch) -> bool:
    """Whether a record of our own settles its position; the others say something about an epoch."""
    event_type = message.event_type or ""
    batch.own[event_type] += 1
    if event_type != GAP_EVENT_TYPE:
        return False
    batch.gaps[gap_reason(message) or ""] += 1
    return True


def _owners(topic: LogTopic | None) -> tuple[str, frozenset[str] | None]:
    """What sessions of a topic begin with, and where it is shared the tenants they must be of."""
    if topic is None:
        return "", None
    if topic.shared:
        return "", topic.tenants
    return "".join(f"{tenant}:" for tenant in topic.tenants), None


def _confirm_poison(
    record: LogRecord, prefix: str, sharers: frozenset[str] | None, positions: dict[Epoch, list[tuple[int, int]]]
) -> None:
    """Confirm the position that a poison record names, if it names one and its key is its session."""
    try:
        session = (record.key or b"").decode()
        SessionKey.parse(session)
        named = next((value for name, value in record.headers if name == "ce_sequence"), None)
        position = Position.parse((named or b"").decode())
    except (UnicodeDecodeError, InvalidValueError):
        return
    if session.startswith(prefix) and (sharers is None or session.partition(":")[0] in sharers):
        size_bytes = len(record.value or b"") + RECORD_OVERHEAD_BYTES
        positions.setdefault((session, position.epoch), []).append((position.seq, size_bytes))
