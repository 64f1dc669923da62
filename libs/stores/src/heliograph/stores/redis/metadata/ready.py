"""Who waits for a page hears of it. A message lost is found by the next look at the page's key."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from heliograph.stores.keys import REPLAY_READY
from heliograph.stores.redis.metadata.announcements import Announcements
from heliograph.stores.redis.metadata.client import MetadataClient


class Ready:
    """Wakes waiters by the names of requests."""

    def __init__(self, client: MetadataClient) -> None:
        self._announcements = Announcements(client, REPLAY_READY, self._wake)
        self._waiters: dict[str, set[asyncio.Event]] = {}

    @contextmanager
    def waiter(self, name: str) -> Iterator[asyncio.Event]:
        """An event that is set when an answer to `name` is announced."""
        self._announcements.listen()
        event = asyncio.Event()
        self._waiters.setdefault(name, set()).add(event)
        try:
            yield event
        finally:
            events = self._waiters[name]
            events.discard(event)
            if not events:
                del self._waiters[name]

    async def close(self) -> None:
        await self._announcements.close()

    def _wake(self, name: str) -> None:
        for event in self._waiters.get(name, ()):
            event.set()
