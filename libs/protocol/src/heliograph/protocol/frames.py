"""The frames of `heliograph.v1`: one JSON object a WebSocket text message, told apart by `type`.

Only envelopes are decoded: a payload stays the bytes it came as. Unknown fields are ignored, unknown types are an
error. `id` is a number the client chose; the one answer to that frame repeats it.

`message` frames are not here: they are spliced, not encoded (`heliograph.protocol.messages`).
"""

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from heliograph.core.dispatching import MAX_CAPACITY
from heliograph.core.errors import HeliographError, InvalidValueError
from heliograph.core.limits import MAX_NAME_LENGTH
from heliograph.core.messages import AckMode, MessageClass
from heliograph.core.positions import MAX_SEQ
from heliograph.core.sessions import MAX_LABEL_LENGTH, MAX_SESSION_ID_LENGTH

SUBPROTOCOL = "heliograph.v1"
CONNECT_PATH = "/v1/connect"
AFFINITY_HEADER = "X-Heliograph-Affinity"
"""A hint for balancers: equal for connections that should reach the same edge. Edges ignore it."""
AFFINITY_QUERY = "affinity"
"""The same, for browsers, which can't set a header."""

EARLIEST = "earliest"
LATEST = "latest"
CURSOR = "cursor"

RESERVED_EVENT_TYPE_PREFIX = "dev.heliograph."
"""Event types of Heliograph's own records; a publisher may not use them."""

MAX_SESSION_LENGTH = 2 * (MAX_LABEL_LENGTH + 1) + MAX_SESSION_ID_LENGTH

