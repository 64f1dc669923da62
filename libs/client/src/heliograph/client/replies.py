"""Requests and their answers: a request is a message with an id of its own, the answer names that id as its cause.

Answers come as messages of a session (`reply_to`, or the request's own), so they are ordered, durable and visible to
whoever follows that session. One subscription per such session serves all requests that wait there.
"""

import asyncio
from collections.abc import Callable

from heliograph.client.errors import ClosedError, HeliographError
from heliograph.client.messages import Message
from heliograph.client.subscription import Subscription

Answer = Message | HeliographError


class ReplyWatch:
    """Waits on one session for the answers to any number of requests."""

    def __init__(self, subscription: Subscription, linger_s: float, ended: Callable[[], None]) -> None:
        """`ended` is called when nobody has waited for `linger_s`, or the subscription failed."""
        self._subscription = subscription
        self._linger_s = linger_s
        self._ended = ended
        self._waiting: dict[str, asyncio.Future[Answer]] = {}
        self._linger: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._ready = self._loop.create_future()
        self._task = self._loop.create_task(self._run())

    async def ready(self) -> None:
        """Return when answers can't be missed. Raises what the subscription raised."""
        await asyncio.wait([self._ready])
        error = self._ready.result()
        if error is not None:
            raise error

    def expect(self, message_id: str) -> asyncio.Future[Answer]:
        """The answer to `message_id`; cancel the future to stop waiting."""
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        future = self._waiting[message_id] = self._loop.create_future()
        future.add_done_callback(lambda _: self._settle(message_id))
        return future

    def _settle(self, message_id: str) -> None:
        self._waiting.pop(message_id, None)
        if not self._waiting and self._linger is None and not self._task.done():
            self._linger = self._loop.call_later(self._linger_s, self._task.cancel)

    async def _run(self) -> None:
        error: HeliographError | None = None
        try:
            async with self._subscription as subscription:
                await subscription.ready()
                self._ready.set_result(None)
                async for item in subscription:
                    if isinstance(item, Message):
                        self._match(item)
        except HeliographError as failure:
            error = failure
        finally:
            self._ended()
            if not self._ready.done():
                self._ready.set_result(error)
            for future in list(self._waiting.values()):
                if not future.done():
                    future.set_result(error or ClosedError("closed", "the client is closed"))

    def _match(self, message: Message) -> None:
        for name in (message.causation_id, message.correlation_id):
            future = self._waiting.get(name) if name is not None and name != message.id else None
            if future is not None and not future.done():
                future.set_result(message)
                return

    async def close(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
        self._task.cancel()
        await asyncio.wait([self._task])
