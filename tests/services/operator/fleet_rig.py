"""A fleet on an API server in memory: Deployment and ReplicaSet controllers that do what Kubernetes' do, and edges that
obey orders, move clients, and say in their leases what they carry. Time passes when a test says so.
"""

import itertools
from collections.abc import Awaitable, Callable, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from tests.services.operator.fake_kube import FakeKube, merge

from heliograph.core.fleet.retiring import DELETION_COST
from heliograph.operator.fleets.observing import COST_ANNOTATION
from heliograph.operator.fleets.reconciler import FleetReconciler
from heliograph.operator.kube import (
    DEPLOYMENTS,
    EDGE_FLEETS,
    HORIZONTAL_POD_AUTOSCALERS,
    PODS,
    REPLICA_SETS,
    Kind,
    KubeError,
    Object,
)
from heliograph.operator.metrics import FleetMetrics
from heliograph.operator.reconciler import Key, Requeue
from heliograph.operator.recorder import Recorder
from heliograph.service.metrics import Metrics
from heliograph.stores.memory.metadata import MemoryConnectionStore, MemoryEdgeOrders
from heliograph.stores.ports import EdgeLease, StoreError

NAMESPACE, FLEET, DEPLOYMENT = "helio", "edges", "edge"
KEY = Key("EdgeFleet", NAMESPACE, FLEET)
LABELS = {"app": "edge"}
BEGIN = 1_800_000_000.0
STEPS_MOST = 2_000


class EdgeState:
    """What an edge process knows."""

    def __init__(self, connections: int = 0) -> None:
        self.connections = connections
        self.cpu = 0.1
        self.rate = 10.0
        self.order = ""
        self.obeys = True
        self.silent = False
        """It has no lease."""
        self.starts_in = 1


