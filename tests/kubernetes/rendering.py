"""The chart rendered by `helm template`, as objects."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tests.kubernetes.cluster import Cluster, CommandFailedError
from tests.kubernetes.installation import CHART

VALUES = Path(__file__).parent / "values"
KUBE_VERSION = "1.34.0"
MINIMAL = VALUES / "minimal.yaml"


@dataclass(frozen=True)
class Rendered:
    """All objects of one rendering."""

    text: str
    objects: Sequence[dict[str, Any]]

    def all(self, kind: str) -> list[dict[str, Any]]:
        return [item for item in self.objects if item["kind"] == kind]

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """The one whose name ends in `name`."""
        return next(item for item in self.all(kind) if item["metadata"]["name"].endswith(name))

    def names(self, kind: str) -> set[str]:
        return {item["metadata"]["name"].removeprefix("hg-heliograph-") for item in self.all(kind)}

    def pod(self, component: str) -> dict[str, Any]:
        """The pod spec of a component's Deployment."""
        found: dict[str, Any] = self.get("Deployment", f"-{component}")["spec"]["template"]["spec"]
        return found

    def container(self, component: str) -> dict[str, Any]:
        found: dict[str, Any] = self.pod(component)["containers"][0]
        return found

    def environment(self, component: str) -> dict[str, Any]:
        """Name → value, or where it comes from."""
        listed = self.container(component)["env"]
        return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in listed}

    @property
    def settings(self) -> dict[str, str]:
        found: dict[str, str] = self.get("ConfigMap", "-settings")["data"]
        return found


class Chart:
    """`helm` on this checkout's chart."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def render(
        self, *sets: str, values: Path | None = MINIMAL, release: str = "hg", namespace: str = "messaging"
    ) -> Rendered:
        arguments = [*(["--values", str(values)] if values else []), *(part for one in sets for part in ("--set", one))]
        where = [release, str(CHART), "--namespace", namespace, "--kube-version", KUBE_VERSION]
        text = self._cluster.helm("template", *where, *arguments)
        return Rendered(text, [document for document in yaml.safe_load_all(text) if document])

    def refusal(self, *sets: str, values: Path | None = MINIMAL) -> str:
        """What helm says to values that can't be."""
        try:
            self.render(*sets, values=values)
        except CommandFailedError as error:
            return str(error)
        raise AssertionError(f"the chart takes {sets}")

    def lint(self, *arguments: str) -> str:
        return self._cluster.helm("lint", "--strict", str(CHART), *arguments)
