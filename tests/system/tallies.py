"""What each life of an edge counts of telemetry, read from its metrics and put into a history."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass

from tests.system.history import History, Tally, Trouble
from tests.system.rig import Rig

from heliograph.core.messages import MessageClass
from heliograph.local.errors import NotReadyError
from heliograph.local.services import ServiceProcess

PUBLISHED = "heliograph_edge_published_total"
DROPPED = "heliograph_edge_telemetry_dropped_total"
SHED = "heliograph_edge_telemetry_shed_total"
OF_TELEMETRY = f'class="{MessageClass.TELEMETRY.value}"'
UNANSWERED = 'reason="live_unavailable"'


@dataclass(frozen=True, slots=True)
class _Counts:
    published: int = 0
    dropped: int = 0
    shed: int = 0
    unanswered: int = 0


class Tallies:
    """Asks edges what they counted: at the start, before one is killed, at the end."""

    def __init__(self, rig: Rig, history: History) -> None:
        self._rig = rig
        self._history = history
        self._lives: dict[int, Tally] = {}
        self._first: dict[int, _Counts] = {}
        """What a life had counted before the run."""

    async def begin(self) -> None:
        """Note where the edges stand; nobody publishes telemetry yet. One that starts later begins at zero."""
        for edge in self._rig.stack.edges:
            self._first[edge.pid] = await self._counts(edge)
        await self.read()

    async def read(self) -> None:
        """Ask every edge that runs."""
        for edge in self._rig.stack.edges:
            if edge.running:
                await self.read_one(edge)

    async def read_one(self, edge: ServiceProcess) -> None:
        """Ask one. What it counts later and takes with it, if it dies, counts as in flight."""
        at_s = self._history.now()
        counts = await self._counts(edge)
        first = self._first.setdefault(edge.pid, _Counts())
        tally = self._lives.get(edge.pid) or self._begin(edge)
        tally.published = counts.published - first.published
        tally.dropped = counts.dropped - first.dropped
        tally.shed = counts.shed - first.shed
        tally.unanswered = counts.unanswered - first.unanswered
        tally.read_s = at_s

    async def ends(self, edge: ServiceProcess, deed: Awaitable[None]) -> None:
        """Ask it once more, where it answers, and do what ends it."""
        if edge.running and await asyncio.to_thread(edge.ready):
            await self.read_one(edge)
        await deed
        tally = self._lives.get(edge.pid) or self._begin(edge)
        tally.died_s = self._history.now()

    def _begin(self, edge: ServiceProcess) -> Tally:
        """Of a life that was never asked: it may have counted since the one before it ended."""
        tally = Tally(edge.name, self._rig.edges[self._rig.stack.edges.index(edge)])
        tally.read_s = max((one.died_s or 0.0 for one in self._history.tallies if one.edge == edge.name), default=0.0)
        self._lives[edge.pid] = tally
        self._history.tallies.append(tally)
        return tally

    def trouble(self, from_s: float) -> None:
        """The live path lost what was on its way, from then to now."""
        self._history.troubles.append(Trouble(from_s, self._history.now()))

    async def _counts(self, edge: ServiceProcess) -> _Counts:
        def ask() -> _Counts:
            try:
                text = edge.metrics()
            except NotReadyError:
                text = edge.metrics()  # a busy machine: once more
            return _Counts(
                _sum(text, PUBLISHED, OF_TELEMETRY),
                _sum(text, DROPPED),
                _sum(text, SHED),
                _sum(text, DROPPED, UNANSWERED),
            )

        return await asyncio.to_thread(ask)


def _sum(text: str, name: str, label: str = "") -> int:
    lines = [line for line in text.splitlines() if line.split("{")[0].split(" ")[0] == name and label in line]
    return int(sum(float(line.rpartition(" ")[2]) for line in lines))
