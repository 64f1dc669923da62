"""Whether the cluster still answers a client, and when one that hears nothing is replaced.

librdkafka lets go of brokers that are in no metadata any more. One whose connection has a question open then may never
be let go of wholly: it counts as a broker for ever, so that the client, without any other, neither begins again at
`bootstrap.servers` nor tells an error. All brokers frozen for longer than their controller waits for them is enough;
versions 2.15 and 2.16 do it, in about one of five such pauses for a member of a group.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from confluent_kafka import KafkaException

from heliograph.stores.events import StoreEvent, Tally
from heliograph.stores.kafka.client import logger

RENEW_S = 15.0
"""A client that could not ask the cluster for so long is replaced, and so is that one after as long: while the cluster
is really away that costs a client now and then, and finds it as soon as it is back.
"""


class Hearing:
    """Of one client, and of those that come in its place."""

    def __init__(self, what: str, stats: Tally, clock: Callable[[], float] = time.monotonic) -> None:
        """`what` it is, for the log. `stats` of whoever has the client."""
        self._what = what
        self._stats = stats
        self._clock = clock
        self._deaf_since: float | None = None

    @property
    def deaf(self) -> bool:
        """The last question was not answered."""
        return self._deaf_since is not None

    def close(self, close: Callable[[], object]) -> None:
        """Close the client, and wait for it unless it is deaf."""
        if self.deaf:
            close_aside(close)
        else:
            close()

    def heard(self) -> None:
        """The cluster answered, if only to say no."""
        self._deaf_since = None

    def missed(self) -> bool:
        """The cluster could not be asked; whether the client is to be replaced now, which is counted."""
        now = self._clock()
        if self._deaf_since is None:
            self._deaf_since = now
        if now - self._deaf_since < RENEW_S:
            return False
        self._deaf_since = now
        count_replaced(self._stats, self._what, RENEW_S)
        return True


def count_replaced(stats: Tally, what: str, heard_nothing_for_s: float) -> None:
    """Tell of a client that is given up."""
    stats.count(StoreEvent.CLIENT_REPLACED)
    logger.warning("log_client_replaced", extra={"client": what, "heard_nothing_for_s": heard_nothing_for_s})


def close_aside(close: Callable[[], object]) -> None:
    """Close a client in a thread that nobody waits for, the process' end neither: a broken one may not close at all."""

    def run() -> None:
        with suppress(KafkaException, RuntimeError):
            close()

    threading.Thread(target=run, name="log-client-closing", daemon=True).start()
