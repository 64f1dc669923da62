"""Tells the live store what the log has: one pipelined round trip a batch, repeated until it went through.

While the live store is away the batch waits: nothing is committed, nothing is lost, and the consumer keeps its place in
the group. Sessions that fail while others go through are given up after some tries: whatever is wrong with their keys
must not hold back everybody else's confirmations. They stay unconfirmed, so reconciling comes back to them.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence

from heliograph.core.backoff import Backoff, BackoffPolicy
from heliograph.router.batch import Epoch
from heliograph.router.metrics import RouterMetrics
from heliograph.service.health import Condition
from heliograph.service.logs import RateLimitedLog, get_logger
from heliograph.stores.ports import CorruptError, Head, LiveStore, StoreError

RETRY = BackoffPolicy(base_s=0.05, cap_s=2.0, healthy_s=0.0)
"""Of a round while the live store is away: it is back at most 2 s before us."""

GIVE_UP_AFTER = 8
"""Failures of one session while others go through."""

ALONE_RETRY_S = 0.05
"""Between tries of sessions that fail while others go through: everybody behind them waits."""

GIVEN_UP_S = 60.0
MAX_GIVEN_UP = 10_000

Item = tuple[str, str, Sequence[tuple[int, int]]]


class Confirmer:
    """Confirms batches."""

    def __init__(
        self,
        live: LiveStore,
        metrics: RouterMetrics,
        condition: Condition,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        uniform: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._live = live
        self._metrics = metrics
        self._condition = condition
        self._sleep = sleep
        self._uniform = uniform
        self._clock = clock
        self._known: Item | None = None
        """One that went through."""
        self._given_up: dict[str, float] = {}
        """Sessions not waited for, and until when."""
        self._log = RateLimitedLog(get_logger(__name__))

    async def confirm(self, positions: Mapping[Epoch, Sequence[tuple[int, int]]]) -> dict[Epoch, Head]:
        """Heads of the sessions after it; without those that were given up. Returns when all is done."""
        heads: dict[Epoch, Head] = {}
        waiting: list[Item] = [(session, epoch, pairs) for (session, epoch), pairs in positions.items()]
        backoff = Backoff(RETRY, self._uniform)
        failures: Counter[Epoch] = Counter()
        while waiting:
            failed, error = await self._round(waiting, heads)
            if not failed:
                break
            self._metrics.confirm_retries.n += 1
            self._log.warning("confirm_failed", sessions=len(failed), error=str(error))
            delay_s = backoff.failed(self._clock())
            if await self._others_go_through():
                failed = [item for item in failed if not self._gives_up(item, failures)]
                delay_s = min(delay_s, ALONE_RETRY_S)
            else:
                self._condition.waiting(error)
            waiting = failed
            if waiting:
                await self._sleep(delay_s)
        self._condition.ok()
        return heads

    async def _round(self, items: list[Item], heads: dict[Epoch, Head]) -> tuple[list[Item], StoreError | None]:
        """One try: items that failed, and the last error."""
        try:
            answers = await self._live.confirm_many(items)
        except StoreError as error:
            return items, error
        failed: list[Item] = []
        last: StoreError | None = None
        for item, answer in zip(items, answers, strict=True):
            if isinstance(answer, CorruptError):
                self._metrics.confirm_corrupt.n += 1
                self._log.warning("session_corrupt", key=item[0], session=item[0], error=str(answer))
            elif isinstance(answer, StoreError):
                failed.append(item)
                last = answer
            else:
                heads[item[0], item[1]] = answer
                self._metrics.confirmed.n += len(item[2])
                self._known = item
        return failed, last

    async def _others_go_through(self) -> bool:
        """Whether a session that went through before still does: confirming it again changes nothing."""
        if self._known is None:
            return False
        try:
            (answer,) = await self._live.confirm_many([self._known])
        except StoreError:
            return False
        return not isinstance(answer, StoreError)

    def _gives_up(self, item: Item, failures: Counter[Epoch]) -> bool:
        """Whether this session has failed often enough; one that was given up lately is not waited for again."""
        session, now = item[0], self._clock()
        key = (session, item[1])
        failures[key] += 1
        if failures[key] < GIVE_UP_AFTER and self._given_up.get(session, 0.0) < now:
            return False
        if len(self._given_up) >= MAX_GIVEN_UP:
            self._given_up.clear()
        self._given_up[session] = now + GIVEN_UP_S
        self._metrics.confirm_given_up.n += 1
        self._log.warning("confirm_given_up", key=session, session=session, epoch=item[1])
        return True
