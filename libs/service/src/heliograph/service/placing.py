"""Where a tenant's messages are, when its record changes: they don't move, so neither may the tenant.

A session's messages lie in one topic, in the partition it was begun in. Other counts of partitions are remembered in
the record, so that what was begun with them is found; and what would be in another topic from now on is refused.
"""

from collections.abc import Iterable, Mapping

import msgspec

from heliograph.core.errors import InvalidValueError
from heliograph.protocol.tenants import (
    MAX_EARLIER_PARTITIONS,
    RETENTION_CLASSES,
    Tenant,
    TopicSettings,
    retention_class,
)
from heliograph.stores.keys import Topics
from heliograph.stores.ports import TopicInfo


def check_stays(tenant: Tenant, before: Tenant | None, topics: Topics, existing: Mapping[str, TopicInfo]) -> None:
    """Raise InvalidValueError where messages that are there would have to be looked for in another topic."""
    if before is None:
        own = topics.log(tenant.tenant)
        if tenant.shared and own in existing:
            wanted = f"dedicated: there is a topic {own}, and its messages can't move"
            raise InvalidValueError("value_invalid", "tenant.isolation", tenant.isolation, wanted)
        return
    if tenant.isolation is not before.isolation:
        wanted = f"{before.isolation}, as it is: messages can't move between topics. Delete the tenant, or make another"
        raise InvalidValueError("value_invalid", "tenant.isolation", tenant.isolation, wanted)
    if not tenant.shared:
        return
    after_settings, before_settings = tenant.every_topic(), before.every_topic()
    for field in after_settings.keys() & before_settings.keys():
        name = retention_class(before_settings[field].retention_s)
        if retention_class(after_settings[field].retention_s) != name:
            shorter = max((days for days in RETENTION_CLASSES.values() if days < RETENTION_CLASSES[name]), default=0)
            wanted = f"above {shorter} and at most {RETENTION_CLASSES[name]}: it is in the shared topics of {name}"
            raise InvalidValueError(
                "value_invalid", f"tenant.{field}.retention_s", after_settings[field].retention_s, wanted
            )


def with_partitions(tenant: Tenant, before: Tenant | None, topics: Topics, existing: Mapping[str, TopicInfo]) -> Tenant:
    """`tenant` with the counts of partitions that its sessions may have been begun with before. Of a shared topic the
    count is what the topic has, or more where more is asked for.
    """
    names = {agent_type: topics.log_for(tenant, agent_type) for agent_type in ("", *tenant.agent_types)}
    have = {name: existing[name].partitions for name in names.values() if name in existing}
    asked: dict[str, int] = {}
    for agent_type, name in names.items():
        asked[name] = max(asked.get(name, 0), tenant.log_settings(agent_type).partitions)

    def settled(agent_type: str) -> TopicSettings:
        settings, name = tenant.log_settings(agent_type), names[agent_type]
        count = max(asked[name], have.get(name, 0)) if tenant.shared else settings.partitions
        earlier = list(settings.earlier_partitions)
        if before is not None and (not agent_type or agent_type in before.agent_types):
            known = before.log_settings(agent_type)
            earlier += [known.partitions, *known.earlier_partitions]
        if not tenant.shared and name in have:  # by somebody else's hand, or the record was lost
            earlier.append(have[name])
        return msgspec.structs.replace(settings, partitions=count, earlier_partitions=_remembered(earlier, count))

    return msgspec.structs.replace(
        tenant,
        topics=msgspec.structs.replace(tenant.topics, log=settled("")),
        agent_types={name: msgspec.structs.replace(one, log=settled(name)) for name, one in tenant.agent_types.items()},
    )


def _remembered(counts: Iterable[int], count: int) -> list[int]:
    """Each once, without today's; the largest where they are too many: those of long ago are the smallest."""
    return sorted(set(counts) - {count})[-MAX_EARLIER_PARTITIONS:]
