"""What the SDK raises. Every error has a stable `code`, its parts as fields, and says what would help.

HeliographError                      anything of Heliograph that has a code (heliograph.core.errors)
├── InvalidValueError                an argument that can't be what it claims to be (session, position …)
└── ClientError
    ├── ConnectError                 no connection came about in time; `cause` is the last reason
    │   └── AuthenticationError      the server will not let this client in: a new token is needed
    ├── ClosedError                  the client is closed: by you, or by the server for good
    │   └── TokenExpiredError        a token that can't be replaced ran out
    ├── RefusedError                 the server answered one request with a refusal
    │   ├── PublishRefused
    │   ├── SubscribeRefused
    │   └── ServeRefused
    ├── LeaseLost                    a session that was worked on is another worker's now
    ├── PublishUncertain             no answer came; the message may have been published or not
    ├── DurabilityUnknown            nobody can tell (in time) whether a message is in the log
    └── RequestTimeout               no answer to a request in time
"""

from heliograph.core.errors import HeliographError, InvalidValueError
from heliograph.protocol.codes import CLOSES, CODES

__all__ = [
    "AuthenticationError",
    "ClientError",
    "ClosedError",
    "ConnectError",
    "DurabilityUnknown",
    "HeliographError",
    "InvalidValueError",
    "LeaseLost",
    "PublishRefused",
    "PublishUncertain",
    "RefusedError",
    "RequestTimeout",
    "ServeRefused",
    "SubscribeRefused",
    "TokenExpiredError",
]


class ClientError(HeliographError):
    """Any error that the SDK itself raises."""


class ConnectError(ClientError):
    """No connection came about. `urls` were tried; `cause` is what the last try met."""

    def __init__(self, code: str, message: str, urls: tuple[str, ...] = (), cause: BaseException | None = None) -> None:
        super().__init__(code, message)
        self.urls = urls
        self.cause = cause


class AuthenticationError(ConnectError):
    """The token is missing, wrong, or not allowed here. The same token will not work later."""


class ClosedError(ClientError):
    """The client is closed and does not come back. `close_code` is the WebSocket's, None where it was closed here."""

    def __init__(self, code: str, message: str, close_code: int | None = None) -> None:
        super().__init__(code, message)
        self.close_code = close_code

    @property
    def name(self) -> str:
        """The close code's name in the table of close codes, or `closed`."""
        return self.code

    @property
    def meaning(self) -> str:
        """What the table of close codes says, or the message."""
        close = CLOSES.get(self.close_code or 0)
        return close.meaning if close else self.message

    @classmethod
    def of(cls, close_code: int, reason: str = "") -> "ClosedError":
        """The error for a close code that says not to come back."""
        close = CLOSES.get(close_code)
        name, meaning = (close.name, close.meaning) if close else (reason or "closed", "A close code unknown here.")
        if reason and reason != name:
            meaning = f"{meaning} The server said: {reason}"
        return cls(name, f"the server closed the connection for good ({close_code} {name}): {meaning}", close_code)


class TokenExpiredError(ClosedError):
    """The token ran out, and a fixed one can't be renewed: give `token=` a function that returns a fresh one."""


class RefusedError(ClientError):
    """The server answered a request with a refusal. `retry`: the same request may succeed later."""

    def __init__(self, code: str, message: str, session: str, retry_after_s: float | None = None) -> None:
        super().__init__(code, message)
        self.session = session
        self.retry_after_s = retry_after_s

    @property
    def retry(self) -> bool:
        known = CODES.get(self.code)
        return known.retry if known is not None else self.retry_after_s is not None


class PublishRefused(RefusedError):  # noqa: N818 - read as an outcome: `except PublishRefused as refused`
    """The message was not published, for the reason `code`."""


class SubscribeRefused(RefusedError):  # noqa: N818
    """The session can't be subscribed to, for the reason `code`."""


class ServeRefused(RefusedError):  # noqa: N818
    """The agent type can't be served, for the reason `code`. `session` is the agent type."""


class LeaseLost(ClientError):  # noqa: N818
    """The session is not this worker's any more: stop, what it would say now is another's to say.

    `reason`: `lost`, `reassigned`, `drained` or `unserved` as the server said, or `disconnected`.
    """

    def __init__(self, session: str, reason: str) -> None:
        super().__init__("lease_lost", f"{session} is another worker's now: {reason}")
        self.session = session
        self.reason = reason


class PublishUncertain(ClientError):  # noqa: N818
    """The client ended before the answer came: the message may be in or not. Publish again with the same `id=`."""

    def __init__(self, session: str, message_id: str | None) -> None:
        super().__init__("uncertain", f"no answer for a message to {session} before the client was closed")
        self.session = session
        self.message_id = message_id


class DurabilityUnknown(ClientError):  # noqa: N818
    """Whether the message at `position` is in the log could not be learnt in time."""

    def __init__(self, session: str, position: str | None, message: str) -> None:
        super().__init__("durability_unknown", message)
        self.session = session
        self.position = position


class RequestTimeout(ClientError, TimeoutError):  # noqa: N818
    """No answer to the request `message_id` came in time. It may still be worked on."""

    def __init__(self, session: str, message_id: str, timeout_s: float) -> None:
        super().__init__("request_timeout", f"no answer from {session} to {message_id} within {timeout_s:g} s")
        self.session = session
        self.message_id = message_id
        self.timeout_s = timeout_s
