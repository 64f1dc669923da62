"""Every code a client can meet, in one table each: WebSocket close codes, and refusal and error codes.

Codes are stable: they may be added, never renamed or reused. A close code tells what the client should do next by its
number alone: 4000–4499 come back with backoff, 4500–4999 do not come back. Standard codes follow RFC 6455, 7.4.1.
"""

from dataclasses import dataclass
from enum import IntEnum


@dataclass(frozen=True, slots=True)
class Close:
    """A close code. `name` is sent as the close reason, so that logs of any client show it."""

    code: int
    name: str
    meaning: str

    @property
    def come_back(self) -> bool:
        """Whether a client should reconnect (with backoff)."""
        return self.code in (1001, 1005, 1006, 1011, 1012, 1013) or 4000 <= self.code < 4500


class CloseCode(IntEnum):
    """The close codes by name; `CLOSES[code]` says what each means."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    INVALID_UTF8 = 1007
    TOO_LARGE = 1009
    INTERNAL = 1011
    RESTART = 1012
    TOKEN_EXPIRED = 4000
    DRAINING = 4001
    HEARTBEAT_TIMEOUT = 4002
    HELLO_TIMEOUT = 4003
    NO_PROGRESS = 4004
    OVERLOADED = 4005
    IDLE = 4006
    KEYS_CHANGED = 4007
    FRAME_TIMEOUT = 4008
    TOKEN_REFUSED = 4500
    FORBIDDEN = 4501
    TENANT_SUSPENDED = 4502
    TOO_MANY_ERRORS = 4503
    SUBPROTOCOL = 4504
    TOKEN_REVOKED = 4505


CLOSES: dict[int, Close] = {
    close.code: close
    for close in (
        Close(1000, "normal", "The client or the server is done."),
        Close(1001, "going_away", "The other side goes away."),
        Close(1002, "protocol_error", "A frame broke RFC 6455."),
        Close(1003, "unsupported_data", "A binary frame: the protocol is JSON text."),
        Close(1007, "invalid_utf8", "A text frame that is not UTF-8."),
        Close(1009, "too_large", "An inbound frame above the limit that `welcome` told."),
        Close(1011, "internal", "The edge met an error of its own."),
        Close(1012, "restart", "The edge restarts."),
        Close(4000, "token_expired", "The token ran out: come back with a fresh one."),
        Close(4001, "draining", "The edge is being drained: come back, you will land on another."),
        Close(4002, "heartbeat_timeout", "Two heartbeats without a byte read or written."),
        Close(4003, "hello_timeout", "No `hello` in time after the handshake."),
        Close(4004, "no_progress", "The client read nothing for 30 s while data was waiting."),
        Close(4005, "overloaded", "Too many connections for now: come back after the time that `reconnect` told."),
        Close(4006, "idle", "Nothing was subscribed or published for the settable idle time."),
        Close(4007, "keys_changed", "The tenant's keys or limits changed so that this connection must be made anew."),
        Close(4008, "frame_timeout", "A frame, or a message in fragments, was begun and did not end in time."),
        Close(4500, "token_refused", "The token is missing, malformed, wrongly signed or for somebody else."),
        Close(4501, "forbidden", "The token does not allow what the connection is for."),
        Close(4502, "tenant_suspended", "The tenant is suspended."),
        Close(4503, "too_many_errors", "So many bad frames that the client must be broken."),
        Close(4504, "subprotocol", "The client did not offer a subprotocol this server speaks."),
        Close(4505, "token_revoked", "The tenant revoked the token."),
    )
}


@dataclass(frozen=True, slots=True)
class Code:
    """A refusal or error code.

    `retry`: the same request may succeed later, as it is. `http`: the status of the HTTP APIs for it.
    """

    code: str
    http: int
    retry: bool
    meaning: str


CODES: dict[str, Code] = {
    code.code: code
    for code in (
        # the request
        Code("malformed", 400, False, "Not JSON, or not the shape its type asks for."),
        Code("unknown_type", 400, False, "No frame of this type."),
        Code("hello_expected", 400, False, "The first frame must be `hello`."),
        Code("hello_repeated", 400, False, "`hello` was already answered."),
        Code("session_invalid", 400, False, "Not a session key `tenant:agent-type:session-id`."),
        Code("position_invalid", 400, False, "Not a position that a server gave, `earliest`, `latest` or `cursor`."),
        Code("value_invalid", 400, False, "A field holds what it may not hold."),
        Code("payload_too_large", 413, False, "The payload is above the tenant's limit."),
        Code("request_too_large", 413, False, "The request body is above the limit."),
        Code("payload_not_base64", 400, False, "A payload that is not JSON by `content_type` must be a base64 string."),
        Code("ack_impossible", 400, False, "Telemetry can't be asked to be durable."),
        Code("batch_too_large", 413, False, "More messages than one batch may hold."),
        Code("batch_stopped", 409, True, "An earlier message of the batch was refused."),
        Code("not_found", 404, False, "Nothing at this address."),
        Code("method_not_allowed", 405, False, "The address has no such method."),
        # who is asking
        Code("unauthenticated", 401, False, "No token, or one that can't be accepted."),
        Code("token_expired", 401, False, "The token ran out."),
        Code("token_revoked", 401, False, "The tenant revoked the token."),
        Code("identity_changed", 403, False, "A new token must be for the tenant and subject that connected."),
        Code("origin_refused", 403, False, "The page's origin is not on the allow-list."),
        Code("forbidden", 403, False, "The token's scopes do not allow this here."),
        Code("tenant_suspended", 403, False, "The tenant is suspended."),
        # producers and duplicates
        Code("producer_missing", 400, False, "A producer seq without a producer and incarnation in `hello`."),
        Code("producer_seq_reused", 409, False, "This producer seq was used for another content."),
        Code("producer_seq_expired", 409, False, "Older than the last 64 of this producer: can't be judged."),
        Code("producer_unknown", 409, False, "A counter that did not begin at 1 here: begin a new incarnation."),
        Code("out_of_order", 409, False, "A producer seq was skipped: resend from `expected`."),
        Code("message_id_reused", 409, False, "This message id was used for another content."),
        # consumers and cursors
        Code("consumer_missing", 400, False, "A cursor without a consumer in `hello`."),
        Code("position_ahead", 409, False, "Above what the session has given: can't be acknowledged."),
        Code("too_many_consumers", 429, False, "The session remembers as many consumers as it may."),
        Code("lease_lost", 409, False, "The session was given to another worker."),
        # limits and pressure
        Code("rate_limited", 429, True, "Above the rate of the connection, or of the subject over HTTP."),
        Code("quota_exceeded", 429, True, "Above what all publishers of the tenant together may send of this class."),
        Code("overloaded", 503, True, "Too much is going on: come back after the time named."),
        Code("backlog", 503, True, "Too much of the session, tenant or shard is not yet in the log."),
        Code("recovering", 503, True, "The session is being recovered after a failover."),
        Code("live_unavailable", 503, True, "The live path is away."),
        Code("log_unavailable", 503, True, "The log is away."),
        Code("history_unavailable", 503, True, "History can't be read now."),
        Code("unavailable", 503, True, "The service is not ready."),
        Code("draining", 503, True, "The edge is being drained."),
        Code("too_many_subscriptions", 429, False, "The connection holds as many subscriptions as it may."),
        Code("too_many_connections", 429, True, "The tenant, subject or address holds as many connections as it may."),
        Code("too_many_sessions", 429, True, "The tenant has as many sessions in use as it may."),
        Code("too_many_requests", 429, True, "Too many requests of this tenant are under way."),
        Code("expired", 410, False, "All of it that there was has expired."),
        Code("internal", 500, True, "An error of ours; it is logged with the request's id."),
    )
}


class GapReason:
    """Why positions will not come: the `reason` of gap frames and gap records."""

    RETENTION = "retention"
    """The log's retention removed them."""
    TOO_FAR_BEHIND = "too_far_behind"
    """The bounded rounds of catching up did not reach the present."""
    NEVER_WRITTEN = "never_written"
    """Accepted, then lost before the log had them."""
    CORRUPT = "corrupt"
    """The record can't be read; it is in the dead-letter topic."""
    HISTORY_UNAVAILABLE = "history_unavailable"
    """Neither the hot window nor the log could be read in time."""
    EXPIRED = "expired"
    """The session's messages of that time were made to be forgotten."""

    ALL = (RETENTION, TOO_FAR_BEHIND, NEVER_WRITTEN, CORRUPT, HISTORY_UNAVAILABLE, EXPIRED)


class RevokeReason:
    """Why a worker has a session no more: the `reason` of revoked frames."""

    LOST = "lost"
    """The edge was out of touch with the others for longer than its lease."""
    REASSIGNED = "reassigned"
    """Another worker has it."""
    DRAINED = "drained"
    """The edge is being drained."""
    UNSERVED = "unserved"
    """The connection may not serve the agent type any more."""

    ALL = (LOST, REASSIGNED, DRAINED, UNSERVED)
