"""What each life of an edge counts of telemetry, read from its metrics and put into a history."""

import asyncio
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


@dataclass(frozen=True, slots=True)
class _Counts:
    published: int = 0
    dropped: int = 0
    shed: int = 0


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
        tally = self._lives.get(edge.pid)
        if tally is None:
            tally = self._lives[edge.pid] = Tally(edge.name, self._rig.edges[self._rig.stack.edges.index(edge)])
            self._history.tallies.append(tally)
        tally.published = counts.published - first.published
        tally.dropped = counts.dropped - first.dropped
        tally.shed = counts.shed - first.shed
        tally.read_s = at_s

    def died(self, edge: ServiceProcess) -> None:
        """It is dead; without a last question, all that it counted is."""
        tally = self._lives.get(edge.pid)
        if tally is None:
            tally = Tally(edge.name, self._rig.edges[self._rig.stack.edges.index(edge)])
            self._history.tallies.append(tally)
        tally.died_s = self._history.now()

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
            )

        return await asyncio.to_thread(ask)


def _sum(text: str, name: str, label: str = "") -> int:
    lines = [line for line in text.splitlines() if line.split("{")[0].split(" ")[0] == name and label in line]
    return int(sum(float(line.rpartition(" ")[2]) for line in lines))
