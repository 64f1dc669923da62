"""The live store in memory: `heliograph.stores.ports.LiveStore` on a `MemoryLiveServer` of the same process."""

import asyncio
from collections.abc import Callable, Sequence

from heliograph.core.positions import Position
from heliograph.stores.memory.live_server import MemoryLiveServer
from heliograph.stores.ports import (
    Ack,
    Acknowledged,
    Append,
    Appended,
    Bounds,
    Head,
    LiveListener,
    LiveLoad,
    LiveMemory,
    LivePressure,
    Page,
    StoreError,
    Unconfirmed,
)

IN_FLIGHT = 20_000
"""As a connection to Redis has it; here nothing is refused for it."""


class MemoryLiveStore:
    """One service's view of the server. Everything a listener or callback is told comes later, on the loop."""

    def __init__(self, server: MemoryLiveServer) -> None:
        self._server = server
        self._listener: LiveListener | None = None
        self._subscribed: set[str] = set()
        self._confirmed: set[str] = set()
        """Subscriptions that the server has."""
        self._running = False
        self._in_flight = 0

    # ---- life -------------------------------------------------------------------------------------------------------

    async def start(self, listener: LiveListener | None = None) -> None:
        self._check()
        self._listener = listener or self._listener
        if not self._running:
            self._running = True
            self._server.clients.append(self)

    async def close(self) -> None:
        if self._running:
            self._running = False
            self._server.clients.remove(self)
            self._confirmed.clear()

    @property
    def available(self) -> bool:
        return self._running and self._server.up

    def _check(self) -> None:
        if not self._server.up:
            raise StoreError("live_unavailable", "the memory live store is stopped")

    # ---- the server calls -------------------------------------------------------------------------------------------

    def deliver(self, session: str, frame: bytes) -> None:
        if session in self._confirmed and self._listener is not None:
            asyncio.get_running_loop().call_soon(self._on_frame, session, frame)

    def _on_frame(self, session: str, frame: bytes) -> None:
        if self._listener is not None and session in self._subscribed and self._running:
            self._listener.on_frame(session, frame)

    def lost(self) -> None:
        """The server is gone; subscriptions are asked for again once it is back."""
        self._confirmed.clear()
        if self._listener is not None:
            loop = asyncio.get_running_loop()
            if self._subscribed:
                loop.call_soon(self._listener.on_lost, list(self._subscribed))
            loop.call_soon(self._resubscribe)

    def _resubscribe(self) -> None:
        if not self._running:
            return
        if not self._server.up:
            asyncio.get_running_loop().call_later(0.01, self._resubscribe)
            return
        for session in list(self._subscribed):
            if session not in self._confirmed:
                self._on_subscribed(session)

    def _on_subscribed(self, session: str) -> None:
        if self.available and session in self._subscribed and self._listener is not None:
            self._confirmed.add(session)
            self._listener.on_subscribed(session)

    # ---- LiveStore --------------------------------------------------------------------------------------------------

    def append(self, message: Append, bounds: Bounds, done: Callable[[Appended | StoreError], None]) -> None:
        answer: Appended | StoreError
        if not self.available:
            answer = StoreError("live_unavailable", "the memory live store is stopped")
        elif self._server.full:
            answer = StoreError("overloaded", "the memory live store is full")
        else:
            answer = self._server.append(message, bounds)

        def answered() -> None:
            self._in_flight -= 1
            done(answer)

        self._in_flight += 1
        asyncio.get_running_loop().call_soon(answered)

    def publish_unsequenced(self, session: str, frame: bytes, done: Callable[[bool], None]) -> None:
        taken = self.available
        if taken:
            self._server.publish(session, frame)
        asyncio.get_running_loop().call_soon(done, taken)

    async def announce(self, session: str, id: str, frame: bytes) -> bool:  # noqa: A002 - the frame's member
        self._check()
        return self._server.announce(session, id, frame)

    async def announce_many(self, batch: Sequence[tuple[str, str, bytes]]) -> list[bool | StoreError]:
        if not self._server.up:
            return [StoreError("live_unavailable", "the memory live store is stopped") for _ in batch]
        return [self._server.announce(*one) for one in batch]

    def subscribe(self, session: str) -> None:
        if self._listener is None:
            raise RuntimeError("the store was started without a listener")
        self._subscribed.add(session)
        asyncio.get_running_loop().call_soon(self._on_subscribed, session)

    def unsubscribe(self, session: str) -> None:
        self._subscribed.discard(session)
        self._confirmed.discard(session)

    async def heads(self, sessions: Sequence[str]) -> list[Head]:
        self._check()
        return [self._server.head(session) for session in sessions]

    async def heads_many(self, sessions: Sequence[str]) -> list[Head | StoreError]:
        try:
            return list(await self.heads(sessions))
        except StoreError as error:
            return [error] * len(sessions)

    async def page(self, session: str, after: Position | None) -> Page:
        self._check()
        return self._server.page(session, after)

    async def confirm(self, session: str, epoch: str, seqs_and_sizes: Sequence[tuple[int, int]]) -> Head:
        self._check()
        return self._server.confirm(session, epoch, seqs_and_sizes)

    async def confirm_many(
        self, batch: Sequence[tuple[str, str, Sequence[tuple[int, int]]]]
    ) -> list[Head | StoreError]:
        if not self._server.up:
            return [StoreError("live_unavailable", "the memory live store is stopped") for _ in batch]
        return [self._server.confirm(*one) for one in batch]

    async def unconfirm(self, session: str, epoch: str, first_seq: int, last_seq: int, size_bytes: int) -> int:
        self._check()
        return self._server.unconfirm(session, epoch, first_seq, last_seq, size_bytes)

    async def confirmed(self, session: str, positions: Sequence[Position]) -> list[bool | None]:
        self._check()
        found = self._server.session(session)
        return [None if found is None else found.known(position) for position in positions]

    async def acknowledge(self, acks: Sequence[Ack]) -> list[Acknowledged | StoreError]:
        if not self._server.up:
            return [StoreError("live_unavailable", "the memory live store is stopped") for _ in acks]
        return [self._server.acknowledge(ack) for ack in acks]

    async def cursors(self, session: str, consumers: Sequence[str]) -> list[Position | None]:
        self._check()
        found = self._server.session(session)
        return [None if found is None else found.cursor(consumer).position for consumer in consumers]

    async def sessions(self, virtual_shard: int, prefix: str, cursor: int = 0) -> tuple[int, list[str]]:  # noqa: ARG002 - all at once
        self._check()
        return 0, self._server.sessions(virtual_shard, prefix)

    async def beginnings(self, sessions: Sequence[str]) -> list[Position | None]:
        self._check()
        found = [self._server.session(session) for session in sessions]
        return [one.entries[0].position if one is not None and one.entries else None for one in found]

    async def unserved(self, session: str, after: Position | None) -> Position | None:
        self._check()
        found = self._server.session(session)
        return None if found is None else found.unserved(after)

    async def dirty(self, virtual_shard: int, before_ms: int, limit: int) -> list[tuple[str, int]]:
        self._check()
        return self._server.dirty(virtual_shard, before_ms, limit)

    async def unconfirmed(self, session: str, limit: int) -> list[Unconfirmed]:
        self._check()
        return self._server.unconfirmed(session, limit)

    async def partition_of(self, session: str) -> int | None:
        self._check()
        found = self._server.session(session)
        return None if found is None else found.partition

    async def expire(self, virtual_shard: int, idle_s: float, limit: int) -> int:
        self._check()
        return self._server.expire(virtual_shard, round(idle_s * 1000), limit)

    async def forget(self, sessions: Sequence[str]) -> int:
        self._check()
        return sum(map(self._server.forget, sessions))

    async def placed(self, session: str, message_ids: Sequence[str]) -> list[bool]:
        self._check()
        found = self._server.session(session)
        now_ms = self._server.now_ms()
        return [found is not None and found.ledger.remembers(one, now_ms) for one in message_ids]

    @property
    def load(self) -> LiveLoad:
        return LiveLoad(self._in_flight, IN_FLIGHT)

    async def memory(self) -> LiveMemory:
        self._check()
        return self._server.memory()

    async def pressure(self) -> LivePressure:
        self._check()
        return self._server.pressure()
