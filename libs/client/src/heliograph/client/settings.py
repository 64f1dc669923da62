"""The SDK's numbers: unit, default and reason of each."""

from dataclasses import dataclass, field

from heliograph.core.backoff import BackoffPolicy


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """Times and bounds of one client. The defaults fit agents and servers; tests and demos shorten them."""

    connect_timeout_s: float | None = 30.0
    """How long `async with Client(…)` waits for the first connection; None: as long as it takes."""
    open_timeout_s: float = 10.0
    """TCP, TLS, WebSocket handshake and `welcome`, together."""
    close_timeout_s: float = 5.0
    """How long `close()` waits for the answers to what was published."""
    refresh_after: float = 0.8
    """The share of a token's remaining life after which a new one is asked for, less up to a tenth of it: early enough
    for some tries, where `token=` is a function."""
    retry_for_s: float = 30.0
    """How long an event that is refused for now is tried again; control is tried until it is in."""
    reconnect: BackoffPolicy = field(default_factory=BackoffPolicy)
    """Between connections; `healthy_s` is when a connection counts as good and the delays begin anew."""
    refusal: BackoffPolicy = field(default_factory=lambda: BackoffPolicy(base_s=0.05, cap_s=5.0, healthy_s=0.0))
    """Between tries of a refused request, where the server names no time (and as jitter where it does)."""
    buffered_messages: int = 1_000
    """Per subscription, not yet taken by its reader. A full one is parked: the server is told to stop sending it, and
    it is resumed from its last message once the reader is through with three quarters."""
    buffered_bytes: int = 8 * 1024 * 1024
    """The same, in bytes of payload."""
    handler_pause_s: float = 1.0
    """How long `serve_each` keeps a session whose handler failed, until the message may come again."""
    ack_interval_s: float = 0.5
    """Acknowledgements of a session are gathered for this long: what may come again after this program was killed."""
    silent_heartbeats: float = 2.5
    """A connection without a byte for so many of the server's heartbeats is dead."""
    rotation_patience_s: float = 5.0
    """How long a new incarnation waits for the answers that are still due under the old one."""
    deferred_patience_s: float = 30.0
    """How long a message waits, once the live path is back, for deferred ones before it to be in their place."""
    status_interval_s: float = 2.0
    """How often `receipt.durable()` asks, besides after each reconnect, when no `confirmed` comes."""
    reply_linger_s: float = 30.0
    """How long the subscription that brings replies stays after the last request of a session."""
    drain_linger_s: float = 1.0
    """After the server asked to reconnect: how long answers still due are waited for before leaving."""
    max_frame_bytes: int = 2 * 1024 * 1024
    """Inbound. A payload of 512 KiB in base64 with its envelope is 0.7 MiB."""
