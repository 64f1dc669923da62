"""The port by which edges tell each other how much is used of what is limited over all of them.

Each edge is a *holder*: it tells how many it has of each name (`heliograph.core.usage` makes the names), and reads
what all have together. What a holder told counts for as long as it tells something at least every `ttl_s`; after that
it is taken off, by whichever edge comes next. A name `<set>`, NUL, `<member>` says that a member is in use: the total
of a set is the number of its different members.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct


class Told(Struct, frozen=True):
    """What an edge tells and asks in one round."""

    holder: str
    """The edge, by a name that it gives up for ever once it is told that it is not known."""
    begins: bool
    """Whether it has told nothing by this name before."""
    counts: Mapping[str, int]
    """Of what changed: how many it has now; 0: none any more. Telling the same again changes nothing."""
    asked: Sequence[str]


class Totals(Struct, frozen=True):
    """The answer."""

    holders: int
    """Edges that tell."""
    counts: Sequence[int]
    """In the order asked; `Told.counts` are in it."""


class UsageStore(Protocol):
    """Counts that all edges share, by the store's clock."""

    async def tell(self, told: Told, ttl_s: float) -> Totals | None:
        """None: the holder did not begin, ran out, or the store lost its data. Begin by another name and tell all.

        Raises StoreError(`unavailable`): some of it may have been taken; telling it again is harmless.
        """

    async def leave(self, holder: str) -> None:
        """What it told counts no longer: it ends."""
