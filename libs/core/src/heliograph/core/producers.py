"""The judgement of publishers: is this message new, a repeat, or one that can't be told?

A publisher that got no answer sends again, perhaps over another edge. Whether the first one arrived is known by one
thing only, the session's own memory of its producers; so the judgement happens where the session is sequenced, in the
same step. This module is its reference: `ProducerLedger` is what the memory store runs, and the Redis function answers
the same to the same questions (a contract test compares them). Change it here first.

What is remembered, per session:

- for each of the last 1,000 (class, producer, incarnation) that published, a ring of the last 64 producer seqs:
  content hash and position of each. A producer that restarts begins at 1 with a ring of its own, and a late retry of
  its former incarnation still finds the old one;
- for each message id that a caller chose: content hash and position, for 10 minutes.

What this must never do: acknowledge what it can't judge (each such case has a refusal of its own), accept a seq out of
order (an earlier message refused and a later one admitted would swap them for ever), let a refused class block another
(rings are per class), or write while it judges: `judge` only looks, `record` is called once the message has its place,
so a step that fails between the two changes nothing.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from heliograph.core.limits import MESSAGE_ID_MEMORY_S, PRODUCER_RING, PRODUCERS_PER_SESSION
from heliograph.core.positions import MAX_SEQ, Position

PRODUCERS_STORED = PRODUCERS_PER_SESSION + PRODUCERS_PER_SESSION // 10
"""Rings stored at most; one more, and the least recently used go until PRODUCERS_PER_SESSION are left.
In batches: forgetting one by one would cost every append of a busy session a look for the oldest."""

_MESSAGE_ID_MEMORY_MS = MESSAGE_ID_MEMORY_S * 1000


class Claim(NamedTuple):
    """Who a message says it is from, and what it is: all that a judgement may look at."""

    content_hash: bytes
    """Of everything that makes it the same message. Equal hashes count as equal content."""
    producer: bytes = b""
    """`<class>|<producer>|<incarnation>`, the producer's name scoped by its token's subject. Empty: no counter, judged
    by its id alone. Telemetry is unsequenced and never judged."""
    producer_seq: int = 0
    """From 1 per session and `producer`."""
    message_id: str = ""
    """Only an id that the caller chose; an id that the edge made up is new by construction."""

    def check(self) -> None:
        """Raise ValueError for a claim that the protocol should have refused."""
        if self.producer and not 1 <= self.producer_seq <= MAX_SEQ:
            raise ValueError(f"producer_seq is {self.producer_seq!r}; it must be 1 to {MAX_SEQ}")


@dataclass(frozen=True, slots=True)
class Accept:
    """New: give it a position, then `record` it there."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Had at `position`; answered as the first one was, and not sequenced again."""

    position: Position
    confirmed: bool
    """Whether the log has it. If not, a produce of it may still be under way: it isn't produced again either."""
    consumes: bool = False
    """Recognised by its id under a new producer seq. That seq is used up: `record` the claim at `position`."""


@dataclass(frozen=True, slots=True)
class ProducerSeqReused:
    """This seq was another message. The client's counter is broken; it must not be told that its message is in."""

    code = "producer_seq_reused"


@dataclass(frozen=True, slots=True)
class OutOfOrder:
    """A message in between is missing: send again from `expected`."""

    expected: int
    code = "out_of_order"


@dataclass(frozen=True, slots=True)
class ProducerSeqExpired:
    """Older than the ring: it was accepted, but nobody can say any more whether this is the same message."""

    code = "producer_seq_expired"


@dataclass(frozen=True, slots=True)
class ProducerUnknown:
    """Not seq 1, from a (class, producer, incarnation) that isn't remembered: what came before it can't be known."""

    code = "producer_unknown"


@dataclass(frozen=True, slots=True)
class MessageIdReused:
    """The id was another message within the last 10 minutes. The producer seq is not used up."""

    code = "message_id_reused"


ACCEPT = Accept()
Refusal = ProducerSeqReused | OutOfOrder | ProducerSeqExpired | ProducerUnknown | MessageIdReused
Judgement = Accept | Duplicate | Refusal


class _Known(NamedTuple):
    """A message that has its place."""

    content_hash: bytes
    position: Position


class _KnownId(NamedTuple):
    content_hash: bytes
    position: Position
    at_ms: int


