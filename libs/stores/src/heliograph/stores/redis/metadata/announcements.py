"""One pub/sub subscription for all that a process wants to hear of: it only shortens waits.

What is lost here is found by whoever waits when it looks for itself.
"""

import asyncio
from collections.abc import Callable

from redis.exceptions import RedisError

from heliograph.stores.redis.metadata.client import MetadataClient

RECONNECT_S = 0.5
"""Looking for oneself covers for the subscription in the meantime."""

CANCEL_AGAIN_S = 0.05


class Announcements:
    """Tells `heard` each message of a channel, from the first `listen` on."""

    def __init__(self, client: MetadataClient, channel: str, heard: Callable[[str], None]) -> None:
        self._client = client
        self._channel = channel
        self._heard = heard
        self._task: asyncio.Task[None] | None = None

    def listen(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._listen(), name=f"announcements of {self._channel}")

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
                    await pubsub.subscribe(self._channel)
                    while True:
                        message = await pubsub.get_message(timeout=60.0)
                        if message is not None:
                            self._heard(message["data"].decode(errors="replace"))
            except (RedisError, OSError):
                await asyncio.sleep(RECONNECT_S)
