"""An EdgeFleet with real edges, as people and other programs handle it: kubectl, its scale, its status."""

import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.kubernetes.cluster import Cluster
from tests.kubernetes.images import Images
from tests.kubernetes.installation import Installation, Namespace
from tests.kubernetes.traffic import Traffic, shown

from heliograph.local.tenant import DevelopmentTenant
from heliograph.operator.fleets.observing import COST_ANNOTATION

QUICK: dict[str, Any] = {
    "targetConnections": 1_000,
    "targetCPUPercent": 100,
    "aheadSeconds": 0,
    "behavior": {
        "scaleUp": None,
        "scaleDown": {
            "stabilizationWindowSeconds": 0,
            "policies": [{"type": "Percent", "value": 100, "periodSeconds": 1}],
        },
    },
}
"""Does at once what others do over minutes. Of CPU more may be used than an edge can: tests' machines are busy."""
EDGE_PORT = 8080

TENANT = "acme"
LIMITS = {"connection_messages_per_s": 2_000.0, "connection_burst_messages": 4_000}
PAIRS = 12


@dataclass(frozen=True)
class Fleets:
    """An installation whose edges come and go, and its tenant."""

    installation: Installation
    tenant: DevelopmentTenant


@contextmanager
def installed_for_fleets(cluster: Cluster, images: Images, directory: Path) -> Iterator[Fleets]:
    """The operator runs in it, with the rights that the chart gives it in its own namespace."""
    namespace = Namespace(cluster, "fleets")
    namespace.create()
    values = ["--set", f"operator.namespaces={{{namespace.name}}}", "--set", "edge.fleet.max=3"]
    # Who subscribes from the beginning waits for replay, which a busy machine else leaves nothing.
    values += ["--set", "replay.resources.requests.cpu=250m"]
    made = Installation(namespace, images, directory, values=values)
    try:
        made.install()
        yield Fleets(made, made.apply_tenant(TENANT, limits=LIMITS))
    finally:
        namespace.delete()


class Fleet:
    """The fleet of an installation."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self.namespace = installation.namespace
        self.name = installation.object_name("edge")

    # ---- to look at --------------------------------------------------------------------------------------------------

    @property
    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.namespace.get("edgefleet", self.name).get("status", {})
        return found

    def condition(self, kind: str) -> tuple[str, str]:
        for one in self.status.get("conditions", ()):
            if one["type"] == kind:
                return one["status"], one["reason"]
        return "", ""

    def resource_version(self) -> str:
        found: str = self.namespace.get("edgefleet", self.name)["metadata"]["resourceVersion"]
        return found

    def metric(self, pod: str, name: str, label: str = "", port: int = EDGE_PORT) -> float:
        """Of one pod, a metric's sum over its labels, or over those with `label`."""
        return _sum(self.installation.metrics(pod, port), name, label)

    def clients(self) -> dict[str, float]:
        """Connections of each edge, as it counts them itself."""
        return {name: self.metric(name, "heliograph_edge_connections") for name in sorted(self.names())}

    @property
    def replicas(self) -> int:
        return int(self.namespace.get("deployment", self.name)["spec"].get("replicas", 1))

    def pods(self) -> list[Any]:
        return self.namespace.pods("edge")

    def names(self) -> set[str]:
        return {pod["metadata"]["name"] for pod in self.pods()}

    def unready(self) -> set[str]:
        return {pod["metadata"]["name"] for pod in self.pods() if not _is_ready(pod)}

    def marked(self) -> set[str]:
        return {
            pod["metadata"]["name"] for pod in self.pods() if COST_ANNOTATION in pod["metadata"].get("annotations", {})
        }

    def events(self) -> list[tuple[str, str]]:
        """Reason and message of each, oldest first."""
        found = self.namespace.get("events", "--field-selector=involvedObject.kind=EdgeFleet")["items"]
        found.sort(key=lambda event: str(event["firstTimestamp"]))
        return [(event["reason"], event["message"]) for event in found]

    def reasons(self) -> set[str]:
        return {reason for reason, _ in self.events()}

    def is_settled(self, edges: int) -> bool:
        """So many, all in service, and nothing under way."""
        status = self.status
        counts = [status.get(name) for name in ("desired", "current", "ready", "draining")]
        return (
            counts == [edges, edges, edges, 0]
            and len(self.pods()) == edges == self.replicas
            and self.condition("Scaling")[0] == "False"
        )

    # ---- to do -------------------------------------------------------------------------------------------------------

    def change(self, **spec: Any) -> None:
        self.namespace.kubectl("patch", "edgefleet", self.name, "--type=merge", "-p", json.dumps({"spec": spec}))

    def scale(self, edges: int) -> None:
        self.namespace.kubectl("scale", "edgefleet", self.name, f"--replicas={edges}")

    def until(self, what: str, holds: Callable[[], bool], timeout_s: float = 240.0) -> None:
        self.installation.until(what, holds, timeout_s, lambda: f"{json.dumps(self.status)}\n{self.events()[-12:]}")

    def until_settled(self, edges: int) -> None:
        self.until(f"{edges} edges, and nothing under way", lambda: self.is_settled(edges))

    @contextmanager
    def autoscaler(self, kind: str = "Deployment", least: int = 1) -> Iterator[None]:
        """A HorizontalPodAutoscaler on the Deployment itself, or on the EdgeFleet. Without a metrics server it knows no
        more than how many there are at least.
        """
        version = "apps/v1" if kind == "Deployment" else "heliograph.dev/v1alpha1"
        target = {"apiVersion": version, "kind": kind, "name": self.name}
        self.namespace.apply(
            {
                "apiVersion": "autoscaling/v2",
                "kind": "HorizontalPodAutoscaler",
                "metadata": {"name": "another"},
                "spec": {"scaleTargetRef": target, "minReplicas": least, "maxReplicas": 10},
            }
        )
        try:
            yield
        finally:
            self.namespace.kubectl("delete", "hpa", "another")


GROW_S = 90.0
"""For another message of everybody: the fleets' edges come and go on a busy machine."""


@asynccontextmanager
async def nothing_lost(fleet: Fleet, tenant: DevelopmentTenant, *, pairs: int = PAIRS) -> AsyncIterator[Traffic]:
    """Whatever happens inside, no agent notices; and the log has what was delivered."""
    installed = fleet.installation
    traffic = Traffic(installed.url("edge"), TENANT, tenant.token(), pairs=pairs, per_s=2.0)
    await traffic.start()
    await traffic.grow(GROW_S)
    await traffic.heard()
    yield traffic
    await traffic.grow(GROW_S)
    await traffic.stop()
    assert not traffic.faults(), shown(traffic.faults())
    differences = await traffic.history_faults(installed.url("replay"), sessions=6)
    assert not differences, shown(differences)


def _sum(text: str, name: str, label: str) -> float:
    samples = re.findall(rf"^{name}(?:{{([^}}]*)}})? (\S+)", text, re.MULTILINE)
    return sum(float(value) for labels, value in samples if label in labels)


def _is_ready(pod: Any) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))
