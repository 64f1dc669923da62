"""Publishing as a program sees it: calls that wait, on top of the lanes."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from heliograph.client.errors import ClientError, ClosedError, PublishRefused, PublishUncertain
from heliograph.client.lane import Answer, LaneKey, Outgoing
from heliograph.client.lanes import Lanes
from heliograph.client.receipts import Durabilities, Receipt
from heliograph.client.sender import Sender
from heliograph.client.settings import ClientSettings
from heliograph.client.stats import ClientStats
from heliograph.core.messages import AckMode, MessageClass
from heliograph.protocol.frames import Error, Publish, Published, Refused, Welcome, encode

logger = logging.getLogger("heliograph.client")

FRAMES_PER_PULL = 32
"""Publishes encoded at once: enough to keep the socket busy, few enough that a pong doesn't wait long."""
QUEUED_FRAMES_BEFORE_SHEDDING = 1_000
"""Frames that wait for the socket; above it telemetry is shed."""


class Publisher:
    """All publishing of one client."""

    def __init__(
        self,
        settings: ClientSettings,
        sender: Sender,
        durabilities: Durabilities,
        stats: ClientStats,
        *,
        incarnation: Callable[[], str],
        uniform: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._sender = sender
        self._durabilities = durabilities
        self._stats = stats
        self.lanes = Lanes(
            settings, stats, incarnation=incarnation, request_id=sender.next_id, uniform=uniform, room=self._wake_one
        )
        self._queues: dict[LaneKey, deque[asyncio.Future[None]]] = {}
        """Calls that wait for room in a lane, in their order. The first stays until it has taken its place."""
        self._single: dict[int, tuple[str, asyncio.Future[Answer]]] = {}
        """Telemetry that wants an answer."""
        self._error: ClosedError | None = None
        self._idle: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()

    async def publish(self, frame: Publish, *, retry: bool) -> Receipt:
        if self._error is not None:
            raise self._error
        if frame.class_ is MessageClass.TELEMETRY:
            return await self._publish_telemetry(frame)
        waits = frame.ack is not AckMode.NONE
        if not waits:
            frame.ack = AckMode.ACCEPTED  # answered all the same: that is how it is known that it need not be resent
        lane = (frame.session, frame.class_)
        await self._wait_for_room(lane)
        future: asyncio.Future[Answer] = self._loop.create_future()
        item = Outgoing(frame, self._deadline_s(frame.class_, retry=retry), _settle(future, self._done))
        self.lanes.add(lane, item)
        self._wake_one(lane)
        self._sender.wake()
        if not waits:
            future.add_done_callback(_log_refusal)
            return Receipt(frame.session, frame.message_id, None)
        try:
            return self._receipt(frame, await future)
        except asyncio.CancelledError:
            self.lanes.withdraw(lane, item)
            self._done()
            raise

    def _deadline_s(self, class_: MessageClass, *, retry: bool) -> float | None:
        now = self._loop.time()
        if not retry:
            return now
        return None if class_ is MessageClass.CONTROL else now + self._settings.retry_for_s

    async def _publish_telemetry(self, frame: Publish) -> Receipt:
        """Sent if it can be sent now, else shed."""
        waits = frame.ack not in (None, AckMode.NONE)
        if not self._sender.online or len(self._sender) >= QUEUED_FRAMES_BEFORE_SHEDDING:
            self._stats.shed += 1
            if waits:
                raise PublishRefused("live_unavailable", "telemetry is shed while it can't be sent", frame.session)
            return Receipt(frame.session, frame.message_id, None)
        frame.id = self._sender.next_id()
        if not waits:
            self._sender.send(frame)
            return Receipt(frame.session, frame.message_id, None)
        future: asyncio.Future[Answer] = self._loop.create_future()
        self._single[frame.id] = (frame.session, future)
        try:
            self._sender.send(frame)
            return self._receipt(frame, await future)
        finally:
            del self._single[frame.id]

    def _receipt(self, frame: Publish, answer: Answer) -> Receipt:
        if isinstance(answer, ClientError):
            raise answer
        if isinstance(answer, Refused):
            after_s = answer.retry_after_ms / 1000 if answer.retry_after_ms is not None else None
            raise PublishRefused(answer.code, answer.message, frame.session, after_s)
        durability = None
        if answer.position is not None and not answer.durable:
            durability = self._durabilities.expect(frame.session, answer.position)
        return Receipt(
            frame.session,
            answer.message_id or frame.message_id,
            answer.position,
            answer.duplicate,
            answer.deferred,
            durability,
            self._durabilities,
            answer.durable,
        )

    # ---- room --------------------------------------------------------------------------------------------------------

    async def _wait_for_room(self, lane: LaneKey) -> None:
        if lane not in self._queues and self.lanes.has_room(lane):
            return
        queue = self._queues.setdefault(lane, deque())
        future: asyncio.Future[None] = self._loop.create_future()
        queue.append(future)
        try:
            await future
        except asyncio.CancelledError:
            self._leave_queue(lane, future)
            self._wake_one(lane)
            raise
        self._leave_queue(lane, future)
        if self._error is not None:
            raise self._error

    def _leave_queue(self, lane: LaneKey, future: asyncio.Future[None]) -> None:
        queue = self._queues[lane]
        queue.remove(future)
        if not queue:
            del self._queues[lane]

    def _wake_one(self, lane: LaneKey) -> None:
        queue = self._queues.get(lane)
        if queue and not queue[0].done() and self.lanes.has_room(lane):
            queue[0].set_result(None)

    # ---- the connection ----------------------------------------------------------------------------------------------

    def connected(self, welcome: Welcome) -> None:
        self.lanes.connected(welcome.max_unanswered, welcome.max_payload_bytes)
        for lane in list(self._queues):
            self._wake_one(lane)

    def disconnected(self) -> None:
        self.lanes.disconnected()
        for session, future in self._single.values():
            if not future.done():
                future.set_result(PublishUncertain(session, None))

    def pull(self) -> list[bytes]:
        """The next frames for the socket."""
        return [encode(frame) for frame in self.lanes.take(self._loop.time(), FRAMES_PER_PULL)]

    def published(self, answer: Published) -> None:
        item = self.lanes.published(answer)
        if item is not None:
            self._stats.published += 1
            self._stats.duplicates += answer.duplicate
            self._sender.wake()
        else:
            self._answer_single(answer.id, answer)

    def refused(self, answer: Refused | Error) -> bool:
        """Whether it answers a publish of ours."""
        refusal = answer if isinstance(answer, Refused) else Refused(answer.code, answer.message, id=answer.id)
        if self.lanes.refused(refusal):
            self._sender.wake()
            return True
        return self._answer_single(answer.id, refusal)

    def _answer_single(self, request_id: int | None, answer: Answer) -> bool:
        found = self._single.get(request_id) if request_id is not None else None
        if found is None:
            return False
        if not found[1].done():
            found[1].set_result(answer)
        return True

    async def answered(self) -> None:
        """Return when nothing is unanswered and nothing waits for room."""
        while self.lanes.unanswered or self._queues:
            self._idle = self._loop.create_future()
            await self._idle

    def _done(self) -> None:
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def end(self, error: ClosedError) -> None:
        """The client ends: whoever waits is told."""
        self._error = error
        self.lanes.end(error)
        for queue in self._queues.values():
            for future in queue:
                if not future.done():
                    future.set_result(None)
        self.disconnected()


def _settle(future: asyncio.Future[Answer], then: Callable[[], None]) -> Callable[[Answer], None]:
    def done(answer: Answer) -> None:
        if not future.done():
            future.set_result(answer)
        then()

    return done


def _log_refusal(future: asyncio.Future[Answer]) -> None:
    """Nobody waits for it, so somebody should be able to read it."""
    answer = None if future.cancelled() else future.result()
    if isinstance(answer, Refused):
        logger.warning("a message published with ack none was refused: %s", answer.code)
