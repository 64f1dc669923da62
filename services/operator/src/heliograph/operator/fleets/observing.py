"""What an EdgeFleet is: its Deployment, ReplicaSets and pods from the API server, its edges from the metadata store.

Everything is read anew at each look, the Deployment first: what is decided is written only if that one has not changed
since (`resourceVersion`), so nothing that was read after it can be older than what it says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from heliograph.core.fleet.rebalancing import Edge
from heliograph.core.fleet.retiring import Deployment, Drain, Pod, intended
from heliograph.core.fleet.sizing import EdgeLoad, Observed
from heliograph.operator.kube import (
    DEPLOYMENTS,
    EDGE_FLEETS,
    HORIZONTAL_POD_AUTOSCALERS,
    PODS,
    REPLICA_SETS,
    Kube,
    Object,
    annotations_of,
    name_of,
)
from heliograph.stores.ports import ConnectionStore, EdgeLease, EdgeOrders, StandingOrders, StoreError

COST_ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"


@dataclass(frozen=True, slots=True)
class Edges:
    """Of the pods of a fleet, by name, what the store says. `error`: it did not answer, and nothing is known."""

    leases: Mapping[str, EdgeLease]
    orders: Mapping[str, StandingOrders]
    error: StoreError | None = None


@dataclass(frozen=True, slots=True)
class View:
    """A fleet as it is now."""

    deployment: Deployment
    version: str
    """The Deployment's resource version, as it was read."""
    selector: str
    pods: Sequence[Pod]
    """That are not being deleted and have not ended."""
    ready_s: Mapping[str, float]
    """By the names of ready pods, since when."""
    ending: Sequence[str]
    """Names of pods that are being deleted: clients on them are still to be taken in by others."""
    edges: Edges

    @property
    def replicas(self) -> int:
        return self.deployment.replicas

    @property
    def known(self) -> bool:
        return self.edges.error is None

    @property
    def ready(self) -> int:
        return sum(pod.ready for pod in self.pods)

    @property
    def leaving(self) -> list[Pod]:
        return [pod for pod in self.pods if pod.told]

    @property
    def silent(self) -> list[str]:
        """Names of edges that take clients and don't say what they carry."""
        return [pod.name for pod in self.pods if pod.ready and pod.connections is None]

    def observed(self) -> Observed:
        """For the decision how many there should be."""
        leases = self.edges.leases
        names = [pod.name for pod in self.pods] + list(self.ending)
        loads = [_load(leases[name]) for name in names if name in leases]
        absent = sum(not pod.ready and pod.connections is None and not pod.told for pod in self.pods)
        missing = max(self.replicas - len(self.pods), 0)
        return Observed(
            intended(self.deployment, self.pods),
            loads,
            silent=len(self.silent),
            absent=absent + missing,
            known=self.known,
        )

    def edges_to_balance(self) -> list[Edge]:
        """Those that take clients; none while the fleet is on its way to another number, or some edge sheds."""
        orders, leases = self.edges.orders, self.edges.leases
        if any(standing.shed is not None or standing.drain is not None for standing in orders.values()):
            return []
        if self.deployment.rolling or len(self.pods) != self.replicas or self.ready != self.replicas:
            return []
        if any(pod.name not in leases for pod in self.pods):
            return []
        return [
            Edge(pod.name, lease.incarnation, lease.connections, self.ready_s[pod.name])
            for pod in self.pods
            for lease in (leases[pod.name],)
        ]


async def other_owner(kube: Kube, fleet: Object, deployment: str) -> str | None:
    """Who else says how many replicas the Deployment has: an EdgeFleet that is older, or an autoscaler aimed at it."""
    namespace, own = fleet["metadata"]["namespace"], _age(fleet)
    for other in await kube.all_of(EDGE_FLEETS, namespace):
        named = other.get("spec", {}).get("deploymentRef", {}).get("name")
        if named == deployment and _age(other) < own and "deletionTimestamp" not in other["metadata"]:
            return f"EdgeFleet {name_of(other)}"
    for autoscaler in await kube.all_of(HORIZONTAL_POD_AUTOSCALERS, namespace):
        target = autoscaler.get("spec", {}).get("scaleTargetRef", {})
        if target.get("kind") == DEPLOYMENTS.kind and target.get("name") == deployment:
            return f"HorizontalPodAutoscaler {name_of(autoscaler)}"
    return None


