"""Moving clients to other edges, at a pace: all of them (a drain), or some (they are more than this edge's share).

Each is told to come back, and goes by itself; at the end of a drain who stayed is closed. A drain can begin while
another one is under way (an edge that drains by order is stopped): nobody is told twice.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable

from heliograph.core.pacing import DrainPace, jittered_after_ms
from heliograph.edge.connection import Connection
from heliograph.edge.connections import Connections
from heliograph.edge.metrics import EdgeMetrics
from heliograph.protocol.codes import CloseCode, RevokeReason
from heliograph.protocol.frames import Reconnect

TICK_S = 0.1
SPREAD_S = 1.0
"""Each client that is told to move waits a random part of this first; less where there is less time."""

DRAINING = "draining"
REBALANCING = "rebalancing"


class Moving:
    """The clients of one edge, when they have to go."""

    def __init__(
        self, connections: Connections, metrics: EdgeMetrics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._connections = connections
        self._metrics = metrics
        self._clock = clock
        self._told: set[str] = set()
        """Since the drain began."""

    async def drain(self, over_s: float) -> None:
        """Take nobody new, tell everybody to move, close who stays; nobody is left after `over_s`."""
        connections = self._connections
        connections.begin_drain()
        spread_s, tick_s = min(SPREAD_S, over_s / 3), min(TICK_S, over_s / 16)
        pace = DrainPace(self._clock(), over_s - spread_s)
        untold = deque(connection for connection in connections if connection.id not in self._told)
        while untold:
            now = self._clock()
            for _ in range(pace.due(now, len(untold))):
                connection = untold.popleft()
                self._told.add(connection.id)
                self._tell(connection, spread_s, DRAINING)
            while untold and untold[0].id not in connections:
                untold.popleft()
            if untold:
                await asyncio.sleep(tick_s)
        deadline = self._clock() + spread_s
        while len(connections) and self._clock() < deadline:  # noqa: ASYNC110 - a pace, not a wait for an event
            await asyncio.sleep(tick_s)
        for connection in connections:
            connection.close(CloseCode.DRAINING)

    def resume(self) -> None:
        """Clients may come again. Those that were told to move do."""
        self._told.clear()
        self._connections.end_drain()

    async def shed(self, count: int, over_s: float, told: Callable[[int], None]) -> None:
        """Ask so many to come back elsewhere, those without work first; `told` is told how many are left to ask."""
        chosen = deque(self._choose(count))
        pace = DrainPace(self._clock(), over_s)
        while chosen:
            for _ in range(pace.due(self._clock(), len(chosen))):
                connection = chosen.popleft()
                if connection.id in self._connections:
                    self._tell(connection, SPREAD_S, REBALANCING)
            told(len(chosen))
            if chosen:
                await asyncio.sleep(TICK_S)

    def _choose(self, count: int) -> list[Connection]:
        """Some of those that said hello, drawn anew each time; one that works is disturbed only when nobody else is."""
        some = [connection for connection in self._connections if connection.hello_done]
        random.shuffle(some)
        some.sort(key=lambda connection: (_works(connection), bool(connection.serves)))
        return some[:count]

    def _tell(self, connection: Connection, spread_s: float, reason: str) -> None:
        self._connections.serving.end(connection, RevokeReason.DRAINED)
        connection.send(Reconnect(jittered_after_ms(0, spread_s * 1000, random.random), reason))
        self._metrics.moved.labels(reason).n += 1


def _works(connection: Connection) -> bool:
    """Whether a session is assigned to it."""
    return any(offer.held for offer in connection.serves.values())
