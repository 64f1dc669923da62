"""Tenant resources: what each asks for is made so, by the same code as `heliograph tenant apply`.

A look goes: finalizer → ownership → keys → topics and record → access → status. Each step may have been done before, by
this process, by one before it, or by another one just now; a look that finds all as it should be writes nothing.

While Kafka is away, what needs no topics is applied all the same: keys, limits, suspension.
"""

import time
from collections.abc import Callable, Mapping, Sequence

from heliograph.core.errors import InvalidValueError
from heliograph.operator.conditions import Condition, Truth
from heliograph.operator.kube import (
    CONFIG_MAPS,
    FORBIDDEN,
    PAUSED,
    SECRETS,
    TENANTS,
    Kind,
    Kube,
    KubeError,
    Object,
    has_labels,
    is_true,
    selector,
)
from heliograph.operator.metrics import TenantMetrics
from heliograph.operator.reconciler import Key, Requeue, Watch
from heliograph.operator.recorder import Recorder
from heliograph.operator.tenants.access import Access
from heliograph.operator.tenants.claims import Claims, claimant
from heliograph.operator.tenants.crd import WATCHED_LABEL
from heliograph.operator.tenants.ending import Ending
from heliograph.operator.tenants.keys import KEYS_READY, KeySource
from heliograph.operator.tenants.look import ADOPT, FINALIZER, Look, away
from heliograph.operator.tenants.making import Making
from heliograph.operator.tenants.ownership import Judgement, Verdict, judge
from heliograph.operator.tenants.removal import Removal
from heliograph.operator.tenants.status import PAUSED as PAUSED_CONDITION
from heliograph.operator.tenants.status import QUOTAS_APPLIED, READY, TOPICS_READY
from heliograph.operator.tenants.stores import LogError, TenantStores
from heliograph.operator.tenants.telling import Telling
from heliograph.stores.ports import CorruptError, Owner, StoreError


