"""When connections write what they collected: once a tick of the event loop, and in slices where they are many.

A write is some 15 µs of CPU, nearly all of it the kernel's: a frame for ten thousand subscribers keeps the loop for
longer than any command of anybody else may take. Nothing here knows what a frame says.
"""

import asyncio
from collections import deque
from typing import Protocol

FLUSH_SLICE = 64
"""Connections written to before others get a turn of the loop: about a millisecond. A publish passes some four turns on
its way to a subscriber. A session with more subscribers than that is a crowd."""
CROWD_SLICE = 32
"""Of a crowd, besides: each of those turns is longer by that for everybody else."""


class Writer(Protocol):
    """Something that writes what it collected, once, at the end of a tick."""

    waits: bool
    """Its frames are a crowd's alone: set and cleared by `TickWriter`."""

    def flush(self) -> None: ...


class TickWriter:
    """Calls `flush` of every connection that collected frames, once, at the end of the loop's tick.

    Where these are many it takes them in slices, and reads, answers and delivers to others in between: those of a later
    tick come before what is left of an earlier one, in slices as well. What a connection is to get stays in order: it
    keeps its frames itself and is flushed of all at once.

    A crowd, the subscribers of one wide session, waits in a line of its own, behind everybody else. Whoever stands in
    it and is to get something else meanwhile, a command in a session of its own, comes out of it (`hurry`): else that
    command would take as long as the whole crowd.
    """

    __slots__ = ("_left", "_loop", "_scheduled", "crowd", "dirty")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._scheduled = False
        self._left: deque[Writer] = deque()
        """What was left of earlier ticks, oldest first."""
        self.crowd: deque[Writer] = deque()
        """As they came; who no longer `waits` was flushed of everything already. A fan-out adds to it and then calls
        `wake`."""
        self.dirty: list[Writer] = []

    def schedule(self, connection: Writer) -> None:
        """`connection.flush()` runs at this tick's end, or soon. Call it with the first frame since its last flush."""
        self.dirty.append(connection)
        if not self._scheduled:  # `wake`, written out: this is each delivery's
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def schedule_late(self, connection: Writer) -> None:
        """The same for one of a crowd, behind all others."""
        connection.waits = True
        self.crowd.append(connection)
        self.wake()

    def hurry(self, connection: Writer) -> None:
        """It `waits`, and got a frame that should not."""
        connection.waits = False
        self.schedule(connection)

    def wake(self) -> None:
        """Somebody is scheduled."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        dirty, self.dirty = self.dirty, []
        left, crowd = self._left, self.crowd
        if left or len(dirty) > FLUSH_SLICE:
            left.extend(dirty[FLUSH_SLICE:])
            del dirty[FLUSH_SLICE:]
            dirty += [left.popleft() for _ in range(min(FLUSH_SLICE, len(left)))]
        for connection in dirty:
            connection.flush()
        for _ in range(min(CROWD_SLICE, len(crowd))):
            connection = crowd.popleft()
            if connection.waits:
                connection.waits = False
                connection.flush()
        if left or crowd:
            self.wake()
