"""What the edge derives from a tenant's record once, so that a publish only reads attributes."""

from dataclasses import dataclass, field

from heliograph.core.buckets import Rate, SenderLimits
from heliograph.core.partitions import partition_of
from heliograph.core.sessions import SessionKey
from heliograph.edge.origins import Origins
from heliograph.edge.quotas import QuotaLeases, Quotas
from heliograph.edge.usage import UNUSED, SessionUse
from heliograph.protocol.tenants import Tenant
from heliograph.service.bounds import bounds_of
from heliograph.service.serving import Kind
from heliograph.stores.keys import Topics
from heliograph.stores.ports import Bounds


@dataclass(slots=True)
class TenantState:
    """A tenant as this edge obeys it: one object for as long as it exists, so that `in_flight` stays a true count."""

    record: Tenant
    topics: Topics
    virtual_shards: int
    leases: QuotaLeases
    in_flight: int = 0
    """Records of this tenant that the log has not acknowledged."""
    limits: SenderLimits = field(init=False)
    bounds: Bounds = field(init=False)
    max_payload_bytes: int = field(init=False)
    origins: Origins = field(init=False)
    """Of the tenant's own pages."""
    telemetry_topic: str | None = field(init=False)
    deferred_topic: str = field(init=False)
    quotas: Quotas = field(init=False)
    """What all its publishers on this edge may spend, by class."""

    def __post_init__(self) -> None:
        self.quotas = self.leases.make(self.record.tenant, self.record.quotas)
        self.renew(self.record)

    def renew(self, record: Tenant) -> None:
        """Obey another record of the same tenant."""
        if record.quotas != self.record.quotas:
            self.leases.renew(self.quotas, record.quotas)
        self.record = record
        settings = self.record.limits
        self.limits = SenderLimits(
            messages=Rate(settings.connection_messages_per_s, settings.connection_burst_messages),
            bytes=Rate(settings.connection_bytes_per_s, settings.connection_burst_bytes),
        )
        self.bounds = bounds_of(record, self.virtual_shards)
        self.max_payload_bytes = settings.max_payload_bytes
        self.origins = Origins(self.record.allowed_origins)
        self.deferred_topic = self.topics.deferred_of(record)
        self.telemetry_topic = self.topics.telemetry_of(self.record)

    def log_topic(self, session: SessionKey) -> str:
        """The log topic of a session."""
        return self.topics.log_of(session, self.record)

    def partition(self, session: SessionKey) -> int:
        """Where a session that begins now goes."""
        return partition_of(str(session).encode(), self.record.log_settings(session.agent_type).partitions)


@dataclass(slots=True)
class Target:
    """A session that one connection may publish to: everything about it that no message changes."""

    session: str
    tenant: TenantState
    topic: str
    partition: int
    key: bytes
    kind: Kind
    by_worker: bool = False
    """The connection serves the session's agent type: what it publishes needs no worker."""
    use: SessionUse = UNUSED
    """That the session is in use here."""
