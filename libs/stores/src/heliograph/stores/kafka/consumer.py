"""A member of a consumer group: batches, commits after the work, membership that outlives a caller who waits.

One thread owns the client (librdkafka forbids two at once in one consumer); the event loop hands it a job a batch. What
the job has read is never lost: a `poll` that is cancelled leaves its batch for the next one.

While the caller waits for something else (a store that is away), the thread keeps polling with all partitions paused,
so that the group neither throws the member out nor waits for it in a rebalance.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from confluent_kafka import Consumer

from heliograph.stores.events import StoreEvent
from heliograph.stores.kafka.calls import AdminCalls, Partition
from heliograph.stores.kafka.client import logger
from heliograph.stores.kafka.group_offsets import GroupOffsets
from heliograph.stores.kafka.member import CALL_TIMEOUT_S, HEARTBEAT_S, GroupMember, GroupProtocol, MemberStats
from heliograph.stores.ports import LogRecord, StoreError

T = TypeVar("T")

POLL_SLICE_S = 0.1
"""The thread waits at most this long for records, so that a commit never waits longer for the thread."""
KEEP_ALIVE_S = 1.0
"""Without a `poll` for so long the thread polls by itself, with everything paused."""
TOPIC_CHECK_S = 5.0
"""Between looks at the topics' ids: one that was deleted and made again is read from its beginning."""
NUDGE_DELAYS_S = (0.2, 0.3, 0.5, 1.0, 2.0)
"""Between questions for a new topic's partitions."""
SESSION_TIMEOUT_S = 10.0
"""A member that is gone without leaving is noticed after this."""


