"""Some at a time: what costs the event loop much and may wait, where a crowd asks for it in one moment.

A crowd of clients that comes back sends its requests in the same millisecond, and the loop hands all of them over in
one turn: hundreds of handshakes, most of a second in which nobody who is connected is served. Here a turn takes a few,
and the loop reads, answers and delivers to others in between.

What this must never do: lose who waits because somebody before it failed.
"""

import asyncio
from collections import deque
from collections.abc import Callable


class Turnstile:
    """Calls so many a turn of the event loop: these at once, the others in later turns, the first first."""

    __slots__ = ("_at_once", "_room", "_scheduled", "_waiting")

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._room = at_once
        """Left in this turn; 0 while somebody waits."""
        self._scheduled = False
        self._waiting: deque[Callable[[], None]] = deque()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def enter(self, go: Callable[[], None]) -> None:
        """Call `go`, now or in a later turn. What it raises is told to the loop: nobody is there to catch it."""
        self._schedule()
        if self._room:
            self._room -= 1
            _call(go)
        else:
            self._waiting.append(go)

    def line_up(self, go: Callable[[], None]) -> None:
        """The same, but never now: for who had a turn and wants another."""
        self._schedule()
        self._room = 0
        self._waiting.append(go)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        waiting = self._waiting
        going = [waiting.popleft() for _ in range(min(self._at_once, len(waiting)))]
        self._room = self._at_once - len(going)
        self._scheduled = bool(going)
        if going:
            asyncio.get_running_loop().call_soon(self._turn)
        for go in going:
            _call(go)


def _call(go: Callable[[], None]) -> None:
    try:
        go()
    except Exception as error:  # noqa: BLE001 - told, and none of the others' business
        asyncio.get_running_loop().call_exception_handler({"message": "a turn failed", "exception": error})
