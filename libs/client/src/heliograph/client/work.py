"""Serving as a program sees it: `Work` brings sessions, a `WorkSession` brings the messages of one."""

from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Protocol, Self

from heliograph.client.errors import ClientError, LeaseLost
from heliograph.client.feeds import NO_EPOCH, Inbox, Item
from heliograph.client.messages import Message
from heliograph.client.settings import ClientSettings
from heliograph.client.subscription import Bell
from heliograph.core.positions import BEFORE_ALL, Position
from heliograph.core.sessions import SessionKey
from heliograph.protocol.frames import EARLIEST, Assigned

TRIES = 8
"""Of handing an item to an inbox that finds something missing before it: it says what, as a gap, in fewer."""


class Desk(Protocol):
    """What a session needs of the client's workers."""

    def handled(self, session: "WorkSession") -> None:
        """It got further: to be acknowledged."""

    async def give_back(self, session: "WorkSession") -> None:
        """Return when the server has taken it back, or the connection is gone and it has anyway."""

    def is_own(self, message: Message) -> bool:
        """Whether this client published it."""


class WorkSession:
    """A session that this client works on, and nobody else meanwhile.

        async for item in session:      # `Message | Gap`, in order, from where the worker before had come to
            ...
        await session.done()            # there is more for it: it comes again, here or elsewhere

    Asking for the next item says that the one before is done with (with `ack="manual"`, `await message.ack()` does).
    What was not acknowledged when a worker is lost comes again to the next one. Iterating raises LeaseLost when the
    session is another's, and ends after `done()`. What this client publishes to the session itself is left out.
    """

    def __init__(self, frame: Assigned, desk: Desk, settings: ClientSettings, *, auto_ack: bool) -> None:
        self.key = SessionKey.parse(frame.session)
        self.session = frame.session
        self.lease = frame.lease
        self._desk = desk
        self._auto_ack = auto_ack
        self._bell = Bell()
        fresh = frame.start.startswith(NO_EPOCH)
        self._inbox = Inbox(frame.session, EARLIEST if fresh else frame.start, settings, self._bell.ring)
        if fresh:
            self._inbox.begin(None)
        self._overrun = False
        self._taken: Item | None = None
        self._error: ClientError | None = None
        self.over = False
        """It was given back, or lost."""
        self.interrupt: Callable[[], object] | None = None
        """Called when it is lost: ends what is being done for it."""
        self.position = str(BEFORE_ALL) if fresh else frame.start
        """Everything up to here is done with."""

    def __repr__(self) -> str:
        return f"<WorkSession {self.session} at {self.position}{', over' if self.over else ''}>"

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        self._settle()
        while True:
            if self._error is not None:
                raise self._error
            if self.over:
                raise StopAsyncIteration
            item, _ = self._inbox.take()
            if item is None:
                if self._overrun:
                    # It was so far ahead of us that messages were dropped: they come again with the session.
                    await self.done()
                    raise StopAsyncIteration
                await self._bell.wait()
            elif isinstance(item, Message) and self._desk.is_own(item):
                self.record(self.session, item.position)
            else:
                self._taken = item
                return item

    async def ack(self, item: Item) -> None:
        """`item` and all before it are done with; told to the server every `settings.ack_interval_s`."""
        self.record(self.session, _end_of(item))

    async def done(self) -> None:
        """Give the session back; what was taken is done with. Returns when the server has it."""
        self._settle()
        await self.give_back()

    async def give_back(self) -> None:
        """Give the session back as far as it was acknowledged: the last item taken comes again."""
        self._taken = None
        if not self.over:
            self.over = True
            self._inbox.items.clear()
            self._bell.ring()
            await self._desk.give_back(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """`done()`; where an error goes out, `give_back()`."""
        await (self.done() if kind is None else self.give_back())

    # ---- the client calls --------------------------------------------------------------------------------------------

    def record(self, _session: str, position: str | None) -> None:
        """Everything up to `position` is done with. (As `Acks.record`: `Message.ack` calls it.)"""
        if position is not None and position > self.position and not self.over:
            self.position = position
            self._desk.handled(self)

    @property
    def last(self) -> Position | None:
        """The last position that arrived."""
        return self._inbox.last

    def give(self, feed: Callable[[Inbox], bool]) -> int:
        """Hand something that arrived to the inbox; how many items came of it."""
        inbox = self._inbox
        if self._overrun or inbox.full:
            self._overrun = True
            self._bell.ring()
            return 0
        before = len(inbox.items)
        for _ in range(TRIES):
            if not feed(inbox):
                break
        return len(inbox.items) - before

    def lost(self, reason: str) -> None:
        self.fail(LeaseLost(self.session, reason))

    def fail(self, error: ClientError) -> None:
        """Raised by the next look, before what is buffered: that is another's now."""
        self.over = True
        self._taken = None
        self._error = self._error or error
        self._inbox.items.clear()
        self._bell.ring()
        if self.interrupt is not None:
            self.interrupt()

    @property
    def lost_by(self) -> ClientError | None:
        """Why it is another's, or nobody's, now."""
        return self._error

    def _settle(self) -> None:
        taken, self._taken = self._taken, None
        if taken is not None and self._auto_ack:
            self.record(self.session, _end_of(taken))


class Work:
    """An offer to work on sessions of an agent type, and the sessions that come.

        async with client.serve("planner", capacity=8) as work:
            async for session in work: ...

    On leaving the block no more sessions come, and those that it has are given back.
    """

    def __init__(
        self,
        agent_type: str,
        capacity: int,
        *,
        auto_ack: bool,
        end: Callable[["Work"], Awaitable[None]],
    ) -> None:
        self.agent_type = agent_type
        self.capacity = capacity
        self.auto_ack = auto_ack
        self._end = end
        self._bell = Bell()
        self._arrived: deque[WorkSession] = deque()
        self.held: dict[str, WorkSession] = {}
        """Sessions that it has, by name."""
        self.accepted = False
        """The server has taken the offer, once at least."""
        self._closed = False
        self._error: ClientError | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> WorkSession:
        while True:
            if self._error is not None:
                raise self._error
            if self._closed:
                raise StopAsyncIteration
            while self._arrived:
                session = self._arrived.popleft()
                if not session.over:
                    return session
            await self._bell.wait()

    async def ready(self) -> None:
        """Return when the server has taken the offer. Raises ServeRefused or ClosedError where it will not."""
        while not self.accepted:
            if self._error is not None:
                raise self._error
            await self._bell.wait()

    async def close(self) -> None:
        """Take no more sessions, and give back those that it has, as far as they were acknowledged."""
        if not self._closed:
            self._closed = True
            self._bell.ring()
            await self._end(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    # ---- the client calls --------------------------------------------------------------------------------------------

    def arrived(self, session: WorkSession) -> None:
        self.held[session.session] = session
        self._arrived.append(session)
        self._bell.ring()

    def accept(self) -> None:
        self.accepted = True
        self._bell.ring()

    def fail(self, error: ClientError) -> None:
        self._error = self._error or error
        self._bell.ring()


def _end_of(item: Item) -> str | None:
    return item.position if isinstance(item, Message) else item.last
