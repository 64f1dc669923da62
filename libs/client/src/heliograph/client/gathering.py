"""When to tell the server what has gathered: at most once in a while, and only over a connection."""

import asyncio
from collections.abc import Callable

from heliograph.client.sender import Sender


class Gathering:
    """One timer. Whoever has something to tell calls `soon`; `flush` then calls `begin` and tells everything."""

    def __init__(self, sender: Sender, interval_s: float, flush: Callable[[], None]) -> None:
        self._sender = sender
        self._interval_s = interval_s
        self._flush = flush
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = 0.0
        """Not before: something was told just now, or refused for now."""

    def soon(self) -> None:
        """There is something to tell. Without a connection nothing happens: who has one again calls anew."""
        if self._timer is None and self._sender.online:
            self._timer = self._loop.call_at(self._due_s, self._flush)

    def begin(self) -> bool:
        """It is told now, whatever the interval; False where there is no connection."""
        self.stop()
        if self._sender.online:
            self._due_s = self._loop.time() + self._interval_s
        return self._sender.online

    def not_before(self, at_s: float) -> None:
        """By the loop's clock."""
        self._due_s = max(self._due_s, at_s)

    def stop(self) -> None:
        """Nothing more happens until the next `soon`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
