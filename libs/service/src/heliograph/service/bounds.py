"""How much of a tenant may wait for the log: what `append` is told, by whichever service appends."""

from heliograph.core.limits import UNCONFIRMED_BYTES, UNCONFIRMED_MESSAGES, WINDOW_BYTES, WINDOW_MESSAGES
from heliograph.protocol.tenants import Tenant
from heliograph.stores.ports import Bounds

HOT_SHARDS = 16
"""A tenant's sessions are spread unevenly: a virtual shard may hold 1/16 of its unconfirmed bytes, not 1/256."""


def bounds_of(record: Tenant, virtual_shards: int) -> Bounds:
    """The bounds of a tenant's sessions."""
    settings = record.limits
    share = settings.unconfirmed_bytes // min(HOT_SHARDS, virtual_shards)
    return Bounds(
        unconfirmed_messages=UNCONFIRMED_MESSAGES,
        unconfirmed_bytes=UNCONFIRMED_BYTES,
        tenant_shard_bytes=max(share, 2 * settings.max_payload_bytes),
        window_messages=WINDOW_MESSAGES,
        window_bytes=WINDOW_BYTES,
    )
