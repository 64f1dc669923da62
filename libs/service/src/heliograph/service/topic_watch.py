"""Which topic of its name each is: a topic that was deleted and made again is another one, and nothing of it is left.

Kafka gives a topic an id that a new one does not share (KIP-516). Producers and consumers go on as if nothing had been,
so somebody has to look. What to do about it is for those who listen; here it is noticed, logged, counted and shown in
readiness, where it stays for a while: whoever did it may not know what hangs on it.
"""

import time
from collections.abc import Callable, Collection, Iterable

from heliograph.service.health import Condition
from heliograph.service.logs import get_logger
from heliograph.service.metrics import Metrics
from heliograph.stores.ports import LogAdmin

AGAIN_AT_ONCE = 50
"""Known topics looked at again at a time: with thousands, all at once would hold up the event loop."""

SHOWN_S = 3_600.0
"""How long readiness tells of a topic that was made again."""

NAMES_SHOWN = 5
"""Of topics in readiness and logs; the metrics have their number."""

Listener = Callable[[str], None]
"""Told the name of a topic that was made again, on the event loop. Must not block."""


class TopicWatch:
    """The ids of topics, as far as they were looked at."""

    def __init__(
        self,
        condition: Condition,
        metrics: Metrics,
        admin: LogAdmin | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`admin`: who `look` asks; who is told by `met` what others were answered needs none."""
        self._condition = condition
        self._admin = admin
        self._clock = clock
        self._ids: dict[str, str] = {}
        self._former: dict[str, str] = {}
        """Ids of topics that are gone: one made again later is recognised."""
        self._turn: list[str] = []
        """Known topics that are still to be looked at in this round."""
        self._recreated: dict[str, float] = {}
        self._listeners: list[Listener] = []
        self.missing: frozenset[str] = frozenset()
        """Topics that should be there and are not."""
        self._log = get_logger(__name__)
        self._count = metrics.ticks("topics_recreated_total", "Topics that were deleted and made again meanwhile.")
        self._gone = metrics.ticks("topics_deleted_total", "Topics that were there and are gone.")
        metrics.sampled_gauge("topics_known", "Topics that were looked at and are there.", lambda: len(self._ids))
        metrics.sampled_gauge("topics_missing", "Topics that a tenant should have.", lambda: len(self.missing))

    def listen(self, listener: Listener) -> None:
        """Have `listener` told every topic that is made again from now on."""
        self._listeners.append(listener)

    def topic_id(self, topic: str) -> str | None:
        return self._ids.get(topic)

    async def look(self, topics: Collection[str]) -> None:
        """Ask the cluster which topics these are: all that are not known, some of the others. Raises StoreError."""
        assert self._admin is not None, "made without an admin: it is told by `met`"
        self._turn = [topic for topic in self._turn if topic in self._ids] or sorted(self._ids)
        again, self._turn = self._turn[:AGAIN_AT_ONCE], self._turn[AGAIN_AT_ONCE:]
        unknown = [topic for topic in topics if topic not in self._ids]
        found = await self._admin.describe([*unknown, *(topic for topic in again if topic in topics)])
        for topic, info in found.items():
            self._met(topic, info.topic_id)
        for topic in again:
            if topic not in topics:
                self._ids.pop(topic, None)
            elif topic not in found:
                self._lost(topic)
        missing = frozenset(topic for topic in topics if topic not in self._ids)
        if missing - self.missing:
            self._log.warning("topics_missing", topics=sorted(missing)[:20], count=len(missing))
        self.missing = missing
        self._tell()

    def met(self, topic: str, topic_id: str | None) -> None:
        """What somebody was answered who asked for this topic; None: it is not there."""
        if topic_id is None:
            self._lost(topic)
        else:
            self._met(topic, topic_id)
        self._tell()

    def _met(self, topic: str, topic_id: str) -> None:
        before = self._ids.get(topic) or self._former.pop(topic, None)
        self._ids[topic] = topic_id
        if before in (None, topic_id):
            return
        self._count.n += 1
        self._recreated[topic] = self._clock()
        self._log.warning("topic_recreated", topic=topic, topic_id=topic_id, before=before)
        for listener in self._listeners:
            listener(topic)

    def _lost(self, topic: str) -> None:
        topic_id = self._ids.pop(topic, None)
        if topic_id is not None:
            self._former[topic] = topic_id
            self._gone.n += 1
            self._log.warning("topic_deleted", topic=topic, topic_id=topic_id)

    def _tell(self) -> None:
        now = self._clock()
        self._recreated = {topic: at for topic, at in self._recreated.items() if now - at < SHOWN_S}
        problems = []
        if self._recreated:
            problems.append(f"deleted and made again within the last hour: {_some(self._recreated)}")
        if self.missing:
            problems.append(f"missing: {_some(self.missing)}")
        if problems:
            self._condition.degraded("; ".join(problems))
        else:
            self._condition.ok()


def _some(topics: Iterable[str]) -> str:
    names = sorted(topics)
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more