async def look(
    kube: Kube, connections: ConnectionStore, orders: EdgeOrders, namespace: str, name: str, wall: float
) -> View | None:
    """None: there is no such Deployment. `wall`: Unix time. Raises KubeError."""
    deployment = await kube.get(DEPLOYMENTS, namespace, name)
    if deployment is None:
        return None
    selector = selector_text(deployment["spec"]["selector"])
    sets = [
        one
        for one in await kube.all_of(REPLICA_SETS, namespace, labels=selector)
        if _controller(one) == deployment["metadata"]["uid"]
    ]
    owned = {one["metadata"]["uid"] for one in sets}
    bodies = [one for one in await kube.all_of(PODS, namespace, labels=selector) if _controller(one) in owned]
    edges = await _edges(connections, orders, [name_of(body) for body in bodies])
    staying = [body for body in bodies if "deletionTimestamp" not in body["metadata"] and not _ended(body)]
    return View(
        Deployment(int(deployment["spec"].get("replicas", 1)), _rolling(deployment, sets)),
        str(deployment["metadata"]["resourceVersion"]),
        selector,
        [_pod(body, edges) for body in staying],
        {name_of(body): wall - since for body in staying if (since := _ready_since(body)) is not None},
        [name_of(body) for body in bodies if "deletionTimestamp" in body["metadata"]],
        edges,
    )


def selector_text(selector: Mapping[str, Any]) -> str:
    """A LabelSelector as the API takes it in a query, and as `status.selector` has it."""
    terms = [f"{name}={value}" for name, value in sorted((selector.get("matchLabels") or {}).items())]
    for one in selector.get("matchExpressions") or ():
        key, operator, values = one["key"], one["operator"], ",".join(one.get("values") or ())
        spelled = {"In": f"{key} in ({values})", "NotIn": f"{key} notin ({values})", "Exists": key}
        terms.append(spelled.get(operator, f"!{key}"))
    return ",".join(terms)


async def _edges(connections: ConnectionStore, orders: EdgeOrders, names: Sequence[str]) -> Edges:
    try:
        wanted = set(names)
        leases = {lease.edge: lease for lease in await connections.edges() if lease.edge in wanted}
        standing = await orders.standing(names)
    except StoreError as error:
        return Edges({}, {}, error)
    return Edges(leases, dict(zip(names, standing, strict=True)))


def _rolling(deployment: Object, sets: Sequence[Object]) -> bool:
    """Whether there are pods of two templates, or will be: pod-deletion-cost counts inside one ReplicaSet only."""
    status = deployment.get("status") or {}
    if int(status.get("observedGeneration", 0)) < int(deployment["metadata"]["generation"]):
        return True
    active = [
        one
        for one in sets
        if int(one["spec"].get("replicas", 0)) > 0 or int((one.get("status") or {}).get("replicas", 0)) > 0
    ]
    return len(active) > 1


def _pod(body: Object, edges: Edges) -> Pod:
    metadata, status, name = body["metadata"], body.get("status") or {}, name_of(body)
    lease, standing = edges.leases.get(name), edges.orders.get(name)
    drain = standing.drain if standing is not None else None
    return Pod(
        name,
        metadata["uid"],
        str(_controller(body)),
        running=bool(body.get("spec", {}).get("nodeName")) and status.get("phase") == "Running",
        ready=_ready_since(body) is not None,
        created=_unix(metadata.get("creationTimestamp")),
        cost=_cost(body),
        connections=lease.connections if lease is not None else None,
        order=Drain(drain.id, drain.over_s, drain.age_s) if drain is not None else None,
        obeys=lease.drain_order if lease is not None else "",
    )


def _load(lease: EdgeLease) -> EdgeLoad:
    return EdgeLoad(lease.connections, lease.cpu, lease.messages_in_per_s + lease.messages_out_per_s)


def _cost(body: Object) -> int | None:
    text = annotations_of(body).get(COST_ANNOTATION, "")
    try:
        return int(text)
    except ValueError:
        return None


def _controller(body: Object) -> str | None:
    """The uid of the object that made this one."""
    owners = body["metadata"].get("ownerReferences") or ()
    return next((str(owner["uid"]) for owner in owners if owner.get("controller")), None)


def _ended(body: Object) -> bool:
    """It was evicted, or its node was lost: no ReplicaSet counts it."""
    return (body.get("status") or {}).get("phase") in ("Failed", "Succeeded")


def _ready_since(body: Object) -> float | None:
    for condition in (body.get("status") or {}).get("conditions") or ():
        if condition.get("type") == "Ready" and condition.get("status") == "True":
            return _unix(condition.get("lastTransitionTime"))
    return None


def _age(body: Object) -> tuple[str, str]:
    """Sorts by age; of two of one second by uid, the same for everybody."""
    return str(body["metadata"].get("creationTimestamp", "")), str(body["metadata"]["uid"])


def _unix(text: object) -> float:
    """A time as the API writes it; 0 where there is none."""
    return datetime.fromisoformat(str(text)).timestamp() if text else 0.0
