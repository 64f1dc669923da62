"""Delivers what was deferred: control messages that only the log has, since the live path was away.

Each producer's messages of a session are a lane, worked on in order by a task of its own while it has any: a lane that
is refused holds up no other. Until a message is in the log with its position its offset is owed, so that nothing is
forgotten by a router that dies; what another router reads again is judged as a repeat.
"""

import asyncio
import random
import time
from bisect import insort
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from heliograph.core.backoff import Backoff, BackoffPolicy
from heliograph.core.deferral import Step, after
from heliograph.core.limits import RECORD_OVERHEAD_BYTES
from heliograph.core.partitions import partition_of
from heliograph.core.positions import Position
from heliograph.core.sessions import SessionKey
from heliograph.protocol.codes import CODES
from heliograph.protocol.messages import (
    Message,
    record_headers,
    record_value,
)
from heliograph.router.batch import ROUTER_ERROR, Poison
from heliograph.router.dead_letters import DeadLetters
from heliograph.router.metrics import RouterMetrics
from heliograph.router.progress import Progress
from heliograph.service.bounds import bounds_of
from heliograph.service.logs import RateLimitedLog, get_logger
from heliograph.service.tenants import TenantDirectory
from heliograph.stores.appending import append_of
from heliograph.stores.keys import Topics
from heliograph.stores.ports import Appended, AppendStatus, LiveStore, LogRecord, LogWriter, StoreError

AT_ONCE = 256
"""Appends under way together: enough to keep Redis busy, few enough to leave its time to publishers."""


TURN_RETRY_S = 0.1
RETRY = BackoffPolicy(base_s=0.1, cap_s=1.0, healthy_s=0.0)
"""Of a lane that is refused for now, or whose store is away: it is back at most a second before us."""

FOLLOW_S = 0.5
"""Between questions about messages that the live path had taken and the log may lack."""

Lane = tuple[str, str, str, str | None]
"""Session, class, producer, incarnation."""


@dataclass(slots=True, eq=False)
class _Deferred:
    """One message to deliver."""

    record: LogRecord
    message: Message
    size_bytes: int
    waits_since: float | None = None
    """For an earlier one of its lane."""

    @property
    def place(self) -> tuple[str, int]:
        return (self.record.topic, self.record.partition)


