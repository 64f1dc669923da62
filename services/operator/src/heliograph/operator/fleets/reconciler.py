"""EdgeFleets: each look reads the fleet as it is, decides, takes the next steps, and says how it is.

What is remembered between looks (what the load asked for in the last minutes) only makes decisions slower where it is
lost: who has just started shrinks nothing before a whole window has passed, and goes on with what was begun, which the
store and the pods tell. There is no finalizer: a fleet that is deleted leaves its edges as they are, and an edge that
was draining serves again once its order has run out.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from heliograph.core.errors import InvalidValueError
from heliograph.core.fleet.rebalancing import MINUTE_S, sheddings
from heliograph.core.fleet.retiring import Phase, Plan, SetReplicas, plan
from heliograph.core.fleet.sizing import Memory, Size, size
from heliograph.operator.conditions import Condition, Truth, find, merged
from heliograph.operator.fleets import status as says
from heliograph.operator.fleets.acting import Actor, ChangedMeanwhileError, Scaled
from heliograph.operator.fleets.observing import View, look, other_owner
from heliograph.operator.fleets.spec import FleetSpec, parse_spec
from heliograph.operator.kube import EDGE_FLEETS, PAUSED, Kind, Kube, KubeError, Object, has_labels, is_true, selector
from heliograph.operator.metrics import FleetMetrics
from heliograph.operator.reconciler import Key, Requeue, Watch, own_key
from heliograph.operator.recorder import Recorder, Severity, rfc3339
from heliograph.stores.ports import ConnectionStore, EdgeOrders

SOON_S = 0.5
"""Until a fleet that changed while it was looked at is looked at again."""

SLOW_S = 30.0
"""Between status writes that only say another number of connections."""

_HURRIED = frozenset({Phase.DRAINING, Phase.REMOVING})

_WARNED = {"Ready": ("Conflict", "DeploymentNotFound", "Invalid"), "LoadKnown": ("StoreUnavailable", "EdgesSilent")}
"""Conditions whose turning False is an Event, by reasons."""


@dataclass
class _Remembered:
    """Of one fleet, from look to look."""

    memory: Memory = field(default_factory=Memory)
    going: tuple[str, ...] = ()
    """Pods that should be gone by the replicas that were written."""
    disobedient: frozenset[str] = frozenset()
    written_at: float = float("-inf")


class FleetReconciler:
    """`heliograph.operator.reconciler.Reconciler`."""

    def __init__(
        self,
        kube: Kube,
        connections: ConnectionStore,
        orders: EdgeOrders,
        recorder: Recorder,
        metrics: FleetMetrics,
        *,
        labels: Mapping[str, str],
        interval_s: float,
        busy_interval_s: float,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`labels` that a fleet must have to be seen; `interval_s` between looks at one, `busy_interval_s` while one of
        its edges goes.
        """
        self._kube = kube
        self._connections = connections
        self._orders = orders
        self._recorder = recorder
        self._metrics = metrics
        self._labels = labels
        self._actor = Actor(kube, orders, recorder, metrics)
        self._interval_s = interval_s
        self._busy_interval_s = busy_interval_s
        self._clock = clock
        self._wall = wall
        self._remembered: dict[Key, tuple[str, _Remembered]] = {}

    @property
    def kind(self) -> Kind:
        return EDGE_FLEETS

    @property
    def watches(self) -> Sequence[Watch]:
        """Fleets alone. Deployments and pods are read at each look, which come every few seconds: to watch every pod
        of a cluster for that would cost it more, and us rights to see them.
        """
        return (Watch(EDGE_FLEETS, own_key(EDGE_FLEETS), selector(self._labels)),)

    async def start(self) -> None:
        """Nothing has to be known of all fleets together."""

    async def reconcile(self, key: Key) -> Requeue | None:
        fleet = await self._kube.get(EDGE_FLEETS, key.namespace, key.name)
        if fleet is None or "deletionTimestamp" in fleet["metadata"] or not has_labels(fleet, self._labels):
            self._remembered.pop(key, None)
            self._metrics.gone(str(key))
            return None
        remembered = self._remembered_of(key, fleet)
        try:
            spec = parse_spec(fleet["spec"])
        except InvalidValueError as error:
            await self._write(fleet, remembered, [Condition("Ready", Truth.FALSE, "Invalid", error.message)], {})
            return None
        return await self._look(fleet, spec, key, remembered)

    async def _look(self, fleet: Object, spec: FleetSpec, key: Key, remembered: _Remembered) -> Requeue:
        paused = says.paused(by_spec=spec.paused, by_annotation=is_true(fleet, PAUSED))
        view = await look(self._kube, self._connections, self._orders, key.namespace, spec.deployment, self._wall())
        if view is None:
            message = f"there is no Deployment {spec.deployment} in this namespace"
            missing = Condition("Ready", Truth.FALSE, "DeploymentNotFound", message)
            await self._write(fleet, remembered, [missing, paused], {"current": 0, "ready": 0, "draining": 0})
            return Requeue(self._interval_s)
        conflict = await other_owner(self._kube, fleet, spec.deployment)
        wanted, remembered.memory = size(spec.sizing, view.observed(), remembered.memory, self._clock())
        planned = _possible(plan(view.deployment, view.pods, wanted.replicas, spec.draining), view)
        scaled = None
        if conflict is None and paused.status is Truth.FALSE:
            await self._tell_surprises(fleet, view, planned, remembered)
            try:
                scaled = await self._act(fleet, spec, view, wanted, planned)
            except ChangedMeanwhileError:
                return Requeue(SOON_S)
            if scaled is not None:
                remembered.going = scaled.going
        await self._say(fleet, spec, view, wanted, planned, conflict, paused, scaled, remembered)
        self._metrics.fleet(str(key), wanted.replicas, len(view.pods), view.ready, len(view.leaving))
        hurried = planned.phase in _HURRIED and conflict is None and paused.status is Truth.FALSE
        return Requeue(self._busy_interval_s if hurried else self._interval_s)

    async def _act(self, fleet: Object, spec: FleetSpec, view: View, wanted: Size, planned: Plan) -> Scaled | None:
        why = says.why(wanted, spec.sizing, view)
        scaled = await self._actor.take(fleet, spec.deployment, view, planned, why)
        if planned.phase is Phase.SETTLED and spec.rebalance_share > 0 and view.known:
            shed = sheddings(view.edges_to_balance(), spec.rebalance_share, spec.tolerance)
            await self._actor.shed(fleet, shed, int(self._wall() // MINUTE_S))
        return scaled

    async def _tell_surprises(self, fleet: Object, view: View, planned: Plan, remembered: _Remembered) -> None:
        """That the controller deleted another pod, or that an edge doesn't do as it is told."""
        if remembered.going and len(view.pods) <= view.replicas:
            stayed = {pod.name for pod in view.pods} & set(remembered.going)
            remembered.going = ()
            if stayed:
                self._metrics.drain("another_went")
                message = f"another pod was deleted in place of {says.shown(list(stayed))}, which had moved its clients"
                await self._recorder.record(fleet, Severity.WARNING, "AnotherPodWent", message)
        names = frozenset(pod.name for pod in planned.disobedient)
        for name in sorted(names - remembered.disobedient):
            self._metrics.drain("disobeyed")
            message = f"{name} does not drain as it was told; its pod goes all the same, and has its grace period"
            await self._recorder.record(fleet, Severity.WARNING, "DrainNotObeyed", message)
        remembered.disobedient = names

    async def _say(
        self,
        fleet: Object,
        spec: FleetSpec,
        view: View,
        wanted: Size,
        planned: Plan,
        conflict: str | None,
        paused: Condition,
        scaled: Scaled | None,
        remembered: _Remembered,
    ) -> None:
        conditions = [
            says.ready(view, wanted, conflict),
            says.scaling(view, wanted, planned),
            says.limited(wanted),
            says.load_known(view),
            paused,
        ]
        numbers = says.numbers(view, wanted)
        if scaled is not None:
            reason = f"from {scaled.before} to {scaled.after}: {says.why(wanted, spec.sizing, view)}"
            numbers |= {"lastScaleTime": rfc3339(self._wall()), "lastScaleReason": reason}
        await self._write(fleet, remembered, conditions, numbers)

    async def _write(
        self, fleet: Object, remembered: _Remembered, conditions: Sequence[Condition], numbers: dict[str, Any]
    ) -> None:
        before = fleet.get("status") or {}
        key = Key(EDGE_FLEETS.kind, fleet["metadata"]["namespace"], fleet["metadata"]["name"])
        self._metrics.stands(str(key), says.states(conditions))
        generation = int(fleet["metadata"]["generation"])
        now = {
            "observedGeneration": generation,
            "conditions": merged(before.get("conditions") or [], conditions, generation, rfc3339(self._wall())),
            **numbers,
        }
        patch = says.changed(before, now)
        at = self._clock()
        if not patch or (patch.keys() == {"connections"} and at - remembered.written_at < SLOW_S):
            return
        try:
            await self._kube.patch(
                EDGE_FLEETS,
                fleet["metadata"]["namespace"],
                fleet["metadata"]["name"],
                {"status": patch},
                subresource="status",
            )
        except KubeError as error:
            if error.code != "kube_not_found":  # it was deleted meanwhile
                raise
        remembered.written_at = at
        await self._tell_conditions(fleet, before.get("conditions") or [], conditions)

    async def _tell_conditions(self, fleet: Object, before: Sequence[Any], conditions: Sequence[Condition]) -> None:
        for condition in conditions:
            old = find(before, condition.type) or {}
            same = (old.get("status"), old.get("reason")) == (condition.status.value, condition.reason)
            if not same and condition.reason in _WARNED.get(condition.type, ()):
                await self._recorder.record(fleet, Severity.WARNING, condition.reason, condition.message)
            elif not same and condition.type == "Paused" and (old or condition.status is Truth.TRUE):
                await self._recorder.record(
                    fleet, Severity.NORMAL, "Paused" if condition.status is Truth.TRUE else "Resumed", condition.message
                )

    def _remembered_of(self, key: Key, fleet: Object) -> _Remembered:
        """Of this fleet, not of one of its name before."""
        uid = str(fleet["metadata"]["uid"])
        found = self._remembered.get(key)
        if found is None or found[0] != uid:
            found = self._remembered[key] = (uid, _Remembered())
        return found[1]


def _possible(planned: Plan, view: View) -> Plan:
    """Without the store nobody can be moved, and it isn't known who was told to go: the fleet can only grow."""
    if view.known:
        return planned
    steps = tuple(step for step in planned.steps if isinstance(step, SetReplicas) and step.replicas > view.replicas)
    return Plan(planned.phase, steps)
