"""When a session's messages are forgotten: what was asked for, and what is gone by now.

An expiry is a moment. Once it has come, every message of the session up to it is gone for readers; what is published
later is not, so that a session may go on. It may be set again, to an earlier or a later moment; but what is gone stays
gone: a moment that has passed is kept as the floor under every later one.

What this must never do: bring something back, whatever order states are met in.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Expiry:
    """The state of one session. Times are Unix ms.

    >>> state = Expiry(expires_at_ms=1_000, set_at_ms=500)
    >>> state.gone_until(999), state.gone_until(1_000)
    (0, 1000)
    >>> state.replaced(9_000, now_ms=2_000).gone_until(2_000)
    1000
    """

    expires_at_ms: int
    """The moment that was asked for last."""
    set_at_ms: int
    """When that was; later states replace earlier ones."""
    floor_ms: int = 0
    """A moment before it that has come: messages up to it are gone already. 0: none."""

    def gone_until(self, now_ms: int) -> int:
        """Messages of this time and before are gone; 0: none is."""
        return max(self.floor_ms, self.expires_at_ms if self.expires_at_ms <= now_ms else 0)

    def replaced(self, expires_at_ms: int, now_ms: int) -> "Expiry":
        """The state after another moment was asked for."""
        return Expiry(expires_at_ms, max(now_ms, self.set_at_ms + 1), self.gone_until(now_ms))

    def merged(self, other: "Expiry") -> "Expiry":
        """Of two states of one session the later, over the higher floor."""
        later = max(self, other, key=lambda state: (state.set_at_ms, state.expires_at_ms))
        return Expiry(later.expires_at_ms, later.set_at_ms, max(self.floor_ms, other.floor_ms))