class Deferrer:
    """Takes deferred records and sees them into their place."""

    def __init__(
        self,
        live: LiveStore,
        writer: LogWriter,
        directory: TenantDirectory,
        names: Topics,
        dead_letters: DeadLetters,
        progress: Progress,
        metrics: RouterMetrics,
        *,
        virtual_shards: int,
        pending_bytes: int,
        uniform: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._live = live
        self._writer = writer
        self._directory = directory
        self._names = names
        self._dead_letters = dead_letters
        self._progress = progress
        self._metrics = metrics
        self._virtual_shards = virtual_shards
        self._pending_bytes = pending_bytes
        self._uniform = uniform
        self._clock = clock
        self._sleep = sleep
        self._lanes: dict[Lane, list[_Deferred]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._followed: dict[tuple[str, str], list[_Deferred]] = {}
        """By session and position: the live path had it, the log may not. What was deferred twice is there twice."""
        self._held_bytes = 0
        self._room = asyncio.Condition()
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._logger = get_logger(__name__)
        self._log = RateLimitedLog(self._logger)
        metrics.metrics.sampled_gauge(
            "deferred_pending", "Deferred messages that are not in their place yet.", lambda: float(self.pending)
        )

    @property
    def pending(self) -> int:
        """Messages taken that are not in their place."""
        return sum(map(len, self._lanes.values())) + sum(map(len, self._followed.values()))

    async def take(self, messages: Iterable[tuple[LogRecord, Message]]) -> None:
        """Owe these, deliver them soon. Returns once there is room for more."""
        for record, message in messages:
            self._take(record, message)
        async with self._room:
            await self._room.wait_for(lambda: self._held_bytes < self._pending_bytes)

    def _take(self, record: LogRecord, message: Message) -> None:
        size_bytes = len(record.value or b"") + RECORD_OVERHEAD_BYTES
        item = _Deferred(record, message, size_bytes)
        self._progress.owe(item.place, record.offset)
        self._held_bytes += size_bytes
        self._queue(item)

    def _queue(self, item: _Deferred) -> None:
        message = item.message
        key: Lane = (message.session, message.class_.value, message.producer, message.incarnation)
        lane = self._lanes.get(key)
        if lane is not None:
            # One that was refused at first and deferred when it came again stands behind later ones of its producer.
            insort(lane, item, key=lambda one: one.message.producer_seq or 0)
            return
        lane = self._lanes[key] = [item]
        task = asyncio.create_task(self._deliver(key, lane))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def follow(self) -> None:
        """For ever: ask about messages that the live path had taken before; what it has lost since is judged anew."""
        while True:
            await self._sleep(FOLLOW_S)
            for session, position in list(self._followed):
                try:
                    (confirmed,) = await self._live.confirmed(session, [Position.parse(position)])
                except StoreError:
                    break
                if confirmed is False:
                    continue
                for item in self._followed.pop((session, position)):
                    if confirmed:
                        await self._settle(item)
                    else:  # the live store has lost it, and the log may never have had it
                        self._metrics.deferred_again.n += 1
                        item.message.position = None
                        self._queue(item)

    async def close(self) -> None:
        """End; what is not delivered is still owed, and read again by another router."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ---- one lane ---------------------------------------------------------------------------------------------------

    async def _deliver(self, key: Lane, lane: list[_Deferred]) -> None:
        backoff = Backoff(RETRY, self._uniform)
        by_id = False
        while lane:
            item = lane[0]
            try:
                step, answer = await self._append(item, by_id=by_id)
            except Exception as error:
                self._metrics.work_errors.n += 1
                self._logger.exception("deferred_failed", session=item.message.session)
                lane.remove(item)
                await self._set_aside(item, ROUTER_ERROR, type(error).__name__)
                continue
            if step is Step.WAIT_TURN:
                item.waits_since = item.waits_since if item.waits_since is not None else self._clock()
                await self._sleep(TURN_RETRY_S)
            elif step is Step.JUDGE_BY_ID:
                by_id = True  # and for those behind it: they stand in the same counter
                self._metrics.deferred_by_id.n += 1
            elif step is Step.RETRY:
                await self._sleep(backoff.failed(self._clock()))
            else:
                backoff.succeeded(self._clock())
                lane.remove(item)
                await self._end(item, step, answer)
        if self._lanes.get(key) is lane:
            del self._lanes[key]

    async def _append(self, item: _Deferred, *, by_id: bool) -> tuple[Step, Appended | None]:
        message = item.message
        key = SessionKey.parse(message.session)
        entry = self._directory.find(key.tenant)
        if entry is None:
            return Step.RETRY, None  # its topic goes with it, or it comes back
        partition = partition_of(message.session.encode(), entry.record.log_settings(key.agent_type).partitions)
        counted = message.incarnation is not None and not by_id
        append = append_of(message, partition, message.message_id, counted=counted)
        answered: asyncio.Future[Appended | StoreError] = asyncio.get_running_loop().create_future()
        async with self._slots:
            self._live.append(
                append,
                bounds_of(entry.record, self._virtual_shards),
                lambda answer: None if answered.done() else answered.set_result(answer),
            )
            answer = await answered
        if isinstance(answer, StoreError):
            self._log.warning("deferred_not_delivered", session=message.session, error=str(answer))
            return Step.RETRY, None
        waited_s = self._clock() - item.waits_since if item.waits_since is not None else 0.0
        return after(answer.status.value, confirmed=answer.confirmed, waited_s=waited_s), answer

    async def _end(self, item: _Deferred, step: Step, answer: Appended | None) -> None:
        assert answer is not None
        message, metrics = item.message, self._metrics
        if step is Step.SET_ASIDE:
            await self._set_aside(item, answer.status.value, CODES[answer.status.value].meaning)
            return
        position = str(Position(answer.epoch, answer.seq)) if answer.epoch else ""
        if answer.status is AppendStatus.OK:
            metrics.deferred_delivered.n += 1
            message.position = position
            if await self._write(message, answer.partition) is not None:
                step = Step.FOLLOW  # the hot window has it: reconciling writes it
        else:
            metrics.deferred_repeats.n += 1
        if step is Step.FOLLOW:
            self._followed.setdefault((message.session, position), []).append(item)
        else:
            await self._settle(item)

    async def _write(self, message: Message, partition: int) -> StoreError | None:
        entry = self._directory.find(message.session.partition(":")[0])
        if entry is None:
            return StoreError("log_unavailable", "the tenant is gone")
        topic = self._names.log_of(SessionKey.parse(message.session), entry.record)
        answered: asyncio.Future[StoreError | None] = asyncio.get_running_loop().create_future()
        try:
            self._writer.write(
                topic,
                partition,
                message.session.encode(),
                record_value(message),
                record_headers(message),
                lambda error: None if answered.done() else answered.set_result(error),
            )
        except StoreError as error:
            return error
        return await answered

    async def _settle(self, item: _Deferred) -> None:
        self._progress.settle(item.place, item.record.offset)
        await self._free(item)

    async def _set_aside(self, item: _Deferred, reason: str, detail: str) -> None:
        """To the dead letters, which owe it from here on."""
        self._metrics.dead.labels(reason).n += 1
        self._dead_letters.take(Poison(item.record, reason, detail))
        await self._free(item)

    async def _free(self, item: _Deferred) -> None:
        """Nothing of it is held any more: there may be room for what waits to be taken."""
        self._held_bytes -= item.size_bytes
        async with self._room:
            self._room.notify_all()
