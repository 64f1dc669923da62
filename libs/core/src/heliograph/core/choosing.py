"""Which of several addresses to try first: what one client remembers of each, and for how long.

    home        the one where its session was: what is cached there is warm, and its neighbours are there too
    unspoilt    those that nothing bad is known of, in random order: a thousand clients spread evenly
    spoilt      the others, from the one whose failures are fewest and longest past

A failure spoils an address by 1, and half of that is forgotten every `half_life_s`. So a dead one is not tried first
again and again, each is tried once before any is tried a second time, and one that was repaired is as good as new after
a while, with nobody having to say so.

What this must never do: leave an address out (when all are spoilt, some has to be tried), or draw the same order for
all (randomness is the caller's).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ChoicePolicy:
    """How long a failure counts."""

    half_life_s: float = 15.0
    """A failed address is unspoilt again after some three of these: about the time that a restart or a failover takes,
    and that a balancer needs to notice it."""
    forgotten: float = 0.1
    """Spoilt by less than this counts as not at all."""

    def __post_init__(self) -> None:
        if not self.half_life_s > 0 or not 0 < self.forgotten < 1:
            raise ValueError(f"{self!r}: half_life_s must be above 0, forgotten between 0 and 1")


class Choice:
    """One client's memory of addresses; any text names one."""

    __slots__ = ("_policy", "_spoilt", "_uniform", "home")

    def __init__(self, uniform: Callable[[], float], policy: ChoicePolicy | None = None) -> None:
        """`uniform` draws from [0, 1)."""
        self._policy = policy or ChoicePolicy()
        self._uniform = uniform
        self._spoilt: dict[str, tuple[float, float]] = {}
        """By how much, and as of when."""
        self.home: frozenset[str] = frozenset()
        """Where the session was last; an edge may be known by its URL and by an address of it."""

    def order(self, candidates: Sequence[str], now: float) -> list[str]:
        """All of them, the one to try first at the front. `now` is in seconds, monotonic."""
        drawn = [(self._level(one, now), one not in self.home, self._uniform(), one) for one in candidates]
        return [one for *_, one in sorted(drawn)]

    def succeeded(self, *names: str) -> None:
        """The session is there now, at an edge with these names."""
        self.home = frozenset(names)
        for name in names:
            self._spoilt.pop(name, None)

    def failed(self, name: str, now: float) -> None:
        """It did not do, or asked to be left."""
        self._spoilt[name] = (self._level(name, now) + 1, now)
        # Names come and go with what a resolver says: what is forgotten takes no room.
        self._spoilt = {one: known for one, known in self._spoilt.items() if self._level(one, now)}

    def _level(self, name: str, now: float) -> float:
        level, at_s = self._spoilt.get(name, (0.0, now))
        level *= 0.5 ** ((now - at_s) / self._policy.half_life_s)
        return level if level >= self._policy.forgotten else 0.0
