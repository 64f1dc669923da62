"""Quotas: what all of a tenant's publishers together may send, over any number of edges.

One bucket a tenant and class is kept in the token store (GCRA, as `buckets`). Asking it for every message would put a
round trip on the hot path, so an edge leases tokens in chunks and spends them here. What it leases follows what it
spends: an edge with a trickle must not sit on tokens that a busy one lacks.

Before the store answers a little is spent on credit, so that the first message of a tenant needn't wait; the debt is
paid from the next lease. Over any time, all edges together admit at most what the bucket gives, and once the credit of
each. While the store is away an edge spends its share: the rate divided by the edges there are.

What this must never do: charge for what it refuses, refuse without saying when to come back, or let leased tokens
outlive their second (an edge that stalls must not return with a hoard).
"""

import math
from collections.abc import Callable

from heliograph.core.buckets import Rate, SenderBucket, SenderLimits

LEASE_S = 1.0
"""Life of leased tokens."""

CHUNK_S = 0.1
"""A lease is for about so long at the pace of now: ten calls a second and busy tenant."""

THIN_S = 0.02
"""The same for a tenant that is over its quota: what comes back to it is spent as soon as it is there, as fast as edge
and stores can, and everybody else waits behind it. A fiftieth of a second's quota is a pause that nobody notices.
"""

SURGE = 4.0
SURGE_PER_S = 1_000.0
"""What was saved up is spent at so many times the rate, or at so many messages a second on each edge, whichever is
more: a burst of seconds in one go would be seconds in which everybody else waits. A tenth of a second of that is free.
"""

CREDIT_S = 0.2
"""Of the whole rate, spent before the store answered: what many clients send at once after a reconnect fits."""

FEW_MESSAGES = 10
"""Asked for where the pace is not known yet."""
FEW_BYTES = 64 * 1024

ASK_AGAIN_MS = 20
"""Told to who comes while the store is being asked and all credit is spent."""


def lease(full_at_s: float, now: float, rate: Rate, wanted: float) -> tuple[float, float, float]:
    """What the shared bucket gives: (whole tokens granted, new `full_at_s`, seconds until the rest could be had).

    `full_at_s` is the moment at which the bucket would be full (`buckets`). Grants what there is, if not all: whoever
    asks has more to spend than one message.
    """
    if rate.token_s == 0:
        return wanted, full_at_s, 0.0
    full_at_s = max(full_at_s, now)
    room = math.floor((now + rate.depth_s - full_at_s) / rate.token_s)
    granted = max(0.0, min(wanted, room))
    full_at_s += granted * rate.token_s
    rest = min(wanted - granted, rate.burst)
    wait_s = max(0.0, full_at_s + rest * rate.token_s - now - rate.depth_s) if rest > 0 else 0.0
    return granted, full_at_s, wait_s


