"""Which edges go, and the next step of their going.

A Deployment can be told how many pods it should have, not which one goes. So the one that should is made the one that
the ReplicaSet controller picks by itself:

    order it to drain → its clients move, it is not ready → deletion cost → one replica less → was it that one?

The controller picks pods that no node has, or that have not started, before others, then those that are not ready, and
among these the one of the lowest `controller.kubernetes.io/pod-deletion-cost`. A drained edge is not ready. That
holds inside one ReplicaSet: while a rollout is on, which has two, nothing goes.

There is no state but what is observed: the order that stands in the store, what the edge and the kubelet say, the cost
on the pod, the replicas. Each look gives the steps that are next, so whoever takes them may be ended between any two,
or be two that do the same.

What this must never do: lower the replicas while a pod is being deleted or made (the count would not mean what it
did), choose an edge that carries more than another, or forget an edge that was told to drain: it goes, or it serves
again.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

ORDER_PREFIX = "retire/"
"""Of the ids of drain orders that are given here; others are not touched."""

DELETION_COST = -2_000_000_000
"""Of a pod that should go: lower than what anybody would choose, and so also the mark of who chose it."""

OBEYED_S = 15.0
"""An edge obeys within a second. One that doesn't for so long (a release that knows no orders, a process that hangs) is
moved on without: what ends its pod lets its clients go too, only not before it is chosen."""

DRAIN_GRACE_S = 30.0
"""On top of what a drain should take: a busy machine."""


@dataclass(frozen=True, slots=True)
class Drain:
    """The drain order of an edge."""

    id: str
    over_s: float
    age_s: float


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of the fleet that is not being deleted and has not ended."""

    name: str
    uid: str
    replica_set: str
    running: bool
    """It has a node, and its containers were started."""
    ready: bool
    created: float
    """Any clock, the same for all."""
    cost: int | None = None
    connections: int | None = None
    """None: no edge of that name holds a lease."""
    order: Drain | None = None
    """That stands for it."""
    obeys: str = ""
    """Id of the drain order that the edge says it obeys."""

    @property
    def told(self) -> bool:
        """Whether it was told to go from here."""
        return self.order is not None and self.order.id.startswith(ORDER_PREFIX)

    @property
    def marked(self) -> bool:
        return self.cost == DELETION_COST

    @property
    def load(self) -> float:
        """By which the emptiest is found: an edge that takes clients and doesn't say how many comes last."""
        if self.connections is not None:
            return self.connections
        return math.inf if self.ready else 0


@dataclass(frozen=True, slots=True)
class Draining:
    """How clients are moved."""

    over_s: float = 60.0
    per_s: float = 200.0
    """Clients of one edge that come to the others in a second, at most."""
    edges_at_once: int = 1

    def takes_s(self, connections: int | None) -> float:
        """How long an edge with so many gets."""
        return max(self.over_s, (connections or 0) / self.per_s)


@dataclass(frozen=True, slots=True)
class Deployment:
    """What the Deployment says."""

    replicas: int
    rolling: bool
    """A rollout is on, or what is written is not observed yet."""


@dataclass(frozen=True, slots=True)
class Order:
    """Give, or prolong, the drain order."""

    pod: Pod
    over_s: float


@dataclass(frozen=True, slots=True)
class Withdraw:
    """It is to serve again."""

    pod: Pod
    id: str


@dataclass(frozen=True, slots=True)
class SetCost:
    """Mark it as the one that goes."""

    pod: Pod


@dataclass(frozen=True, slots=True)
class ClearCost:
    """It goes no more."""

    pod: Pod


@dataclass(frozen=True, slots=True)
class SetReplicas:
    """Tell the Deployment, unless it changed since it was read. `going`: the pods that should go by it."""

    replicas: int
    going: tuple[Pod, ...] = ()


Step = Order | Withdraw | SetCost | ClearCost | SetReplicas


class Phase(StrEnum):
    """What the fleet is at."""

    SETTLED = "Settled"
    GROWING = "ScalingUp"
    DRAINING = "Draining"
    REMOVING = "Removing"
    ROLLOUT = "RolloutInProgress"
    """Fewer are wanted, and that waits."""
    OTHER_NOT_READY = "AnotherPodIsNotReady"
    """An edge that doesn't obey can't be taken: the controller would pick the one that is not ready."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, in this order. Taken to its end, or in part: the next look goes on."""

    phase: Phase
    steps: tuple[Step, ...] = ()
    disobedient: tuple[Pod, ...] = ()
    """That are moved on without having drained."""


def order_id(pod: Pod) -> str:
    """The same whoever gives the order, and however often."""
    return ORDER_PREFIX + pod.uid


