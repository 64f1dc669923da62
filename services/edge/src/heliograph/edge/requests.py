"""HTTP requests under way, bounded for each tenant: each holds its body, and waits for the log while that is slow.

A place is taken once it is known whose request it is, before its body is read.
"""

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from heliograph.core.pacing import jittered_after_ms
from heliograph.edge.metrics import EdgeMetrics
from heliograph.service.http import HttpError

RETRY_MS = (250.0, 1_000.0)
"""When to ask again, at least, and spread over so much more: a publish takes milliseconds, a second while the log is
away."""


class TenantRequests:
    """Those of one edge."""

    def __init__(self, most: int, metrics: EdgeMetrics) -> None:
        self._most = most
        self._under_way: Counter[str] = Counter()
        metrics.metrics.sampled_gauge(
            "http_requests_under_way", "Publishes over HTTP under way.", lambda: float(self._under_way.total())
        )

    @contextmanager
    def one(self, tenant: str) -> Iterator[None]:
        """One more while it lasts. Raises HttpError(`too_many_requests`)."""
        if self._under_way[tenant] >= self._most:
            after_ms = jittered_after_ms(*RETRY_MS, random.random)
            raise HttpError("too_many_requests", retry_after_ms=after_ms)
        self._under_way[tenant] += 1
        try:
            yield
        finally:
            self._under_way[tenant] -= 1
            if not self._under_way[tenant]:
                del self._under_way[tenant]
