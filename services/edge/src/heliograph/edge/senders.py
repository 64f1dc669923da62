"""Whether a publish is within what its sender may send: the sender's own buckets, then its tenant's quota.

A sender is a connection, or a subject over HTTP. Each class has buckets of its own: a flood of telemetry holds up no
event, and neither holds up a control message.
"""

from heliograph.core.buckets import SenderBucket
from heliograph.core.messages import MessageClass
from heliograph.edge.tenants import TenantState

RATE_LIMITED = "rate_limited"
QUOTA_EXCEEDED = "quota_exceeded"

CONTROL, EVENT = MessageClass.CONTROL, MessageClass.EVENT


class Sender:
    """One sender's buckets."""

    __slots__ = ("_control", "_event", "_telemetry")

    def __init__(self) -> None:
        """Each is made with the first message of its class: most senders have one or two."""
        self._control: SenderBucket | None = None
        self._event: SenderBucket | None = None
        self._telemetry: SenderBucket | None = None

    def admit(self, tenant: TenantState, class_: MessageClass, now: float, size_bytes: int) -> tuple[str, int] | None:
        """None where the message is admitted; else the refusal's code and retry_after_ms, and nothing was charged."""
        if class_ is EVENT:
            bucket = self._event
            if bucket is None:
                bucket = self._event = SenderBucket(tenant.limits)
        elif class_ is CONTROL:
            bucket = self._control
            if bucket is None:
                bucket = self._control = SenderBucket(tenant.limits)
        else:
            bucket = self._telemetry
            if bucket is None:
                bucket = self._telemetry = SenderBucket(tenant.limits)
        bucket.limits = tenant.limits
        wait_ms = bucket.take(now, size_bytes)
        if wait_ms:
            return RATE_LIMITED, wait_ms
        wait_ms = tenant.quotas[class_].take(now, size_bytes)
        if wait_ms:
            bucket.put_back(size_bytes)
            return QUOTA_EXCEEDED, wait_ms
        return None
