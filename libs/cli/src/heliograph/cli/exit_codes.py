"""How the command ends: one table, in `heliograph --help`, in docs/cli.md, and here."""

from enum import IntEnum

from heliograph.client import (
    AuthenticationError,
    ConnectError,
    DurabilityUnknown,
    HeliographError,
    InvalidValueError,
    PublishUncertain,
    RefusedError,
    RequestTimeout,
    TokenExpiredError,
)


class ExitCode(IntEnum):
    """The command's exit status. Scripts match on it: values are never reused."""

    OK = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    UNAUTHORISED = 4
    UNREACHABLE = 5
    TIMED_OUT = 6
    INTERRUPTED = 130


MEANINGS: dict[ExitCode, str] = {
    ExitCode.OK: "done",
    ExitCode.FAILED: "failed; the message says why",
    ExitCode.USAGE: "the command line, an input file or a setting is wrong",
    ExitCode.REFUSED: "the server refused the request (limits, pressure, content)",
    ExitCode.UNAUTHORISED: "no token, or one that is not accepted or does not allow it",
    ExitCode.UNREACHABLE: "nobody there: edge, replay, registry, Kafka or Redis",
    ExitCode.TIMED_OUT: "no answer in time; it may have been done",
    ExitCode.INTERRUPTED: "interrupted by Ctrl-C",
}

_UNAUTHORISED = frozenset(
    {
        "unauthenticated",
        "token_expired",
        "token_refused",
        "token_revoked",
        "identity_changed",
        "forbidden",
        "tenant_suspended",
        "origin_refused",
    }
)
_UNREACHABLE = frozenset({"unreachable", "unavailable", "live_unavailable", "log_unavailable", "history_unavailable"})

HINTS: dict[str, str] = {
    "unauthenticated": "Give a token with --token or HELIOGRAPH_TOKEN; `heliograph token` mints one for development.",
    "token_refused": "Give a token with --token or HELIOGRAPH_TOKEN; `heliograph token` mints one for development.",
    "token_expired": "Get a fresh token; `heliograph token` mints one for development.",
    "token_revoked": "Ask for another token; `heliograph tenant get` shows what is revoked.",
    "forbidden": "The token's scopes don't allow this: publish, subscribe, history and presence each need one of their "
    "own, such as publish:planner:* .",
    "tenant_suspended": "`heliograph tenant apply` with `suspended: false` lifts it.",
    "unreachable": "Is it running, and is the address right? --url or HELIOGRAPH_URL names it.",
    "unavailable": "Is it running, and is the address right? HELIOGRAPH_REDIS_URL names the Redis.",
    "log_unavailable": "Is Kafka running, and is the address right? HELIOGRAPH_KAFKA_BOOTSTRAP_SERVERS names it.",
    "session_invalid": "A session is tenant:agent-type:session-id, such as acme:planner:42.",
    "position_invalid": "A position is what `tail --json` and `history --json` show as `position`, unchanged.",
    "rate_limited": "Slow down, or raise the tenant's limits.",
    "quota_exceeded": "All publishers of the tenant together are too fast: slow down, or raise its quotas.",
    "overloaded": "Too much is going on: try again later, or send less.",
    "backlog": "The log is behind: try again later.",
    "payload_too_large": "Put the data elsewhere and publish a reference, or raise the tenant's max_payload_bytes.",
    "message_id_reused": "Give each message an id of its own; the same id means the same content.",
    "uncertain": "Publish it again with the same --id: it will be in once.",
    "durability_unknown": "`heliograph history` shows whether the log has it.",
}
"""What to do about an error, by its code."""


def exit_code(error: HeliographError) -> ExitCode:
    """The exit status for an error."""
    if isinstance(error, AuthenticationError | TokenExpiredError) or error.code in _UNAUTHORISED:
        return ExitCode.UNAUTHORISED
    if isinstance(error, InvalidValueError):
        return ExitCode.USAGE
    if isinstance(error, RefusedError):
        return ExitCode.REFUSED
    if isinstance(error, ConnectError) or error.code in _UNREACHABLE:
        return ExitCode.UNREACHABLE
    if isinstance(error, RequestTimeout | PublishUncertain | DurabilityUnknown):
        return ExitCode.TIMED_OUT
    return ExitCode.FAILED
