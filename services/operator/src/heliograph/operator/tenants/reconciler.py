"""Tenant resources: what each asks for is made so, by the same code as `heliograph tenant apply`.

A look goes: finalizer → ownership → keys → topics and record → access → status. Each step may have been done before, by
this process, by one before it, or by another one just now; a look that finds all as it should be writes nothing.

While Kafka is away, what needs no topics is applied all the same: keys, limits, suspension.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from heliograph.core.errors import InvalidValueError
from heliograph.core.topic_plan import TopicPlan
from heliograph.operator.conditions import Condition, Truth, find
from heliograph.operator.kube import (
    CONFIG_MAPS,
    GROUP,
    PAUSED,
    SECRETS,
    TENANTS,
    Kind,
    Kube,
    KubeError,
    Object,
    is_true,
)
from heliograph.operator.reconciler import Key, Requeue, Watch
from heliograph.operator.recorder import Recorder, Severity, rfc3339
from heliograph.operator.tenants.access import Access
from heliograph.operator.tenants.claims import Claims, claimant
from heliograph.operator.tenants.crd import WATCHED_LABEL
from heliograph.operator.tenants.keys import Keys, KeySource
from heliograph.operator.tenants.ownership import Judgement, Verdict, judge
from heliograph.operator.tenants.record import capped, record_of
from heliograph.operator.tenants.removal import Removal
from heliograph.operator.tenants.status import (
    NOT_PAUSED,
    QUOTAS_APPLIED,
    READY,
    TOPICS_READY,
    Findings,
    patch_of,
    ready,
    status_of,
    topics_told,
    turned,
)
from heliograph.operator.tenants.stores import LogError, TenantStores
from heliograph.protocol.tenants import Tenant
from heliograph.service.applying import TenantChange, apply, apply_without_topics, plan, stored_record, wait_in_force
from heliograph.service.logs import get_logger
from heliograph.service.topics import wanted_topics
from heliograph.stores.ports import CorruptError, StoreError, TopicSpec

FINALIZER = f"{GROUP}/tenant"
UNMANAGED = f"{GROUP}/unmanaged"
ADOPT = f"{GROUP}/adopt"
FORCE_FINALIZE = f"{GROUP}/force-finalize"

NOT_TAKEN_UP_AGAIN_S = 5.0
"""Until it is asked again whether services obey: one that died is forgotten after 3 s."""

NO_PLAN: TopicPlan[TopicSpec] = TopicPlan((), (), (), ())

log = get_logger(__name__)


@dataclass(slots=True)
class _Look:
    """One look at one Tenant, as far as it has come."""

    body: Object
    found: Findings = field(default_factory=lambda: Findings([NOT_PAUSED]))
    steps: list[str] = field(default_factory=list)
    """What was changed, for the Event."""
    again_s: float | None = None

    @property
    def metadata(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.body["metadata"]
        return found

    @property
    def status(self) -> Mapping[str, Any]:
        return self.body.get("status") or {}

    @property
    def tenant(self) -> str:
        return str(self.body["spec"]["tenant"])

    def say(self, kind: str, status: Truth, reason: str, message: str) -> None:
        self.found.conditions.append(Condition(kind, status, reason, message))

    def later(self, seconds: float) -> None:
        self.again_s = seconds if self.again_s is None else min(self.again_s, seconds)


class TenantReconciler:
    """`heliograph.operator.reconciler.Reconciler` of Tenants."""

    kind: Kind = TENANTS

    def __init__(
        self,
        kube: Kube,
        recorder: Recorder,
        stores: TenantStores,
        keys: KeySource,
        *,
        namespaces: Sequence[str],
        adoption: bool,
        refresh_s: float,
        uniform: Callable[[], float],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`namespaces`: those whose Tenants are seen, empty for all. `refresh_s`: of keys from URLs."""
        self._kube = kube
        self._recorder = recorder
        self._stores = stores
        self._keys = keys
        self._namespaces = tuple(namespaces)
        self._adoption = adoption
        self._refresh_s = refresh_s
        self._uniform = uniform
        self._clock = clock
        self._claims = Claims()
        self._access = Access(kube, stores.access, stores.topics.prefix)
        self._removal = Removal(stores, self._access)

    @property
    def watches(self) -> Sequence[Watch]:
        label = f"{WATCHED_LABEL}=true"
        return (
            Watch(TENANTS, self._changed),
            Watch(SECRETS, self._referring(SECRETS), label),
            Watch(CONFIG_MAPS, self._referring(CONFIG_MAPS), label),
        )

    async def start(self) -> None:
        for namespace in self._namespaces or (None,):
            for body in await self._kube.all_of(TENANTS, namespace):
                self._claims.put(body)

    async def reconcile(self, key: Key) -> Requeue | None:
        body = await self._kube.get(TENANTS, key.namespace, key.name)
        if body is None:
            self._claims.drop(key)
            return None
        self._claims.put(body)
        look = _Look(body)
        try:
            if is_true(body, PAUSED):
                look.found.conditions = [Condition("Paused", Truth.TRUE, "Annotated", f"{PAUSED} is true")]
                await self._tell(look)
            elif "deletionTimestamp" in look.metadata:
                await self._finish(look)
            else:
                await self._look(look)
        except KubeError as error:
            if error.code == "kube_not_found":  # it went meanwhile
                return None
            raise
        return None if look.again_s is None else Requeue(look.again_s * (0.9 + 0.2 * self._uniform()))

    # ---- what concerns whom -----------------------------------------------------------------------------------------

    def _changed(self, body: Object, gone: bool) -> list[Key]:
        """A Tenant concerns itself; one that is gone, or begins to be, those that want the same tenant."""
        metadata = body["metadata"]
        key = Key(TENANTS.kind, metadata["namespace"], metadata["name"])
        rivals = self._claims.rivals(key)
        if gone:
            self._claims.drop(key)
        elif "spec" in body:
            self._claims.put(body)
        return [key, *rivals] if gone or "deletionTimestamp" in metadata else [key]

    def _referring(self, kind: Kind) -> Callable[[Object, bool], list[Key]]:
        def keys(body: Object, gone: bool) -> list[Key]:
            del gone
            metadata = body["metadata"]
            return self._claims.referring(kind.kind, metadata["namespace"], metadata["name"])

        return keys

    # ---- a look -----------------------------------------------------------------------------------------------------

    async def _look(self, look: _Look) -> None:
        try:
            mine = await self._claim(look)
        except StoreError as error:
            look.say(QUOTAS_APPLIED, Truth.UNKNOWN, *_away(error))
            await self._tell(look)
            raise
        if not mine:
            return
        spec = look.body["spec"]
        keys = await self._keys.find(look.metadata["namespace"], look.tenant, spec.get("auth") or {})
        look.found.conditions.append(keys.condition)
        if keys.jwks is not None:
            look.found.key_ids = keys.ids
        if keys.fetched:
            look.later(self._refresh_s)
        failed: StoreError | None = None
        try:
            record = await self._record(look, keys)
            await self._apply(look, record)
            await self._grant(look)
            await self._count(look, record)
        except InvalidValueError as error:
            look.say(TOPICS_READY, Truth.FALSE, "InvalidSpec", error.message)
            look.say(QUOTAS_APPLIED, Truth.FALSE, "InvalidSpec", error.message)
        except StoreError as error:
            failed = error
        await self._tell(look, suspended=bool(spec.get("suspended")))
        if failed is not None:
            raise failed

    async def _claim(self, look: _Look) -> bool:
        """Whether the tenant is this resource's. Raises StoreError, KubeError."""
        tenants, me = self._stores.tenants, claimant(look.body)
        owner = await tenants.owner(me.tenant)
        had_it = look.status.get("tenant") == me.tenant
        adopts = self._adoption and is_true(look.body, ADOPT)
        judgement = judge(
            me,
            self._claims.of_tenant(me.tenant),
            owner,
            sees_owner=owner is None or not self._namespaces or owner.namespace in self._namespaces,
            had_it=had_it,
            has_data=owner is None and not had_it and not adopts and await self._has_data(me.tenant),
            adopts=adopts,
        )
        if judgement.verdict is Verdict.MAY_CLAIM:
            await self._hold(look)
            if await tenants.own(me.tenant, owner, me.owner()):
                look.steps.append(f"took over what {judgement.holder} had" if judgement.holder else "took the name")
                judgement = Judgement(Verdict.OWNS)
            else:  # somebody was faster
                raise KubeError("kube_conflict", f"the tenant {me.tenant} was taken meanwhile", 409)
        if judgement.verdict is Verdict.OWNS:
            await self._hold(look)
            look.found.tenant = me.tenant
            return True
        await self._refuse(look, judgement)
        return False

    async def _has_data(self, tenant: str) -> bool:
        try:
            if await self._stores.tenants.get(tenant) is not None:
                return True
        except CorruptError:
            return True
        topics = self._stores.topics
        return bool(await self._stores.admin.describe([topics.log(tenant), topics.deferred(tenant)]))

    async def _refuse(self, look: _Look, judgement: Judgement) -> None:
        if judgement.verdict is Verdict.CONFLICT:
            message = f"the tenant {look.tenant} is {judgement.holder}'s: give another name, or delete that one"
            reason = "Conflict"
        else:
            whose = judgement.holder or "nobody who is known"
            allowed = "" if self._adoption else " (which the operator's settings don't allow)"
            message = (
                f"there is data of a tenant {look.tenant}, which was {whose}'s:"
                f" annotate {ADOPT}=true to have it{allowed}, or give another name"
            )
            reason = "NotItsData"
        for kind in (READY, TOPICS_READY, QUOTAS_APPLIED, "KeysReady"):
            look.say(kind, Truth.FALSE, reason, message)
        await self._tell(look)

    async def _hold(self, look: _Look) -> None:
        """Put the finalizer on, before anything is made that would have to be removed."""
        finalizers = list(look.metadata.get("finalizers") or ())
        if FINALIZER in finalizers:
            return
        patch = {
            "metadata": {
                "finalizers": [*finalizers, FINALIZER],
                "resourceVersion": look.metadata["resourceVersion"],
            }
        }
        patched = await self._kube.patch(TENANTS, look.metadata["namespace"], look.metadata["name"], patch)
        look.body = patched

    async def _record(self, look: _Look, keys: Keys) -> Tenant:
        """The record that the spec asks for. Raises InvalidValueError, StoreError."""
        jwks = keys.jwks
        if jwks is None:
            stored = await stored_record(look.tenant, self._stores.tenants)
            jwks = {} if stored is None else stored.auth.jwks
        return record_of(look.body["spec"], jwks, look.status, self._stores.topics)

    async def _apply(self, look: _Look, record: Tenant) -> None:
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

    async def _left_alone(self, look: _Look, record: Tenant, change: TenantChange) -> TenantChange:
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

    async def _apply_what_can_be(self, look: _Look, record: Tenant, error: StoreError) -> None:
        """What needs no topics, after they could not be asked for."""
        if not isinstance(error, LogError):
            look.say(QUOTAS_APPLIED, Truth.UNKNOWN, *_away(error))
            return
        refused = error.code != "log_unavailable"
        look.say(TOPICS_READY, Truth.FALSE if refused else Truth.UNKNOWN, *_away(error))
        try:
            fields = await apply_without_topics(record, self._stores.tenants)
        except StoreError as second:
            look.say(QUOTAS_APPLIED, Truth.UNKNOWN, *_away(second))
            return
        if fields is None:
            look.say(QUOTAS_APPLIED, Truth.UNKNOWN, "TopicsFirst", "the record is written once its topics are there")
            return
        if fields:
            look.steps.append(f"changed {', '.join(fields)}")
        await self._obeyed(look, wrote=bool(fields))

    async def _obeyed(self, look: _Look, *, wrote: bool) -> None:
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

    async def _grant(self, look: _Look) -> None:
        found = await self._access.keep(
            look.metadata["namespace"], look.tenant, look.body["spec"].get("access"), look.status.get("access")
        )
        look.found.access = found.told
        if found.condition is not None:
            look.found.conditions.append(found.condition)
        look.steps += found.steps

    def _told_topics(self, look: _Look, change: TenantChange) -> None:
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

    async def _count(self, look: _Look, record: Tenant) -> None:
        """About how much there is. Nothing depends on it, so what can't be counted is left out."""
        if look.found.topics is None:
            return
        try:
            partitions = {one["name"]: one["partitions"] for one in look.found.topics}
            look.found.count_messages(await self._stores.admin.messages(partitions), look.status)
            (look.found.connections,) = await self._stores.connections.counts([record.tenant])
        except StoreError as error:
            log.warning("tenant_not_counted", tenant=record.tenant, error=error.message)

    # ---- its end ----------------------------------------------------------------------------------------------------

    async def _finish(self, look: _Look) -> None:
        finalizers = list(look.metadata.get("finalizers") or ())
        if FINALIZER not in finalizers:
            return
        spec, force = look.body["spec"], is_true(look.body, FORCE_FINALIZE)
        left: list[str] = []
        try:
            owner = await self._stores.tenants.owner(look.tenant)
        except StoreError:
            if not force:
                raise
            owner, left = claimant(look.body).owner(), ["whose it is"]
        if owner is not None and owner.uid == look.metadata["uid"] and not owner.retained:
            delete = spec.get("reclaimPolicy") == "Delete"
            try:
                record = record_of(spec, {}, look.status, self._stores.topics)
            except InvalidValueError:
                record = None  # its status tells which topics it had
            steps, topics = self._removal.steps(owner, spec, record, look.status)
            for what, step in steps:
                try:
                    await step()
                except StoreError as error:
                    if not force:
                        text = (
                            f"{what} could not be removed: {error.message}. Annotate {FORCE_FINALIZE}=true to leave it"
                        )
                        look.found.conditions = [Condition(READY, Truth.FALSE, "DeletionBlocked", text)]
                        await self._tell(look)
                        raise
                    left.append(what)
            await self._said_goodbye(look, topics, delete=delete, left=list(dict.fromkeys(left)))
        remaining = [one for one in finalizers if one != FINALIZER]
        patch = {"metadata": {"finalizers": remaining, "resourceVersion": look.metadata["resourceVersion"]}}
        await self._kube.patch(TENANTS, look.metadata["namespace"], look.metadata["name"], patch)

    async def _said_goodbye(self, look: _Look, topics: Sequence[str], *, delete: bool, left: Sequence[str]) -> None:
        if left:
            text = f"as {FORCE_FINALIZE} says, these were left behind: {', '.join(left)}"
            await self._recorder.record(look.body, Severity.WARNING, "LeftBehind", text)
        named = ", ".join(topics)
        if not topics:
            text = "its messages stay in the topics that it shares, until their retention is over"
            await self._recorder.record(look.body, Severity.NORMAL, "Removed", text)
        elif delete:
            await self._recorder.record(look.body, Severity.NORMAL, "Deleted", f"removed with its data: {named}")
        else:
            text = f"the topics stay, with their messages: {named}"
            await self._recorder.record(look.body, Severity.NORMAL, "Retained", text)

    # ---- what is told -----------------------------------------------------------------------------------------------

    async def _tell(self, look: _Look, *, suspended: bool = False) -> None:
        """Events for what was done, and the status where it differs."""
        found, metadata = look.found, look.metadata
        if not any(one.type in (READY, "Paused") and one is not NOT_PAUSED for one in found.conditions):
            known = {one.type for one in found.conditions}
            missing = [one for one in (TOPICS_READY, QUOTAS_APPLIED, "KeysReady") if one not in known]
            kept = [_condition(find(look.status.get("conditions", ()), one), one) for one in missing]
            found.conditions.append(ready([*found.conditions, *kept], suspended=suspended))
        if look.steps:
            await self._recorder.record(look.body, Severity.NORMAL, "Applied", "; ".join(look.steps))
        after = status_of(look.status, found, metadata["generation"], rfc3339(self._clock()))
        if after == look.status:
            return
        turn = turned(look.status, after)
        if turn is not None and turn["status"] != "True":
            await self._recorder.record(look.body, Severity.WARNING, turn["reason"], turn["message"])
        patch = {
            "metadata": {"resourceVersion": metadata["resourceVersion"]},
            "status": patch_of(look.status, after),
        }
        await self._kube.patch(TENANTS, metadata["namespace"], metadata["name"], patch, subresource="status")


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


def _away(error: StoreError) -> tuple[str, str]:
    """Reason and message of what a store did not do: always the same for the same, or each try would be a write."""
    if isinstance(error, LogError) and error.code == "log_unavailable":
        return "KafkaUnavailable", "Kafka can't be reached; it is tried again"
    if not isinstance(error, LogError):
        return "StoreUnavailable", "a store can't be reached; it is tried again"
    return "Refused", error.message


def _condition(stored: Mapping[str, Any] | None, kind: str) -> Condition:
    if stored is None:
        return Condition(kind, Truth.UNKNOWN, "NotLookedAt", "it could not be looked at yet")
    return Condition(kind, Truth(stored["status"]), stored["reason"], stored["message"])
