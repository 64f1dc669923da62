"""When sockets are read on that have to wait with it: who sent much at once, and who goes on asking for what it was
refused.

A peer may send as fast as its line is, and the loop hands over all that the kernel holds: 256 KiB of small frames are
30 ms in which nobody else is served. So what comes at once is taken in slices, some a turn of the loop
(`ClientSocket`), with everybody else between them. And who was told to wait and doesn't is left to its own buffers for
a moment: that costs nothing, and what comes then is read with one call, not with one a frame.

What this must never do: leave a socket unread.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from heliograph.service.turnstile import Turnstile

REST_S = 0.05
"""What comes of a flood in that time is read at once: of 100 frames a second five. Short beside the 100 ms in which
commands are to arrive, since who floods may send one too.
"""

AT_ONCE = 2
"""Sockets in one turn of the loop: a slice of small frames is some 2 ms."""


class ReadTurns:
    """All sockets of an edge that wait to be read. What is called reads a slice, or lets the loop read again."""

    __slots__ = ("_loop", "_resting", "_timer", "_turnstile")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._turnstile = Turnstile(AT_ONCE)
        self._resting: deque[tuple[float, Callable[[], None]]] = deque()
        """With the loop's time at which each has rested: all rest equally long, so the first is due first."""
        self._timer: asyncio.TimerHandle | None = None

    def next(self, read: Callable[[], None]) -> None:
        """Call it in a later turn, as soon as others had theirs."""
        self._turnstile.line_up(read)

    def rest(self, read: Callable[[], None]) -> None:
        """Call it when `REST_S` have passed."""
        self._resting.append((self._loop.time() + REST_S, read))
        if self._timer is None:
            self._timer = self._loop.call_later(REST_S, self._rested)

    def _rested(self) -> None:
        self._timer = None
        now, resting = self._loop.time(), self._resting
        while resting and resting[0][0] <= now:
            self._turnstile.line_up(resting.popleft()[1])
        if resting:
            self._timer = self._loop.call_at(resting[0][0], self._rested)
