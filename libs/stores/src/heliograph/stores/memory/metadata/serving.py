"""Serving in memory: workers, sessions that wait, and who has which."""

import asyncio
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from msgspec.structs import replace

from heliograph.stores.memory.metadata.clock import Clock, now_ms
from heliograph.stores.ports import DueSession, Order, Served, ServeView, Worker
from heliograph.stores.registrations import check_edge


@dataclass(slots=True)
class _Session:
    fence: int = 0
    first: str = ""
    last: str = ""
    cursor: str = ""
    since_ms: int = 0
    worker: str | None = None
    previous: str | None = None
    taken: bool = False


@dataclass(slots=True)
class _Kind:
    workers: dict[str, Worker] = field(default_factory=dict)
    load: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    due: dict[str, int] = field(default_factory=dict)
    sessions: dict[str, _Session] = field(default_factory=dict)
    fence: int = 0


class MemoryServeStore:
    """`heliograph.stores.ports.ServeStore`."""

    def __init__(self, clock: Clock = now_ms) -> None:
        self._clock = clock
        self._served: dict[str, int] = {}
        self._kinds: defaultdict[str, _Kind] = defaultdict(_Kind)
        self._orders: defaultdict[str, deque[Order]] = defaultdict(deque)
        self._changed: set[str] = set()
        self._wake = asyncio.Event()
        self._ordered = asyncio.Event()

    async def close(self) -> None:
        """Nothing is open."""

    async def kinds(self) -> dict[str, int]:
        return dict(self._served)

    async def keep(self, kind: str) -> None:
        self._served[kind] = self._clock()

    async def forget(self, kind: str) -> None:
        self._served.pop(kind, None)
        self._kinds.pop(kind, None)

    async def offer(self, kind: str, workers: Sequence[Worker]) -> None:
        found, now = self._kinds[kind], self._clock()
        for worker in workers:
            check_edge(worker.edge)
            found.workers[worker.name] = replace(worker, offered_ms=now)
        self._served[kind] = now
        self._announce(kind, found)

    async def known(self, kind: str, workers: Sequence[str]) -> list[bool]:
        return [worker in self._kinds[kind].workers for worker in workers]

    async def leave(self, kind: str, workers: Sequence[str]) -> None:
        found = self._kinds[kind]
        for worker in workers:
            found.workers.pop(worker, None)
            found.load.pop(worker, None)

    async def mark(self, kind: str, positions: Mapping[str, str]) -> None:
        found, now = self._kinds[kind], self._clock()
        for session, position in positions.items():
            entry = found.sessions.get(session) or _Session(since_ms=now)
            if position <= entry.cursor:
                continue
            found.sessions[session] = entry
            if position > entry.last:
                if entry.last <= entry.cursor:
                    entry.first = position
                entry.last = position
            if entry.worker is None:
                found.due.setdefault(session, now)
        self._announce(kind, found)

    async def view(self, kind: str, limit: int) -> ServeView:
        found = self._kinds[kind]
        due = sorted(found.due.items(), key=lambda item: (item[1], item[0]))[:limit]
        return ServeView(
            [(worker, found.load[worker.name]) for worker in found.workers.values()],
            [
                DueSession(session, since_ms, entry.first, entry.last, entry.cursor, entry.previous)
                for session, since_ms in due
                for entry in (found.sessions[session],)
            ],
            self._clock(),
        )

    async def assign(self, kind: str, pairs: Sequence[tuple[str, str]], above: int = 0) -> list[int]:
        found, now, fences = self._kinds[kind], self._clock(), list[int]()
        for session, worker in pairs:
            offered, entry = found.workers.get(worker), found.sessions.get(session)
            if (
                offered is None
                or entry is None
                or entry.worker is not None
                or session not in found.due
                or found.load[worker] >= offered.capacity
            ):
                fences.append(0)
                continue
            found.fence = max(found.fence + 1, now, entry.fence + 1, above + 1)
            entry.worker, entry.fence, entry.since_ms, entry.taken = worker, found.fence, now, False
            found.load[worker] += 1
            del found.due[session]
            fences.append(found.fence)
        return fences

    async def take(self, kind: str, leases: Sequence[tuple[str, int]]) -> list[bool]:
        answers = []
        for session, fence in leases:
            entry = self._held(kind, session, fence)
            if entry is not None:
                entry.taken = True
            answers.append(entry is not None)
        return answers

    async def release(self, kind: str, leases: Sequence[tuple[str, int, str]]) -> list[bool]:
        found, now, answers = self._kinds[kind], self._clock(), list[bool]()
        for session, fence, cursor in leases:
            entry = self._held(kind, session, fence)
            answers.append(entry is not None)
            if entry is None:
                continue
            assert entry.worker is not None
            if entry.worker in found.workers:
                found.load[entry.worker] -= 1
            entry.worker, entry.previous, entry.since_ms, entry.taken = None, entry.worker, now, False
            entry.cursor = max(entry.cursor, cursor)
            if entry.last > entry.cursor:
                found.due[session] = now
        self._announce(kind, found)
        return answers

    async def sessions(self, kind: str, cursor: int = 0) -> tuple[int, list[Served]]:  # noqa: ARG002 - all at once
        found = self._kinds[kind]
        return 0, [
            Served(session, entry.worker, entry.fence, entry.since_ms, entry.taken, entry.last, entry.cursor)
            for session, entry in found.sessions.items()
        ]

    async def prune(self, kind: str, sessions: Sequence[str], before_ms: int) -> int:
        found, gone = self._kinds[kind], 0
        for session in sessions:
            entry = found.sessions.get(session)
            if entry is None or entry.worker is not None or session in found.due or entry.since_ms >= before_ms:
                continue
            del found.sessions[session]
            gone += 1
        return gone

    async def order(self, edge: str, orders: Sequence[Order]) -> None:
        self._orders[check_edge(edge)].extend(orders)
        self._ordered.set()

    async def orders(self, edge: str, wait_s: float) -> list[Order]:
        queue = self._orders[check_edge(edge)]
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while not queue:
                    self._ordered.clear()
                    await self._ordered.wait()
        taken = list(queue)
        queue.clear()
        return taken

    async def changed(self, wait_s: float) -> set[str]:
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._wake.wait()
        self._wake.clear()
        changed, self._changed = self._changed, set()
        return changed

    def _held(self, kind: str, session: str, fence: int) -> _Session | None:
        entry = self._kinds[kind].sessions.get(session)
        return entry if entry is not None and entry.worker is not None and entry.fence == fence else None

    def _announce(self, kind: str, found: _Kind) -> None:
        if found.due:
            self._changed.add(kind)
            self._wake.set()
