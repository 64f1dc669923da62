"""What each service may do in Kafka: the ACLs of its user, and no others are needed (KIP-290's prefixed patterns).

Names are templates: `{prefix}` is the installation's topic prefix. A call that a store begins to make must be here.
"""

from dataclasses import dataclass
from typing import Literal

CLUSTER = "kafka-cluster"
"""The one name that Kafka has for the cluster as a resource."""


@dataclass(frozen=True, slots=True)
class KafkaRight:
    """Operations that one service's user is allowed on what is named."""

    service: Literal["edge", "router", "replay", "operator"]
    resource: Literal["topic", "group", "cluster"]
    name: str
    prefixed: bool
    """Whether `name` is how names begin; else it is the whole name."""
    operations: tuple[str, ...]
    """As kafka-acls.sh spells them. Describe comes with Read, Write, Alter and Delete; DescribeConfigs with AlterConfigs.
    """
    why: str

    def of(self, topic_prefix: str) -> str:
        """The resource's name for an installation."""
        return self.name.format(prefix=topic_prefix)


KAFKA_RIGHTS: tuple[KafkaRight, ...] = (
    KafkaRight("edge", "topic", "{prefix}.", True, ("Write",), "Messages, deferred ones, telemetry. Being idempotent needs no more."),
    KafkaRight("edge", "topic", "{prefix}.", True, ("DescribeConfigs",), "Whether topics are still the same."),
    KafkaRight("router", "topic", "{prefix}.", True, ("Read", "Write"), "Reads everything; writes what is missing, records of its own, deferred messages in their place."),
    KafkaRight("router", "topic", "{prefix}.", True, ("DescribeConfigs",), "Whether topics are still the same."),
    KafkaRight("router", "topic", "{prefix}.dead", False, ("Create",), "Where nobody else made it."),
    KafkaRight("router", "group", "{prefix}.router", False, ("Read",), "The group of all routers."),
    KafkaRight("router", "group", "{prefix}.router", False, ("AlterConfigs",), "A shorter session (KIP-848). Without it a dead router is replaced after the brokers' 45 s."),
    KafkaRight("router", "group", "heliograph-reader-", True, ("Describe",), "Reading outside of a group: the client looks for a coordinator all the same."),
    KafkaRight("replay", "topic", "{prefix}.", True, ("Read",), "History."),
    KafkaRight("replay", "topic", "{prefix}.", True, ("DescribeConfigs",), "How long topics keep what they have."),
    KafkaRight("replay", "group", "heliograph-reader-", True, ("Describe",), "As the router's."),
    KafkaRight("operator", "topic", "{prefix}.", True, ("Create", "Alter", "AlterConfigs", "Delete"), "Makes, grows, sets and (`reclaimPolicy: Delete`) deletes topics of tenants. `heliograph tenant` needs the same."),
    KafkaRight("operator", "cluster", CLUSTER, False, ("Alter",), "SCRAM users and ACLs of tenants' own consumers. Not needed where no Tenant has `access`."),
)  # fmt: skip
