"""Voids what is known to be in a topic that is no more: its messages that the hot windows still hold are written again.

A topic that was deleted and made again has none of what was confirmed. What is older than the hot windows is lost with
it; what they hold becomes unconfirmed, so nobody is told any more that the log has it, and reconciling writes it to the
new topic. Records of the new one that were confirmed meanwhile come a second time, which is harmless.

A session's unconfirmed messages bound what may be published to it, and a tenant's: so only half of a session's bound is
voided, the newest, and all of it no faster than half the pace at which reconciling writes.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

from heliograph.core.buckets import Rate, TokenBucket
from heliograph.core.errors import HeliographError
from heliograph.core.limits import RECORD_OVERHEAD_BYTES, UNCONFIRMED_BYTES, UNCONFIRMED_MESSAGES
from heliograph.core.positions import Position
from heliograph.core.sessions import SessionKey
from heliograph.protocol.messages import frame_position, message_from_frame, record_value
from heliograph.router.metrics import RouterMetrics
from heliograph.router.sharing import ShardShares
from heliograph.router.topics import TopicTable
from heliograph.service.logs import get_logger
from heliograph.service.tenants import TenantDirectory
from heliograph.stores.keys import Topics
from heliograph.stores.ports import CorruptError, LiveStore, StoreError

VOID_MESSAGES = UNCONFIRMED_MESSAGES // 2
VOID_BYTES = UNCONFIRMED_BYTES // 2
"""Of one session: the other half is left to who publishes meanwhile."""

ROUND_S = 1.0
"""Between looks for shards that are still to be voided."""

VOID_FOR_S = 1_800.0
"""After this it is given up where leases moved: a session is idle by then, or has a window of the new topic's."""


class Voider:
    """Does it for the virtual shards that this router has."""

    def __init__(
        self,
        live: LiveStore,
        directory: TenantDirectory,
        names: Topics,
        topics: TopicTable,
        shares: ShardShares,
        metrics: RouterMetrics,
        *,
        messages_per_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._live = live
        self._directory = directory
        self._names = names
        self._topics = topics
        self._shares = shares
        self._metrics = metrics
        self._clock = clock
        self._sleep = sleep
        self._bucket = TokenBucket(Rate(messages_per_s, max(messages_per_s / 4, float(VOID_MESSAGES))))
        self._open: dict[str, tuple[float, set[int]]] = {}
        """Topics that were made again: when that was noticed, and the shards that are done."""
        self._log = get_logger(__name__)

    def recreated(self, topic: str) -> None:
        """This topic is another one from now on."""
        self._open[topic] = (self._clock(), set())

    async def run(self) -> None:
        """For as long as the task lives."""
        while True:
            await self.round()
            await asyncio.sleep(ROUND_S)

    async def round(self) -> None:
        """All shards that this router has and that are not done. What fails is repeated with the next round."""
        for topic, (noticed_at, done) in list(self._open.items()):
            if self._clock() - noticed_at > VOID_FOR_S:
                del self._open[topic]
                continue
            for shard in self._shares.held():
                if shard not in done and self._shares.has(shard) and await self._void_shard(topic, shard):
                    done.add(shard)

    async def _void_shard(self, topic: str, shard: int) -> bool:
        """Whether all of its sessions of the topic are looked after."""
        owners = self._topics.of(topic)
        if owners is None:
            return True
        prefix = "" if owners.shared else "".join(f"{tenant}:" for tenant in owners.tenants)
        cursor, voided = 0, 0
        try:
            while True:
                cursor, sessions = await self._live.sessions(shard, prefix, cursor)
                for session in sessions:
                    if self._is_in(session, topic):
                        voided += await self._void(session)
                if cursor == 0:
                    break
        except StoreError as error:
            self._metrics.void_failures.n += 1
            self._log.warning("topic_not_voided", topic=topic, shard=shard, error=str(error))
            return False
        if voided:
            self._log.warning("confirmed_messages_voided", topic=topic, shard=shard, messages=voided)
        return True

    def _is_in(self, session: str, topic: str) -> bool:
        try:
            key = SessionKey.parse(session)
        except HeliographError:
            return False
        entry = self._directory.find(key.tenant)
        return entry is not None and self._names.log_of(key, entry.record) == topic

    async def _void(self, session: str) -> int:
        """How many messages of the session count as unconfirmed again."""
        try:
            (head,) = await self._live.heads([session])
            first = max(head.first_seq, head.confirmed - VOID_MESSAGES + 1)
            if not head.epoch or first > head.confirmed:
                return 0
            sizes = await self._sizes(session, head.epoch, first, head.confirmed)
        except CorruptError as error:
            self._log.warning("session_not_voided", session=session, error=str(error))
            return 0
        total = 0
        while sizes and total + sizes[-1] <= VOID_BYTES:
            total += sizes.pop()
        first += len(sizes)
        if first > head.confirmed:
            return 0
        while (wait_ms := self._bucket.take(self._clock(), head.confirmed - first + 1)) > 0:
            await self._sleep(wait_ms / 1000)
        voided = await self._live.unconfirm(session, head.epoch, first, head.confirmed, total)
        self._metrics.voided.n += voided
        return voided

    async def _sizes(self, session: str, epoch: str, first: int, last: int) -> list[int]:
        """What each of these messages counts, as `confirm` will tell it; empty where the window has moved on."""
        sizes: list[int] = []
        wanted, after = last - first + 1, Position(epoch, first - 1)
        while len(sizes) < wanted:
            page = await self._live.page(session, after)
            if not page.frames:
                return []
            for frame in page.frames[: wanted - len(sizes)]:
                after = Position(epoch, first + len(sizes))
                if frame_position(frame) != str(after).encode():
                    return []
                sizes.append(_size(frame))
        return sizes


def _size(frame: bytes) -> int:
    try:
        return len(record_value(message_from_frame(frame))) + RECORD_OVERHEAD_BYTES
    except (HeliographError, ValueError):  # corrupt: what takes its place in the log is small
        return RECORD_OVERHEAD_BYTES
