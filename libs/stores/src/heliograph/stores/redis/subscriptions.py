"""Which sessions this process listens to, and the connection they arrive on (sharded pub/sub, one channel a session).

Subscriptions of one loop tick leave in one command a kind; after a reconnect they leave in batches, each when the one
before was confirmed, so that Redis' output buffer for this connection stays small and live frames get between.
On a Redis Cluster a command's channels are of one slot; those of several may be under way, up to one batch.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Any

from heliograph.stores.ports import LiveListener
from heliograph.stores.redis.address import RedisAddress
from heliograph.stores.redis.connection import ConnectionSettings, Locate, RedisConnection
from heliograph.stores.redis.redirects import Step, again
from heliograph.stores.redis.topology import Node, tag_of

BATCH = 500
"""Channels under way: about 50 KB each way."""

_SUBSCRIBE, _UNSUBSCRIBE, _MESSAGE = b"ssubscribe", b"sunsubscribe", b"smessage"

Batch = tuple[bytes, list[bytes]]
"""Kind and channels of one command."""


def batches(asked: Iterable[tuple[bytes, bytes]], *, by_slot: bool) -> list[Batch]:
    """(kind, channel) as commands, in this order; `by_slot`: in one command only what has one tag.

    Neighbours of one kind may change places: subscribing to two channels has no order.
    """
    found: list[Batch] = []
    open_: dict[bytes, list[bytes]] = {}
    last = b""
    for kind, channel in asked:
        if kind != last:
            open_, last = {}, kind
        tag = tag_of(channel) if by_slot else b""
        channels = open_.get(tag)
        if channels is None or len(channels) >= BATCH:
            channels = open_[tag] = []
            found.append((kind, channels))
        channels.append(channel)
    return found


class Subscriptions:
    """One Redis shard's subscription connection."""

    def __init__(
        self,
        address: RedisAddress | Locate,
        listener: LiveListener,
        uniform: Callable[[], float],
        settings: ConnectionSettings,
        *,
        by_slot: bool = False,
        on_up: Callable[[RedisConnection], Awaitable[None]] | None = None,
    ) -> None:
        self._listener = listener
        self._by_slot = by_slot
        self._sessions: dict[bytes, str] = {}
        """Wanted channels, in the order they were asked for."""
        self._asked: list[tuple[bytes, bytes]] = []
        """Kind and channel, of this tick."""
        self._waiting: list[Batch] = []
        """Batches not sent yet, last first."""
        self._under_way = 0
        """Channels sent and not confirmed."""
        self._scheduled = False
        self.on_moved: Callable[[bytes, Node], None] | None = None
        """A channel's slot is at this node now; who listens there `take`s it from here."""
        self.on_dropped: Callable[[], None] | None = None
        """The server dropped a channel by itself."""
        self.frames = 0
        self.resubscribed = 0
        """Channels that the server dropped by itself (a slot moved)."""
        self.connection = RedisConnection(
            address,
            name="subscriptions",
            uniform=uniform,
            settings=settings,
            on_up=on_up,
            on_down=self._down,
            on_push=self._pushed,
        )
        self.connection.on_available = self._available

    async def start(self) -> None:
        await self.connection.start()

    async def close(self) -> None:
        await self.connection.close()

    def subscribe(self, channel: bytes, session: str) -> None:
        """Known ones are asked for again: `on_subscribed` follows each call."""
        self._sessions[channel] = session
        self._ask(_SUBSCRIBE, channel)

    def unsubscribe(self, channel: bytes) -> None:
        if self._sessions.pop(channel, None) is not None:
            self._ask(_UNSUBSCRIBE, channel)

    def take(self, tags: Collection[bytes]) -> dict[bytes, str]:
        """The wanted channels with these tags, and their sessions: no longer wanted here. The server is told nothing:
        where a slot went, its subscriptions ended.
        """
        taken = {channel: session for channel, session in self._sessions.items() if tag_of(channel) in tags}
        for channel in taken:
            del self._sessions[channel]
        return taken

    # ---- commands ---------------------------------------------------------------------------------------------------

    def _ask(self, kind: bytes, channel: bytes) -> None:
        if not self.connection.available:
            return  # all that is wanted is asked for once it is
        self._asked.append((kind, channel))
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        found = batches(self._asked, by_slot=self._by_slot)
        self._asked.clear()
        self._waiting[:0] = reversed(found)
        self._next()

    def _next(self) -> None:
        waiting = self._waiting
        while waiting and self.connection.available:
            kind, channels = waiting[-1]
            if self._under_way and self._under_way + len(channels) > BATCH:
                return
            waiting.pop()
            self._under_way += len(channels)
            self.connection.send_subscription(kind, channels, _Confirmed(self, kind, channels))

    def confirmed(self, kind: bytes, channels: list[bytes], error: Exception | None) -> None:
        """The server answered a batch."""
        self._under_way = max(0, self._under_way - len(channels))
        if error is not None and self.connection.available and not self._moved(kind, channels, error):
            self.connection.drop(f"could not subscribe: {type(error).__name__}")
            return
        self._next()

    def _moved(self, kind: bytes, channels: list[bytes], error: Exception) -> bool:
        """Whether that is all: the channels' slot is somebody else's."""
        where = again(error, self.connection.node)
        if self.on_moved is None or where is None or where.step is not Step.FOLLOW:
            return False
        if kind == _SUBSCRIBE and any(channel in self._sessions for channel in channels):
            self.on_moved(channels[0], where.node)  # they are of one slot
        return True

    # ---- what the server says ---------------------------------------------------------------------------------------

    def _pushed(self, kind: bytes, channel: bytes, value: Any) -> None:
        session = self._sessions.get(channel)
        if session is None:
            return  # unsubscribed meanwhile
        if kind == _MESSAGE:
            self.frames += 1
            self._listener.on_frame(session, value)
        elif kind == _SUBSCRIBE:
            self._listener.on_subscribed(session)
        elif kind == _UNSUBSCRIBE and value is False:
            self.resubscribed += 1
            if self.on_dropped is not None:
                self.on_dropped()
            self._ask(_SUBSCRIBE, channel)

    def _available(self) -> None:
        self._asked.clear()
        self._under_way = 0
        self._waiting = batches([(_SUBSCRIBE, channel) for channel in self._sessions], by_slot=self._by_slot)[::-1]
        self._next()

    def _down(self, _reason: str) -> None:
        self._waiting.clear()
        self._under_way = 0
        if self._sessions:
            self._listener.on_lost(list(self._sessions.values()))


class _Confirmed:
    """What is told when a batch is answered."""

    __slots__ = ("batch", "subscriptions")

    def __init__(self, subscriptions: Subscriptions, kind: bytes, channels: list[bytes]) -> None:
        self.subscriptions = subscriptions
        self.batch = kind, channels

    def __call__(self, error: Exception | None) -> None:
        self.subscriptions.confirmed(*self.batch, error)
