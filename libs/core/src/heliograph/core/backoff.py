"""When to try again: exponential backoff with full jitter.

Ten thousand clients that lose one edge must not come back as one wave. With *full* jitter (a delay drawn evenly from
nothing to the present ceiling) they spread as widely as the ceiling allows; "half fixed, half random" keeps the wave.
Source: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

The counter of attempts goes back to zero only after a connection has been healthy for a while. A server that accepts
and closes at once would otherwise be hammered at the base delay by everybody for as long as it is ill.

What this must never do: come back before the time a server named, take a server's word for an unbounded wait, or draw
the same number for all (randomness is the caller's, one source per process).
"""

from collections.abc import Callable
from dataclasses import dataclass

_MAX_DOUBLINGS = 62
"""Where counting stops: any ceiling is reached long before, and 2.0**1024 is an OverflowError."""


@dataclass(frozen=True, slots=True)
class BackoffPolicy:
    """How fast to give up hoping."""

    base_s: float = 0.2
    """Ceiling of the first delay: a restart behind a load balancer is over in less."""
    cap_s: float = 15.0
    """Ceiling of any delay of our own: how long a person accepts to wait after an outage has ended."""
    healthy_s: float = 10.0
    """A connection that lasted this long was a good one: the next failure begins at `base_s` again."""
    server_cap_s: float = 300.0
    """The most of a server's `after_ms` that is believed: a wrong unit must not switch a client off for a day."""

    def __post_init__(self) -> None:
        if not 0 < self.base_s <= self.cap_s:
            raise ValueError(f"base_s is {self.base_s!r}; it must be above 0 and at most cap_s ({self.cap_s!r})")
        if self.healthy_s < 0 or self.server_cap_s < 0:
            raise ValueError(
                f"healthy_s ({self.healthy_s!r}) and server_cap_s ({self.server_cap_s!r}) can't be negative"
            )


class Backoff:
    """The delays of one client towards one service.

    Tell it what happens (`succeeded`, `failed`); `failed` answers how long to wait.
    """

    __slots__ = ("_healthy_since_s", "_policy", "_uniform", "attempt")

    def __init__(self, policy: BackoffPolicy, uniform: Callable[[], float]) -> None:
        """`uniform` draws from [0, 1), as `random.Random().random` does."""
        self._policy = policy
        self._uniform = uniform
        self._healthy_since_s: float | None = None
        self.attempt = 0
        """Failures since the last healthy time."""

    def succeeded(self, now: float) -> None:
        """A connection (or call) works since `now`. Told twice, the first time counts."""
        if self._healthy_since_s is None:
            self._healthy_since_s = now

    def healthy(self, now: float) -> bool:
        """Whether what works now has worked for long enough to be called good."""
        return self._healthy_since_s is not None and now - self._healthy_since_s >= self._policy.healthy_s

    def failed(self, now: float, after_ms: float | None = None) -> float:
        """Seconds to wait before the next attempt. `after_ms` is what the server asked for, if it did.

        The server's time is a floor and the jitter comes on top: a server that tells thousands the same number still
        gets them back spread out.
        """
        policy = self._policy
        if self.healthy(now):
            self.attempt = 0
        self._healthy_since_s = None
        ceiling_s = min(policy.cap_s, policy.base_s * 2.0 ** min(self.attempt, _MAX_DOUBLINGS))
        self.attempt += 1
        floor_s = 0.0 if after_ms is None else min(max(after_ms, 0) / 1000, policy.server_cap_s)
        return floor_s + ceiling_s * self._uniform()