class TenantReconciler:
    """`heliograph.operator.reconciler.Reconciler` of Tenants."""

    kind: Kind = TENANTS

    def __init__(
        self,
        kube: Kube,
        recorder: Recorder,
        metrics: TenantMetrics,
        stores: TenantStores,
        keys: KeySource,
        *,
        namespaces: Sequence[str],
        labels: Mapping[str, str],
        adoption: bool,
        refresh_s: float,
        uniform: Callable[[], float],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`namespaces`: those whose Tenants are seen, empty for all; `labels`: those that they must have. `refresh_s`:
        of keys from URLs.
        """
        self._kube = kube
        self._stores = stores
        self._keys = keys
        self._namespaces = tuple(namespaces)
        self._labels = labels
        self._adoption = adoption
        self._refresh_s = refresh_s
        self._uniform = uniform
        self._claims = Claims()
        self._metrics = metrics
        self._access = Access(kube, stores.access, stores.topics.prefix)
        self._telling = Telling(kube, recorder, metrics, clock, self._claims.wrote)
        self._making = Making(stores)
        self._ending = Ending(kube, recorder, stores, Removal(stores, self._access), self._telling)

    @property
    def watches(self) -> Sequence[Watch]:
        label = f"{WATCHED_LABEL}=true"
        return (
            Watch(TENANTS, self._changed, selector(self._labels)),
            Watch(SECRETS, self._referring(SECRETS), label),
            Watch(CONFIG_MAPS, self._referring(CONFIG_MAPS), label),
        )

    async def start(self) -> None:
        for namespace in self._namespaces or (None,):
            try:
                found = await self._kube.all_of(TENANTS, namespace, labels=selector(self._labels))
            except KubeError as error:
                if error.status != FORBIDDEN or namespace is None:
                    raise
                continue  # it is gone, and the rights there with it: that must not keep others waiting
            for body in found:
                self._claims.put(body)

    async def reconcile(self, key: Key) -> Requeue | None:
        body = await self._kube.get(TENANTS, key.namespace, key.name)
        if body is None or not has_labels(body, self._labels):
            self._claims.drop(key)
            self._metrics.gone(f"{key.namespace}/{key.name}")
            return None
        self._claims.put(body)
        look = Look(body)
        try:
            if is_true(body, PAUSED):
                look.found.conditions = [Condition(PAUSED_CONDITION, Truth.TRUE, "Annotated", f"{PAUSED} is true")]
                await self._telling.tell(look)
            elif "deletionTimestamp" in look.metadata:
                await self._ending.finish(look)
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
        if gone or "deletionTimestamp" in metadata:
            return [key, *rivals]
        return [] if self._claims.is_ours(key, metadata.get("resourceVersion", "")) else [key]

    def _referring(self, kind: Kind) -> Callable[[Object, bool], list[Key]]:
        def keys(body: Object, gone: bool) -> list[Key]:
            del gone
            metadata = body["metadata"]
            return self._claims.referring(kind.kind, metadata["namespace"], metadata["name"])

        return keys

    # ---- a look -----------------------------------------------------------------------------------------------------

    async def _look(self, look: Look) -> None:
        try:
            mine = await self._claim(look)
        except StoreError as error:
            asked = (TOPICS_READY, QUOTAS_APPLIED) if isinstance(error, LogError) else (QUOTAS_APPLIED,)
            for kind in asked:
                look.say(kind, Truth.UNKNOWN, *away(error))
            await self._telling.tell(look)
            raise
        if not mine:
            return
        spec = look.body["spec"]
        had_some = bool(look.status.get("keys"))
        keys = await self._keys.find(look.metadata["namespace"], look.tenant, spec.get("auth") or {}, had_some=had_some)
        look.found.conditions.append(keys.condition)
        if keys.jwks is not None:
            look.found.key_ids = keys.ids
        if keys.fetched:
            look.later(self._refresh_s)
        failed: StoreError | None = None
        try:
            record = await self._making.record(look, keys)
            await self._making.apply(look, record)
            await self._grant(look)
            await self._making.count(look, record)
        except InvalidValueError as error:
            look.say(TOPICS_READY, Truth.FALSE, "InvalidSpec", error.message)
            look.say(QUOTAS_APPLIED, Truth.FALSE, "InvalidSpec", error.message)
        except StoreError as error:
            failed = error
        await self._telling.tell(look, suspended=bool(spec.get("suspended")))
        if failed is not None:
            raise failed

    async def _claim(self, look: Look) -> bool:
        """Whether the tenant is this resource's. Raises StoreError, KubeError."""
        tenants, me = self._stores.tenants, claimant(look.body)
        owner = await tenants.owner(me.tenant)
        had_it = look.status.get("tenant") == me.tenant
        adopts = self._adoption and is_true(look.body, ADOPT)
        judgement = judge(
            me,
            self._claims.of_tenant(me.tenant),
            owner,
            sees_owner=owner is None or await self._sees(owner, me.uid),
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

    async def _sees(self, owner: Owner, uid: str) -> bool:
        """Whether the resource that has a tenant would be known here, if it were still there. Raises KubeError.

        `uid`: whose look it is.
        """
        if self._namespaces and owner.namespace not in self._namespaces:
            return False
        if not self._labels or owner.retained or owner.uid == uid:
            return True
        try:
            body = await self._kube.get(TENANTS, owner.namespace, owner.name)
        except KubeError as error:
            if error.status != FORBIDDEN:
                raise
            return True
        return body is None or body["metadata"]["uid"] != owner.uid or has_labels(body, self._labels)

    async def _has_data(self, tenant: str) -> bool:
        try:
            if await self._stores.tenants.get(tenant) is not None:
                return True
        except CorruptError:
            return True
        topics = self._stores.topics
        return bool(await self._stores.admin.describe([topics.log(tenant), topics.deferred(tenant)]))

    async def _refuse(self, look: Look, judgement: Judgement) -> None:
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
        for kind in (READY, TOPICS_READY, QUOTAS_APPLIED, KEYS_READY):
            look.say(kind, Truth.FALSE, reason, message)
        await self._telling.tell(look)

    async def _hold(self, look: Look) -> None:
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
        self._claims.wrote(patched)
        look.body = patched

    async def _grant(self, look: Look) -> None:
        found = await self._access.keep(
            look.metadata["namespace"], look.tenant, look.body["spec"].get("access"), look.status.get("access")
        )
        look.found.access = found.told
        if found.begun:
            look.later(0)
        if found.condition is not None:
            look.found.conditions.append(found.condition)
        look.steps += found.steps
