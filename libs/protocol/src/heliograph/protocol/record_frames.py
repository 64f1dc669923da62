"""Client frames straight from log records, for who reads many records of one session.

`message_from_record` and `frame` say what a record means and how its frame is spelled; going through a Message costs
12 µs a record. Most records of a session share most of their headers with one before: they are spliced, in 3 µs, and
every other one takes the long way. Both ways give the same bytes and the same errors (a test holds them to it).
"""

from collections.abc import Callable
from enum import Enum

import msgspec
from msgspec import Raw

from heliograph.core.errors import InvalidValueError
from heliograph.core.history import Why
from heliograph.core.positions import EPOCH_LENGTH, MAX_SEQ, Position
from heliograph.protocol.frames import is_utf8
from heliograph.protocol.gaps import gap_reason
from heliograph.protocol.messages import (
    GAP_EVENT_TYPE,
    OWN_EVENT_TYPES,
    Message,
    check_payload,
    frame,
    message_from_record,
    parse_rfc3339_ms,
)

KNOWN = 256
"""Combinations of shared headers remembered; a session has a handful."""

_DASH = EPOCH_LENGTH + 1
_SAFE_SEQ_DIGITS = len(str(MAX_SEQ)) - 1

_quote = msgspec.json.encode
_raw = msgspec.json.Decoder(Raw)

RecordHeaders = list[tuple[str, bytes | None]]


class Nothing(Enum):
    """What a record may be besides a message and a gap."""

    NOTHING = "nothing"
    """One of our own that is no part of the session's sequence, or one without a position."""


class RecordFrames:
    """Reads the records of one session.

    >>> RecordFrames("acme:planner:42").read(value, headers)  # doctest: +SKIP
    (Position(epoch='1764000000000-1a2b3c4d', seq=42), b'{"type":"message",…}')
    """

    __slots__ = ("_epoch", "_epoch_dash", "_key", "_known", "_second", "_second_ms")

    def __init__(self, session: str) -> None:
        self._key = session.encode()
        self._known: dict[tuple[bytes | None, ...], bytes] = {}
        """Headers that many records share, found good, and what the frame has of them."""
        self._epoch = ""
        self._epoch_dash = b"\0"
        self._second = b"\0"
        self._second_ms = 0

    def read(
        self, value: bytes | None, headers: RecordHeaders
    ) -> tuple[Position, bytes] | tuple[Position, Why] | Nothing:
        """Position and client frame of a message, or position and reason of a gap. Raises RecordError.

        The caller has compared the record's key with the session.
        """
        return self._splice(value, headers) or self._through_message(value, headers)

    def _splice(self, value: bytes | None, headers: RecordHeaders) -> tuple[Position, bytes] | None:
        """None where anything about the record is not as most are."""
        found = dict(headers)
        take = found.get
        middle = self._known.get(_shared(take))
        id_, time, sequence = take("ce_id"), take("ce_time"), take("ce_sequence")
        if middle is None or value is None or id_ is None or time is None or sequence is None:
            return None
        if sequence[:_DASH] != self._epoch_dash or len(time) != 24 or time[23:] != b"Z":
            return None
        if time[:20] != self._second and not self._next_second(time[:20]):
            return None
        digits, ms = sequence[_DASH:], time[20:23]
        if len(digits) != 16 or not digits.isdigit() or not ms.isdigit() or not 0 < (seq := int(digits)) <= MAX_SEQ:
            return None
        count = _SHARED_HEADERS + 3
        producer_seq = take("ce_producerseq")
        if (producer_seq is None) != (take("ce_incarnation") is None):
            return None  # they belong together
        if producer_seq is None:
            count -= 1
        else:
            count += 1
            if not producer_seq.isdigit() or producer_seq[:1] == b"0" or len(producer_seq) > _SAFE_SEQ_DIGITS:
                return None
        traceparent = rest = b""
        if len(found) != count:  # more than most have
            optional = {name: take(header) for name, header in _OPTIONAL if header in found}
            if len(found) != count + len(optional) or None in optional.values():
                return None
            try:
                quoted = [
                    b'"%b":%b,' % (name, _quote(text.decode())) for name, text in optional.items() if text is not None
                ]
            except UnicodeDecodeError:
                return None
            if b"traceparent" in optional:
                traceparent = quoted.pop(0)
            rest = b"".join(quoted)
        if len(headers) != len(found):  # a header is there twice
            return None
        try:
            _raw.decode(value)
            if not is_utf8(value) or b"\n" in value or b"\r" in value:
                return None
            check_payload(value)
            id_text = _quote(id_.decode())
        except (msgspec.MsgspecError, RecursionError, InvalidValueError, UnicodeDecodeError):
            return None
        return Position(self._epoch, seq), (
            b'{"type":"message","position":"%b","session":"%b","message_id":%b,"time":%d,%b%b%b"payload":%b}'
            % (sequence, self._key, id_text, self._second_ms + int(ms), traceparent, middle, rest, value)
        )

    def _next_second(self, text: bytes) -> bool:
        """Parse a time up to its `.`, once for all records of the second."""
        if text[19:] != b".":
            return False
        try:
            self._second_ms = parse_rfc3339_ms(text.decode() + "000Z")
        except (ValueError, OverflowError):
            return False
        self._second = text
        return True

    def _through_message(
        self, value: bytes | None, headers: RecordHeaders
    ) -> tuple[Position, bytes] | tuple[Position, Why] | Nothing:
        message = message_from_record(self._key, value, headers)
        if message.position is None:
            return Nothing.NOTHING
        if message.event_type in OWN_EVENT_TYPES and message.event_type != GAP_EVENT_TYPE:
            return Nothing.NOTHING
        position = Position.parse(message.position)
        why = gap_reason(message)
        if why is not None:
            return position, Why(why) if why in _WHYS else Why.NEVER_WRITTEN
        self._learn(message, position, dict(headers).get)
        return position, frame(message)

    def _learn(self, message: Message, position: Position, take: Callable[[str], bytes | None]) -> None:
        """The next record like this one can be spliced."""
        self._epoch, self._epoch_dash = position.epoch, position.epoch.encode() + b"-"
        if message.content_type is not None:
            return
        shared = b'"producer":%b,"class":"%b",' % (_quote(message.producer), message.class_.encode())
        if message.event_type is not None:
            shared += b'"event_type":%b,' % _quote(message.event_type)
        if len(self._known) >= KNOWN:
            self._known.clear()
        self._known[_shared(take)] = shared


def _shared(take: Callable[[str], bytes | None]) -> tuple[bytes | None, ...]:
    """The headers that are equal in most records of a session's publisher."""
    return (
        take("ce_specversion"),
        take("ce_source"),
        take("ce_type"),
        take("ce_partitionkey"),
        take("ce_class"),
        take("ce_producer"),
        take("content-type"),
        take("ce_incarnation"),
    )


_SHARED_HEADERS = 8
_OPTIONAL = (
    (b"traceparent", "traceparent"),
    (b"correlation_id", "ce_correlationid"),
    (b"causation_id", "ce_causationid"),
    (b"reply_to", "ce_replyto"),
)
"""In the order of the frame; the first stands before the shared part."""

_WHYS = frozenset(why.value for why in Why)


def position_of(headers: RecordHeaders) -> Position | None:
    """The position that a record claims, where it can be read, whatever else is wrong with the record."""
    for name, value in headers:
        if name == "ce_sequence" and value is not None:
            try:
                position = Position.parse(value.decode())
            except (InvalidValueError, UnicodeDecodeError):
                return None
            return position if position.seq else None
    return None
