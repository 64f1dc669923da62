"""An EdgeFleet with real edges, as people and other programs handle it: kubectl, its scale, its status."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.kubernetes.installation import Installation

from heliograph.operator.fleets.observing import COST_ANNOTATION

QUICK: dict[str, Any] = {
    "targetConnections": 1_000,
    "targetCPUPercent": 100,
    "aheadSeconds": 0,
    "behavior": {
        "scaleDown": {
            "stabilizationWindowSeconds": 0,
            "policies": [{"type": "Percent", "value": 100, "periodSeconds": 1}],
        }
    },
}
"""Does at once what others do over minutes. Of CPU more may be used than an edge can: tests' machines are busy."""
DRAIN_S = 10
"""What the chart's dev profile gives an edge to drain."""


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
    def autoscaler(self) -> Iterator[None]:
        """A HorizontalPodAutoscaler on the Deployment itself."""
        target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": self.name}
        self.namespace.apply(
            {
                "apiVersion": "autoscaling/v2",
                "kind": "HorizontalPodAutoscaler",
                "metadata": {"name": "another"},
                "spec": {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 10},
            }
        )
        try:
            yield
        finally:
            self.namespace.kubectl("delete", "hpa", "another")


def _is_ready(pod: Any) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))
