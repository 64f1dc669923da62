"""Publishers and subscribers through the SDK, as an agent would: their part of the history is what they are told."""

import asyncio
import random
from collections.abc import Sequence

from tests.system.history import Answer, Attempt, Confirmed, Delivered, GapTold, History, Outcome

from heliograph.client import Client, ClientSettings, Gap, PublishRefused, PublishUncertain, Receipt
from heliograph.core.backoff import BackoffPolicy
from heliograph.core.messages import AckMode, MessageClass

SETTINGS = ClientSettings(
    connect_timeout_s=60.0,
    open_timeout_s=5.0,
    retry_for_s=120.0,
    reconnect=BackoffPolicy(base_s=0.05, cap_s=0.5, healthy_s=1.0),
    status_interval_s=0.5,
)


class SdkPublisher:
    """Publishes to its sessions at a pace, many calls under way at once."""

    def __init__(
        self, record: History, name: str, edges: Sequence[str], token: str, sessions: Sequence[str], *, per_s: float
    ) -> None:
        self.name = name
        self.answered = 0
        self.settled = 0
        self._record = record
        self._sessions = sessions
        self._interval_s = 1 / per_s
        self._client = Client(list(edges), token=token, producer=name, settings=SETTINGS)
        self._calls: set[asyncio.Task[None]] = set()
        self._made = 0
        self._resting = False
        self._task: asyncio.Task[None] | None = None
        self._failed: BaseException | None = None
        self._lost: frozenset[str] = frozenset()

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    def rest(self) -> None:
        self._resting = True

    @property
    def at_rest(self) -> bool:
        return not self._calls

    @property
    def state(self) -> str:
        """What keeps it from being at rest, for whoever debugs."""
        return f"{len(self._calls)} calls, {self._client.state} at {self._client.url}"

    def check_alive(self) -> None:
        if self._failed is not None:
            raise self._failed
        if self._task is not None and self._task.done() and not self._task.cancelled():
            self._task.result()

    def forget(self, lost: set[str]) -> None:
        """Positions of live stores that are gone with their data: nobody can tell any more."""
        self._lost = frozenset(lost)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        for call in list(self._calls):
            call.cancel()
        if self._calls:
            await asyncio.wait(self._calls)
        await self._client.close(timeout=1.0)
        self.check_alive()

    async def _run(self) -> None:
        await self._client.connect()
        while not self._resting:
            if len(self._calls) < 200:
                call = asyncio.create_task(self._publish())
                self._calls.add(call)
                call.add_done_callback(self._done)
            await asyncio.sleep(random.uniform(0.5, 1.5) * self._interval_s)
        await asyncio.Event().wait()

    def _done(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        if not call.cancelled() and call.exception() is not None:
            self._failed = call.exception()

    async def _publish(self) -> None:
        self._made += 1
        record, number = self._record, self._made
        session = self._sessions[number % len(self._sessions)]
        class_ = MessageClass.CONTROL if number % 5 == 0 else MessageClass.EVENT
        key = f"{self.name}/{session}/{number}"
        content = f'{{"key":"{key}"}}'
        attempt = Attempt(
            record.now(), f"{self.name}@{number}", session, class_, content.encode(), key, AckMode.DURABLE, self.name
        )
        record.attempts.append(attempt)
        try:
            receipt = await self._client.publish(session, {"key": key}, cls=class_)
        except PublishRefused as refused:
            attempt.answers.append(Answer(record.now(), Outcome.REFUSED, code=refused.code))
            return
        except PublishUncertain:
            record.ended.add(attempt.connection)
            return
        outcome = Outcome.DURABLE if receipt.is_durable else Outcome.PENDING
        if receipt.deferred:
            outcome = Outcome.DEFERRED
        answer = Answer(record.now(), outcome, receipt.position, receipt.message_id, duplicate=receipt.duplicate)
        attempt.answers.append(answer)
        self.answered += 1
        if outcome is Outcome.PENDING:
            if not await self._durable(receipt):
                return
            record.confirmed.append(Confirmed(record.now(), attempt.connection, session, receipt.position or ""))
        self.settled += 1

    async def _durable(self, receipt: Receipt) -> bool:
        """Wait until it is; False where its live store is gone with its data, and nobody can tell."""
        waiting = asyncio.create_task(receipt.durable(None))
        try:
            while not waiting.done() and (receipt.position or "")[14:22] not in self._lost:
                await asyncio.wait([waiting], timeout=0.5)
            if waiting.done():
                waiting.result()
            return waiting.done()
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)


class SdkSubscriber:
    """Reads its sessions from the beginning."""

    def __init__(self, record: History, name: str, edges: Sequence[str], token: str, sessions: Sequence[str]) -> None:
        self.name = name
        self.sessions = list(sessions)
        self._record = record
        self._client = Client(list(edges), token=token, consumer=name, settings=SETTINGS)
        self._last: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None

    def last(self, session: str) -> str:
        return self._last.get(session, "")

    def start(self) -> None:
        for session in self.sessions:
            self._record.view(self.name, session).silent_epochs = True
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])
        await self._client.close(timeout=1.0)
        if not self._task.cancelled():
            self._task.result()

    async def _run(self) -> None:
        await self._client.connect()
        async with asyncio.TaskGroup() as readers:
            for session in self.sessions:
                readers.create_task(self._read(session))

    async def _read(self, session: str) -> None:
        sights = self._record.view(self.name, session).sights
        async for item in self._client.subscribe(session, start="earliest"):
            now = self._record.now()
            if isinstance(item, Gap):
                sights.append(GapTold(now, item.first, item.last, item.reason, item.certain))
                if item.last is not None:
                    self._last[session] = max(item.last, self.last(session))
            else:
                sights.append(Delivered(now, item.position, item.id, item.payload))
                if item.position is not None:
                    self._last[session] = item.position
