"""Whether a publish is within what its sender may send: the sender's own buckets, then its tenant's quota.

A sender is a connection, or a subject over HTTP. Control messages have buckets of their own, so that a flood of events
or telemetry never holds them up.
"""

from heliograph.core.buckets import SenderBucket
from heliograph.core.messages import MessageClass
from heliograph.edge.tenants import TenantState

RATE_LIMITED = "rate_limited"
QUOTA_EXCEEDED = "quota_exceeded"

CONTROL = MessageClass.CONTROL


class Sender:
    """One sender's buckets."""

    __slots__ = ("_control", "_others")

    def __init__(self) -> None:
        self._control: SenderBucket | None = None
        self._others: SenderBucket | None = None

    def admit(self, tenant: TenantState, class_: MessageClass, now: float, size_bytes: int) -> tuple[str, int] | None:
        """None where the message is admitted; else the refusal's code and retry_after_ms, and nothing was charged."""
        if class_ is CONTROL:
            bucket = self._control
            if bucket is None:
                bucket = self._control = SenderBucket(tenant.limits)
        else:
            bucket = self._others
            if bucket is None:
                bucket = self._others = SenderBucket(tenant.limits)
        bucket.limits = tenant.limits
        wait_ms = bucket.take(now, size_bytes)
        if wait_ms:
            return RATE_LIMITED, wait_ms
        wait_ms = tenant.quotas[class_].take(now, size_bytes)
        if wait_ms:
            bucket.put_back(size_bytes)
            return QUOTA_EXCEEDED, wait_ms
        return None