class KafkaLogConsumer:
    """LogConsumer. `stats` counts what happened."""

    def __init__(
        self,
        properties: Mapping[str, object],
        group: str,
        *,
        protocol: GroupProtocol = "auto",
        session_timeout_s: float = SESSION_TIMEOUT_S,
        keep_alive_s: float = KEEP_ALIVE_S,
        topic_check_s: float = TOPIC_CHECK_S,
        consumer: Callable[[dict[str, Any]], Any] = Consumer,
    ) -> None:
        """`protocol`: `auto` is KIP-848's `consumer`, and `classic` where the brokers haven't got it.

        `session_timeout_s` is the brokers' to grant (`group.consumer.min.session.timeout.ms`, 45 s by default).
        """
        self._properties = dict(properties)
        self._group = group
        self._session_timeout_s = session_timeout_s
        self._keep_alive_s = keep_alive_s
        self._topic_check_s = topic_check_s
        self._member = GroupMember(properties, group, protocol, session_timeout_s, consumer)
        self._calls: AdminCalls | None = None
        self._offsets: GroupOffsets | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._batch: asyncio.Future[list[LogRecord]] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._nudging: asyncio.Task[None] | None = None
        self._polled_at = 0.0
        self._called_at: float | None = None
        """When the thread began what it does now."""
        self._topic_ids: dict[str, str] = {}

    @property
    def stats(self) -> MemberStats:
        return self._member.stats

    @property
    def protocol(self) -> str:
        """`consumer` or `classic`: what is spoken now."""
        return self._member.protocol

    @property
    def assigned(self) -> frozenset[Partition]:
        """The partitions that this member reads."""
        return self._member.assigned

    # ---- life -------------------------------------------------------------------------------------------------------

    async def start(self, topics: Sequence[str]) -> None:
        """Join the group. Does not wait for the cluster; raises InvalidValueError for a property it refuses."""
        self._calls = AdminCalls(self._properties, CALL_TIMEOUT_S)
        self._offsets = GroupOffsets(self._properties, self._group)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="log-consumer")
        self._polled_at = time.monotonic()
        try:
            await self._run(self._member.open, list(topics))
        except BaseException:
            await self.close()
            raise
        self._tasks = {asyncio.create_task(self._keep_membership()), asyncio.create_task(self._watch_topics())}
        if self.protocol == "consumer":
            self._tasks.add(asyncio.create_task(self._configure_group()))
        self._nudge(list(topics), frozenset(topics))

    async def close(self) -> None:
        """Leave the group at once; what was not committed is another member's."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = set()
        if self._thread is not None:
            await self._run(self._member.leave)
            self._thread.shutdown(wait=False)
            self._thread = None
        if self._offsets is not None:
            await self._offsets.close()
            self._offsets = None
        if self._calls is not None:
            await self._calls.close()
            self._calls = None

    async def set_topics(self, topics: Sequence[str]) -> None:
        new = frozenset(topics) - {topic for topic, _ in self.assigned}
        await self._run(self._member.subscribe, list(topics))
        if new:
            self._nudge(list(topics), new)

    # ---- reading ----------------------------------------------------------------------------------------------------

    async def poll(self, max_records: int, timeout_s: float) -> list[LogRecord]:
        deadline = time.monotonic() + timeout_s
        while True:
            if self._batch is None:
                wait_s = min(max(deadline - time.monotonic(), 0.0), POLL_SLICE_S)
                self._batch = asyncio.ensure_future(self._run(self._member.consume, max_records, wait_s))
            try:
                records = await asyncio.shield(self._batch)
            except asyncio.CancelledError:
                raise  # the caller's own: the batch is left to the next call
            except BaseException:
                self._batch = None
                raise
            finally:
                self._polled_at = time.monotonic()
            self._batch = None
            if records or time.monotonic() >= deadline:
                return records

    async def commit(self, records: Sequence[LogRecord]) -> None:
        highest: dict[Partition, int] = {}
        for record in records:
            place = (record.topic, record.partition)
            if record.offset >= highest.get(place, -1):
                highest[place] = record.offset
        if highest:
            await self._run(self._member.commit, highest)

    async def committed_past(self, wanted: Mapping[Partition, int]) -> dict[Partition, bool]:
        """True as well where retention has removed everything before the offset: there is nothing left to read."""
        calls = self._asking()
        assert self._offsets is not None
        committed = await self._offsets.committed(wanted)
        past = {place: committed.get(place, -1) >= offset for place, offset in wanted.items()}
        behind = [place for place, done in past.items() if not done]
        if behind:
            earliest = await calls.earliest(behind)
            for place in behind:
                past[place] = earliest.get(place, -1) >= wanted[place]
        return past

    async def end_offsets(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """Of those that exist."""
        return await self._asking().ends(partitions)

    async def lag(self) -> dict[Partition, int]:
        """Records between what the group has committed and the log's end, of each partition this member reads."""
        calls, committed = self._asking(), dict(self._member.committed)
        ends = await calls.ends(self.assigned)
        starts = await calls.earliest([place for place in ends if place not in committed])
        return {place: max(0, end - committed.get(place, starts.get(place, 0))) for place, end in ends.items()}

    def held_up_s(self) -> float:
        called_at = self._called_at
        return 0.0 if called_at is None else time.monotonic() - called_at

    # ---- on the event loop ------------------------------------------------------------------------------------------

    async def _run(self, work: Callable[..., T], *arguments: Any) -> T:
        if self._thread is None:
            raise StoreError("log_unavailable", "the log consumer is not running")
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(self._call, work, *arguments))

    def _call(self, work: Callable[..., T], *arguments: Any) -> T:
        """In the thread."""
        self._called_at = time.monotonic()
        try:
            return work(*arguments)
        finally:
            self._called_at = None

    def _asking(self) -> AdminCalls:
        if self._calls is None:
            raise StoreError("log_unavailable", "the log consumer is not running")
        return self._calls

    async def _keep_membership(self) -> None:
        while True:
            await asyncio.sleep(self._keep_alive_s / 2)
            if self._batch is None and time.monotonic() - self._polled_at >= self._keep_alive_s:
                try:
                    await self._run(self._member.stay)
                except StoreError as error:
                    logger.warning("log_consumer_not_kept_alive", extra={"error": str(error)})

    def _nudge(self, topics: list[str], new: frozenset[str]) -> None:
        if self._nudging is not None:
            self._nudging.cancel()
        self._nudging = asyncio.create_task(self._ask_again(topics, new))
        self._tasks.add(self._nudging)
        self._nudging.add_done_callback(self._tasks.discard)

    async def _ask_again(self, topics: list[str], new: frozenset[str]) -> None:
        """Subscribe again while new topics have no partition here.

        A coordinator that has not heard of a topic yet answers without it, and says more at the next heartbeat, which
        by default is 5 s away; subscribing sends one at once. Having no partition can be right: after some, stop.
        """
        for delay_s in NUDGE_DELAYS_S:
            await asyncio.sleep(delay_s)
            if new <= {topic for topic, _ in self.assigned}:
                return
            await self._run(self._member.subscribe, topics)

    async def _watch_topics(self) -> None:
        """Notice topics that were deleted and made again: their offsets began anew, and what was read says nothing."""
        while True:
            try:
                described = await self._asking().describe({topic for topic, _ in self.assigned})
                for topic, found in described.items():
                    topic_id = str(found.topic_id)
                    if self._topic_ids.setdefault(topic, topic_id) != topic_id:
                        self._topic_ids[topic] = topic_id
                        self.stats.count(StoreEvent.TOPIC_RECREATED)
                        logger.warning("log_topic_recreated", extra={"topic": topic, "topic_id": topic_id})
                        await self._run(self._member.start_over, topic)
            except StoreError as error:
                logger.debug("log_topics_not_described", extra={"error": str(error)})
            await asyncio.sleep(self._topic_check_s)

    async def _configure_group(self) -> None:
        """Ask for a shorter session: with this protocol it is the group's, on the brokers, not the member's."""
        for name, seconds in (
            ("consumer.session.timeout.ms", self._session_timeout_s),
            ("consumer.heartbeat.interval.ms", HEARTBEAT_S),
        ):
            try:
                await self._asking().set_config("GROUP", self._group, {name: str(int(seconds * 1000))})
            except StoreError as error:
                logger.info("log_group_setting_refused", extra={"setting": name, "error": str(error)})
