"""The handle that a program reads a session by."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self
from weakref import finalize

from heliograph.client.acks import Acks
from heliograph.client.feeds import Inbox, InboxState, Item
from heliograph.client.messages import Message, Presence


class Bell:
    """Wakes the one reader of an inbox. Held by both, so that an inbox doesn't keep alive a handle nobody has."""

    __slots__ = ("_waiter",)

    def __init__(self) -> None:
        self._waiter: asyncio.Future[None] | None = None

    def ring(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        if self._waiter is not None:
            raise RuntimeError("two tasks read one subscription; make one for each")
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


class Reading:
    """What the handles share. They differ in what they give: see `Subscription`."""

    def __init__(
        self,
        inbox: Inbox,
        bell: Bell,
        end: Callable[[Inbox], None],
        more: Callable[[Inbox], None],
        acks: Acks,
        *,
        auto_ack: bool,
    ) -> None:
        """`end` takes the inbox off its feed, from any thread; `more` says that a parked one has room again."""
        self._inbox = inbox
        self._bell = bell
        self._more = more
        self._acks = acks
        self._auto_ack = auto_ack
        self._taken: Item | None = None
        """The last item taken, where the next one acknowledges it."""
        self._closed = False
        self._position: str | None = None
        self._finalizer = finalize(self, end, inbox)
        self._finalizer.atexit = False

    @property
    def session(self) -> str:
        return self._inbox.session

    @property
    def position(self) -> str | None:
        """Position of the last message taken: give it as `start=` to go on from here another time."""
        return self._position

    @property
    def buffered(self) -> int:
        """Messages that arrived and were not yet taken."""
        return len(self._inbox.items)

    @property
    def times_parked(self) -> int:
        """How often its reader was so slow that the server was told to stop."""
        return self._inbox.parked

    @property
    def dropped_telemetry(self) -> int:
        """Telemetry that was dropped because the reader was slow."""
        return self._inbox.dropped_telemetry

    @property
    def holes(self) -> int:
        """Positions that the server left out without a word. Anything but 0 is a bug of the server."""
        return self._inbox.holes

    @property
    def cursor_missing(self) -> bool:
        """Whether it was to begin at the consumer's cursor and there was none, so that it began at the earliest."""
        return self._inbox.cursor_missing

    @property
    def live(self) -> bool:
        """Whether the server sends it messages now."""
        return self._inbox.state is InboxState.LIVE

    async def ready(self) -> None:
        """Return when the server has taken the subscription: nothing published from now on is missed.

        Raises SubscribeRefused or ClosedError where it will not.
        """
        while not self._inbox.accepted:
            if self._inbox.error is not None:
                raise self._inbox.error
            await self._bell.wait()

    def __aiter__(self) -> Self:
        return self

    async def ack(self, item: Item) -> None:
        """`item`, a message or gap of this subscription, and all before it are done with. See `Message.ack`."""
        self._acks.record(self.session, _end_of(item))

    async def _next(self) -> Item | Presence:
        if self._taken is not None:
            taken, self._taken = self._taken, None
            self._acks.record(self.session, _end_of(taken))
        while True:
            item, has_room = self._inbox.take_any()
            if has_room:
                self._more(self._inbox)
            if isinstance(item, Presence):
                return item
            if item is not None:
                position = _end_of(item)
                if position is not None:
                    self._position = position
                if self._auto_ack:
                    self._taken = item
                return item
            if self._closed:
                raise StopAsyncIteration
            if self._inbox.error is not None:
                raise self._inbox.error
            await self._bell.wait()

    async def close(self) -> None:
        """End it. What is buffered is dropped; what was acknowledged is told to the server now."""
        self._closed = True
        self._acks.flush()
        self._inbox.items.clear()
        self._finalizer()
        self._bell.ring()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


class Subscription(Reading):
    """A session's messages in order, from where it was asked, over any number of connections.

        async for item in client.subscribe("acme:planner:42", start="earliest"):
            ...

    Ends when it is closed, or raises: SubscribeRefused, ClosedError. A subscription that is dropped without being
    closed is ended as well. One reader at a time.
    """

    async def __anext__(self) -> Item:
        item = await self._next()
        assert not isinstance(item, Presence)
        return item


class PresenceSubscription(Reading):
    """A `Subscription` that also gives who joins and leaves, as `Presence`, in the place where it arrived."""

    @property
    def dropped_presence(self) -> int:
        """Joins and leaves that were dropped because the reader was slow."""
        return self._inbox.dropped_presence

    async def __anext__(self) -> Item | Presence:
        return await self._next()


def _end_of(item: Item) -> str | None:
    return item.position if isinstance(item, Message) else item.last