RequestId = Annotated[int, Meta(ge=0, le=MAX_SEQ)]
ProducerSeq = Annotated[int, Meta(ge=1, le=MAX_SEQ)]
Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_LENGTH)]
"""Checked once more by `check_name`: no control characters."""
Incarnation = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{8,64}\Z")]
"""Random, chosen at a producer's start."""
LeaseToken = Annotated[str, Meta(pattern=r"^[0-9a-zA-Z._-]{1,64}\Z")]
"""What an `assigned` frame told: who holds a session now."""
SessionReference = Annotated[str, Meta(min_length=1, max_length=MAX_SESSION_LENGTH)]
AgentType = Annotated[str, Meta(min_length=1, max_length=MAX_LABEL_LENGTH)]
"""Checked once more by `check_label`."""
Capacity = Annotated[int, Meta(ge=0, le=MAX_CAPACITY)]
TraceParent = Annotated[str, Meta(pattern=r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z")]
"""W3C Trace Context, 3.2; bounded and plain, because it goes into every copy of the message."""


class FrameError(HeliographError):
    """An inbound frame that can't be understood. `request_id` is set where it could still be read."""

    def __init__(self, code: str, message: str, request_id: int | None = None) -> None:
        super().__init__(code, message)
        self.request_id = request_id


# ---- client → server ------------------------------------------------------------------------------------------------


class Subscription(Struct, rename={"start": "from"}, omit_defaults=True):
    """A subscription in `hello`. `from`: `earliest`, `latest` (default), the last position the client has, or `cursor`:
    the last one that the consumer acknowledged, which the server keeps."""

    session: str
    start: str = LATEST
    presence: bool = False
    """As in `subscribe`."""


class Hello(Struct, tag="hello", tag_field="type", omit_defaults=True):
    """The first frame. The token may come in the handshake's Authorization header instead."""

    id: RequestId | None = None
    token: str | None = None
    consumer: Name | None = None
    """Stable name of the subscriber, for its cursors; the server scopes it by the token's subject."""
    producer: Name | None = None
    """Stable name of the publisher; the server scopes it by the token's subject."""
    incarnation: Incarnation | None = None
    subscriptions: list[Subscription] = []
    agent: Name | None = None
    """What presence shows, besides the token's subject."""


class Subscribe(Struct, tag="subscribe", tag_field="type", rename={"start": "from"}, omit_defaults=True):
    """Answered by `subscribed`, then the session's messages after `from` in order. Subscribing again moves nothing."""

    session: str
    id: RequestId | None = None
    start: str = LATEST
    presence: bool = False
    """Also send `presence` frames of the session. Needs the scope `presence` on it."""


class Unsubscribe(Struct, tag="unsubscribe", tag_field="type", omit_defaults=True):
    """Answered by `unsubscribed`; no message of the session follows it."""

    session: str
    id: RequestId | None = None


class Publish(Struct, tag="publish", tag_field="type", rename={"class_": "class"}, omit_defaults=True):
    """One message. Exactly one answer: `published` or `refused` (none when `ack` is `none` and it was admitted)."""

    session: str
    payload: Raw
    id: RequestId | None = None
    class_: MessageClass = MessageClass.EVENT
    ack: AckMode | None = None
    """None: `durable` for control and event, `none` for telemetry."""
    seq: ProducerSeq | None = None
    """The producer seq: from 1, per session and class, by one incarnation."""
    message_id: Name | None = None
    """Chosen by the caller: judged for duplicates for 10 minutes. Without one the server gives one."""
    event_type: Name | None = None
    """CloudEvents `type`."""
    correlation_id: Name | None = None
    causation_id: Name | None = None
    reply_to: SessionReference | None = None
    """Session that answers should go to."""
    content_type: Name | None = None
    """Media type; anything but JSON means that the payload is a base64 string. None: JSON."""
    traceparent: TraceParent | None = None
    """W3C trace context."""


class Ack(Struct, tag="ack", tag_field="type", omit_defaults=True):
    """The consumer has handled everything of the session up to `position`: its cursor moves there, never back.

    Answered by `acked` where it has an `id`, once that is stored; by `refused` where it can't be; else not at all.
    """

    session: str
    position: str
    id: RequestId | None = None
    lease: LeaseToken | None = None
    """As a serving worker: the lease under which the session was assigned."""
    done: bool = False
    """With a lease: nothing is left to do; the session goes back until it has something new."""


class Status(Struct, tag="status", tag_field="type", omit_defaults=True):
    """Asks whether a position is in the log; answered by `status`."""

    session: str
    position: str
    id: RequestId | None = None


class Serve(Struct, tag="serve", tag_field="type", omit_defaults=True):
    """Offers to work on sessions of an agent type; answered by `serving`, then by `assigned` for each session.

    `capacity` is how many at a time, counting those it has; again with another one changes it, 0 takes no more.
    """

    agent_type: AgentType
    capacity: Capacity
    id: RequestId | None = None


class Refresh(Struct, tag="refresh", tag_field="type", omit_defaults=True):
    """A new token for this connection, of the same tenant and subject. Answered by `refreshed`.

    What it allows counts from then on. A token that is refused changes nothing: the old one goes on until it runs out.
    """

    token: str
    id: RequestId | None = None


class Pong(Struct, tag="pong", tag_field="type"):
    """Answers `ping`."""


ClientFrame = Hello | Subscribe | Unsubscribe | Publish | Ack | Status | Serve | Refresh | Pong

_client_decoder: msgspec.json.Decoder[ClientFrame] = msgspec.json.Decoder(ClientFrame)


class _Tag(Struct):
    type: object = None
    id: object = None


_tag_decoder = msgspec.json.Decoder(_Tag)

_LEADING_MEMBER = re.compile(
    rb"""\s*+"([^"\\]*+)"\s*+:\s*+("(?:[^"\\]++|\\.)*+"|[0-9]++|true|false|null)\s*+,""", re.DOTALL
)
_LEADING_MEMBERS = 32
"""More scalars before the first list or object than any frame has."""


def decode_client_frame(data: bytes) -> ClientFrame:
    """One client frame.

    Raises FrameError(`malformed` or `unknown_type`). Does not check that `data` is UTF-8: strings are, a payload is
    not looked into (`is_utf8` does).
    """
    try:
        return _client_decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise _frame_error(data, error) from None


def _frame_error(data: bytes, error: Exception) -> FrameError:
    if isinstance(error, RecursionError):
        return FrameError("malformed", "the frame is nested too deeply", _leading_id(data))
    try:
        tag = _tag_decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return FrameError("malformed", f"the frame is not a JSON object: {error}"[:300], _leading_id(data))
    request_id = tag.id if type(tag.id) is int and 0 <= tag.id <= MAX_SEQ else None
    if not isinstance(tag.type, str):
        return FrameError("malformed", "the frame has no `type`, or it is no string", request_id)
    if tag.type not in CLIENT_TYPES:
        return FrameError(
            "unknown_type", f"no frame of type {tag.type[:40]!r}; there are {', '.join(CLIENT_TYPES)}", request_id
        )
    return FrameError("malformed", f"{tag.type}: {error}"[:300], request_id)


def _leading_id(data: bytes) -> int | None:
    """The `id` of a frame that is no JSON, or too deep, where it stands before what can't be read."""
    at = len(data) - len(data.lstrip(b" \t\r\n"))
    if data[at : at + 1] != b"{":
        return None
    at += 1
    for _ in range(_LEADING_MEMBERS):
        member = _LEADING_MEMBER.match(data, at)
        if member is None:
            return None
        name, value = member.groups()
        if name == b"id":
            return int(value) if value.isdigit() and len(value) <= 16 and int(value) <= MAX_SEQ else None
        at = member.end()
    return None


CLIENT_TYPES: tuple[str, ...] = (
    "hello", "subscribe", "unsubscribe", "publish", "ack", "status", "serve", "refresh", "pong",
)  # fmt: skip


_NONCHARACTERS = "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
_UNFIT_FOR_A_NAME = re.compile(f"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef{_NONCHARACTERS}]")
"""What CloudEvents 1.0 (Type System, String) forbids: C0, DEL and C1 controls, surrogates, noncharacters."""


def check_name(field: str, value: str) -> str:
    """`value` if it may name something; else InvalidValueError(`value_invalid`) that names `field`.

    Names become Kafka headers, Redis fields, log lines and JSON: whatever reads them must see one line of text.
    `event_type` is the publisher's: the prefix of our own records is refused too. Lengths are the decoder's to check.
    """
    plain = value.isascii() and value.isprintable()
    if (not plain and _UNFIT_FOR_A_NAME.search(value)) or not value or value.isspace():
        raise InvalidValueError("value_invalid", field, value, "text that is not blank, without control characters")
    if field == "event_type" and value.startswith(RESERVED_EVENT_TYPE_PREFIX):
        raise InvalidValueError("value_invalid", field, value, f"without the prefix {RESERVED_EVENT_TYPE_PREFIX}")
    return value


def is_utf8(data: bytes) -> bool:
    """Whether `data` is well-formed UTF-8 (RFC 3629), as RFC 6455 demands of text frames."""
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


# ---- server → client ------------------------------------------------------------------------------------------------


class Welcome(Struct, tag="welcome", tag_field="type", omit_defaults=True):
    """Answers `hello`. Answers to its subscriptions follow, one `subscribed` or `refused` each."""

    connection: str
    edge: str
    heartbeat_ms: int
    """The server pings this often; two missed and the connection is dead, on both sides."""
    max_payload_bytes: int
    max_unanswered: int
    """Publishes without an answer a client may have per session and class."""
    id: int | None = None
    expires_at_ms: int | None = None
    """Unix time at which the token runs out."""


class Subscribed(Struct, tag="subscribed", tag_field="type", omit_defaults=True):
    """Answers `subscribe`. Messages after `position` follow.

    `recovered` is False where something between the asked position and `position` could not be had; a `gap` or
    `epoch` frame that says what comes before the next message. Where the session has no message, `position` is the
    place before its first one: to come back from like any other.
    """

    session: str
    position: str
    recovered: bool = True
    id: int | None = None
    cursor_missing: bool = False
    """There was no cursor, so it began at the earliest message that is left."""


class Unsubscribed(Struct, tag="unsubscribed", tag_field="type", omit_defaults=True):
    """Answers `unsubscribe`."""

    session: str
    id: int | None = None


class Gap(Struct, tag="gap", tag_field="type", rename={"first": "from", "last": "to"}, omit_defaults=True):
    """Positions `from` … `to`, both inclusive, will not come. Without `to`: up to the next frame of the session."""

    session: str
    reason: str
    first: str | None = None
    last: str | None = None


class Epoch(Struct, tag="epoch", tag_field="type", rename={"start": "from"}, omit_defaults=True):
    """The session goes on in a new epoch `from`, before the first message of it.

    `last`: the last position of the old epoch that this subscriber got. `certain`: nothing of the old epoch is missing;
    else messages that were accepted but not yet durable may be lost with the live store that gave the old epoch.
    """

    session: str
    start: str
    certain: bool
    last: str | None = None
    gaps: list[list[str]] = []
    """Pairs of positions, inclusive, known to be lost."""


class Presence(Struct, tag="presence", tag_field="type", omit_defaults=True):
    """Somebody joined or left the session; for subscribers that asked for it.

    Without a position: not kept, not repeated, and left out for a reader that is slow. Who there is, the registry
    answers (`/v1/presence/…`). The first member of its bytes is `type`, the second `session`.
    """

    session: str
    event: str
    """`join` or `leave`. A connection may join again without having left: its edge had to register it anew."""
    connection: str
    """What `welcome` told that client."""
    subject: str
    """Of its token."""
    time: int
    """Unix time in ms."""
    id: str
    """Of this event: the same, whoever said it and how often."""
    agent: str | None = None
    """What it called itself in `hello`."""
    reason: str | None = None
    """With `leave`: `closed`, `drained` (its edge goes, it will come back elsewhere) or `lost` (its edge is gone, and
    the agent has not come back elsewhere yet)."""


class PresenceEvent:
    """The `event` of a presence frame."""

    JOIN = "join"
    LEAVE = "leave"


class LeaveReason:
    """The `reason` of a presence frame that says `leave`."""

    CLOSED = "closed"
    DRAINED = "drained"
    LOST = "lost"


PRESENCE_START = b'{"type":"presence",'
"""How a presence frame begins on a session's channel, where it is told from messages by this."""


class Published(Struct, tag="published", tag_field="type", omit_defaults=True):
    """Answers `publish`. `position` is absent for telemetry and for deferred messages."""

    durable: bool
    id: int | None = None
    position: str | None = None
    message_id: str | None = None
    pending: bool = False
    """Not durable yet; `confirmed` follows."""
    duplicate: bool = False
    """A repeat: `position` is the first one's."""
    deferred: bool = False


class Confirmed(Struct, tag="confirmed", tag_field="type"):
    """A message answered with `pending` is durable now."""

    session: str
    position: str


class Refused(Struct, tag="refused", tag_field="type", omit_defaults=True):
    """The request was not done, for the reason `code` (`heliograph.protocol.codes.CODES`)."""

    code: str
    message: str
    id: int | None = None
    session: str | None = None
    retry_after_ms: int | None = None
    expected: int | None = None
    """With `out_of_order`: the producer seq that is next."""


class Acked(Struct, tag="acked", tag_field="type", omit_defaults=True):
    """Answers `ack`. `position`: the cursor as it stands, which may be above the one that was sent."""

    session: str
    position: str
    id: int | None = None


class StatusAnswer(Struct, tag="status", tag_field="type", omit_defaults=True):
    """Answers `status`. `durable` None: can't be told (an old epoch, or the live store is away)."""

    session: str
    position: str
    durable: bool | None
    id: int | None = None


class Serving(Struct, tag="serving", tag_field="type", omit_defaults=True):
    """Answers `serve`. `capacity` is what counts: the tenant's limit of subscriptions a connection may be lower."""

    agent_type: str
    capacity: int
    id: int | None = None


class Assigned(Struct, tag="assigned", tag_field="type", rename={"start": "from"}):
    """The session is this connection's: its messages after `from` follow, as for a subscription, until `revoked` or
    until it is given back by `ack` with `done`. Every `ack` of it carries `lease`.
    """

    session: str
    start: str
    lease: str


class Revoked(Struct, tag="revoked", tag_field="type"):
    """The session is this connection's no more: nothing of it follows, and what it acknowledges is refused.

    `reason`: `lost` (the edge was out of touch), `reassigned` (another worker has it), `drained` (the edge is being
    drained), `unserved` (the connection may not serve any more).
    """

    session: str
    lease: str
    reason: str


class Refreshed(Struct, tag="refreshed", tag_field="type", omit_defaults=True):
    """Answers `refresh`: the new token is in force. A `refused` follows for each subscription that it does not allow;
    that subscription is over.
    """

    expires_at_ms: int
    """Unix time at which it runs out."""
    id: int | None = None


class Notice(Struct, tag="notice", tag_field="type", omit_defaults=True):
    """How the server fares, so that clients can slow down. Ignore a `kind` that you don't know.

    `pressure`: told behind `welcome` where it is not normal, and whenever it changes.
    """

    kind: str
    level: str | None = None
    """Of `pressure`: `normal`; `elevated`: a part of telemetry is dropped; `high`: all of it is; `critical`: events are
    refused, where `sources` has `live` or `edge`, and control messages deferred, where it has `live`.
    """
    sources: list[str] = []
    """Where it is: `live` (Redis), `log` (Kafka), `edge`."""
    retry_after_ms: int | None = None
    """Events sent before that are likely to be refused."""


class NoticeKind:
    """The `kind` of a notice."""

    PRESSURE = "pressure"


class Reconnect(Struct, tag="reconnect", tag_field="type"):
    """Come back after `after_ms`, to another edge if you can. The connection is closed soon, unless the reason is
    `rebalancing`."""

    after_ms: int
    reason: str


class Ping(Struct, tag="ping", tag_field="type"):
    """Heartbeat; answered by `pong`."""


class Error(Struct, tag="error", tag_field="type", omit_defaults=True):
    """A frame could not be understood. The connection stays, unless a close follows."""

    code: str
    message: str
    id: int | None = None


class MessageFrame(Struct, tag="message", tag_field="type", rename={"class_": "class"}, omit_defaults=True):
    """A message as a client decodes it. Field order is the wire's: see `heliograph.protocol.messages`."""

    session: str
    message_id: str
    time: int
    """When the edge accepted it, Unix time in ms."""
    producer: str
    payload: Raw
    class_: MessageClass
    position: str | None = None
    """None for telemetry."""
    traceparent: str | None = None
    event_type: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    reply_to: str | None = None
    content_type: str | None = None


ServerFrame = (
    Welcome
    | Subscribed
    | Unsubscribed
    | MessageFrame
    | Gap
    | Epoch
    | Presence
    | Published
    | Confirmed
    | Refused
    | Acked
    | StatusAnswer
    | Serving
    | Assigned
    | Revoked
    | Refreshed
    | Notice
    | Reconnect
    | Ping
    | Error
)

_server_decoder: msgspec.json.Decoder[ServerFrame] = msgspec.json.Decoder(ServerFrame)


def decode_server_frame(data: bytes | str) -> ServerFrame | None:
    """One server frame; None for a type this version does not know (a newer server). Raises FrameError(`malformed`)."""
    try:
        return _server_decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        try:
            if _tag_decoder.decode(data).type not in SERVER_TYPES:
                return None
        except (msgspec.MsgspecError, RecursionError, ValueError):
            pass
        raise FrameError("malformed", f"a frame from the server can't be read: {error}"[:300]) from None


SERVER_TYPES: tuple[str, ...] = (
    "welcome", "subscribed", "unsubscribed", "message", "gap", "epoch", "presence", "published", "confirmed", "refused",
    "acked", "status", "serving", "assigned", "revoked", "refreshed", "notice", "reconnect", "ping", "error",
)  # fmt: skip

_encoder = msgspec.json.Encoder()
encode = _encoder.encode
"""Frame → JSON bytes."""

Direction = Literal["client", "server"]
