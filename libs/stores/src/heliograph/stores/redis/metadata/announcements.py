"""One pub/sub subscription for all that a process wants to hear of: it only shortens waits.

What is lost here is found by whoever waits when it looks for itself.
"""

import asyncio
from collections.abc import Callable

from redis.asyncio.client import PubSub

from heliograph.stores.ports import StoreError
from heliograph.stores.redis.metadata.client import MetadataClient, store_errors

RECONNECT_S = 0.5
"""Looking for oneself covers for the subscription in the meantime."""

SILENT_S = 10.0
PING_ANSWER_S = 5.0
"""A subscription that says nothing for so long is pinged; one that doesn't answer is made anew, maybe elsewhere."""

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
                with store_errors(self._channel):
                    async with self._client.subscribed(self._channel) as pubsub:
                        await self._hear(pubsub)
            except StoreError:
                await asyncio.sleep(RECONNECT_S)

    async def _hear(self, pubsub: PubSub) -> None:
        """Until the connection breaks, or the server doesn't answer a ping: one that lost its host says nothing."""
        pinged = False
        while True:
            message = await pubsub.get_message(timeout=PING_ANSWER_S if pinged else SILENT_S)
            if message is None and pinged:
                return
            pinged = message is None
            if pinged:
                await pubsub.ping()
            elif message["type"] == "message":
                self._heard(message["data"].decode(errors="replace"))
