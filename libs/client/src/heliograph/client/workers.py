"""All that a client serves: its offers, the sessions it was given, and what it acknowledges under their leases.

A connection that is lost loses them all, and the server gives them to others at once; offers are made again on the next
one. What this must never do: go on with a session after the server said that it is another's.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable

from heliograph.client.errors import ClientError, ServeRefused
from heliograph.client.feeds import Inbox
from heliograph.client.gathering import Gathering
from heliograph.client.lanes import is_retryable
from heliograph.client.messages import Message
from heliograph.client.reader import Reader
from heliograph.client.sender import Sender
from heliograph.client.settings import ClientSettings
from heliograph.client.stats import ClientStats
from heliograph.client.work import Work, WorkSession
from heliograph.core.backoff import Backoff
from heliograph.core.errors import InvalidValueError
from heliograph.protocol.frames import (
    Ack,
    Acked,
    Assigned,
    Epoch,
    Error,
    Gap,
    MessageFrame,
    Refused,
    Revoked,
    Serve,
    Serving,
)

OWN_IDS = 10_000
"""Ids that the program chose for its own messages, remembered: far more than are on their way back."""

DISCONNECTED = "disconnected"
"""Why a session was lost, beside the reasons of `revoked`."""


class Workers:
    """Of one client."""

    def __init__(
        self,
        settings: ClientSettings,
        sender: Sender,
        reader: Reader,
        stats: ClientStats,
        uniform: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._sender = sender
        self._reader = reader
        self._stats = stats
        self._backoff = Backoff(settings.refusal, uniform)
        self._works: dict[str, Work] = {}
        self._sessions: dict[str, WorkSession] = {}
        self._offers: dict[int, Work] = {}
        """By request."""
        self._acks: dict[int, WorkSession] = {}
        self._backs: dict[int, asyncio.Future[None]] = {}
        self._dirty: set[WorkSession] = set()
        """Further than the server was told."""
        self._gathering = Gathering(sender, settings.ack_interval_s, self.flush)
        self._incarnations: set[str] = set()
        self._own_ids: OrderedDict[str, None] = OrderedDict()
        self._error: ClientError | None = None
        self._loop = asyncio.get_running_loop()

    def serve(self, agent_type: str, capacity: int, *, auto_ack: bool) -> Work:
        """One offer an agent type. Raises InvalidValueError for a second."""
        if agent_type in self._works:
            raise InvalidValueError("value_invalid", "agent_type", agent_type, "served once by a client")
        work = Work(agent_type, capacity, auto_ack=auto_ack, end=self._end)
        if self._error is not None:
            work.fail(self._error)
            return work
        self._works[agent_type] = work
        self._offer(work)
        return work

    def _offer(self, work: Work) -> None:
        if self._sender.online and self._works.get(work.agent_type) is work:
            request = self._sender.next_id()
            self._offers[request] = work
            self._sender.send(Serve(work.agent_type, work.capacity, request))

    async def close(self) -> None:
        """End every offer."""
        await asyncio.gather(*(work.close() for work in list(self._works.values())))

    async def _end(self, work: Work) -> None:
        work.capacity = 0
        self._offer(work)
        self._works.pop(work.agent_type, None)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.close_timeout_s):
                await asyncio.gather(*(session.give_back() for session in list(work.held.values())))

    # ---- what sessions ask for ---------------------------------------------------------------------------------------

    def handled(self, session: WorkSession) -> None:
        self._dirty.add(session)
        self._gathering.soon()

    def flush(self) -> None:
        """Tell the server how far all sessions are."""
        if not self._gathering.begin():
            return
        dirty, self._dirty = self._dirty, set()
        for session in dirty:
            if not session.over:
                request = self._sender.next_id()
                self._acks[request] = session
                self._stats.acks += 1
                self._sender.send(Ack(session.session, session.position, request, session.lease))

    async def give_back(self, session: WorkSession) -> None:
        if not self._sender.online:
            self._drop(session)
            return
        request, answered = self._sender.next_id(), self._loop.create_future()
        self._backs[request] = answered
        self._sender.send(Ack(session.session, session.position, request, session.lease, done=True))
        self._drop(session)  # behind it: a subscription that was waiting for this is asked for now
        try:
            await answered
        finally:
            self._backs.pop(request, None)

    def is_own(self, message: Message) -> bool:
        return message.id in self._own_ids or message.id.rpartition(".")[0] in self._incarnations

    def published(self, message_id: str | None) -> None:
        """The program chose this id for a message of its own."""
        if message_id is not None and self._works:
            self._own_ids[message_id] = None
            if len(self._own_ids) > OWN_IDS:
                self._own_ids.popitem(last=False)

    def _drop(self, session: WorkSession) -> None:
        if self._sessions.get(session.session) is session:
            del self._sessions[session.session]
            self._reader.unfollow(session.session)
        for work in self._works.values():
            if work.held.get(session.session) is session:
                del work.held[session.session]
        self._dirty.discard(session)

    # ---- the connection ----------------------------------------------------------------------------------------------

    def connected(self, incarnation: str, connection: str) -> None:
        self._incarnations |= {incarnation, connection}  # what ids that the server gives begin with
        for work in self._works.values():
            self._offer(work)

    def disconnected(self) -> None:
        """Everything that was held is another's by now, or soon."""
        self._offers.clear()
        self._acks.clear()
        self._dirty.clear()
        self._gathering.stop()
        for session in list(self._sessions.values()):
            self._lose(session, DISCONNECTED)
        for answered in list(self._backs.values()):
            if not answered.done():
                answered.set_result(None)

    def serving(self, frame: Serving) -> None:
        work = self._offers.pop(frame.id or 0, None)
        if work is not None:
            self._backoff.succeeded(self._loop.time())
            work.accept()

    def assigned(self, frame: Assigned) -> None:
        before = self._sessions.get(frame.session)
        if before is not None:
            self._lose(before, "reassigned")
        agent_type = frame.session.split(":")[1]
        work = self._works.get(agent_type)
        session = WorkSession(frame, self, self._settings, auto_ack=work is None or work.auto_ack)
        if work is None:  # it was given before the server knew that it is over
            session.over = True
            self._sender.send(Ack(frame.session, session.position, self._sender.next_id(), frame.lease, done=True))
            return
        self._stats.assigned += 1
        self._sessions[frame.session] = session
        self._reader.follow(frame.session, lambda: session.last)
        work.arrived(session)

    def revoked(self, frame: Revoked) -> None:
        session = self._sessions.get(frame.session)
        if session is not None and session.lease == frame.lease:
            self._lose(session, frame.reason)

    def _lose(self, session: WorkSession, reason: str) -> None:
        self._stats.leases_lost += 1
        self._drop(session)
        session.lost(reason)

    def message(self, frame: MessageFrame) -> None:
        session = self._sessions.get(frame.session)
        if session is not None:
            message = Message(frame, session)
            self._give(session, lambda inbox: inbox.message(message))

    def gap(self, frame: Gap) -> None:
        session = self._sessions.get(frame.session)
        if session is not None:
            self._give(session, lambda inbox: inbox.gap(frame))

    def epoch(self, frame: Epoch) -> None:
        session = self._sessions.get(frame.session)
        if session is not None:
            self._give(session, lambda inbox: inbox.epoch(frame))

    def _give(self, session: WorkSession, feed: Callable[[Inbox], bool]) -> None:
        self._stats.received += session.give(feed)

    def acked(self, frame: Acked) -> bool:
        """Whether it answers an ack of ours."""
        return self._answered(frame.id) is not None

    def _answered(self, request: int | None) -> "WorkSession | asyncio.Future[None] | None":
        answered = self._backs.get(request or 0)
        if answered is not None:
            if not answered.done():
                answered.set_result(None)
            return answered
        return self._acks.pop(request or 0, None)

    def refused(self, answer: Refused | Error) -> bool:
        """Whether it answers a request of ours."""
        work = self._offers.pop(answer.id or 0, None)
        now = self._loop.time()
        if work is not None:
            refusal = answer if isinstance(answer, Refused) else Refused(answer.code, answer.message)
            if is_retryable(refusal):
                self._loop.call_later(self._backoff.failed(now, refusal.retry_after_ms), self._offer, work)
            else:
                self._works.pop(work.agent_type, None)
                work.fail(ServeRefused(answer.code, answer.message, work.agent_type))
            return True
        found = self._answered(answer.id)
        if isinstance(found, WorkSession):
            if answer.code == "lease_lost":
                if not found.over:
                    self._lose(found, "reassigned")
            elif isinstance(answer, Refused) and is_retryable(answer) and not found.over:
                self._gathering.not_before(now + self._backoff.failed(now, answer.retry_after_ms))
                self.handled(found)
        return found is not None

    def end(self, error: ClientError) -> None:
        self._error = error
        for session in list(self._sessions.values()):
            session.fail(error)
        for work in self._works.values():
            work.fail(error)
        self._works.clear()
        self.disconnected()
