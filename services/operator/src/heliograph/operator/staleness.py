"""Whether the watch is stuck: decided by comparing what a list of objects shows with what the watch has told.

A watch can be dead without an error (a connection that a middlebox forgot). A list sees an object's newest version; a
watch that has not told of it, nor anything newer, for a long while after that is stuck, and only a restart helps.
Decisions only: time comes in.
"""

from collections.abc import Mapping
from dataclasses import dataclass

ObjectKey = tuple[str, str, str]
"""Kind, namespace, name."""


@dataclass(frozen=True, slots=True)
class _Behind:
    """A list showed something that the watch had not told."""

    told: str | None
    since: float


class Staleness:
    """Of the watches of all kinds. Versions are resource versions; objects that are gone have none."""

    def __init__(self) -> None:
        self._told: dict[ObjectKey, str] = {}
        self._behind: dict[ObjectKey, _Behind] = {}

    def told(self, key: ObjectKey, version: str, *, gone: bool) -> None:
        """The watch told of an object."""
        if gone:
            self._told.pop(key, None)
        else:
            self._told[key] = version
        self._behind.pop(key, None)

    def listed(
        self, kind: str, listed: Mapping[ObjectKey, str], now: float, namespace: str | None = None
    ) -> list[ObjectKey]:
        """A list of all objects of a kind, in one namespace or (None) all, shows these versions.

        Answers those that the watch told of and that are gone, as two lists in a row say: where a watch begins anew, an
        object that went meanwhile is never told of.
        """
        known = {key for key in (*self._told, *self._behind) if key[0] == kind and namespace in (None, key[1])}
        gone: list[ObjectKey] = []
        for key in known | listed.keys():
            told, noted = self._told.get(key), self._behind.get(key)
            if told == listed.get(key):
                self._behind.pop(key, None)
            elif noted is None:
                self._behind[key] = _Behind(told, now)
            elif key not in listed:
                del self._behind[key]
                self._told.pop(key, None)
                gone.append(key)
        return gone

    def behind_s(self, now: float) -> float:
        """For how long the watch has kept back what it has kept back longest; 0: nothing."""
        return max((now - one.since for one in self._behind.values()), default=0.0)

    def example(self) -> ObjectKey | None:
        """What it has kept back longest."""
        return min(self._behind, key=lambda key: self._behind[key].since, default=None)
