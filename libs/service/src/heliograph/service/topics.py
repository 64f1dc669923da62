"""The topics that a tenant's record asks for: names, sizes, settings. `heliograph.core.topic_plan` compares them."""

import dataclasses
from collections.abc import Iterable

import msgspec

from heliograph.protocol.tenants import DAY_S, RETENTION_CLASSES, Tenant, TopicSettings, retention_class
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
    """Every topic that the tenant's messages are in, its own or shared ones."""
    wanted = [(topics.log_for(tenant, ""), tenant.topics.log), (topics.deferred_of(tenant), tenant.topics.deferred)]
    telemetry = topics.telemetry_of(tenant)
    if telemetry is not None and tenant.topics.telemetry is not None:
        wanted.append((telemetry, tenant.topics.telemetry))
    for agent_type, settings in sorted(tenant.agent_types.items()):
        wanted.append((topics.log_for(tenant, agent_type), settings.log))
    return [_spec(name, settings) for name, settings in (_shared(wanted) if tenant.shared else wanted)]


def _shared(wanted: Iterable[tuple[str, TopicSettings]]) -> list[tuple[str, TopicSettings]]:
    """Shared topics: each once, as large as is asked for most, and kept as long as its class says."""
    found: dict[str, TopicSettings] = {}
    for name, settings in wanted:
        known = found.get(name)
        found[name] = msgspec.structs.replace(
            settings,
            retention_s=RETENTION_CLASSES[retention_class(settings.retention_s)],
            partitions=max(settings.partitions, known.partitions if known is not None else 1),
        )
    return list(found.items())


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
    return TopicSpec(name, settings.partitions, settings.replication_factor, {**config, **settings.config})


def with_resets(wanted: Iterable[TopicSpec], former: Iterable[TopicSpec]) -> list[TopicSpec]:
    """`wanted`, with settings that the former record asked for and this one does not: back to the brokers' default."""
    known = {topic.name: topic.config for topic in former}
    return [
        dataclasses.replace(topic, config={**dict.fromkeys(known.get(topic.name, ())), **topic.config})
        for topic in wanted
    ]
