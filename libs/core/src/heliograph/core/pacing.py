"""Pacing: letting many connections go, or come, without a wave.

An edge that stops tells its clients to move over the drain time, not all at once: its neighbours have to take them in.
An edge that is being stormed takes in as many as it can serve and tells the rest when to come back. Both are the same
care seen from two sides: nobody's restart becomes somebody else's overload.

A browser can't see a 503 before the upgrade, only "failed". So while handshakes are over their pace but under a higher
cap, the edge accepts, says `reconnect{after_ms}` and closes; above the cap even that is too dear and it refuses. The
same holds for handshakes that are under way at once: each has a socket and a buffer, and nobody knows whose it is.

Who is refused one request and told when to come back is believed to wait. One that goes on meanwhile is read less
often: its requests are refused as before, at a fraction of the cost.

What this must never do: tell two clients the same moment, promise a moment that was promised to as many others as fit
in it, or leave anybody untold when the drain time is over.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from heliograph.core.buckets import Rate, TokenBucket


class DrainPace:
    """How many connections to tell now: the last is told as the time ends, no second gets more than its share.

    Works from what is left rather than from a plan: connections that leave by themselves slow it down, a pass that
    comes late makes up for what it missed.
    """

    __slots__ = ("_asked_s", "_owed", "end_s")

    def __init__(self, now: float, over_s: float) -> None:
        if over_s < 0:
            raise ValueError(f"over_s is {over_s!r}; it can't be negative")
        self.end_s = now + over_s
        self._asked_s = now
        self._owed = 0.0

    def due(self, now: float, left: int) -> int:
        """How many of the `left` connections that were not told yet to tell at `now`; the caller tells that many."""
        since_s = max(now - self._asked_s, 0.0)
        self._asked_s = max(now, self._asked_s)
        if now >= self.end_s:
            return left
        self._owed += left * since_s / (self.end_s - now + since_s)
        tell = min(int(self._owed), left)
        self._owed -= tell
        return tell


def jittered_after_ms(floor_ms: float, spread_ms: float, uniform: Callable[[], float]) -> int:
    """When one client shall come back: at least `floor_ms`, spread evenly over `spread_ms` more."""
    return math.ceil(floor_ms + spread_ms * uniform())


FOR_GOOD_MS = 50
"""Refused with no time to come back: asking the same again is no better a moment later."""


def hold_off(told_s: float, now: float, retry_after_ms: int | None) -> tuple[bool, float]:
    """For somebody who is refused at `now`: whether that was before the moment it had been told to wait for (`told_s`),
    and the moment that it has been told of from here on.

    What was sent before a refusal arrived looks like impatience too; so what follows from it must be mild.
    """
    told_again_s = now + (retry_after_ms or FOR_GOOD_MS) / 1000
    return now < told_s, max(told_s, told_again_s)


@dataclass(frozen=True, slots=True)
class Admit:
    """Serve it."""


@dataclass(frozen=True, slots=True)
class TellToReconnect:
    """Accept, send `reconnect{after_ms}`, close."""

    after_ms: int
    cause: str = "pace"


@dataclass(frozen=True, slots=True)
class RefuseHandshake:
    """Answer 503 with `Retry-After: retry_after_s` before the upgrade."""

    retry_after_s: int
    cause: str = "pace"
    """`pace`: too many a second, `at_once`: too many that are not done."""


ADMIT = Admit()
Admission = Admit | TellToReconnect | RefuseHandshake


@dataclass(frozen=True, slots=True)
class AdmissionPolicy:
    """How many handshakes an edge takes."""

    pace: Rate = Rate(500, 500)  # noqa: RUF009 (frozen)
    """Handshakes that are served: some 0.4 ms of CPU each, so this leaves four fifths of a core to who is connected."""
    cap: Rate = Rate(2_000, 2_000)  # noqa: RUF009 (frozen)
    """Handshakes that are answered at all; between the two they are told when to come back."""
    max_after_s: float = 30.0
    """The longest a client is sent away: longer, and somebody else will have room."""
    jitter_s: float = 1.0
    """What is random on top, at least."""
    at_once: int = 2_000
    """Handshakes under way that are served: four seconds of the pace."""
    at_once_cap: int = 4_000
    """Handshakes under way that are answered by more than a refusal."""

    def __post_init__(self) -> None:
        if self.cap.per_s < self.pace.per_s:
            raise ValueError(f"cap ({self.cap.per_s}/s) is below pace ({self.pace.per_s}/s)")
        if not 1 <= self.at_once <= self.at_once_cap:
            raise ValueError(f"at_once ({self.at_once}) must be 1 to at_once_cap ({self.at_once_cap})")
        if self.max_after_s < 0 or self.jitter_s < 0:
            raise ValueError(f"max_after_s ({self.max_after_s!r}) and jitter_s ({self.jitter_s!r}) can't be negative")


class HandshakeAdmission:
    """Judges each handshake of one edge.

    Who is sent away is booked: each one moves the moment that the next is told by one handshake's time, so that they
    come back at the pace they could not come in at. Bookings past `max_after_s` fall in the later half of it.
    """

    __slots__ = ("_booked_until_s", "_cap", "_pace", "_policy", "_uniform")

    def __init__(self, policy: AdmissionPolicy, uniform: Callable[[], float]) -> None:
        """`uniform` draws from [0, 1)."""
        self._policy = policy
        self._uniform = uniform
        self._pace = TokenBucket(policy.pace)
        self._cap = TokenBucket(policy.cap)
        self._booked_until_s = -math.inf

    def judge(self, now: float, under_way: int = 1) -> Admission:
        """What becomes of a handshake that arrives at `now` (seconds, monotonic); with it there are `under_way`."""
        policy = self._policy
        if under_way > policy.at_once_cap:
            return RefuseHandshake(math.ceil(self._book_s(now)), "at_once")
        if self._cap.take(now):
            return RefuseHandshake(math.ceil(self._book_s(now)))
        if under_way > policy.at_once:
            return TellToReconnect(math.ceil(self._book_s(now) * 1000), "at_once")
        if self._pace.take(now):
            return TellToReconnect(math.ceil(self._book_s(now) * 1000))
        return ADMIT

    def _book_s(self, now: float) -> float:
        """Seconds from `now` until the next free moment, jittered; above 0."""
        policy = self._policy
        booked_s = max(self._booked_until_s, now) + policy.pace.token_s
        self._booked_until_s = min(booked_s, now + policy.max_after_s)
        if booked_s - now > policy.max_after_s:
            return policy.max_after_s * (0.5 + 0.5 * self._uniform()) + policy.jitter_s
        return booked_s - now + policy.jitter_s * self._uniform()
