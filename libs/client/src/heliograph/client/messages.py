"""What a subscriber gets: messages and gaps. Payloads are decoded when first looked at, and only then."""

import base64
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec

from heliograph.client.errors import ClientError
from heliograph.core.errors import InvalidValueError
from heliograph.core.messages import MessageClass
from heliograph.protocol.frames import MessageFrame
from heliograph.protocol.messages import is_json

OCTETS = "application/octet-stream"

_UNSET: Any = object()


class Acknowledges(Protocol):
    """Where a message can be acknowledged."""

    def record(self, session: str, position: str | None) -> None:
        """Everything of the session up to `position` is done with (None, for telemetry: nothing to do)."""


class Message:
    """One message of a session, in its place.

    `position` is opaque: keep it, hand it back as `start=`, compare two of one session as text, read nothing into it.
    It is None for telemetry. `data` is what the publisher gave: JSON decoded, or bytes.
    """

    __slots__ = (
        "_acks",
        "_data",
        "causation_id",
        "class_",
        "content_type",
        "correlation_id",
        "event_type",
        "id",
        "payload",
        "position",
        "producer",
        "reply_to",
        "session",
        "time_ms",
        "traceparent",
    )

    def __init__(self, frame: MessageFrame, acks: "Acknowledges | None" = None) -> None:
        """`acks`: where it can be acknowledged; None: nowhere."""
        self._acks = acks
        self.session: str = frame.session
        self.id: str = frame.message_id
        self.position: str | None = frame.position
        self.class_: MessageClass = frame.class_
        self.producer: str = frame.producer
        """Who sent it, as its token says: `subject` or `subject/name`."""
        self.time_ms: int = frame.time
        """When it was accepted, Unix time in ms."""
        self.payload: bytes = bytes(frame.payload)
        """JSON text; a base64 string where `content_type` is not JSON."""
        self.event_type: str | None = frame.event_type
        self.correlation_id: str | None = frame.correlation_id
        self.causation_id: str | None = frame.causation_id
        self.reply_to: str | None = frame.reply_to
        self.content_type: str | None = frame.content_type
        self.traceparent: str | None = frame.traceparent
        self._data: Any = _UNSET

    @property
    def data(self) -> Any:
        """The payload: JSON decoded, or bytes where `content_type` is not JSON."""
        if self._data is _UNSET:
            self._data = decode_payload(self.payload, self.content_type)
        return self._data

    @property
    def time(self) -> datetime:
        """When it was accepted, in UTC."""
        return datetime.fromtimestamp(self.time_ms / 1000, UTC)

    async def ack(self) -> None:
        """This message and all before it in its session are done with: `start="cursor"` goes on behind it, also after
        this program was killed. Returns at once; the client tells the server every `settings.ack_interval_s`.

        Raises ClientError(`consumer_missing`) where the client has no `consumer`.
        """
        if self._acks is None:
            raise ClientError("consumer_missing", "this message was not read from a subscription")
        self._acks.record(self.session, self.position)

    def __repr__(self) -> str:
        return f"<Message {self.id} {self.class_} of {self.session} at {self.position}, {len(self.payload)} bytes>"


@dataclass(frozen=True, slots=True)
class Gap:
    """Messages of a session that will not come. What is before and after it is whole.

    `reason`: one of `heliograph.protocol.codes.GapReason`; `epoch` (the live store was replaced); or `hole` (the server
    left something out without a word, which is a bug: please report it).
    """

    session: str
    reason: str
    first: str | None = None
    """First position that is missing, both ends included; None: not known."""
    last: str | None = None
    certain: bool = True
    """False: it can't be told whether anything is missing. With `epoch`: messages may be lost that were accepted, but
    not yet durable, when the live store went."""


@dataclass(frozen=True, slots=True)
class Presence:
    """Somebody joined or left a session. What happened while the connection was lost is not told afterwards.

    `event`: `join` or `leave`. `reason`, with `leave`: `closed`, `drained` (its edge goes, it will come back on
    another) or `lost` (its edge is gone, and this agent had not come back elsewhere).
    """

    session: str
    event: str
    subject: str
    """Of its token: with `agent` the one who joined or left, whatever connection it has."""
    agent: str | None
    """What it called itself (`Client(agent=…)`)."""
    connection: str
    reason: str | None
    time_ms: int
    """Unix time in ms."""
    id: str
    """Of the event: the same, whoever told it and how often."""

    @property
    def time(self) -> datetime:
        """When it happened, in UTC."""
        return datetime.fromtimestamp(self.time_ms / 1000, UTC)


def encode_payload(data: object, content_type: str | None) -> tuple[bytes, str | None]:
    """JSON text for a publish frame, and its content type (None: JSON).

    Bytes go as base64 under `content_type` (default `application/octet-stream`), or as they are where that is JSON;
    text with a content type that is not JSON goes as its UTF-8; everything else is encoded as JSON.
    """
    if isinstance(data, bytes | bytearray | memoryview):
        octets = bytes(data)
        if content_type is None:
            content_type = OCTETS
        if is_json(content_type):
            return _checked_json(octets), content_type
        return b'"%b"' % base64.b64encode(octets), content_type
    if content_type is not None and not is_json(content_type):
        if isinstance(data, str):
            return b'"%b"' % base64.b64encode(data.encode()), content_type
        raise InvalidValueError("value_invalid", "data", type(data), f"bytes or text, as {content_type} is not JSON")
    return msgspec.json.encode(data), content_type


def decode_payload(payload: bytes, content_type: str | None) -> Any:
    """The reverse of `encode_payload`; text that was not JSON comes back as bytes."""
    value = msgspec.json.decode(payload)
    return value if is_json(content_type) else base64.b64decode(value)


def _checked_json(text: bytes) -> bytes:
    try:
        text.decode()
        msgspec.json.decode(text)
    except (UnicodeDecodeError, msgspec.MsgspecError, RecursionError):
        raise InvalidValueError("value_invalid", "data", text[:60], "JSON, as its content type says") from None
    return text
