"""Whole systems for tests: a process of the run keeps one at a time.

A system is a Kafka, two Redis and half a dozen services, none of which is ever quite idle: were all of those that a run
needs to stay until its end, they would take the machine from the tests that still want it.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any, TypeVar

T = TypeVar("T")


class Systems:
    """The one that is up, by name."""

    def __init__(self) -> None:
        self._up = ExitStack()
        self._name: str | None = None
        self._system: Any = None

    def take(self, name: str, make: Callable[[], AbstractContextManager[T]]) -> T:
        """The system of that name: the one that is up, else made, and whatever was up ended."""
        if self._name != name:
            self.end()
            self._system = self._up.enter_context(make())
            self._name = name
        system: T = self._system
        return system

    def end(self) -> None:
        """None is up."""
        self._name = self._system = None
        self._up.close()
