"""The page on rights: what Heliograph's users may do in Kafka and Redis, as lists and as what is typed."""

from heliograph.local.docs.tables import as_table, page
from heliograph.stores.kafka.rights import KAFKA_RIGHTS, KafkaRight
from heliograph.stores.redis.rights import (
    CHANNELS,
    CLUSTER,
    COMMANDS,
    KEYS,
    SENTINEL,
    SENTINELS,
    SENTINELS_CHANNEL,
    acl_rules,
)

PREFIX = "heliograph"
"""The topic prefix that examples have: the default."""


def rights_page() -> str:
    """docs/reference/rights.md."""
    kafka = [
        (right.service, right.resource, _named(right), ", ".join(right.operations), right.why) for right in KAFKA_RIGHTS
    ]
    redis = [
        (store, f"`~{KEYS[store]}`", f"`&{channel}`" if (channel := CHANNELS[store]) else "none", _commands(commands))
        for store, commands in COMMANDS.items()
    ]
    return page(
        "Rights in Kafka and Redis",
        "heliograph.stores.kafka.rights and heliograph.stores.redis.rights",
        "With these rights and no others every service does its work. One user for all services may have them all;"
        " what a thief could do with them is in"
        " [the threat model](../security.md#somebody-with-credentials-of-kafka-or-redis).",
        "## Kafka",
        "`PREFIX` is the topic prefix (`HELIOGRAPH_TOPIC_PREFIX`, `heliograph` by default); `PREFIX.*` is a prefixed"
        " pattern. Describe comes with Read, Write, Alter and Delete, DescribeConfigs with AlterConfigs. Producers are"
        " idempotent, which needs Write on a topic and nothing of the cluster (Kafka 3.0). The registry needs nothing.",
        as_table(("who", "resource", "name", "operations", "what for"), kafka),
        "As commands, for a user of each service and the default prefix:",
        _block([_kafka_command(right) for right in KAFKA_RIGHTS]),
        "## Redis",
        "All keys and channels begin with `hg:`. Users differ by what the Redis holds; services share them.",
        as_table(("store", "keys", "channels", "commands"), redis),
        "Functions and scripts run with the rights of whoever calls them, so what they call is among these."
        " As commands, the last for one Redis that holds everything:",
        _block(
            [
                *(f"ACL SETUSER heliograph-{store} on >PASSWORD {acl_rules(store)}" for store in COMMANDS),
                f"ACL SETUSER heliograph on >PASSWORD {acl_rules(*COMMANDS)}",
            ]
        ),
        f"A Redis Cluster needs {_commands(CLUSTER)} besides, servers behind Sentinel {_commands(SENTINEL)}. The"
        " sentinels have users of their own (`sentinel_username` in the URL); where they want one:",
        _block(
            [
                f"ACL SETUSER heliograph on >PASSWORD resetkeys resetchannels &{SENTINELS_CHANNEL} -@all"
                f" {_allowed(SENTINELS)}"
            ]
        ),
        "From Redis 7.2 on redis-py says its name at each connect;"
        " without `+client|setinfo` that is refused, ignored, and shows up in `ACL LOG`.",
    )


def _named(right: KafkaRight) -> str:
    return f"`{right.of('PREFIX')}{'*' if right.prefixed else ''}`"


def _commands(commands: frozenset[str]) -> str:
    return " ".join(f"`{command.upper().replace('|', ' ')}`" for command in sorted(commands))


def _allowed(commands: frozenset[str]) -> str:
    return " ".join(f"+{command}" for command in sorted(commands))


def _kafka_command(right: KafkaRight) -> str:
    pattern = " --resource-pattern-type prefixed" if right.prefixed else ""
    named = "--cluster" if right.resource == "cluster" else f"--{right.resource} {right.of(PREFIX)}{pattern}"
    operations = " ".join(f"--operation {operation}" for operation in right.operations)
    return (
        f"kafka-acls.sh --bootstrap-server BROKER --add --allow-principal User:heliograph-{right.service}"
        f" {named} {operations}"
    )


def _block(lines: list[str]) -> str:
    return "\n".join(["```text", *lines, "```"])
