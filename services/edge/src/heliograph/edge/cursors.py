"""Cursors: what consumers acknowledge is gathered and written in batches; subscriptions look up where to begin.

Of the acks of one batch only the furthest of each consumer and session is written, so that a client that acknowledges
every message costs the live store what one costs that acknowledges now and then. Nothing here is on the path of a
message, and nothing is kept: an ack that could not be written is answered so, and the client sends it again.
"""

import asyncio
from collections.abc import Callable

from heliograph.core.positions import Position
from heliograph.edge.metrics import EdgeMetrics
from heliograph.service.logs import RateLimitedLog, get_logger
from heliograph.stores.ports import Ack, Acknowledged, AckStatus, LiveStore, StoreError

BATCH_S = 0.05
"""Acks are gathered for this long: twenty writes a second of each consumer at most."""

BATCH_MOST = 1_000
"""Acks of one write: about a millisecond of Redis, which appends wait for."""

WAITING_MOST = 20_000
"""Acks that wait for an answer; more are refused. A second of everything one Redis would take."""

Answer = Callable[[Acknowledged | StoreError], None]

log = get_logger(__name__)


class _Pending:
    """The furthest ack of a consumer and session, and who waits for what became of it."""

    __slots__ = ("ack", "asks", "silent")

    def __init__(self, ack: Ack) -> None:
        self.ack = ack
        self.asks: list[tuple[Ack, Answer]] = []
        self.silent: tuple[Ack, Answer] | None = None
        """The furthest of those that want to hear of a refusal only."""


class Cursors:
    """Of all connections of an edge."""

    def __init__(self, live: LiveStore, metrics: EdgeMetrics) -> None:
        self._live = live
        self._metrics = metrics
        self._limited = RateLimitedLog(log)
        self._pending: dict[tuple[str, str, int, Position | None], _Pending] = {}
        """By session, consumer, fence and, for one that is to be judged alone, its position."""
        self._waiting = 0
        self._wake = asyncio.Event()
        self._writing = asyncio.Lock()

    def acknowledge(self, ack: Ack, answer: Answer, *, asked: bool) -> bool:
        """Write `ack` soon, and call `answer` then. Not `asked`: the answer may be left out where it is OK, or where a
        further ack of the same batch is answered. False: too many wait, nothing was done.
        """
        if self._waiting >= WAITING_MOST:
            return False
        self._metrics.acks.n += 1
        self._add(ack, answer, asked=asked)
        return True

    async def find(self, session: str, consumer: str) -> Position | None:
        """Where a consumer stands, with all that this edge was told before. Raises StoreError."""
        if self._pending or self._writing.locked():
            await self.flush()
        (position,) = await self._live.cursors(session, [consumer])
        if position is None:
            self._metrics.cursors_missing.n += 1
        return position

    async def run(self) -> None:
        """For ever: write what was gathered."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(BATCH_S)
            self._wake.clear()
            await self.flush()

    async def flush(self) -> None:
        """Write what was gathered up to now."""
        async with self._writing:
            gathered, self._pending = self._pending, {}
            self._waiting = 0
            waiting = list(gathered.values())
            for start in range(0, len(waiting), BATCH_MOST):
                batch = waiting[start : start + BATCH_MOST]
                for pending, answer in zip(batch, await self._write([one.ack for one in batch]), strict=True):
                    self._answer(pending, answer)

    def _add(self, ack: Ack, answer: Answer, *, asked: bool, alone: bool = False) -> None:
        key = (ack.session, ack.consumer, ack.fence, ack.position if alone else None)
        pending = self._pending.get(key)
        if pending is None:
            pending = self._pending[key] = _Pending(ack)
            self._waiting += 1
        elif _further(ack, pending.ack):
            pending.ack = ack
        if asked:
            pending.asks.append((ack, answer))
            self._waiting += 1
        elif pending.silent is None or _further(ack, pending.silent[0]):
            pending.silent = (ack, answer)
        self._wake.set()

    async def _write(self, acks: list[Ack]) -> list[Acknowledged | StoreError]:
        self._metrics.cursors_written.n += len(acks)
        try:
            return await self._live.acknowledge(acks)
        except StoreError as error:
            return [error] * len(acks)
        except Exception:  # a bug of the store must not leave everybody without an answer
            log.exception("acks_failed")
            return [StoreError("internal", "the acks could not be written")] * len(acks)

    def _answer(self, pending: _Pending, answer: Acknowledged | StoreError) -> None:
        if isinstance(answer, StoreError):
            self._limited.warning(
                "ack_failed", key=answer.code, code=answer.code, session=pending.ack.session, error=answer.message
            )
        ahead = isinstance(answer, Acknowledged) and answer.status is AckStatus.AHEAD
        asks = [(*ask, True) for ask in pending.asks]
        if pending.silent is not None:
            asks.append((*pending.silent, False))
        for ack, tell, asked in asks:
            if ahead and _further(pending.ack, ack):  # it may be good for itself
                self._add(ack, tell, asked=asked, alone=True)
                continue
            try:
                tell(answer)
            except Exception:  # one connection's fault must not cost others their answers
                log.exception("ack_answer_failed", session=ack.session)


def _further(one: Ack, other: Ack) -> bool:
    return one.position is not None and (other.position is None or one.position > other.position)
