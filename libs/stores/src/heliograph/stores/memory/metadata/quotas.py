"""Tenants' token buckets in memory."""

import math
from collections.abc import Sequence

from heliograph.core.quotas import lease
from heliograph.stores.memory.metadata.clock import Clock, now_ms
from heliograph.stores.ports import QuotaGrant, QuotaRequest


class MemoryQuotaStore:
    """`heliograph.stores.ports.QuotaStore`."""

    def __init__(self, clock: Clock = now_ms) -> None:
        self._clock = clock
        self._full_at_s: dict[str, tuple[float, float]] = {}

    async def lease(self, requests: Sequence[QuotaRequest]) -> list[QuotaGrant]:
        return [self._one(request) for request in requests]

    def _one(self, request: QuotaRequest) -> QuotaGrant:
        now = self._clock() / 1000
        messages_at, bytes_at = self._full_at_s.get(request.bucket, (-math.inf, -math.inf))
        messages, messages_at, wait_s = lease(messages_at, now, request.limits.messages, request.messages)
        bytes_, bytes_at, bytes_wait_s = lease(bytes_at, now, request.limits.bytes, request.bytes)
        self._full_at_s[request.bucket] = (messages_at, bytes_at)
        return QuotaGrant(int(messages), int(bytes_), max(wait_s, bytes_wait_s))
