"""Which sessions this process listens to, and the connection they arrive on (sharded pub/sub, one channel a session).

Subscriptions of one loop tick leave in one command a kind; after a reconnect they leave in batches, each when the one
before was confirmed, so that Redis' output buffer for this connection stays small and live frames get between.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from heliograph.stores.ports import LiveListener
from heliograph.stores.redis.address import RedisAddress
from heliograph.stores.redis.connection import ConnectionSettings, RedisConnection

BATCH = 500
"""Channels a command: about 50 KB each way."""

_SUBSCRIBE, _UNSUBSCRIBE, _MESSAGE = b"ssubscribe", b"sunsubscribe", b"smessage"


class Subscriptions:
    """One Redis shard's subscription connection."""

    def __init__(
        self,
        address: RedisAddress,
        listener: LiveListener,
        uniform: Callable[[], float],
        settings: ConnectionSettings,
    ) -> None:
        self._listener = listener
        self._sessions: dict[bytes, str] = {}
        """Wanted channels, in the order they were asked for."""
        self._asked: list[tuple[bytes, bytes]] = []
        """Kind and channel, of this tick."""
        self._waiting: list[tuple[bytes, list[bytes]]] = []
        """Batches not sent yet, last first."""
        self._busy = False
        self._scheduled = False
        self.frames = 0
        self.resubscribed = 0
        """Channels that the server dropped by itself (a slot moved)."""
        self.connection = RedisConnection(
            address,
            name="subscriptions",
            uniform=uniform,
            settings=settings,
            on_down=self._down,
            on_push=self._pushed,
        )

    async def start(self) -> None:
        self.connection.on_available = self._available
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
        batches: list[tuple[bytes, list[bytes]]] = []
        for kind, channel in self._asked:
            if batches and batches[-1][0] == kind and len(batches[-1][1]) < BATCH:
                batches[-1][1].append(channel)
            else:
                batches.append((kind, [channel]))
        self._asked.clear()
        self._waiting[:0] = reversed(batches)
        self._next()

    def _next(self) -> None:
        if self._busy or not self._waiting or not self.connection.available:
            return
        kind, channels = self._waiting.pop()
        self._busy = True
        self.connection.send_subscription(kind, channels, self._confirmed)

    def _confirmed(self, error: Exception | None) -> None:
        self._busy = False
        if error is not None and self.connection.available:
            self.connection.drop(f"could not subscribe: {type(error).__name__}")
            return
        self._next()

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
            self._ask(_SUBSCRIBE, channel)

    def _available(self) -> None:
        self._asked.clear()
        self._busy = False
        channels = list(self._sessions)
        batches = [(_SUBSCRIBE, channels[at : at + BATCH]) for at in range(0, len(channels), BATCH)]
        self._waiting = batches[::-1]
        self._next()

    def _down(self, _reason: str) -> None:
        self._waiting.clear()
        self._busy = False
        self._listener.on_lost()
