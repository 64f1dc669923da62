"""What a Tenant's status says. Decisions only: equal states give equal statuses, so nothing is written for nothing.

Counts move all the time. They are told to two digits, and only anew once they are a tenth away from what is told.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from heliograph.core.topic_plan import TopicPlan
from heliograph.operator.conditions import Condition, Truth, find, merged
from heliograph.protocol.tenants import Tenant
from heliograph.stores.ports import TopicInfo, TopicSpec

MOVED_RATIO = 0.1
"""How far a count is from what is told before it is told anew."""
SMALL = 10
"""Below this, a tenth is counted as one of ten."""
DIGITS = 2

READY, TOPICS_READY, QUOTAS_APPLIED, PAUSED, ACCESS_READY = (
    "Ready", "TopicsReady", "QuotasApplied", "Paused", "AccessReady",
)  # fmt: skip

CONDITIONS = (READY, TOPICS_READY, QUOTAS_APPLIED, "KeysReady", ACCESS_READY)
"""That a Tenant should meet."""

SUSPENDED = "Suspended"

NOT_PAUSED = Condition(PAUSED, Truth.FALSE, "NotPaused", "it is reconciled")


@dataclass(slots=True)
class Findings:
    """What one look at a Tenant found. None: not looked at, what is told stays."""

    conditions: list[Condition] = field(default_factory=list)
    tenant: str | None = None
    topics: list[dict[str, Any]] | None = None
    connections: int | None = None
    key_ids: tuple[str, ...] | None = None
    access: dict[str, str] | None = None
    """Empty: there is none any more."""

    def count_messages(self, counts: Mapping[str, int], before: Mapping[str, Any]) -> None:
        """Put counts to the topics, where they moved."""
        shown = {one.get("name"): one.get("messages") for one in before.get("topics", ())}
        for one in self.topics or ():
            if one["name"] in counts:
                one["messages"] = told(shown.get(one["name"]), counts[one["name"]])


def told(shown: object, count: int) -> int:
    """What to tell of a count, where `shown` is told now."""
    if (
        isinstance(shown, int)
        and (shown == 0) == (count == 0)
        and abs(count - shown) <= MOVED_RATIO * max(shown, SMALL)
    ):
        return shown
    return rounded(count)


def rounded(count: int) -> int:
    """To two digits."""
    scale: int = 10 ** max(0, len(str(abs(count))) - DIGITS)
    return round(count / scale) * scale


def topics_told(
    names: Sequence[str],
    existing: Mapping[str, TopicInfo],
    plan: TopicPlan[TopicSpec],
    record: Tenant,
    logs: Mapping[str, str],
    before: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """`status.topics`, after `plan` was carried out. `logs`: the agent type whose log each topic is."""
    partitions = {name: info.partitions for name, info in existing.items()}
    partitions |= {topic.name: topic.partitions for topic in plan.create}
    partitions |= {grow.topic: grow.want for grow in plan.grow}
    shown = {one.get("name"): one for one in before}
    topics = []
    for name in sorted(set(names)):
        if name not in partitions:
            continue
        one: dict[str, Any] = {"name": name, "partitions": partitions[name]}
        if name in logs and not record.shared:
            earlier = record.log_settings(logs[name]).earlier_partitions
            if earlier:
                one["earlierPartitions"] = list(earlier)
        old = shown.get(name, {}).get("messages")
        if old is not None:
            one["messages"] = old
        topics.append(one)
    return topics


def ready(conditions: Sequence[Condition], *, suspended: bool) -> Condition:
    """`Ready`, from the others. Keys that could not be fetched anew don't count: the former ones are in force."""
    by_type = {one.type: one for one in conditions}
    parts = [by_type[name] for name in (TOPICS_READY, QUOTAS_APPLIED, "KeysReady") if name in by_type]
    bad = next((one for one in parts if one.status is Truth.FALSE), None)
    if bad is not None:
        return Condition(READY, Truth.FALSE, bad.reason, bad.message)
    unknown = next((one for one in parts if one.status is Truth.UNKNOWN and one.type != "KeysReady"), None)
    if unknown is not None:
        return Condition(READY, Truth.UNKNOWN, unknown.reason, unknown.message)
    if suspended:
        return Condition(READY, Truth.FALSE, SUSPENDED, "spec.suspended is true: clients are refused")
    return Condition(READY, Truth.TRUE, "Ready", "clients can connect, publish and read history")


def status_of(before: Mapping[str, Any], found: Findings, generation: int, at: str) -> dict[str, Any]:
    """The whole status to store; equal to `before` where nothing is to be written."""
    status = dict(before)
    status["observedGeneration"] = generation
    status["conditions"] = merged(before.get("conditions", ()), found.conditions, generation, at)
    if found.tenant is not None:
        status["tenant"] = found.tenant
    if found.topics is not None:
        status["topics"] = found.topics
        status["messages"] = told(before.get("messages"), sum(one.get("messages", 0) for one in found.topics))
    if found.connections is not None:
        status["connections"] = told(before.get("connections"), found.connections)
    if found.key_ids is not None:
        status["keys"] = list(found.key_ids)
    if found.access is not None:
        status["access"] = found.access
        if not found.access:
            del status["access"]
            status["conditions"] = [one for one in status["conditions"] if one["type"] != ACCESS_READY]
    return status


def patch_of(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The merge patch from one status to another."""
    patch: dict[str, Any] = {name: value for name, value in after.items() if before.get(name) != value}
    if isinstance(patch.get("access"), dict):
        patch["access"] = dict.fromkeys(before.get("access", ())) | patch["access"]
    return patch | {name: None for name in before if name not in after}


def unmet(conditions: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """Types of those that are not true; who is suspended is as somebody wants it."""
    found = {str(one["type"]) for one in conditions if one["type"] in CONDITIONS and one["status"] != "True"}
    suspended = (find(conditions, READY) or {}).get("reason") == SUSPENDED
    return frozenset(found - {READY} if suspended else found)


def turned(before: Mapping[str, Any], after: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The Ready condition, where its status or reason is another one now."""
    old, new = find(before.get("conditions", ()), READY), find(after.get("conditions", ()), READY)
    if new is None or (old is not None and (old["status"], old["reason"]) == (new["status"], new["reason"])):
        return None
    return new
