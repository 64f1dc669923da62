"""Taking the steps of a plan: orders in the metadata store, costs on pods, replicas of the Deployment.

Each step may be the last one before this process ends, or be taken by another operator at the same time: orders and
costs say the same however often they are given, and replicas are written only to the Deployment that was looked at.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from heliograph.core.fleet import retiring
from heliograph.core.fleet.rebalancing import MINUTE_S, Shedding
from heliograph.core.fleet.retiring import ClearCost, Order, Plan, Pod, SetCost, SetReplicas, Withdraw
from heliograph.operator.fleets.observing import COST_ANNOTATION, View
from heliograph.operator.kube import DEPLOYMENTS, PODS, Kube, KubeError, Object
from heliograph.operator.metrics import FleetMetrics
from heliograph.operator.recorder import Recorder, Severity
from heliograph.service.logs import get_logger
from heliograph.stores.ports import DrainOrder, EdgeOrders, ShedOrder

ORDER_SPARE_S = 180.0
"""A drain order stands for so long on top of the drain: an operator that is replaced meanwhile goes on with it, and if
none comes, the edge serves again."""

SHED_SPARE_S = 5.0
"""On top of the minute that a shedding takes: the next one is ordered after it."""

log = get_logger(__name__)


class ChangedMeanwhileError(Exception):
    """The Deployment is no longer what was looked at: look again."""


@dataclass(frozen=True, slots=True)
class Scaled:
    """The replicas were written."""

    before: int
    after: int
    going: tuple[str, ...]


class Actor:
    """Takes steps, and tells of them."""

    def __init__(self, kube: Kube, orders: EdgeOrders, recorder: Recorder, metrics: FleetMetrics) -> None:
        self._kube = kube
        self._orders = orders
        self._recorder = recorder
        self._metrics = metrics

    async def take(self, fleet: Object, deployment: str, view: View, plan: Plan, why: str) -> Scaled | None:
        """All steps, in their order. Raises KubeError, StoreError, ChangedMeanwhileError."""
        scaled = None
        for step in plan.steps:
            match step:
                case Order():
                    await self._order(fleet, step)
                case Withdraw():
                    await self._withdraw(fleet, step)
                case SetCost():
                    await self._mark(fleet, step.pod, str(retiring.DELETION_COST))
                case ClearCost():
                    await self._mark(fleet, step.pod, None)
                case SetReplicas():
                    scaled = await self._scale(fleet, deployment, view, step, why)
        return scaled

    async def shed(self, fleet: Object, sheddings: Sequence[Shedding], minute: int) -> None:
        """Ask edges to shed. `minute`: of the clock, so that two operators give one order."""
        for one in sheddings:
            order = ShedOrder(f"shed/{one.edge.incarnation}/{minute}", one.edge.incarnation, one.connections, MINUTE_S)
            stands = await self._orders.shed(one.edge.name, order, MINUTE_S + SHED_SPARE_S)
            if stands.id == order.id:
                self._metrics.shed(one.connections)
                message = f"{one.edge.name} asks {one.connections} of {one.edge.connections} clients to go elsewhere"
                await self._recorder.record(fleet, Severity.NORMAL, "Rebalancing", message)

    async def _order(self, fleet: Object, step: Order) -> None:
        pod = step.pod
        order = DrainOrder(retiring.order_id(pod), step.over_s)
        await self._orders.drain(pod.name, order, step.over_s + ORDER_SPARE_S)
        if pod.order is None:
            self._metrics.drain("ordered")
            clients = "no clients" if not pod.connections else f"{pod.connections} clients"
            message = f"{pod.name} goes: it has {clients}, who move within {step.over_s:g} s"
            await self._recorder.record(fleet, Severity.NORMAL, "Draining", message)

    async def _withdraw(self, fleet: Object, step: Withdraw) -> None:
        if await self._orders.withdraw(step.pod.name, step.id):
            self._metrics.drain("withdrawn")
            await self._recorder.record(fleet, Severity.NORMAL, "EdgeKept", f"{step.pod.name} serves again")

    async def _mark(self, fleet: Object, pod: Pod, cost: str | None) -> None:
        namespace = fleet["metadata"]["namespace"]
        try:
            await self._kube.patch(PODS, namespace, pod.name, {"metadata": {"annotations": {COST_ANNOTATION: cost}}})
        except KubeError as error:
            if error.code != "kube_not_found":  # it went by itself
                raise

    async def _scale(self, fleet: Object, deployment: str, view: View, step: SetReplicas, why: str) -> Scaled:
        namespace = fleet["metadata"]["namespace"]
        patch = {"metadata": {"resourceVersion": view.version}, "spec": {"replicas": step.replicas}}
        try:
            await self._kube.patch(DEPLOYMENTS, namespace, deployment, patch, subresource="scale")
        except KubeError as error:
            if error.code in ("kube_conflict", "kube_not_found"):
                raise ChangedMeanwhileError from error
            raise
        going = tuple(pod.name for pod in step.going)
        grown = step.replicas > view.replicas
        self._metrics.scaled("up" if grown else "down")
        for _ in going:
            self._metrics.drain("removed")
        message = f"from {view.replicas} to {step.replicas}: {why}"
        if going:
            message += f"; {', '.join(going)} {'goes' if len(going) == 1 else 'go'}"
        log.info("fleet_scaled", fleet=fleet["metadata"]["name"], before=view.replicas, after=step.replicas, why=why)
        await self._recorder.record(fleet, Severity.NORMAL, "ScaledUp" if grown else "ScaledDown", message)
        return Scaled(view.replicas, step.replicas, going)
