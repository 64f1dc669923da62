"""Heartbeats: which connection is due for a ping, and which is dead.

A peer that vanished (a laptop closed, a NAT entry gone) says nothing, and TCP takes a quarter of an hour to notice.
So every connection is pinged now and then, and one that moved no byte through two pings is given up.

There is no timer per connection: one pass over all of them, a few times a second, asks each `look`. Each connection's
next ping has its own jitter, or ten thousand clients that came in one wave would be pinged in one wave for ever.

What this must never do: kill a connection for our own stall (a pass that comes late grants the ping again: the answer
may lie unread in the socket), or judge a connection that is catching up: its ping would wait behind its backlog, so
there the outbox's no-progress deadline decides.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum


class Beat(Enum):
    """What one look at a connection comes to."""

    WAIT = "wait"
    PING = "ping"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class HeartbeatPolicy:
    """How often, and how patient."""

    interval_s: float = 10.0
    """Between pings: short enough that load balancers (60 s idle and less) and presence see a living connection."""
    jitter: float = 0.2
    """The share of the interval that is random: pings of one wave are spread evenly after some minutes."""
    patience: int = 2
    """Pings without a byte until a connection is dead: one lost ping is a hiccup."""

    def __post_init__(self) -> None:
        if not self.interval_s > 0 or not 0 <= self.jitter < 1 or self.patience < 1:
            raise ValueError(f"{self!r}: interval_s must be above 0, jitter in [0, 1), patience at least 1")


class Heartbeat:
    """One connection's heartbeat."""

    __slots__ = ("_moved_bytes", "_next_s", "_policy", "_silent_pings", "_uniform")

    def __init__(self, policy: HeartbeatPolicy, uniform: Callable[[], float], now: float) -> None:
        """`uniform` draws from [0, 1). The first ping comes anywhere within the first interval."""
        self._policy = policy
        self._uniform = uniform
        self._next_s = now + policy.interval_s * uniform()
        self._moved_bytes = -1
        self._silent_pings = 0

    def due(self, now: float) -> bool:
        """Whether `look` will need `moved_bytes`, which costs a question to the kernel."""
        return now >= self._next_s

    def look(self, now: float, moved_bytes: int, *, catching_up: bool = False) -> Beat:
        """What to do with the connection at `now` (seconds, monotonic). On PING, the caller sends one.

        `moved_bytes`: bytes read, plus bytes of messages that the peer's end acknowledged: it counts as moving when it
        is above what it ever was. The pings' own bytes are not in it: a peer whose program hangs acknowledges them too.
        """
        if catching_up:
            self._silent_pings = 0  # at every look: a catch-up may begin and end between two pings
        next_s = self._next_s
        if now < next_s:
            return Beat.WAIT
        policy = self._policy
        self._next_s = now + policy.interval_s * (1 - policy.jitter * self._uniform())
        if catching_up:
            return Beat.WAIT
        if moved_bytes > self._moved_bytes:
            self._moved_bytes = moved_bytes
            self._silent_pings = 1
            return Beat.PING
        if now - next_s > policy.interval_s:
            return Beat.PING
        if self._silent_pings >= policy.patience:
            return Beat.DEAD
        self._silent_pings += 1
        return Beat.PING
