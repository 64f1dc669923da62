"""Token buckets across edges."""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from heliograph.core.buckets import SenderLimits


class QuotaRequest(Struct, frozen=True):
    """Tokens that an edge wants of a bucket which all edges share."""

    bucket: str
    """`<tenant>:<class>`."""
    limits: SenderLimits
    messages: int
    bytes: int


class QuotaGrant(Struct, frozen=True):
    """What it gets: all, or what there is and how long until the rest could be had."""

    messages: int
    bytes: int
    wait_s: float = 0.0


class QuotaStore(Protocol):
    """Token buckets across edges (`heliograph.core.quotas.lease`), by the store's clock."""

    async def lease(self, requests: Sequence[QuotaRequest]) -> list[QuotaGrant]:
        """In the order asked, one call each in one round trip. Raises StoreError(`unavailable`)."""
