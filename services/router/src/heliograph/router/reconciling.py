"""Writes to the log what the live path accepted and the log never got: an edge died, its produce failed.

A position may only be written again when it is certain that it is not in the log *and* no produce of it is under way:

1. it has been unconfirmed for longer than an edge tries to write it (delivery timeout and a margin for clocks),
2. then the end of its partition is noted: a record of it, if there is one, is before that end,
3. once the group has committed past that end every record before it has been confirmed,
4. what is unconfirmed still, is not there.

It is then written from the stored frame, equal byte for byte. What can't be (the window lost it, or it is corrupt) gets
a gap record in its place, which confirms it. A position written twice all the same is harmless: readers drop equals.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from heliograph.core.buckets import Rate, TokenBucket
from heliograph.core.errors import HeliographError
from heliograph.core.positions import Position
from heliograph.core.sessions import SessionKey
from heliograph.protocol.codes import GapReason
from heliograph.protocol.gaps import gap_message
from heliograph.protocol.messages import Message, message_from_frame, record_headers, record_value
from heliograph.router.metrics import RouterMetrics
from heliograph.router.sharing import ShardShares
from heliograph.service.logs import RateLimitedLog, get_logger
from heliograph.service.tenants import TenantDirectory
from heliograph.stores.keys import Topics
from heliograph.stores.ports import CorruptError, LiveStore, LogConsumer, LogWriter, StoreError, Unconfirmed

SESSIONS_PER_SHARD = 64
"""Looked at together; the oldest first. Those that can't be helped now come on top, so that they block nobody."""

MESSAGES_PER_SESSION = 256
"""Written at a time; the rest has its turn a second later."""

Place = tuple[str, int]


@dataclass(frozen=True, slots=True)
class _Met:
    """A session with messages that the log should have by now."""

    session: str
    shard: int
    place: Place
    at_ms: int


@dataclass(frozen=True, slots=True)
class _Watch:
    """A session that was met, and the end of its partition after that."""

    session: str
    shard: int
    place: Place
    seen_ms: int
    """When it was met: nothing younger than this less the delivery timeout is written."""
    end: int


@dataclass(frozen=True, slots=True)
class _Left:
    """A session of which a look found something too young to be written."""

    since_ms: int
    """How old the first of it is."""
    upto: Position
    seen_ms: int
    """All up to there was there by then, whatever it says of itself: the clock of its edge may be ahead."""


@dataclass(frozen=True, slots=True)
class ReconcileLimits:
    """When, and how fast."""

    delivery_timeout_s: float
    margin_s: float
    messages_per_s: float

    @property
    def age_ms(self) -> int:
        """Younger messages may still be on their way."""
        return int((self.delivery_timeout_s + self.margin_s) * 1000)


