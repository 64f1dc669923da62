"""The topics that a tenant's record asks for: names, sizes, settings. `heliograph.core.topic_plan` compares them."""

from heliograph.protocol.tenants import DAY_S, Tenant, TopicSettings
from heliograph.stores.keys import Topics
from heliograph.stores.ports import TopicSpec

DEAD_RETENTION_S = 30 * DAY_S
"""A month: what could not be read waits for somebody to look at it."""

FIXED_CONFIG = {
    "cleanup.policy": "delete",
    "message.timestamp.type": "LogAppendTime",
    "unclean.leader.election.enable": "false",
}
"""What the promises rest on: nothing compacted away, time by the brokers' clocks, no leader that lacks messages."""

REPLICAS_FOR_TWO_IN_SYNC = 3
"""From here on one replica may be away while two must have a message. With fewer, one lost broker would stop writes."""


def wanted_topics(tenant: Tenant, topics: Topics) -> list[TopicSpec]:
    """Every topic of the tenant."""
    log = tenant.topics.log
    wanted = [
        _spec(topics.log(tenant.tenant), log),
        _spec(topics.deferred(tenant.tenant), tenant.topics.deferred),
    ]
    if tenant.topics.telemetry is not None:
        wanted.append(_spec(topics.telemetry(tenant.tenant), tenant.topics.telemetry))
    for agent_type, settings in sorted(tenant.agent_types.items()):
        wanted.append(_spec(topics.agent_type_log(tenant.tenant, agent_type), settings.log))
    return wanted


def dead_topic(tenant: Tenant, topics: Topics) -> TopicSpec:
    """The one topic of dead letters: made with the first tenant, as well kept as its log, then left alone."""
    replication = tenant.topics.log.replication_factor
    settings = TopicSettings(partitions=1, replication_factor=replication, retention_s=DEAD_RETENTION_S)
    return _spec(topics.dead, settings)


def _spec(name: str, settings: TopicSettings) -> TopicSpec:
    config = {
        **FIXED_CONFIG,
        "retention.ms": str(settings.retention_s * 1000),
        "retention.bytes": str(settings.retention_bytes),
    }
    if (settings.replication_factor or 0) >= REPLICAS_FOR_TWO_IN_SYNC:
        config["min.insync.replicas"] = "2"
    return TopicSpec(name, settings.partitions, settings.replication_factor, config)
