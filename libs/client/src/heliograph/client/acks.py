"""Acknowledging: the furthest position of each session that a program is through with, told to the server now and then.

What is recorded here is sent at most every `settings.ack_interval_s`, one ack a session, and kept until the server has
stored it: after a lost connection, or a refusal that may pass, it is sent again. The server keeps the furthest,
so an ack that comes twice or late moves nothing.
"""

import asyncio
import logging
from collections.abc import Callable

from heliograph.client.errors import ClientError
from heliograph.client.gathering import Gathering
from heliograph.client.lanes import is_retryable
from heliograph.client.sender import Sender
from heliograph.client.settings import ClientSettings
from heliograph.client.stats import ClientStats
from heliograph.core.backoff import Backoff
from heliograph.protocol.frames import Ack, Acked, Error, Refused

logger = logging.getLogger("heliograph.client")


class Acks:
    """Of one client: its consumer's cursors."""

    def __init__(
        self,
        consumer: str | None,
        settings: ClientSettings,
        sender: Sender,
        stats: ClientStats,
        uniform: Callable[[], float],
    ) -> None:
        self._consumer = consumer
        self._sender = sender
        self._stats = stats
        self._backoff = Backoff(settings.refusal, uniform)
        self._wanted: dict[str, str] = {}
        """By session: the furthest position recorded, until the server has it."""
        self._under_way: dict[int, tuple[str, str]] = {}
        """By request: session and position."""
        self._sent: dict[str, str] = {}
        """By session: the furthest that is under way."""
        self._warned: set[tuple[str, str]] = set()
        self._gathering = Gathering(sender, settings.ack_interval_s, self.flush)
        self._stored = asyncio.Event()
        self._stored.set()
        self._ended = False
        self._loop = asyncio.get_running_loop()

    def record(self, session: str, position: str | None) -> None:
        """Everything of the session up to `position` is done with (None, for telemetry: nothing to do)."""
        if self._consumer is None:
            raise ClientError("consumer_missing", "only a consumer has cursors: Client(…, consumer='a stable name')")
        if position is None or self._ended or position <= self._wanted.get(session, ""):
            return
        self._wanted[session] = position
        self._stored.clear()
        self._schedule()

    def flush(self) -> None:
        """Send what is recorded now, whatever the interval."""
        if not self._gathering.begin():
            return
        for session, position in self._wanted.items():
            if position > self._sent.get(session, ""):
                request = self._sender.next_id()
                self._under_way[request] = (session, position)
                self._sent[session] = position
                self._stats.acks += 1
                self._sender.send(Ack(session, position, id=request))

    async def stored(self) -> None:
        """Return when the server has what was recorded up to now, sending it at once."""
        self.flush()
        while self._wanted:
            self._stored.clear()
            await self._stored.wait()

    def _schedule(self) -> None:
        if not self._ended:
            self._gathering.soon()

    # ---- the connection ----------------------------------------------------------------------------------------------

    def connected(self) -> None:
        self._warned.clear()
        if self._wanted:
            self._schedule()

    def disconnected(self) -> None:
        """What is under way is in doubt: it is sent again."""
        self._under_way.clear()
        self._sent.clear()
        self._gathering.stop()

    def acked(self, answer: Acked) -> None:
        sent = self._answer_of(answer.id)
        if sent is not None:
            self._backoff.succeeded(self._loop.time())
            self._settle(sent[0], max(sent[1], answer.position))

    def refused(self, answer: Refused | Error) -> bool:
        """Whether it answers an ack of ours."""
        sent = self._answer_of(answer.id)
        if sent is None:
            return False
        session, position = sent
        if isinstance(answer, Refused) and is_retryable(answer):
            now = self._loop.time()
            self._gathering.not_before(now + self._backoff.failed(now, answer.retry_after_ms))
            self._schedule()
            return True
        self._stats.acks_refused += 1
        if (session, answer.code) not in self._warned:
            self._warned.add((session, answer.code))
            logger.warning("an acknowledgement in %s was refused, %s: %s", session, answer.code, answer.message)
        self._settle(session, position)
        return True

    def _answer_of(self, request: int | None) -> tuple[str, str] | None:
        """Session and position of the ack that is answered by this; None where it is none of ours."""
        sent = self._under_way.pop(request, None) if request is not None else None
        if sent is not None and self._sent.get(sent[0]) == sent[1]:
            del self._sent[sent[0]]
        return sent

    def _settle(self, session: str, up_to: str) -> None:
        """Nothing more is to be done for the session up to there."""
        if self._wanted.get(session, "") <= up_to:
            self._wanted.pop(session, None)
        if self._wanted:
            self._schedule()
        else:
            self._stored.set()

    def end(self) -> None:
        self._ended = True
        self._wanted.clear()
        self._stored.set()
        self._gathering.stop()