@dataclass(slots=True)
class _Ring:
    """The last messages of one (class, producer, incarnation): `known[-1]` is the one with `last_seq`."""

    last_seq: int = 0
    known: deque[_Known] = field(default_factory=lambda: deque(maxlen=PRODUCER_RING))

    def find(self, seq: int) -> _Known | None:
        """The message with `seq` (at most `last_seq`), None if the ring has moved past it."""
        back = self.last_seq - seq
        return self.known[-1 - back] if back < len(self.known) else None


class ProducerLedger:
    """What one session remembers of its publishers.

    A store calls `judge`; on Accept it gives the message a position and calls `record`; on a Duplicate that `consumes`
    it calls `record` with the first position; else nothing has changed.
    """

    __slots__ = ("_ids", "_is_confirmed", "_rings")

    def __init__(self, is_confirmed: Callable[[Position], bool]) -> None:
        """`is_confirmed` says whether the log has a position of this session; positions of former epochs included."""
        self._is_confirmed = is_confirmed
        self._rings: OrderedDict[bytes, _Ring] = OrderedDict()
        """By `Claim.producer`, least recently recorded first. Answering a duplicate writes nothing: no use."""
        self._ids: OrderedDict[str, _KnownId] = OrderedDict()
        """By message id, oldest first."""

    def judge(self, claim: Claim, now_ms: int) -> Judgement:
        """What `claim` is. Changes nothing.

        The counter is asked first: it is certain where an id is only remembered for a while. Only a message that is
        the producer's next is judged by its id as well.
        """
        claim.check()
        if claim.producer:
            judgement = self._judge_seq(claim)
            if judgement is not ACCEPT:
                return judgement
        if claim.message_id:
            known = self._ids.get(claim.message_id)
            if known is not None and now_ms - known.at_ms < _MESSAGE_ID_MEMORY_MS:
                if known.content_hash != claim.content_hash:
                    return MessageIdReused()
                return self._duplicate(known.position, consumes=bool(claim.producer))
        return ACCEPT

    def record(self, claim: Claim, position: Position, now_ms: int) -> None:
        """Remember that `claim` stands at `position`. Only for what `judge` answered Accept or a consuming Duplicate.

        An incarnation that isn't remembered may begin at any seq here: that is how memory is restored from the log.
        """
        claim.check()
        if claim.producer:
            self._record_seq(claim, position)
        if claim.message_id:
            self._record_id(claim, position, now_ms)

    def remembers(self, message_id: str, now_ms: int) -> bool:
        """Whether a message of this id has its place, as far as is still known."""
        known = self._ids.get(message_id)
        return known is not None and now_ms - known.at_ms < _MESSAGE_ID_MEMORY_MS

    def __len__(self) -> int:
        """Rings remembered."""
        return len(self._rings)

    def _judge_seq(self, claim: Claim) -> Judgement:
        seq = claim.producer_seq
        ring = self._rings.get(claim.producer)
        if ring is None:
            return ACCEPT if seq == 1 else ProducerUnknown()
        if seq == ring.last_seq + 1:
            return ACCEPT
        if seq > ring.last_seq:
            return OutOfOrder(ring.last_seq + 1)
        known = ring.find(seq)
        if known is None:
            return ProducerSeqExpired()
        if known.content_hash != claim.content_hash:
            return ProducerSeqReused()
        return self._duplicate(known.position, consumes=False)

    def _duplicate(self, position: Position, *, consumes: bool) -> Duplicate:
        return Duplicate(position, self._is_confirmed(position), consumes)

    def _record_seq(self, claim: Claim, position: Position) -> None:
        ring = self._rings.setdefault(claim.producer, _Ring(claim.producer_seq - 1))
        if claim.producer_seq != ring.last_seq + 1:
            raise ValueError(f"producer_seq is {claim.producer_seq}; after {ring.last_seq} only the next is recorded")
        ring.last_seq = claim.producer_seq
        ring.known.append(_Known(claim.content_hash, position))
        self._rings.move_to_end(claim.producer)
        if len(self._rings) > PRODUCERS_STORED:
            while len(self._rings) > PRODUCERS_PER_SESSION:
                self._rings.popitem(last=False)

    def _record_id(self, claim: Claim, position: Position, now_ms: int) -> None:
        """The 10 minutes run from the first time: a repeat doesn't prolong them."""
        while self._ids:
            oldest = next(iter(self._ids.values()))
            if now_ms - oldest.at_ms < _MESSAGE_ID_MEMORY_MS:
                break
            self._ids.popitem(last=False)
        known = self._ids.get(claim.message_id)
        if known is None or now_ms - known.at_ms >= _MESSAGE_ID_MEMORY_MS:
            self._ids[claim.message_id] = _KnownId(claim.content_hash, position, now_ms)
