"""Who waits for a page hears of it: one pub/sub subscription for all that a process has asked.

It only shortens the wait. A message lost here is found by the next look at the page's key.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import RedisError

from heliograph.stores.keys import REPLAY_READY
from heliograph.stores.redis.metadata.client import MetadataClient

RECONNECT_S = 0.5
"""Polling covers for the subscription in the meantime."""

CANCEL_AGAIN_S = 0.05


class Ready:
    """Wakes waiters by the names of requests."""

    def __init__(self, client: MetadataClient) -> None:
        self._client = client
        self._waiters: dict[str, set[asyncio.Event]] = {}
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def waiter(self, name: str) -> Iterator[asyncio.Event]:
        """An event that is set when an answer to `name` is announced."""
        if self._task is None:
            self._task = asyncio.create_task(self._listen(), name="rehydration-ready")
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
        task, self._task = self._task, None
        while task is not None and not task.done():
            # Again and again: redis-py sends under `asyncio.wait_for`, which in Python 3.11 may swallow a cancellation.
            task.cancel()
            await asyncio.wait([task], timeout=CANCEL_AGAIN_S)

    async def _listen(self) -> None:
        while True:
            try:
                async with self._client.redis.pubsub(ignore_subscribe_messages=True) as pubsub:
                    await pubsub.subscribe(REPLAY_READY)
                    while True:
                        message = await pubsub.get_message(timeout=60.0)
                        if message is not None:
                            self._wake(message["data"].decode(errors="replace"))
            except (RedisError, OSError):
                await asyncio.sleep(RECONNECT_S)

    def _wake(self, name: str) -> None:
        for event in self._waiters.get(name, ()):
            event.set()