class LeasedQuota:
    """A tenant's tokens of one class, as one edge has them.

    `want` is called once when more are needed; then `ask` says how many, and `granted` or `fall_back` follows.
    """

    __slots__ = (
        "_ask_from_s",
        "_asked",
        "_asked_at_s",
        "_blocked_until_s",
        "_bytes",
        "_bytes_floor",
        "_bytes_low",
        "_ends_s",
        "_messages",
        "_messages_floor",
        "_messages_low",
        "_paced_s",
        "_share",
        "_spent_bytes",
        "_spent_messages",
        "_thin_until_s",
        "_want",
        "limits",
    )

    def __init__(self, limits: SenderLimits, want: Callable[["LeasedQuota"], None]) -> None:
        self._want = want
        self._messages = 0.0
        self._bytes = 0.0
        self._messages_low = 0.0
        self._bytes_low = 0.0
        self._ends_s = math.inf
        self._blocked_until_s = -math.inf
        self._asked = False
        self._asked_at_s = -math.inf
        self._ask_from_s = -math.inf
        self._paced_s = -math.inf
        """When all that was granted would be spent at the pace of a surge."""
        self._spent_messages = 0
        self._spent_bytes = 0
        self._share: SenderBucket | None = None
        self._thin_until_s = -math.inf
        """The store gave less than was wanted not long ago, or what was saved up is spent too fast."""
        self.renew(limits)

    def renew(self, limits: SenderLimits) -> None:
        """Other rates from now on; what was spent stays spent."""
        self.limits = limits
        self._blocked_until_s = -math.inf
        self._lend(CREDIT_S)

    def take(self, now: float, size_bytes: int) -> int:
        """0 if one message of `size_bytes` is admitted at `now` (seconds, monotonic); else retry_after_ms."""
        if self._share is not None:
            return self._share.take(now, size_bytes)
        if now >= self._ends_s:
            self._ends_s = math.inf
            self._messages, self._bytes = min(self._messages, 0.0), min(self._bytes, 0.0)
        if now < self._blocked_until_s:
            return _told_ms(self._blocked_until_s - now)
        admitted = self._messages > self._messages_floor and self._bytes > self._bytes_floor
        if admitted:
            self._messages -= 1
            self._bytes -= size_bytes
            self._spent_messages += 1
            self._spent_bytes += size_bytes
        if not self._asked and (self._messages <= self._messages_low or self._bytes <= self._bytes_low):
            if now < self._ask_from_s:
                return 0 if admitted else _told_ms(self._ask_from_s - now)
            self._asked = True
            self._want(self)
        return 0 if admitted else ASK_AGAIN_MS

    def ask(self, now: float) -> tuple[int, int]:
        """Messages and bytes to lease: what is owed, and a chunk at the pace of now."""
        elapsed_s = max(now - self._asked_at_s, 1e-3)
        messages, bytes_ = self.limits.messages, self.limits.bytes
        chunk_s = THIN_S if now < self._thin_until_s else CHUNK_S
        chunk = _chunk(messages, self._spent_messages / elapsed_s, FEW_MESSAGES, chunk_s)
        byte_chunk = _chunk(bytes_, self._spent_bytes / elapsed_s, FEW_BYTES, chunk_s)
        self._asked_at_s = now
        self._spent_messages = self._spent_bytes = 0
        self._messages_low, self._bytes_low = chunk / 2, byte_chunk / 2
        return (
            0 if math.isinf(messages.per_s) else math.ceil(max(0.0, chunk - self._messages)),
            0 if math.isinf(bytes_.per_s) else math.ceil(max(0.0, byte_chunk - self._bytes)),
        )

    def granted(self, now: float, messages: float, bytes_: float, wait_s: float) -> None:
        """The store's answer to `ask`; `wait_s` until it would have given all of it."""
        self._share = None
        self._asked = False
        self._messages = math.inf if math.isinf(self.limits.messages.per_s) else self._messages + messages
        self._bytes = math.inf if math.isinf(self.limits.bytes.per_s) else self._bytes + bytes_
        self._ends_s = now + LEASE_S
        per_s = self.limits.messages.per_s
        self._paced_s = max(self._paced_s, now) + messages / max(per_s * SURGE, SURGE_PER_S)
        self._ask_from_s = self._paced_s - CHUNK_S
        if wait_s > 0 or self._ask_from_s > now:
            self._thin_until_s = now + LEASE_S
        self._lend(THIN_S if now < self._thin_until_s else CREDIT_S)
        if self._messages <= 0 or self._bytes <= 0:
            self._blocked_until_s = now + wait_s

    def fall_back(self, edges: int) -> None:
        """The store can't be asked: from now on this edge spends its share of the rate."""
        self._asked = False
        limits = SenderLimits(_share(self.limits.messages, edges), _share(self.limits.bytes, edges))
        if self._share is None:
            self._share = SenderBucket(limits)
        self._share.limits = limits

    def _lend(self, credit_s: float) -> None:
        self._messages_floor = -max(1.0, self.limits.messages.per_s * credit_s)
        self._bytes_floor = -max(1.0, self.limits.bytes.per_s * credit_s)

    @property
    def on_share(self) -> bool:
        """Whether the store can't be asked."""
        return self._share is not None


def _told_ms(wait_s: float) -> int:
    """Not the more often because leases are thin: most of a crowd would come in vain."""
    return math.ceil((wait_s + CHUNK_S - THIN_S) * 1000)


def _chunk(rate: Rate, pace_per_s: float, few: float, chunk_s: float) -> float:
    most = max(1.0, rate.per_s * chunk_s)
    return min(most, max(float(few), pace_per_s * chunk_s))


def _share(rate: Rate, edges: int) -> Rate:
    return Rate(rate.per_s / edges, max(1.0, rate.burst / edges))
