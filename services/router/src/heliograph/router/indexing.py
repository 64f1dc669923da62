"""The sparse index: where in the log a session's positions are.

An entry is written for the first record of a session that this router meets, then for one every 512 positions, but in
a session that is quicker than that every 30 s or 4,096 positions. A read begins W positions (1,000) early whatever the
index says, so that nearer ones would shorten none by much; each takes 185 bytes of Redis for as long as the log keeps
what it leads to.

A reader that looks for X starts at an entry at or below X − W, and must find X behind it. That holds for an entry of
position P exactly when no position from P + W on was given yet when P's record had been read: the live store's head
tells. A record written twice fails it when it comes late, and is not indexed.

The index makes reads faster, never right: it is best effort, with a timeout, and a pause after a failure.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from heliograph.core.limits import UNCONFIRMED_MESSAGES
from heliograph.router.batch import Batch, Epoch
from heliograph.router.metrics import RouterMetrics
from heliograph.service.logs import RateLimitedLog, get_logger
from heliograph.stores.ports import Head, IndexEntry, PositionIndex, StoreError

TIMEOUT_S = 2.0
"""For the entries of one batch; confirmations wait behind it."""

PAUSE_S = 5.0
"""After a failure nothing is indexed: a metadata store that hangs must not slow confirmations to a batch a timeout."""


FARTHEST = 8
"""Times the positions: however quick a session, so often it is indexed."""


class TopicFacts(Protocol):
    """What the index needs to know about topics."""

    def topic_id(self, topic: str) -> str | None: ...

    def retention_s(self, topic: str) -> float: ...


class Indexer:
    """Decides what to index, and writes it."""

    def __init__(
        self,
        index: PositionIndex,
        topics: TopicFacts,
        metrics: RouterMetrics,
        *,
        positions: int,
        interval_s: float,
        sessions: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._index = index
        self._topics = topics
        self._metrics = metrics
        self._positions = positions
        self._interval_ms = interval_s * 1000
        self._sessions = sessions
        self._clock = clock
        self._last: dict[str, tuple[str, int, int]] = {}
        """By session: epoch, seq and time (Unix ms) of its last entry."""
        self._paused_until = 0.0
        self._log = RateLimitedLog(get_logger(__name__))

    def forget(self) -> None:
        """A topic was made again: entries of the one before lead nowhere, so every session gets new ones."""
        self._last.clear()

    async def add(self, batch: Batch, heads: Mapping[Epoch, Head]) -> None:
        """Index what should be of a batch whose confirmation gave `heads`."""
        by_ttl: dict[float, list[tuple[str, IndexEntry]]] = {}
        for session, epoch, seq, record in batch.places:
            if not self._due(session, epoch, seq, record.timestamp_ms, heads):
                continue
            topic_id = self._topics.topic_id(record.topic)
            if topic_id is None:
                continue
            self._remember(session, epoch, seq, record.timestamp_ms)
            entry = IndexEntry(f"{epoch}-{seq:016d}", topic_id, record.partition, record.offset)
            by_ttl.setdefault(self._topics.retention_s(record.topic), []).append((session, entry))
        for ttl_s, entries in by_ttl.items():
            await self._write(entries, ttl_s)

    def _due(self, session: str, epoch: str, seq: int, time_ms: int, heads: Mapping[Epoch, Head]) -> bool:
        last_epoch, last_seq, last_ms = self._last.get(session, ("", 0, 0))
        if last_epoch == epoch:
            ahead = seq - last_seq
            soon = time_ms - last_ms < self._interval_ms and ahead < FARTHEST * self._positions
            if ahead < self._positions or soon:
                return False
        head = heads.get((session, epoch))
        return head is not None and head.epoch == epoch and head.seq - seq < UNCONFIRMED_MESSAGES

    def _remember(self, session: str, epoch: str, seq: int, time_ms: int) -> None:
        self._last.pop(session, None)
        self._last[session] = (epoch, seq, time_ms)
        if len(self._last) > self._sessions:
            del self._last[next(iter(self._last))]  # the one indexed longest ago: an entry too many is the price

    async def _write(self, entries: list[tuple[str, IndexEntry]], ttl_s: float) -> None:
        if self._clock() < self._paused_until:
            self._metrics.index_skipped.n += len(entries)
            return
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self._index.add(entries, ttl_s)
        except (StoreError, OSError, TimeoutError) as error:
            self._paused_until = self._clock() + PAUSE_S
            self._metrics.index_failures.n += 1
            self._log.warning("index_failed", entries=len(entries), error=f"{type(error).__name__}: {error}")
        else:
            self._metrics.indexed.n += len(entries)
