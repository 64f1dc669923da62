"""Where in the log a read begins and ends.

A session is in one partition, the one recorded at its first append. When it was idle so long that the live store forgot
it, and the topic has grown since, it may go on in another: then there are several places, each with epochs of its own.

After position P the read must meet every position past P. Nothing of P's epoch is in the log before the epoch's own
time, and an index entry at or below P+1−W was there before P+1 was given: either is a start. From the beginning, only
the log's beginning is certain: the index is kept as well as can be, no better.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import TypeVar

from heliograph.core.errors import HeliographError, InvalidValueError
from heliograph.core.limits import UNCONFIRMED_MESSAGES
from heliograph.core.partitions import partition_of
from heliograph.core.positions import Position
from heliograph.core.sessions import SessionKey
from heliograph.protocol.tenants import Tenant, TopicSettings
from heliograph.replay.metrics import ReplayMetrics
from heliograph.service.topic_watch import TopicWatch
from heliograph.stores.keys import Topics
from heliograph.stores.ports import Head, IndexEntry, LiveStore, LogReader, PositionIndex, TopicInfo

T = TypeVar("T")

CLOCK_SKEW_MS = 60_000
"""Between the live store's clock, which names epochs, and the brokers': NTP keeps both well within it."""

HINT_TIMEOUT_S = 2.0
"""For what the live store and the index know: a read goes on without it."""

TOPIC_AGE_S = 2.0
"""A topic that was made again under its name has another id: reads notice within this."""

MAX_PLACES = 20
"""Of one resume token; a session has one, after growth two; more than a topic can have had counts of partitions."""

RESUME_PATTERN = rf"^[0-9a-f]{{16}}(~[0-9]{{1,6}}\.[0-9]{{1,18}}){{1,{MAX_PLACES}}}$"
_RESUME = re.compile(RESUME_PATTERN, re.ASCII)


@dataclass(frozen=True, slots=True)
class Place:
    """A range of one partition."""

    partition: int
    start: int
    end: int
    trimmed: bool
    """Retention has removed records at the start, as far as can be told."""
    expired: bool = False
    """What is before the start has expired, and was not looked at."""


@dataclass(frozen=True, slots=True)
class Located:
    """Where to read a session."""

    topic: str
    topic_id: str
    places: tuple[Place, ...]
    beginning_skipped: bool = False
    """The log is too long to be looked through for what may be before the start."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Where a read broke off, as its reader hands it back: offsets by partition of one topic."""

    topic: str
    """`topic_tag` of the topic's id."""
    offsets: Mapping[int, int]

    def __str__(self) -> str:
        return self.topic + "".join(f"~{partition}.{offset}" for partition, offset in sorted(self.offsets.items()))

    @classmethod
    def parse(cls, text: str) -> "Resume":
        """Raise InvalidValueError(`value_invalid`)."""
        if not _RESUME.fullmatch(text):
            raise InvalidValueError("value_invalid", "resume", text, "what an earlier answer gave as `resume`")
        topic, *places = text.split("~")
        return cls(topic, {int(part): int(at) for part, _, at in (place.partition(".") for place in places)})


def topic_tag(topic_id: str) -> str:
    """A topic's id as part of a URL: ids are base64 with `+` and `/`."""
    return blake2b(topic_id.encode(), digest_size=8).hexdigest()