class FleetRig:
    """One fleet, and everything around it."""

    def __init__(self) -> None:
        self.now = BEGIN
        self.labels: dict[str, str] = {}
        """That fleets must have to be the operator's."""
        self.kube = FakeKube()
        self.connections = AwayConnections(lambda: int(self.now * 1000))
        self.orders = MemoryEdgeOrders(lambda: int(self.now * 1000))
        self.metrics = Metrics("operator", process=False)
        self.reconciler = self.operator()
        self.edges: dict[str, EdgeState] = {}
        self.cut_off = 0
        """Clients that were on an edge when its pod went."""
        self.deleted: list[str] = []
        self.most_at_once = 0
        """Clients that moved in one second."""
        self._names = itertools.count(1)
        self.template = 1

    def operator(self, kube: Any = None) -> FleetReconciler:
        """One that has just started."""
        kube = kube or self.kube
        self.metrics = Metrics("operator", process=False)
        return FleetReconciler(
            kube,
            self.connections,
            self.orders,
            Recorder(kube, self.metrics, lambda: self.now),
            FleetMetrics(self.metrics),
            labels=self.labels,
            interval_s=5.0,
            busy_interval_s=1.0,
            clock=lambda: self.now,
            wall=lambda: self.now,
        )

    # ---- by hand -----------------------------------------------------------------------------------------------------

    async def fleet(self, name: str = FLEET, **spec: Any) -> Object:
        chosen = {"deploymentRef": {"name": DEPLOYMENT}, "min": 1, "max": 10, "targetConnections": 100, **spec}
        return await self.kube.create(EDGE_FLEETS, NAMESPACE, {"metadata": {"name": name}, "spec": chosen})

    async def change(self, **spec: Any) -> None:
        await self.kube.patch(EDGE_FLEETS, NAMESPACE, FLEET, {"spec": spec})

    async def annotate(self, **annotations: str | None) -> None:
        given = {name.replace("__", "/").replace("_", "."): value for name, value in annotations.items()}
        await self.kube.patch(EDGE_FLEETS, NAMESPACE, FLEET, {"metadata": {"annotations": given}})

    async def deployment(self, replicas: int) -> None:
        await self.kube.create(
            DEPLOYMENTS,
            NAMESPACE,
            {
                "metadata": {"name": DEPLOYMENT, "labels": LABELS},
                "spec": {"replicas": replicas, "selector": {"matchLabels": LABELS}, "template": {}},
            },
        )

    async def autoscaler(self, kind: str = "Deployment", name: str = DEPLOYMENT) -> None:
        await self.kube.create(
            HORIZONTAL_POD_AUTOSCALERS,
            NAMESPACE,
            {"metadata": {"name": "hpa"}, "spec": {"scaleTargetRef": {"kind": kind, "name": name}}},
        )

    async def running(self, *connections: int, **spec: Any) -> None:
        """A fleet of edges that have so many clients each, and an operator that has seen it."""
        await self.deployment(len(connections))
        await self.fleet(**spec)
        await self.pass_s(3, reconcile=False)
        for count, edge in zip(connections, self.edges.values(), strict=True):
            edge.connections = count
        await self.pass_s(2, reconcile=False)
        self.kube.written()

    # ---- time --------------------------------------------------------------------------------------------------------

    async def pass_s(self, seconds: int, *, reconcile: bool = True) -> None:
        for _ in range(seconds):
            await self.second(reconcile=reconcile)

    async def second(self, *, reconcile: bool = True) -> None:
        self.now += 1
        self._control()
        await self._live()
        if reconcile:
            await self.reconcile()

    async def reconcile(self) -> Requeue | None:
        return await self.reconciler.reconcile(KEY)

    async def until(self, state: Callable[[], bool] | Callable[[], Awaitable[bool]], seconds: int = 900) -> None:
        for _ in range(seconds):
            answer = state()
            if answer if isinstance(answer, bool) else await answer:
                return
            await self.second()
        raise AssertionError(f"not reached in {seconds} s: {self.status}")

    # ---- to look at --------------------------------------------------------------------------------------------------

    @property
    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.kube.one(EDGE_FLEETS, NAMESPACE, FLEET).get("status", {})
        return found

    def condition(self, kind: str) -> tuple[str, str]:
        found = next(one for one in self.status["conditions"] if one["type"] == kind)
        return found["status"], found["reason"]

    @property
    def replicas(self) -> int:
        return int(self.kube.one(DEPLOYMENTS, NAMESPACE, DEPLOYMENT)["spec"]["replicas"])

    @property
    def pods(self) -> list[Object]:
        return [body for (kind, _, _), body in self.kube.objects.items() if kind == PODS]

    @property
    def total(self) -> int:
        return sum(edge.connections for edge in self.edges.values())

    def writes(self) -> list[tuple[str, str]]:
        """Verb and kind of what the operator wrote since the last call, without Events."""
        return [(verb, kind) for verb, kind, _, _ in self.kube.written()]

    def events(self) -> list[str]:
        return [event["reason"] for event in self.kube.events()]

    def costs(self) -> dict[str, str]:
        return {
            body["metadata"]["name"]: cost
            for body in self.pods
            if (cost := (body["metadata"].get("annotations") or {}).get(COST_ANNOTATION)) is not None
        }

    # ---- controllers -------------------------------------------------------------------------------------------------

    def rollout(self) -> None:
        """Another template: its ReplicaSet is made, and the pods of the former replaced one by one."""
        self.template += 1
        deployment = self.kube.one(DEPLOYMENTS, NAMESPACE, DEPLOYMENT)
        self._store(DEPLOYMENTS, merge(deployment, {"spec": {"template": {"version": self.template}}}), changed=True)

    def _control(self) -> None:
        """The Deployment's controller, then each ReplicaSet's."""
        deployment = self.kube.objects.get((DEPLOYMENTS, NAMESPACE, DEPLOYMENT))
        if deployment is None:
            return
        wanted = int(deployment["spec"]["replicas"])
        current = self._set(f"{DEPLOYMENT}-{self.template}", deployment)
        old = [body for body in self._sets() if body["metadata"]["name"] != current["metadata"]["name"]]
        left = sum(int(body["spec"]["replicas"]) for body in old)
        if left:  # one more at a time, one less for each that is ready
            ready = sum(self._is_ready(body) for body in self._pods_of(current))
            self._resize(current, min(wanted, ready + 1))
            for body in old:
                self._resize(body, max(min(int(body["spec"]["replicas"]), wanted - ready), 0))
        else:
            self._resize(current, wanted)
        for body in self._sets():
            self._fill(body)
        generation = deployment["metadata"]["generation"]
        if (deployment.get("status") or {}).get("observedGeneration") != generation:
            self._store(DEPLOYMENTS, merge(deployment, {"status": {"observedGeneration": generation}}))

    def _sets(self) -> list[Object]:
        return [body for (kind, _, _), body in self.kube.objects.items() if kind == REPLICA_SETS]

    def _set(self, name: str, deployment: Object) -> Object:
        found = self.kube.objects.get((REPLICA_SETS, NAMESPACE, name))
        if found is None:
            found = self._made(REPLICA_SETS, name, deployment, {"spec": {"replicas": 0}})
        return found

    def _resize(self, body: Object, replicas: int) -> None:
        if body["spec"]["replicas"] != replicas:
            self._store(REPLICA_SETS, merge(body, {"spec": {"replicas": replicas}}))

    def _fill(self, body: Object) -> None:
        """As Kubernetes' ReplicaSet controller ranks pods (`ActivePodsWithRanks`)."""
        body = self.kube.one(REPLICA_SETS, NAMESPACE, body["metadata"]["name"])
        pods, wanted = self._pods_of(body), int(body["spec"]["replicas"])
        for _ in range(wanted - len(pods)):
            name = f"{body['metadata']['name']}-{next(self._names):03d}"
            self._made(PODS, name, body, {"spec": {}, "status": {"phase": "Pending"}})
            self.edges[name] = EdgeState()
        pods.sort(key=lambda pod: (self._is_running(pod), self._is_ready(pod), self._cost(pod), -self._number(pod)))
        for pod in pods[: max(len(pods) - wanted, 0)]:
            self.delete(pod["metadata"]["name"])
        if (body.get("status") or {}).get("replicas") != wanted:
            self._store(REPLICA_SETS, merge(body, {"status": {"replicas": wanted}}))

    def delete(self, name: str) -> None:
        """A pod, at once; SIGTERM would move its clients, but that is no part of what is tested here."""
        with self._unwatched():
            self.kube._remove(PODS, self.kube.one(PODS, NAMESPACE, name))
        self.deleted.append(name)
        edge = self.edges.pop(name)
        self.cut_off += edge.connections
        self._spread(edge.connections)

    def _pods_of(self, owner: Object) -> list[Object]:
        uid = owner["metadata"]["uid"]
        return [pod for pod in self.pods if pod["metadata"]["ownerReferences"][0]["uid"] == uid]

    def _made(self, kind: Kind, name: str, owner: Object, rest: Object) -> Object:
        metadata = {
            "name": name,
            "namespace": NAMESPACE,
            "uid": f"uid-{name}",
            "generation": 1,
            "labels": LABELS,
            "creationTimestamp": self._time(),
            "ownerReferences": [{"uid": owner["metadata"]["uid"], "controller": True, "kind": owner["kind"]}],
        }
        self._store(kind, {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, **rest})
        return self.kube.one(kind, NAMESPACE, name)

    def _store(self, kind: Kind, body: Object, *, changed: bool = False) -> None:
        if changed:
            body["metadata"]["generation"] += 1
        with self._unwatched():
            self.kube._store(kind, body)

    @contextmanager
    def _unwatched(self) -> Any:
        yield

    def _time(self) -> str:
        return datetime.fromtimestamp(self.now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    @staticmethod
    def _is_running(pod: Object) -> bool:
        return bool(pod["status"].get("phase") == "Running")

    @staticmethod
    def _is_ready(pod: Object) -> bool:
        conditions = pod["status"].get("conditions") or ()
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    @staticmethod
    def _cost(pod: Object) -> int:
        return int((pod["metadata"].get("annotations") or {}).get(COST_ANNOTATION, 0))

    @staticmethod
    def _number(pod: Object) -> int:
        return int(pod["metadata"]["name"].rpartition("-")[2])

    # ---- edges -------------------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        moved_before = self.most_at_once
        for name, edge in list(self.edges.items()):
            edge.starts_in -= 1
            if edge.starts_in > 0:
                continue
            (standing,) = await self.orders.standing([name])
            if edge.obeys:
                self._obey(edge, standing.drain.id if standing.drain else "", standing.drain)
            self._show(name, ready=not edge.order)
            if not edge.silent:
                lease = EdgeLease(name, f"inc-{name}", "here", edge.connections, 0, cpu=edge.cpu)
                lease.messages_in_per_s, lease.drain_order, lease.ready = edge.rate, edge.order, not edge.order
                await self.connections.renew(lease, 6.0)
        assert self.most_at_once >= moved_before

    def _obey(self, edge: EdgeState, id_: str, drain: Any) -> None:
        if edge.order != id_:
            edge.order = id_
            return
        if drain is not None and edge.connections:
            left_s = max(drain.over_s - drain.age_s, 1.0)
            going = min(max(round(edge.connections / left_s), 1), edge.connections)
            edge.connections -= going
            self.most_at_once = max(self.most_at_once, going)
            self._spread(going)

    def _spread(self, count: int) -> None:
        takers = [edge for edge in self.edges.values() if not edge.order and edge.starts_in <= 0]
        for index in range(count):
            takers[index % len(takers)].connections += 1

    def _show(self, name: str, *, ready: bool) -> None:
        pod = self.kube.one(PODS, NAMESPACE, name)
        status = "True" if ready else "False"
        before = (pod["status"].get("conditions") or [{}])[0]
        if self._is_running(pod) and before.get("status") == status:
            return
        condition = {"type": "Ready", "status": status, "lastTransitionTime": self._time()}
        rest = {"spec": {"nodeName": "node-1"}, "status": {"phase": "Running", "conditions": [condition]}}
        self._store(PODS, merge(pod, rest))


class AwayConnections(MemoryConnectionStore):
    """The metadata store, which can be away."""

    away = False

    async def edges(self) -> list[EdgeLease]:
        if self.away:
            raise StoreError("unavailable", "the metadata store is away")
        return await super().edges()


class Killed(Exception):  # noqa: N818 - not an error: the process is gone
    """The operator ended here."""


def killed_at(kube: FakeKube, call: int) -> Callable[[str, Kind, str], None]:
    """End the operator at its call number so-and-so: before the server has done anything of it."""
    calls = itertools.count(1)

    def before(verb: str, kind: Kind, name: str) -> None:
        del verb, kind, name
        if next(calls) == call:
            kube.before = lambda verb, kind, name: None
            raise Killed

    return before


def conflict(verb: str, kind: Kind, name: str) -> None:
    """The Deployment changed between reading and writing."""
    if verb == "patch" and kind == DEPLOYMENTS:
        raise KubeError("kube_conflict", f"{name} has been modified", 409)


def is_marked(rig: FleetRig) -> bool:
    return str(DELETION_COST) in rig.costs().values()


def names(pods: Sequence[Object]) -> list[str]:
    return [pod["metadata"]["name"] for pod in pods]
