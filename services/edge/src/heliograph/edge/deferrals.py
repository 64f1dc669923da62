"""Publishers without a counter whose control messages were deferred: until those are in their place, more follow.

Where a publisher counts, the live store judges whose turn it is. Where it doesn't (HTTP, simple clients), a message
that is appended again could overtake one that is still on its way through the log; so what such a publisher sends to
the session goes the same way until the last deferred one is known to be in its place. On one edge: another one that
the publisher turns to knows nothing of it.

Costs a publish one look whether there is anything here, and that only for control.
"""

from collections import OrderedDict
from itertools import groupby, islice

from heliograph.edge.metrics import EdgeMetrics
from heliograph.stores.ports import LiveStore, StoreError

HELD_MOST = 100_000
"""Publishers and sessions remembered at once, some 300 bytes each; the one unused longest is forgotten."""

PATIENCE_S = 60.0
"""A deferred message that is not in its place after this, with the live path there, is not waited for: it was set
aside, or no router runs."""

LOOK_MOST = 1_000
"""Asked about in one round."""

Key = tuple[str, str]
"""Session and producer."""


class _Held:
    """One publisher of one session."""

    __slots__ = ("last", "open", "since_s")

    def __init__(self) -> None:
        self.open = 0
        """Deferred messages that the log has not acknowledged."""
        self.last: str | None = None
        """Id of the last that it has."""
        self.since_s = 0.0


class Deferrals:
    """All of an edge."""

    def __init__(self, live: LiveStore, metrics: EdgeMetrics) -> None:
        self._live = live
        self._metrics = metrics
        self.held: OrderedDict[Key, _Held] = OrderedDict()
        metrics.metrics.sampled_gauge(
            "deferring_publishers",
            "Publishers without a counter whose deferred messages are not known to be in their place.",
            lambda: float(len(self.held)),
        )

    def began(self, key: Key) -> None:
        """A message is being put on the log."""
        held = self.held.get(key)
        if held is None:
            held = self.held[key] = _Held()
            if len(self.held) > HELD_MOST:
                self.held.popitem(last=False)
                self._metrics.deferred_unplaced.n += 1
        held.open += 1

    def ended(self, key: Key, message_id: str | None, now: float) -> None:
        """The log has it, under `message_id`, or (None) could not take it."""
        held = self.held.get(key)
        if held is None:
            return
        held.open = max(0, held.open - 1)
        if message_id is not None:
            held.last, held.since_s = message_id, now
            self.held.move_to_end(key)
        elif held.last is None and not held.open:
            del self.held[key]

    async def look(self, now: float) -> None:
        """One round of questions whether they are in their place."""
        if not self._live.available:
            return
        asked = [(key, held, held.last) for key, held in islice(self.held.items(), LOOK_MOST) if not held.open]
        asked.sort(key=lambda one: one[0])
        for session, group in groupby(asked, key=lambda one: one[0][0]):
            ones = list(group)
            try:
                placed = await self._live.placed(session, [last or "" for _, _, last in ones])
            except StoreError:
                continue
            for (key, held, last), there in zip(ones, placed, strict=True):
                if held.open or held.last != last or self.held.get(key) is not held:
                    continue  # more came meanwhile
                if there:
                    del self.held[key]
                elif now - held.since_s > PATIENCE_S:
                    del self.held[key]
                    self._metrics.deferred_unplaced.n += 1
