"""What tests of reaping speak in: edges that died, registries that look, and what was announced."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from heliograph.registry.reaper import Reaper
from heliograph.service.health import Readiness
from heliograph.service.metrics import Metrics
from heliograph.stores.memory.live_server import MemoryLiveServer
from heliograph.stores.ports import Connection, ConnectionStore, EdgeLease, LiveStore

DEADLINE_S = 20.0
SESSION = "acme:planner:trip-42"


class Listener:
    """Keeps what was announced, in order."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        self.subscribed: set[str] = set()

    def on_frame(self, session: str, frame: bytes) -> None:
        self.heard.append(msgspec.json.decode(frame))

    def on_subscribed(self, session: str) -> None:
        self.subscribed.add(session)

    def on_lost(self, sessions: Sequence[str]) -> None:
        self.subscribed.difference_update(sessions)


@dataclass
class Stores:
    """Two registries' views of one system."""

    connections: list[ConnectionStore]
    live: list[LiveStore]
    listener: Listener
    server: MemoryLiveServer | None

    async def listen(self, *sessions: str) -> Listener:
        for session in sessions:
            self.live[0].subscribe(session)
        async with asyncio.timeout(DEADLINE_S):
            while not self.listener.subscribed >= set(sessions):
                await asyncio.sleep(0.005)
        return self.listener

    async def heard(self, count: int) -> list[dict[str, Any]]:
        """All that was announced, once it is so many."""
        async with asyncio.timeout(DEADLINE_S):
            while len(self.listener.heard) < count:
                await asyncio.sleep(0.005)
        return self.listener.heard

    async def silent(self) -> None:
        """Nothing but this one was announced: what is told first is heard first."""
        before = list(self.listener.heard)
        await self.live[0].announce(SESSION, f"end-{len(before)}", b'{"end":true}')
        assert (await self.heard(len(before) + 1))[len(before) :] == [{"end": True}]


class Registry:
    """One registry's reaper, on a clock of the test's."""

    def __init__(self, stores: Stores, number: int = 0) -> None:
        self.metrics = Metrics("registry", process=False)
        self.readiness = Readiness()
        self.now = 100.0
        self.reaper = Reaper(
            stores.connections[number],
            stores.live[number],
            self.metrics,
            self.readiness.condition("reaping"),
            interval_s=0.01,
            clock=lambda: self.now,
        )

    async def look(self, after_s: float = 0.0) -> None:
        self.now += after_s
        await self.reaper.look()

    async def watch(self, lease_s: float) -> None:
        """Look for a whole lease, as often as it takes to be sure of the store."""
        for _ in range(5):
            await self.look(lease_s / 4)

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.value(name, labels)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not await condition():
            await asyncio.sleep(0.005)


def connection(name: str, *sessions: str, subject: str | None = None, agent: str | None = None) -> Connection:
    found = Connection(name, "acme", subject or f"user-{name}", agent, 1_764_000_000_000, list(sessions))
    found.joins = list(range(1, len(sessions) + 1))
    return found


async def edge(store: ConnectionStore, name: str, *connections: Connection, lease_s: float = 60.0) -> None:
    """An edge with these connections."""
    await store.renew(EdgeLease(name, "run-1", f"{name}:8080", len(connections), 1_764_000_000_000), lease_s)
    await store.update(name, list(connections), [])


async def lost_edge(store: ConnectionStore, name: str, *connections: Connection, lease_s: float = 0.3) -> EdgeLease:
    """An edge that died: its lease ran out."""
    await edge(store, name, *connections, lease_s=lease_s)
    found: list[EdgeLease] = []

    async def ran_out() -> bool:
        found[:] = [lease for lease in await store.lapsed() if lease.edge == name]
        return bool(found)

    await until(ran_out)
    return found[0]
