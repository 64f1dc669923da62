"""Making a tenant what its spec says: its topics, then its record, by the code of `heliograph tenant apply`.

While Kafka is away, what needs no topics is applied all the same: keys, limits, suspension.
"""

from dataclasses import replace

from heliograph.core.topic_plan import TopicPlan
from heliograph.operator.conditions import Truth, find
from heliograph.operator.kube import is_true
from heliograph.operator.tenants.keys import Keys
from heliograph.operator.tenants.look import UNMANAGED, Look, away
from heliograph.operator.tenants.record import capped, record_of
from heliograph.operator.tenants.status import QUOTAS_APPLIED, TOPICS_READY, topics_told
from heliograph.operator.tenants.stores import LogError, TenantStores
from heliograph.protocol.tenants import Tenant
from heliograph.service.applying import TenantChange, apply, apply_without_topics, plan, stored_record, wait_in_force
from heliograph.service.logs import get_logger
from heliograph.service.topics import wanted_topics
from heliograph.stores.ports import StoreError, TopicSpec

NOT_TAKEN_UP_AGAIN_S = 5.0
"""Until it is asked again whether services obey: one that died is forgotten after 3 s."""

NO_PLAN: TopicPlan[TopicSpec] = TopicPlan((), (), (), ())

log = get_logger(__name__)


class Making:
    """On the stores. Every method may be called again, wherever a call before was broken off."""

    def __init__(self, stores: TenantStores) -> None:
        self._stores = stores

    async def record(self, look: Look, keys: Keys) -> Tenant:
        """The record that the spec asks for. Raises InvalidValueError, StoreError."""
        jwks = keys.jwks
        if jwks is None:
            stored = await stored_record(look.tenant, self._stores.tenants)
            jwks = {} if stored is None else stored.auth.jwks
        return record_of(look.body["spec"], jwks, look.status, self._stores.topics)

    async def apply(self, look: Look, record: Tenant) -> None:
        stores = self._stores
        try:
            change = await plan(record, stores.topics, stores.admin, stores.tenants)
            if is_true(look.body, UNMANAGED):
                change = await self._left_alone(look, record, change)
            else:
                await apply(change, stores.admin, stores.tenants, _unsaid)
                look.steps += _described(change)
                warnings = "; ".join(f"{one.topic} {one.message}" for one in change.topics.warnings)
                look.say(TOPICS_READY, Truth.TRUE, "TopicsAsWanted", warnings or "all are there, as the spec says")
        except StoreError as error:
            await self._apply_what_can_be(look, record, error)
            raise
        self._told_topics(look, change)
        await self._obeyed(look, wrote=change.new or bool(change.fields))

    async def _left_alone(self, look: Look, record: Tenant, change: TenantChange) -> TenantChange:
        """Where topics are somebody else's to manage: none is touched, and the record says what they are."""
        stores = self._stores
        logs = {stores.topics.log_for(record, name): name for name in ("", *record.agent_types)}
        within = capped(record, {logs[name]: info.partitions for name, info in change.existing.items() if name in logs})
        if within != record:
            change = await plan(within, stores.topics, stores.admin, stores.tenants)
        left = replace(change, topics=replace(NO_PLAN, warnings=change.topics.warnings))
        missing = [topic.name for topic in change.topics.create]
        if missing:
            look.say(TOPICS_READY, Truth.FALSE, "TopicsMissing", f"left alone ({UNMANAGED}): no {', '.join(missing)}")
        else:
            differing = sorted({one.topic for one in change.topics.grow} | {one.topic for one in change.topics.alter})
            text = f"; they differ from the spec: {', '.join(differing)}" if differing else ""
            look.say(TOPICS_READY, Truth.TRUE, "Unmanaged", f"left alone, as {UNMANAGED} says{text}")
        if not missing or not change.new:
            look.steps += _described(left)
            await apply(left, stores.admin, stores.tenants, _unsaid)
        return left

    async def _apply_what_can_be(self, look: Look, record: Tenant, error: StoreError) -> None:
        """What needs no topics, after they could not be asked for."""
        if not isinstance(error, LogError):
            look.say(QUOTAS_APPLIED, Truth.UNKNOWN, *away(error))
            return
        refused = error.code != "log_unavailable"
        look.say(TOPICS_READY, Truth.FALSE if refused else Truth.UNKNOWN, *away(error))
        try:
            fields = await apply_without_topics(record, self._stores.tenants)
        except StoreError as second:
            look.say(QUOTAS_APPLIED, Truth.UNKNOWN, *away(second))
            return
        if fields is None:
            look.say(QUOTAS_APPLIED, Truth.UNKNOWN, "TopicsFirst", "the record is written once its topics are there")
            return
        if fields:
            look.steps.append(f"changed {', '.join(fields)}")
        await self._obeyed(look, wrote=bool(fields))

    async def _obeyed(self, look: Look, *, wrote: bool) -> None:
        """`QuotasApplied`: whether services obey the record, where it is new or was not known to be obeyed."""
        before = find(look.status.get("conditions", ()), QUOTAS_APPLIED)
        behind: list[str] = []
        if wrote or before is None or before["status"] != "True":
            behind = await wait_in_force(self._stores.tenants)
        if behind:
            look.later(NOT_TAKEN_UP_AGAIN_S)
            text = f"not taken up yet by {len(behind)} services: see whether they reach the metadata store (/readyz)"
            look.say(QUOTAS_APPLIED, Truth.FALSE, "NotTakenUp", text)
        else:
            look.say(QUOTAS_APPLIED, Truth.TRUE, "Applied", "services obey its record")

    def _told_topics(self, look: Look, change: TenantChange) -> None:
        topics = self._stores.topics
        logs = {topics.log_for(change.record, name): name for name in ("", *change.record.agent_types)}
        look.found.topics = topics_told(
            [topic.name for topic in wanted_topics(change.record, topics)],
            change.existing,
            change.topics,
            change.record,
            logs,
            look.status.get("topics", ()),
        )

    async def count(self, look: Look, record: Tenant) -> None:
        """About how much there is. Nothing depends on it, so what can't be counted is left out."""
        if look.found.topics is None:
            return
        try:
            partitions = {one["name"]: one["partitions"] for one in look.found.topics}
            look.found.count_messages(await self._stores.admin.messages(partitions), look.status)
            (look.found.connections,) = await self._stores.connections.counts([record.tenant])
        except StoreError as error:
            log.warning("tenant_not_counted", tenant=record.tenant, error=error.message)


def _unsaid(step: str) -> None:
    """An Event says all at once, when it was done."""
    del step


def _described(change: TenantChange) -> list[str]:
    """What a change comes to, for an Event."""
    topics = change.topics
    said = [f"created topic {topic.name} with {topic.partitions} partitions" for topic in topics.create]
    said += [f"grew topic {grow.topic} from {grow.have} to {grow.want} partitions" for grow in topics.grow]
    said += [f"set {', '.join(alter.changes)} of topic {alter.topic}" for alter in topics.alter]
    if change.new:
        said.append("wrote its record")
    elif change.fields:
        said.append(f"changed {', '.join(change.fields)}")
    return said
