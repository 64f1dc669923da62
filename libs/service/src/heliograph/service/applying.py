"""Applying a tenant: its topics first, then its record, so that no service writes to a topic that isn't there.

The command and the operator call this; broken off anywhere, it can be repeated. Revocations that are stored stay: a
file that was written before them does not know of them.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from heliograph.core.topic_plan import TopicPlan, plan_topics
from heliograph.protocol.tenants import Tenant, decode_tenant
from heliograph.service.placing import check_stays, with_partitions
from heliograph.service.revoking import change_record, with_revocations
from heliograph.service.topics import dead_topic, wanted_topics, with_resets
from heliograph.stores.keys import Topics
from heliograph.stores.ports import CorruptError, LogAdmin, TenantStore, TopicInfo, TopicSpec

IN_FORCE_TIMEOUT_S = 5.0
"""Services notice a change within a second; one that died stops counting after `tenants.TOLD_TTL_S`."""

IN_FORCE_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class TenantChange:
    """What applying a tenant comes to. `fields` are dotted paths of the record that change; empty: it stays."""

    tenant: str
    record: Tenant
    """What is to be stored: what somebody wrote, with what only the cluster knows."""
    topics: TopicPlan[TopicSpec]
    new: bool
    fields: tuple[str, ...]
    existing: Mapping[str, TopicInfo] = field(default_factory=dict)
    """Those of its topics that are there, as they are before."""

    @property
    def empty(self) -> bool:
        """Everything is as it should be."""
        return self.topics.empty and not self.new and not self.fields


async def plan(tenant: Tenant, topics: Topics, admin: LogAdmin, store: TenantStore) -> TenantChange:
    """What has to change for `tenant`; changes nothing. Raises InvalidValueError for what can't be changed."""
    known, before = await _read(tenant.tenant, store)
    dead = dead_topic(tenant, topics)
    names = [topic.name for topic in (*wanted_topics(tenant, topics), dead)]
    existing = await admin.describe([*names, topics.log(tenant.tenant)])
    check_stays(tenant, before, topics, existing)
    record = with_partitions(tenant, before, topics, existing)
    wanted = with_resets(wanted_topics(record, topics), () if before is None else wanted_topics(before, topics))
    if dead.name not in existing:
        wanted.append(dead)
    fields = () if before is None else tuple(_differing(before, with_revocations(record, before.auth.revoked)))
    if known and before is None:
        fields = ("(unreadable)",)
    return TenantChange(tenant.tenant, record, plan_topics(wanted, existing), not known, fields, existing)


async def apply(change: TenantChange, admin: LogAdmin, store: TenantStore, said: Callable[[str], None]) -> None:
    """Carry `change` out. `said` is told each step before it is taken. Returns when the topics can be written to."""
    for topic in change.topics.create:
        said(f"create topic {topic.name}")
    await _all(admin.create(topic) for topic in change.topics.create)
    for grow in change.topics.grow:
        said(f"grow topic {grow.topic} from {grow.have} to {grow.want} partitions")
        await admin.grow(grow.topic, grow.want)
    for alter in change.topics.alter:
        said(f"change settings of topic {alter.topic}")
        await admin.alter(alter.topic, alter.config)
    if change.new or change.fields:
        said(f"write the record of {change.tenant}")

        def wanted(before: Tenant | None) -> Tenant:
            return change.record if before is None else with_revocations(change.record, before.auth.revoked)

        await change_record(store, change.tenant, wanted)


async def _all(calls: Iterable[Awaitable[None]]) -> None:
    """Side by side; brokers take their time to show each topic. Raises the first error once all have ended."""
    for failed in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(failed, BaseException):
            raise failed


async def apply_without_topics(tenant: Tenant, store: TenantStore) -> tuple[str, ...] | None:
    """While the log is away: all of the record that says nothing of topics, so that a key can be withdrawn, a limit
    changed and a tenant suspended. Which fields changed; None where there is no record yet: a new tenant waits.
    """
    _, stored = await _read(tenant.tenant, store)
    if stored is None:
        return None

    def wanted(before: Tenant | None) -> Tenant:
        kept = stored if before is None else before
        changed = msgspec.structs.replace(
            tenant, topics=kept.topics, agent_types=kept.agent_types, isolation=kept.isolation
        )
        return with_revocations(changed, kept.auth.revoked)

    before, after = await change_record(store, tenant.tenant, wanted)
    return () if before is None else tuple(_differing(before, after))


async def wait_in_force(store: TenantStore, timeout_s: float = IN_FORCE_TIMEOUT_S) -> list[str]:
    """Return once every running service obeys all records as they are now; those that don't after `timeout_s`."""
    version = await store.version()
    deadline = time.monotonic() + timeout_s
    while behind := await store.behind(version):
        if time.monotonic() >= deadline:
            break
        await asyncio.sleep(IN_FORCE_POLL_S)
    return behind


async def stored_record(tenant: str, store: TenantStore) -> Tenant | None:
    """The record, where there is one that can be read."""
    return (await _read(tenant, store))[1]


async def _read(tenant: str, store: TenantStore) -> tuple[bool, Tenant | None]:
    """Whether there is a record, and the record where it can be read: a broken one is there to be replaced."""
    try:
        record = await store.get(tenant)
        return record is not None, None if record is None else decode_tenant(record)
    except (CorruptError, msgspec.MsgspecError):
        return True, None


def _differing(before: Tenant, after: Tenant) -> list[str]:
    old, new = _flat(msgspec.to_builtins(before)), _flat(msgspec.to_builtins(after))
    return sorted(path for path in old.keys() | new.keys() if old.get(path) != new.get(path))


def _flat(value: object, path: str = "") -> dict[str, object]:
    """Dotted path → leaf. Lists are leaves: a key set changes as one."""
    if not isinstance(value, dict) or not value:
        return {path: value} if path else {}
    flat: dict[str, object] = {}
    for name, inner in value.items():
        flat |= _flat(inner, f"{path}.{name}" if path else str(name))
    return flat
