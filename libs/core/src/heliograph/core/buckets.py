"""Token buckets: what one sender may spend, in messages and in bytes.

Without a bound per sender, one agent in a loop fills the queues that everybody shares. A bucket lets a burst through at
once and a steady rate for ever, and says to who comes too early *when* it is worth coming back.

A bucket's whole state is one number: the moment at which it would be full again. Taking tokens moves that moment into
the future; it may lie at most `burst / per_s` ahead. That is the theoretical arrival time of GCRA (ITU-T I.371, annex
A), and it is why nothing has to be refilled by a timer and why the same number can one day be kept in a shared store:
a lease of n tokens is `take(now, n)` over there, and the leased tokens are spent here.

What this must never do: charge for what it refuses (a client that retries too early would starve itself), refuse who
waited as long as it was told, or refuse for ever. A message larger than the whole burst passes when the bucket is full
and leaves a debt; size limits are somebody else's decision.
"""

import math
from dataclasses import dataclass, field

_ROUNDING_S = 1e-6
"""Slack in every comparison: floats around 1e9 s are off by 1e-7, and who waited exactly as told is admitted."""


@dataclass(frozen=True, slots=True)
class Rate:
    """So many tokens a second for ever, so many at once.

    `per_s` of `math.inf` means no limit. A rate of 0 is no rate: who may send nothing lacks a scope, not tokens.
    """

    per_s: float
    burst: float
    token_s: float = field(init=False, repr=False)
    """Seconds that one token takes to come back."""
    depth_s: float = field(init=False, repr=False)
    """Seconds from empty to full, plus the rounding slack."""

    def __post_init__(self) -> None:
        if not self.per_s > 0:
            raise ValueError(f"per_s is {self.per_s!r}; it must be above 0 (math.inf: no limit)")
        if not self.burst >= 1:
            raise ValueError(f"burst is {self.burst!r}; it must be at least 1, or nothing ever passes at once")
        object.__setattr__(self, "token_s", 1 / self.per_s)
        object.__setattr__(self, "depth_s", _ROUNDING_S + (0.0 if math.isinf(self.per_s) else self.burst / self.per_s))


UNLIMITED = Rate(math.inf, 1)


@dataclass(frozen=True, slots=True)
class SenderLimits:
    """What one connection may send. Shared by all connections with the same limits."""

    messages: Rate
    """Messages a second, messages at once."""
    bytes: Rate = UNLIMITED
    """Bytes a second, bytes at once."""


class TokenBucket:
    """One kind of token.

    >>> bucket = TokenBucket(Rate(per_s=10, burst=1))
    >>> bucket.take(100.0), bucket.take(100.0)
    (0, 100)
    """

    __slots__ = ("_full_at_s", "rate")

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        """May be replaced at any time; what was spent stays spent."""
        self._full_at_s = -math.inf

    def take(self, now: float, tokens: float = 1.0) -> int:
        """0 if `tokens` were taken at `now` (seconds, monotonic); else nothing was, and the ms until they could be."""
        rate = self.rate
        full_at_s = self._full_at_s
        full_at_s = max(full_at_s, now) + tokens * rate.token_s
        if full_at_s <= now + rate.depth_s:
            self._full_at_s = full_at_s
            return 0
        wait_s = _wait_s(self._full_at_s, now, tokens, rate)
        if wait_s > 0:
            return _as_ms(wait_s)
        self._full_at_s = full_at_s
        return 0


class SenderBucket:
    """Messages and bytes of one connection, taken together: both or neither.

    Called once per inbound message, so both halves are written out instead of being two `TokenBucket`s.
    """

    __slots__ = ("_bytes_full_at_s", "_messages_full_at_s", "limits")

    def __init__(self, limits: SenderLimits) -> None:
        self.limits = limits
        """May be replaced at any time (a tenant's limits changed); what was spent stays spent."""
        self._messages_full_at_s = -math.inf
        self._bytes_full_at_s = -math.inf

    def take(self, now: float, size_bytes: int) -> int:
        """0 if one message of `size_bytes` is admitted at `now` (seconds, monotonic); else retry_after_ms."""
        limits = self.limits
        messages, by_bytes = limits.messages, limits.bytes
        full_at_s = self._messages_full_at_s
        messages_full_at_s = (now if full_at_s < now else full_at_s) + messages.token_s  # noqa: FURB136 (hot path)
        full_at_s = self._bytes_full_at_s
        bytes_full_at_s = (now if full_at_s < now else full_at_s) + size_bytes * by_bytes.token_s  # noqa: FURB136
        if messages_full_at_s > now + messages.depth_s or bytes_full_at_s > now + by_bytes.depth_s:
            wait_s = max(
                _wait_s(self._messages_full_at_s, now, 1, messages),
                _wait_s(self._bytes_full_at_s, now, size_bytes, by_bytes),
            )
            if wait_s > 0:
                return _as_ms(wait_s)
        self._messages_full_at_s = messages_full_at_s
        self._bytes_full_at_s = bytes_full_at_s
        return 0

    def put_back(self, size_bytes: int) -> None:
        """Undo the last `take`: somebody else refused the message."""
        self._messages_full_at_s -= self.limits.messages.token_s
        self._bytes_full_at_s -= size_bytes * self.limits.bytes.token_s


def _wait_s(full_at_s: float, now: float, tokens: float, rate: Rate) -> float:
    """Seconds until `tokens` can be taken, at most 0 if now. More than the burst waits for a full bucket."""
    room_s = max(rate.depth_s - tokens * rate.token_s, _ROUNDING_S)
    return max(full_at_s, now) - now - room_s


def _as_ms(wait_s: float) -> int:
    """Whole milliseconds, rounded up: a client that comes back on the dot is admitted."""
    return max(1, math.ceil(wait_s * 1000))
