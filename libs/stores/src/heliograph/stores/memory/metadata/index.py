"""The sparse position index in memory."""

from collections.abc import Sequence

from heliograph.stores.memory.metadata.clock import Clock, now_ms
from heliograph.stores.ports import IndexEntry

ENTRIES_PER_SESSION = 2_000
"""As on Redis: the first and the newest."""

LOOK_MS = 60_000
"""Between looks for sessions whose entries have expired."""


class MemoryPositionIndex:
    """`heliograph.stores.ports.PositionIndex`."""

    def __init__(self, clock: Clock = now_ms, *, entries_per_session: int = ENTRIES_PER_SESSION) -> None:
        self._clock = clock
        self._kept = entries_per_session
        self._look_ms = 0
        self._sessions: dict[str, tuple[int, dict[tuple[str, str, int, int], IndexEntry]]] = {}

    async def add(self, entries: Sequence[tuple[str, IndexEntry]], ttl_s: float) -> None:
        now = self._clock()
        if now >= self._look_ms:
            self._look_ms = now + LOOK_MS
            self._sessions = {name: held for name, held in self._sessions.items() if held[0] > now}
        for session, entry in entries:
            ends, known = self._sessions.get(session, (0, {}))
            if ends <= now:
                known = {}
            known[entry.position, entry.topic_id, entry.partition, entry.offset] = entry
            while len(known) > self._kept:
                del known[sorted(known)[1]]
            self._sessions[session] = (now + max(1, int(ttl_s * 1000)), known)

    async def at_or_before(self, session: str, position: str) -> IndexEntry | None:
        return self._earliest_of(max(self._positions(session, position), default=None), session)

    async def first(self, session: str) -> IndexEntry | None:
        return self._earliest_of(min(self._positions(session), default=None), session)

    async def last(self, session: str) -> IndexEntry | None:
        return self._earliest_of(max(self._positions(session), default=None), session)

    def _positions(self, session: str, until: str | None = None) -> list[str]:
        return [entry.position for entry in self._entries(session) if until is None or entry.position <= until]

    def _entries(self, session: str) -> list[IndexEntry]:
        ends, known = self._sessions.get(session, (0, {}))
        return list(known.values()) if ends > self._clock() else []

    def _earliest_of(self, position: str | None, session: str) -> IndexEntry | None:
        """Of the entries at `position`, the one earliest in the log."""
        if position is None:
            return None
        same = [entry for entry in self._entries(session) if entry.position == position]
        return min(same, key=lambda entry: entry.offset)