def intended(deployment: Deployment, pods: Sequence[Pod]) -> int:
    """Replicas without those on their way out. A pod that the controller is about to delete was taken off already."""
    about_to_go = max(len(pods) - deployment.replicas, 0)
    return deployment.replicas - max(sum(pod.told for pod in pods) - about_to_go, 0)


def plan(deployment: Deployment, pods: Sequence[Pod], wanted: int, draining: Draining) -> Plan:
    """The next steps from what is to `wanted` pods. `pods`: all of the Deployment that are not being deleted."""
    replicas = deployment.replicas
    if wanted >= replicas or deployment.rolling:
        return _stay(deployment, pods, wanted)
    if len({pod.replica_set for pod in pods}) > 1:
        return _stay(Deployment(replicas, rolling=True), pods, wanted)
    if len(pods) > replicas:  # fewer were asked for, and the controller has not done it yet
        return Plan(Phase.REMOVING)
    if len(pods) < replicas:  # the place of one that isn't there goes first: nobody is on it
        return Plan(Phase.REMOVING, (SetReplicas(max(wanted, len(pods))),))
    return _retire(replicas, pods, replicas - wanted, draining)


def _stay(deployment: Deployment, pods: Sequence[Pod], wanted: int) -> Plan:
    """Nobody goes. First those that were on their way out serve again: that is quicker than a new one."""
    replicas, steps = deployment.replicas, list[Step]()
    # One more than there should be is about to be deleted; which, is the controller's to say by now.
    if deployment.rolling or len(pods) <= replicas:
        steps += _serve_again(pods)
    if wanted > replicas:
        return Plan(Phase.GROWING, (*steps, SetReplicas(wanted)))
    if wanted < replicas:
        return Plan(Phase.ROLLOUT, tuple(steps))
    if len(pods) > replicas and not deployment.rolling:
        return Plan(Phase.REMOVING)
    return Plan(Phase.SETTLED if len(pods) >= replicas else Phase.GROWING, tuple(steps))


def _retire(replicas: int, pods: Sequence[Pod], surplus: int, draining: Draining) -> Plan:
    """All pods are there, in one ReplicaSet, and `surplus` of them should go."""
    told = sorted((pod for pod in pods if pod.told), key=_progress)
    steps: list[Step] = [ClearCost(pod) for pod in pods if pod.marked and not pod.told]
    steps += _serve_again(told[surplus:])
    told = told[:surplus]
    free = min(surplus, max(draining.edges_at_once, 1)) - len(told)
    candidates = sorted((pod for pod in pods if pod.order is None), key=_emptiest)
    chosen = candidates[: max(free, 0)]
    steps += [Order(pod, draining.takes_s(pod.connections)) for pod in chosen]
    steps += [Order(pod, pod.order.over_s) for pod in told if pod.order is not None]  # prolonged
    empty = [pod for pod in told if _is_empty(pod)]
    disobedient = tuple(pod for pod in told if not _is_empty(pod) and _is_overdue(pod))
    going = (*empty, *disobedient)
    others = [pod for pod in pods if pod not in going]
    if any(pod.ready for pod in going) and any(not pod.ready for pod in others):
        going = tuple(pod for pod in going if not pod.ready)
        if not going:
            return Plan(Phase.OTHER_NOT_READY, tuple(steps), disobedient)
    if not going:
        return Plan(Phase.DRAINING, tuple(steps))
    steps += [SetCost(pod) for pod in going if not pod.marked]
    steps.append(SetReplicas(replicas - len(going), going))
    return Plan(Phase.REMOVING, tuple(steps), disobedient)


def _serve_again(pods: Sequence[Pod]) -> list[Step]:
    """First the cost: an edge that serves must not be the first to go."""
    steps: list[Step] = [ClearCost(pod) for pod in pods if pod.marked]
    return steps + [Withdraw(pod, pod.order.id) for pod in pods if pod.told and pod.order is not None]


def _is_empty(pod: Pod) -> bool:
    """Nobody is on it, and nobody comes to it."""
    if pod.ready:
        return False
    if pod.connections is None:
        return True
    return pod.connections == 0 and pod.order is not None and pod.obeys == pod.order.id


def _is_overdue(pod: Pod) -> bool:
    """It should have drained by now, or have begun to."""
    if pod.order is None:
        return False
    if pod.obeys != pod.order.id:
        return pod.order.age_s > OBEYED_S
    return pod.order.age_s > pod.order.over_s + DRAIN_GRACE_S


def _emptiest(pod: Pod) -> tuple[bool, bool, float, float, str]:
    """In the order in which pods should go; the youngest of equals, as the controller would."""
    return pod.running, pod.ready, pod.load, -pod.created, pod.name


def _progress(pod: Pod) -> tuple[bool, bool, float, str]:
    """Those that are nearest to their end first."""
    return not pod.marked, pod.ready, pod.load, pod.name
