"""What an edge does again and again beside its clients' requests, where that is no part's own."""

import asyncio
import time
from collections.abc import Callable

from heliograph.edge.publishing import PublishPath
from heliograph.service.health import Condition
from heliograph.service.logs import RateLimitedLog, get_logger
from heliograph.service.tenants import TenantDirectory
from heliograph.service.topic_watch import TopicWatch
from heliograph.stores.keys import Topics
from heliograph.stores.ports import LiveStore, LogWriter, StoreError

TICK_S = 0.05
"""Between looks at overdue answers."""

FOLLOW_S = 0.2
"""Between questions about pending publishes, and deferred ones."""

WATCH_S = 0.5
"""Between looks at whether the stores are there."""


class LogCondition:
    """Readiness does not hang on Kafka, but who looks should know."""

    def __init__(self, condition: Condition, log: LogWriter) -> None:
        self._condition = condition
        self._log = log
        self._errors = log.load.broker_errors

    def answered(self, error: StoreError | None) -> None:
        """How Kafka answered: None, or what was wrong. Over is what no write has met since."""
        before, self._errors = self._errors, self._log.load.broker_errors
        if error is not None:
            self._condition.degraded(error)
        elif before == self._errors:
            self._condition.ok()


async def look_at_topics(
    watch: TopicWatch,
    directory: TenantDirectory,
    topics: Topics,
    interval_s: float,
    answered: Callable[[StoreError | None], None],
) -> None:
    """Say which topics are gone or were made again; what is to be done about it routers do.

    `answered` is told how Kafka answered: None, or what was wrong.
    """
    limited = RateLimitedLog(get_logger(__name__))
    while True:
        names = {name for entry in directory.all().values() for name in topics.logs_of(entry.record)}
        try:
            await watch.look(names)
            if names:
                answered(None)
        except StoreError as error:
            answered(error)
            limited.warning("topics_not_looked_at", error=str(error))
        await asyncio.sleep(interval_s)


async def answer_overdue(path: PublishPath) -> None:
    while True:
        path.tick(time.monotonic())
        await asyncio.sleep(TICK_S)


async def follow_pending(path: PublishPath) -> None:
    while True:
        await asyncio.sleep(FOLLOW_S)
        if path.followed:
            await path.look_after_followed(time.monotonic())
        if path.deferrals.held:
            await path.deferrals.look(time.monotonic())


async def watch_live(live: LiveStore, condition: Condition) -> None:
    """Readiness follows the live path, in both directions: an edge without it serves nobody new."""
    while True:
        if live.available:
            condition.ok()
        else:
            condition.degraded("the connection to the live store is down")
        await asyncio.sleep(WATCH_S)