class Reconciler:
    """Looks at the virtual shards that this router has."""

    def __init__(
        self,
        live: LiveStore,
        consumer: LogConsumer,
        writer: LogWriter,
        directory: TenantDirectory,
        names: Topics,
        shares: ShardShares,
        metrics: RouterMetrics,
        limits: ReconcileLimits,
        *,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._live = live
        self._consumer = consumer
        self._writer = writer
        self._directory = directory
        self._names = names
        self._shares = shares
        self._metrics = metrics
        self._limits = limits
        self._now_ms = now_ms
        self._clock = clock
        self._sleep = sleep
        self._bucket = TokenBucket(Rate(limits.messages_per_s, max(1.0, limits.messages_per_s / 4)))
        self._watches: dict[str, _Watch] = {}
        self._blocked: dict[int, dict[str, str]] = {}
        """By shard: sessions that can't be written now, and why."""
        self._left: dict[int, dict[str, _Left]] = {}
        """By shard: sessions of which something was left. The store only knows that it is younger than the last
        confirmation, and would have it wait for as long as that one did."""
        self._log = RateLimitedLog(get_logger(__name__))

    def forget(self, topic: str) -> None:
        """The topic was made again: ends that were noted are of the one before, and would never be passed."""
        self._watches = {name: watch for name, watch in self._watches.items() if watch.place[0] != topic}

    async def round(self) -> None:
        """One look: meet sessions, note ends, write what is due."""
        held = self._shares.held()
        for watch in [watch for watch in self._watches.values() if not self._shares.has(watch.shard)]:
            del self._watches[watch.session]
        self._blocked = {shard: blocked for shard, blocked in self._blocked.items() if self._shares.has(shard)}
        self._left = {shard: left for shard, left in self._left.items() if left and self._shares.has(shard)}
        met: list[_Met] = []
        await asyncio.gather(*(self._step("dirty", partial(self._meet, shard, met)) for shard in held))
        await self._step("ends", partial(self._note_ends, met))
        await self._step("write", self._write_passed)
        self._metrics.blocked_are(Counter(reason for blocked in self._blocked.values() for reason in blocked.values()))

    async def _step(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """A step that fails because a store is away is repeated in the next round.

        `work` is begun here, so that a round that ends before all its steps began leaves none that nobody awaits.
        """
        try:
            await work()
        except StoreError as error:
            self._metrics.reconcile_failures.labels(name).n += 1
            self._log.warning("reconcile_failed", key=name, step=name, error=str(error))

    # ---- 1 and 2: sessions, and the ends of their partitions --------------------------------------------------------

    async def _meet(self, shard: int, met: list[_Met]) -> None:
        """Sessions of a shard that the log should have the whole of by now."""
        now_ms = self._now_ms()
        limit = SESSIONS_PER_SHARD + len(self._blocked.get(shard, {}))
        dirty = await self._live.dirty(shard, now_ms - self._limits.age_ms, limit)
        blocked = self._blocked[shard] = {}
        left = self._left.get(shard, {})
        due_again = [name for name, what in left.items() if what.since_ms < now_ms - self._limits.age_ms]
        for session in dict.fromkeys((*due_again, *(session for session, _since_ms in dirty))):
            if session in self._watches:
                continue
            topic, reason = self._topic_of(session)
            partition = None
            if topic is not None:
                try:
                    partition = await self._live.partition_of(session)
                except CorruptError:
                    reason = "corrupt"
            if topic is not None and partition is not None:
                met.append(_Met(session, shard, (topic, partition), now_ms))
                continue
            left.pop(session, None)
            if reason:
                blocked[session] = reason

    def _topic_of(self, session: str) -> tuple[str | None, str]:
        """The session's log topic, or None and why there is none."""
        try:
            key = SessionKey.parse(session)
        except HeliographError:
            return None, "session_invalid"
        entry = self._directory.find(key.tenant)
        if entry is None:
            return None, "tenant_unknown"
        return self._names.log_of(key, entry.record), ""

    async def _note_ends(self, met: Sequence[_Met]) -> None:
        if not met:
            return
        ends = await self._consumer.end_offsets({one.place for one in met})
        for one in met:
            if one.place in ends:
                self._watches[one.session] = _Watch(one.session, one.shard, one.place, one.at_ms, ends[one.place])
            else:
                self._blocked[one.shard][one.session] = "partition_missing"

    # ---- 3 and 4: what the group has passed, and what is not there --------------------------------------------------

    async def _write_passed(self) -> None:
        answers: list[asyncio.Future[StoreError | None]] = []
        for watch in await self._passed():
            del self._watches[watch.session]
            await self._step("write", partial(self._write, watch, answers))
        failed = [error for error in await asyncio.gather(*answers) if error is not None]
        if failed:
            self._metrics.reconcile_failures.labels("write").n += len(failed)
            self._log.warning("reconcile_not_written", messages=len(failed), error=str(failed[-1]))

    async def _passed(self) -> list[_Watch]:
        """Watches whose end the group has committed past; a question per different end of a partition."""
        open_: dict[Place, list[_Watch]] = {}
        for watch in sorted(self._watches.values(), key=lambda watch: watch.end):
            open_.setdefault(watch.place, []).append(watch)
        passed: list[_Watch] = []
        while open_:
            past = await self._consumer.committed_past({place: watches[0].end for place, watches in open_.items()})
            left: dict[Place, list[_Watch]] = {}
            for place, watches in open_.items():
                if past.get(place):
                    end = watches[0].end
                    passed += [watch for watch in watches if watch.end <= end]
                    rest = [watch for watch in watches if watch.end > end]
                    if rest:
                        left[place] = rest
            open_ = left
        return passed

    async def _write(self, watch: _Watch, answers: list[asyncio.Future[StoreError | None]]) -> None:
        """Write what is due of a session, in order. What fails is still unconfirmed, and met again."""
        try:
            unconfirmed = await self._live.unconfirmed(watch.session, MESSAGES_PER_SESSION)
        except CorruptError:
            self._blocked.setdefault(watch.shard, {})[watch.session] = "corrupt"
            return
        due, left = self._due(watch, unconfirmed)
        if left is None and len(unconfirmed) == MESSAGES_PER_SESSION:
            last = unconfirmed[-1].position
            left = _Left(0, last, watch.seen_ms)  # what is behind has its turn in the next round
        if left is None:
            self._left.get(watch.shard, {}).pop(watch.session, None)
        else:
            self._left.setdefault(watch.shard, {})[watch.session] = left
        for one, message in due:
            while (wait_ms := self._bucket.take(self._clock())) > 0:
                await self._sleep(wait_ms / 1000)
            if not self._shares.has(watch.shard):
                return
            answers.append(self._produce(watch, one, message))

    def _due(
        self, watch: _Watch, unconfirmed: Sequence[Unconfirmed]
    ) -> tuple[list[tuple[Unconfirmed, Message | None]], _Left | None]:
        """Messages to write, None for one that can't be: all before the first that was too young at the noted end; and
        what to know of that one and those behind it when they are met again.

        What the session was met for may be confirmed by now, and all that is left be too young. What stands behind one
        that is too young is younger still, whatever its own time says: a deferred message has its place long after its
        time. Those without a time of their own go with one behind them; where they come first they are as old as
        anything here. And none is younger than the look that found it, whatever the clock of its edge said.
        """
        oldest_ms, now_ms = watch.seen_ms - self._limits.age_ms, self._now_ms()
        before = self._left.get(watch.shard, {}).get(watch.session)
        found = [(one, _message(watch.session, one)) for one in unconfirmed]
        count = 1 if found and found[0][1] is None else 0
        for number, (one, message) in enumerate(found):
            if message is None:
                continue
            upto, seen_ms = unconfirmed[-1].position, now_ms
            if before is not None and one.position <= before.upto:
                upto, seen_ms = before.upto, min(before.seen_ms, now_ms)
            since_ms = min(message.time_ms, seen_ms)
            if since_ms > oldest_ms:
                return found[:count], _Left(since_ms, upto, seen_ms)
            count = number + 1
        return found[:count], None

    def _produce(self, watch: _Watch, one: Unconfirmed, message: Message | None) -> asyncio.Future[StoreError | None]:
        answered: asyncio.Future[StoreError | None] = asyncio.get_running_loop().create_future()
        counter = self._metrics.reconciled
        if message is None:
            counter = self._metrics.never_written
            if one.frame is not None:
                self._metrics.reconcile_corrupt.n += 1
                self._log.warning("window_entry_corrupt", key=watch.session, session=watch.session)
            message = gap_message(watch.session, one.position, GapReason.NEVER_WRITTEN, self._now_ms())

        def done(error: StoreError | None) -> None:
            if error is None:
                counter.n += 1
            if not answered.done():
                answered.set_result(error)

        topic, partition = watch.place
        key = watch.session.encode()
        self._writer.write(topic, partition, key, record_value(message), record_headers(message), done)
        return answered


def _message(session: str, one: Unconfirmed) -> Message | None:
    """The message of a window entry; None where the window lost it, or it is not what this code writes."""
    if one.frame is None:
        return None
    try:
        message = message_from_frame(one.frame, one.extras)
        record_value(message)
    except (HeliographError, ValueError):
        return None
    return message if (message.session, message.position) == (session, str(one.position)) else None
