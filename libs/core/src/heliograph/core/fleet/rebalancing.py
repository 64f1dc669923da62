"""Spreading clients over edges that joined later.

A balancer sends new connections anywhere and leaves those that are there where they are, so a new edge fills slowly
while the others stay full. With this the fullest ask some of theirs to come back, a share of their surplus a minute.

What this must never do: move clients for ever where the balancer doesn't spread them (it ends some time after the last
edge joined), or for a difference that chance explains.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

REBALANCE_FOR_S = 1_800.0
"""After the last edge became ready. At a tenth a minute, 4 % of a surplus are left by then."""

SETTLE_S = 10.0
"""After an edge became ready: until balancers know it."""

MINUTE_S = 60.0

NOISE = 2.0
"""Standard deviations of a random spread (the square root of the mean) that are no surplus."""


@dataclass(frozen=True, slots=True)
class Edge:
    """A ready edge."""

    name: str
    incarnation: str
    connections: int
    ready_s: float
    """Since it became so."""


@dataclass(frozen=True, slots=True)
class Shedding:
    """Ask so many of an edge's clients to come back elsewhere, over a minute."""

    edge: Edge
    connections: int


def sheddings(edges: Sequence[Edge], share_per_minute: float, tolerance: float) -> list[Shedding]:
    """Of each edge that has more than its share. `edges`: all that are ready, none of which drains or sheds yet."""
    if len(edges) < 2 or share_per_minute <= 0:
        return []
    youngest_s = min(edge.ready_s for edge in edges)
    if not SETTLE_S <= youngest_s <= REBALANCE_FOR_S:
        return []
    mean = sum(edge.connections for edge in edges) / len(edges)
    bound = mean + max(mean * tolerance, NOISE * math.sqrt(mean))
    return [
        Shedding(edge, math.ceil((edge.connections - mean) * min(share_per_minute, 1.0)))
        for edge in edges
        if edge.connections > bound
    ]
