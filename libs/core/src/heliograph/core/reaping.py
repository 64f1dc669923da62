"""When may who stopped renewing a lease be called lost? Decisions only: the clock is the caller's, and monotonic.

A lease also runs out when its store was away, and then nobody is lost. So a lease that ran out counts only after the
store has answered without interruption for as long as the lease lasts: in that time everybody alive has renewed it. A
process that was itself stopped, or has just started, can't tell how the store was meanwhile, and waits as long.

    the store answers   ▏▏▏▏▏▏▏▏▏          ▏▏▏▏▏▏▏▏▏▏▏▏▏▏▏▏▏▏▏▏
                                 stopped   └─── one lease ───▶ may reap
"""

from collections import deque

RENEWALS_PER_LEASE = 3
"""A lease is renewed this often while it lasts, so that one renewal that fails costs nothing."""

HORIZON_S = 3600.0
"""Answers are remembered for so long; leases that last longer are waited for no longer than that."""


class StoreAnswers:
    """When a store answered, as one process saw it."""

    __slots__ = ("_at",)

    def __init__(self) -> None:
        self._at: deque[float] = deque()

    def answered(self, now: float) -> None:
        """A question was answered now; however long that took counts as silence."""
        at = self._at
        at.append(now)
        while now - at[0] > HORIZON_S:
            at.popleft()

    def failed(self) -> None:
        """A question was not answered."""
        self._at.clear()

    def may_reap(self, lease_s: float, now: float) -> bool:
        """Whether a lease of this length that the store calls run out was not renewed although it could have been.

        A silence of less than the time between two renewals interrupts nothing: whoever could not renew meanwhile has
        had time for another.
        """
        lease_s = min(lease_s, HORIZON_S)
        silence_s, later = lease_s / RENEWALS_PER_LEASE, now
        for at in reversed(self._at):
            if later - at > silence_s:
                return False
            if now - at >= lease_s:
                return True
            later = at
        return False
