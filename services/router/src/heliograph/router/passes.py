"""What the router does by the clock, beside its main loop: topics, leases, reconciling, expiry, lag."""

import asyncio
import time

from heliograph.router.metrics import RouterMetrics
from heliograph.router.reconciling import Reconciler
from heliograph.router.settings import RouterSettings
from heliograph.router.sharing import ShardShares
from heliograph.router.topics import TopicTable
from heliograph.service.background import BackgroundTasks
from heliograph.service.health import Condition, Liveness
from heliograph.service.logs import RateLimitedLog, get_logger
from heliograph.service.tenants import TenantDirectory, TenantEntry
from heliograph.stores.ports import LiveStore, LogConsumer, StoreError

EXPIRE_AT_ONCE = 200
"""Sessions of one call: a fraction of a millisecond of Redis."""

WATCH_S = 0.5
"""Between looks at whether the live store is there."""

LOOKS_WHILE_STUCK = 4
"""At a read that doesn't end, in the time after which it is given up; two that find it so end the router. After one it
may be the whole process that stood still."""


class Passes:
    """The passes, each a task of its own."""

    def __init__(
        self,
        directory: TenantDirectory,
        topics: TopicTable,
        consumer: LogConsumer,
        live: LiveStore,
        shares: ShardShares,
        reconciler: Reconciler,
        metrics: RouterMetrics,
        live_condition: Condition,
        liveness: Liveness,
        settings: RouterSettings,
    ) -> None:
        self._directory = directory
        self._topics = topics
        self._consumer = consumer
        self._live = live
        self._shares = shares
        self._reconciler = reconciler
        self._metrics = metrics
        self._live_condition = live_condition
        self._liveness = liveness
        self._settings = settings
        self._changed = asyncio.Event()
        self._log = RateLimitedLog(get_logger(__name__))

    def start(self, tasks: BackgroundTasks) -> None:
        self._directory.listen(self._tenant_changed)
        tasks.spawn("topics", self.follow_topics)
        tasks.spawn("leases", self.keep_leases)
        tasks.spawn("reconcile", self.reconcile)
        tasks.spawn("expire", self.expire)
        tasks.spawn("lag", self.measure_lag)
        tasks.spawn("live", self.watch_live)
        tasks.spawn("reading", self.watch_reading)

    def _tenant_changed(self, _tenant: str, _entry: TenantEntry | None) -> None:
        self._changed.set()

    async def follow_topics(self) -> None:
        """Read the topics of all tenants, new ones at once."""
        read: list[str] | None = None
        while True:
            self._changed.clear()
            topics = self._topics.refresh()
            try:
                if topics != read:
                    await self._consumer.set_topics(topics)
                    read = topics
                await self._topics.identify()
            except StoreError as error:
                self._log.warning("topics_not_followed", error=str(error))
            # A topic that is to be made will be made soon.
            wait_s = 1.0 if self._topics.missing else self._settings.topics_check_s
            try:
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def keep_leases(self) -> None:
        while True:
            await self._shares.round()
            await asyncio.sleep(self._shares.interval_s)

    async def reconcile(self) -> None:
        while True:
            begin = time.monotonic()
            await self._reconciler.round()
            await asyncio.sleep(max(0.0, self._settings.reconcile_interval_s - (time.monotonic() - begin)))

    async def expire(self) -> None:
        """Forget idle sessions, spread over the interval."""
        while True:
            held = self._shares.held()
            for shard in held:
                await self._expire_shard(shard)
                await asyncio.sleep(self._settings.expire_interval_s / len(held))
            if not held:
                await asyncio.sleep(1.0)

    async def _expire_shard(self, shard: int) -> None:
        try:
            while self._shares.has(shard):
                gone = await self._live.expire(shard, self._settings.session_ttl_s, EXPIRE_AT_ONCE)
                self._metrics.expired.n += gone
                if gone < EXPIRE_AT_ONCE:
                    return
        except StoreError as error:
            self._metrics.expire_failures.n += 1
            self._log.warning("expire_failed", error=str(error))

    async def measure_lag(self) -> None:
        while True:
            try:
                self._metrics.lag_is(await self._consumer.lag())
            except StoreError as error:
                self._log.warning("lag_unknown", error=str(error))
            await asyncio.sleep(self._settings.lag_interval_s)

    async def watch_live(self) -> None:
        while True:
            if self._live.available:
                self._live_condition.ok()
            else:
                self._live_condition.waiting("the connection to the live store is down")
            await asyncio.sleep(WATCH_S)

    async def watch_reading(self) -> None:
        """Kafka's client library waits by the wall clock: one that is set back has it wait for as long again."""
        stuck_s, found = self._settings.read_stuck_s, False
        while True:
            await asyncio.sleep(stuck_s / LOOKS_WHILE_STUCK)
            held_up_s = self._consumer.held_up_s()
            if found and held_up_s > stuck_s:
                self._liveness.fail(f"reading the log is held up: a call of Kafka's client lasts {held_up_s:.0f} s")
            found = held_up_s > stuck_s