class Locator:
    """Finds places."""

    def __init__(
        self,
        log: LogReader,
        live: LiveStore,
        index: PositionIndex,
        topics: Topics,
        metrics: ReplayMetrics,
        watch: TopicWatch,
        *,
        beginning_scan_records: int,
        clock: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._log = log
        self._live = live
        self._index = index
        self._topics = topics
        self._metrics = metrics
        self._watch = watch
        self._beginning_scan_records = beginning_scan_records
        self._clock = clock
        self._now_ms = now_ms
        self._known: dict[str, tuple[float, TopicInfo | None]] = {}

    async def head(self, session: str) -> Head | None:
        """The session's present; None where the live store can't be asked."""
        heads = await self._hint("live", lambda: self._live.heads([session]))
        return heads[0] if heads else None

    async def locate(
        self,
        session: SessionKey,
        tenant: Tenant,
        after: Position | None,
        head: Head | None,
        resume: Resume | None,
        gone_until_ms: int = 0,
    ) -> Located | None:
        """None where the session's topic does not exist (yet). Raises StoreError(`log_unavailable`).

        `gone_until_ms`: messages of this time and before have expired; who reads from the beginning begins behind them.
        """
        topic = self._topics.log_of(session, tenant)
        info = await self._topic(topic)
        if info is None:
            return None
        settings = tenant.log_settings(session.agent_type)
        kept_s = settings.retention_s if tenant.shared else None
        if resume is not None and resume.topic == topic_tag(info.topic_id):
            self._metrics.lookups.labels("resume").n += 1
            starts = {number: offset for number, offset in resume.offsets.items() if number < info.partitions}
            places = [await self._place(topic, number, offset) for number, offset in sorted(starts.items())]
            return Located(topic, info.topic_id, tuple([await self._kept(topic, place, kept_s) for place in places]))
        entries = await self._entries(str(session), after)
        known = [entry for entry in entries if entry.topic_id == info.topic_id]
        present = after is not None and head is not None and after.epoch == head.epoch
        numbers = await self._partitions(str(session), info, known, settings, present=present)
        found = [await self._start(topic, number, after, head, known, gone_until_ms) for number in numbers]
        places = [await self._kept(topic, place, kept_s) for place, _ in found]
        if len(known) < len(entries):  # the topic was made again: what was before is gone as by retention
            places = [replace(place, trimmed=True) if place.start == 0 else place for place in places]
        return Located(topic, info.topic_id, tuple(places), any(skipped for _, skipped in found))

    async def locate_time(self, session: SessionKey, tenant: Tenant, time_ms: int) -> Located | None:
        """From the first record that was written at this time or later, clocks' differences allowed for."""
        topic = self._topics.log_of(session, tenant)
        info = await self._topic(topic)
        if info is None:
            return None
        settings = tenant.log_settings(session.agent_type)
        known = [entry for entry in await self._entries(str(session), None) if entry.topic_id == info.topic_id]
        numbers = await self._partitions(str(session), info, known, settings)
        starts = [await self._log.offset_for_time(topic, number, max(0, time_ms - CLOCK_SKEW_MS)) for number in numbers]
        places = [await self._place(topic, number, start) for number, start in zip(numbers, starts, strict=True)]
        kept_s = settings.retention_s if tenant.shared else None
        return Located(topic, info.topic_id, tuple([await self._kept(topic, place, kept_s) for place in places]))

    async def _topic(self, topic: str) -> TopicInfo | None:
        """What the topic is, as of some seconds ago at most: asking takes two round trips to the controller."""
        asked_at, info = self._known.get(topic, (0.0, None))
        if info is None or self._clock() - asked_at > TOPIC_AGE_S:
            info = await self._log.partitions(topic)
            self._watch.met(topic, None if info is None else info.topic_id)
            self._known = {name: known for name, known in self._known.items() if self._clock() - known[0] < TOPIC_AGE_S}
            self._known[topic] = (self._clock(), info)
        return info

    async def _partitions(
        self,
        session: str,
        info: TopicInfo,
        known: list[IndexEntry],
        settings: TopicSettings,
        *,
        present: bool = False,
    ) -> list[int]:
        """The partition by the counts of today and earlier, the one recorded, and those that the index names: one,
        mostly. The tenant's count may be another than the topic's: of shared topics, or between the steps of growing.

        `present`: only the epoch that the session is in now is read, and so only the partition that is recorded.
        """
        recorded = await self._hint("live", lambda: self._live.partition_of(session))
        if present and recorded is not None:
            return [recorded] if 0 <= recorded < info.partitions else []
        counts = {info.partitions, settings.partitions, *settings.earlier_partitions}
        numbers = {partition_of(session.encode(), count) for count in counts}
        numbers.update(entry.partition for entry in known)
        if recorded is not None:
            numbers.add(recorded)
        return sorted(number for number in numbers if 0 <= number < info.partitions)

    async def _entries(self, session: str, after: Position | None) -> list[IndexEntry]:
        """What the index knows: first, last, and at or below X−W; also of a topic of this name that is no more."""

        async def ask() -> list[IndexEntry | None]:
            asked = [self._index.first(session), self._index.last(session)]
            if after is not None:
                asked.append(self._index.at_or_before(session, str(_safe(after))))
            return await asyncio.gather(*asked)

        entries = await self._hint("index", ask) or []
        return [entry for entry in entries if entry is not None]

    async def _start(
        self,
        topic: str,
        partition: int,
        after: Position | None,
        head: Head | None,
        known: list[IndexEntry],
        gone_until_ms: int,
    ) -> tuple[Place, bool]:
        """The place, and whether what may be before its start is left out."""
        mine = [entry for entry in known if entry.partition == partition]
        if after is None and gone_until_ms:
            begun = await self._log.offset_for_time(topic, partition, max(0, gone_until_ms - CLOCK_SKEW_MS))
            self._metrics.lookups.labels("expiry").n += 1
            return replace(await self._place(topic, partition, begun), expired=True), False
        if after is None:
            return await self._beginning(topic, partition, head, mine)
        safe = str(_safe(after))
        below = [entry for entry in mine if entry.position <= safe]
        start = max((entry.offset for entry in below), default=None)
        if start is None or all(entry.position[:22] != after.epoch for entry in below):
            begun = await self._log.offset_for_time(topic, partition, max(0, after.epoch_ms - CLOCK_SKEW_MS))
            start = max(begun, start or 0)
            if after.seq == 0:  # it may have stood before a first message for long, and longer than its epoch tells
                later = [entry for entry in mine if entry.position > str(after)]
                return await self._beginning(topic, partition, head, later, start)
            self._metrics.lookups.labels("time").n += 1
        else:
            self._metrics.lookups.labels("index").n += 1
        return await self._place(topic, partition, start), False

    async def _beginning(
        self, topic: str, partition: int, head: Head | None, mine: list[IndexEntry], start: int = 0
    ) -> tuple[Place, bool]:
        """From `start`, the log's beginning, unless that is too far before the first sign of the session."""
        whole = await self._place(topic, partition, start)
        epochs = [Position.parse(entry.position).epoch_ms for entry in mine]
        if head is not None and head.epoch:
            epochs.append(Position(head.epoch, 0).epoch_ms)
        if whole.end - whole.start > self._beginning_scan_records and epochs:
            seen = await self._log.offset_for_time(topic, partition, max(0, min(epochs) - CLOCK_SKEW_MS))
            if seen - whole.start > self._beginning_scan_records:
                self._metrics.lookups.labels("first_sign").n += 1
                return await self._place(topic, partition, seen), True
        self._metrics.lookups.labels("beginning").n += 1
        return whole, False

    async def _place(self, topic: str, partition: int, start: int) -> Place:
        earliest, end = await self._log.bounds(topic, partition)
        return Place(partition, max(start, earliest), end, trimmed=earliest > 0 and start <= earliest)

    async def _kept(self, topic: str, place: Place, kept_s: int | None) -> Place:
        """The place without what is older than the tenant's retention, where Kafka keeps the topic longer."""
        if kept_s is None:
            return place
        horizon = await self._log.offset_for_time(topic, place.partition, self._now_ms() - kept_s * 1000)
        if horizon < place.start or horizon == 0:
            return place
        return replace(place, start=horizon, trimmed=True)

    async def _hint(self, store: str, ask: Callable[[], Awaitable[T]]) -> T | None:
        """What a store knows; None, counted, where it can't be asked: it would only make the read faster."""
        try:
            async with asyncio.timeout(HINT_TIMEOUT_S):
                return await ask()
        except (HeliographError, OSError, TimeoutError):
            self._metrics.store_failures.labels(store).n += 1
            return None


def _safe(after: Position) -> Position:
    """X−W, where X is the first position that is wanted."""
    return Position(after.epoch, max(0, after.seq + 1 - UNCONFIRMED_MESSAGES))
