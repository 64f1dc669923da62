"""From a Tenant's spec to the record that services obey. Decisions only."""

from collections.abc import Mapping
from typing import Any

import msgspec

from heliograph.operator.naming import to_record
from heliograph.protocol.tenants import Tenant, TopicSettings, parse_tenant
from heliograph.stores.keys import Topics

NOT_IN_RECORD = ("reclaimPolicy", "access")
"""What only the resource has."""


def record_of(spec: Mapping[str, Any], jwks: Mapping[str, Any], status: Mapping[str, Any], topics: Topics) -> Tenant:
    """The record. `jwks`: the keys, wherever they came from. `status` remembers counts of partitions that sessions were
    begun with, for a metadata store that forgot them. Raises InvalidValueError.
    """
    wanted = {name: value for name, value in spec.items() if name not in NOT_IN_RECORD}
    auth = {name: value for name, value in (wanted.get("auth") or {}).items() if name != "jwksFrom"}
    wanted["auth"] = {**auth, "jwks": dict(jwks)}
    telemetry = (wanted.get("topics") or {}).get("telemetry")
    if telemetry is not None:
        logged = {name: value for name, value in telemetry.items() if name != "logged"}
        wanted["topics"] = {**wanted["topics"], "telemetry": logged if telemetry.get("logged", True) else None}
    record = parse_tenant(to_record(wanted, Tenant))
    return record if record.shared else _remembering(record, status, topics)


def capped(record: Tenant, have: Mapping[str, int]) -> Tenant:
    """The record with no more partitions than its logs have (by agent type; empty: the tenant's own log): nobody is to
    write to one that is not there."""

    def within(settings: TopicSettings, agent_type: str) -> TopicSettings:
        count = min(settings.partitions, have.get(agent_type, settings.partitions))
        return msgspec.structs.replace(settings, partitions=count)

    return _each_log(record, within)


def _remembering(record: Tenant, status: Mapping[str, Any], topics: Topics) -> Tenant:
    told = {one["name"]: one for one in status.get("topics", ())}

    def with_earlier(settings: TopicSettings, agent_type: str) -> TopicSettings:
        one = told.get(topics.log_for(record, agent_type))
        if one is None:
            return settings
        counts = {*settings.earlier_partitions, *one.get("earlierPartitions", ()), one["partitions"]}
        return msgspec.structs.replace(settings, earlier_partitions=sorted(counts - {settings.partitions}))

    return _each_log(record, with_earlier)


def _each_log(record: Tenant, change: Any) -> Tenant:
    return msgspec.structs.replace(
        record,
        topics=msgspec.structs.replace(record.topics, log=change(record.topics.log, "")),
        agent_types={
            name: msgspec.structs.replace(one, log=change(one.log, name)) for name, one in record.agent_types.items()
        },
    )
