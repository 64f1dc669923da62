"""The Kubernetes API, as far as the operator uses it: a port, its errors, and the kinds of objects.

`kube_http.py` implements it; the tests' fake behaves like the API server for what is here, and one contract suite runs
against both. Objects are JSON as the API gives it. Nothing is kept between calls: watching is `watching.py`'s.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from heliograph.core.errors import HeliographError

GROUP = "heliograph.dev"
VERSION = "v1alpha1"

Object = dict[str, Any]
"""One object, as JSON."""


@dataclass(frozen=True, slots=True, order=True)
class Kind:
    """A kind of namespaced objects. `group` is empty for the core's."""

    group: str
    version: str
    plural: str
    kind: str

    def path(self, namespace: str | None, name: str = "", subresource: str = "") -> str:
        """Where its objects are, below the server's address; without a namespace in all of them."""
        base = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        parts = [base, *(("namespaces", namespace) if namespace is not None else ()), self.plural, name, subresource]
        return "/".join(part for part in parts if part)

    @property
    def api_version(self) -> str:
        """`apiVersion` of its objects."""
        return f"{self.group}/{self.version}" if self.group else self.version


TENANTS = Kind(GROUP, VERSION, "tenants", "Tenant")
EDGE_FLEETS = Kind(GROUP, VERSION, "edgefleets", "EdgeFleet")
SECRETS = Kind("", "v1", "secrets", "Secret")
CONFIG_MAPS = Kind("", "v1", "configmaps", "ConfigMap")
PODS = Kind("", "v1", "pods", "Pod")
EVENTS = Kind("", "v1", "events", "Event")
DEPLOYMENTS = Kind("apps", "v1", "deployments", "Deployment")
REPLICA_SETS = Kind("apps", "v1", "replicasets", "ReplicaSet")
HORIZONTAL_POD_AUTOSCALERS = Kind("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler")


FORBIDDEN = 403
"""Status where rights are missing: in one of several namespaces, as it is gone."""


class KubeError(HeliographError):
    """The API server did not do what it was asked. `status`: its HTTP status, 0 where it gave none.

    `code` is what metrics count by: `kube_unavailable` (not reached, overloaded, failing), `kube_conflict` (the object
    changed meanwhile), `kube_exists`, `kube_not_found`, `kube_forbidden`, `kube_invalid` (refused by its schema).
    """

    def __init__(self, code: str, message: str, status: int = 0, retry_after_s: float | None = None) -> None:
        super().__init__(code, message)
        self.status = status
        self.retry_after_s = retry_after_s
        """How long the server asked to wait."""


class Kube(Protocol):
    """Every call raises KubeError."""

    async def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """None where there is none."""

    async def all_of(self, kind: Kind, namespace: str | None = None, *, labels: str = "") -> list[Object]:
        """All of a namespace, or of all of them. `labels`: a label selector. In pages, below."""

    async def create(self, kind: Kind, namespace: str, body: Mapping[str, Any]) -> Object:
        """Raises `kube_exists` where the name is taken."""

    async def patch(
        self, kind: Kind, namespace: str, name: str, patch: Mapping[str, Any], *, subresource: str = ""
    ) -> Object:
        """A JSON merge patch (RFC 7386): None removes, lists are replaced as a whole.

        Where it holds `metadata.resourceVersion`, an object that changed since is `kube_conflict`. Only `status` of a
        `subresource="status"` patch is taken, and none of it otherwise. Raises `kube_not_found`.
        """

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str = "") -> None:
        """One that is gone is as good; with `uid`, one that was made again is `kube_conflict`."""


def namespace_of(body: Mapping[str, Any]) -> str:
    """An object's namespace."""
    return str(body["metadata"].get("namespace", ""))


def name_of(body: Mapping[str, Any]) -> str:
    """An object's name."""
    return str(body["metadata"]["name"])


def annotations_of(body: Mapping[str, Any]) -> Mapping[str, str]:
    """An object's annotations, maybe none."""
    return body["metadata"].get("annotations") or {}


def is_true(body: Mapping[str, Any], annotation: str) -> bool:
    """Whether an annotation of an object says `true`, as `kubectl annotate … NAME=true` writes it."""
    return annotations_of(body).get(annotation) == "true"


def has_labels(body: Mapping[str, Any], wanted: Mapping[str, str]) -> bool:
    """Whether an object has all of these labels."""
    return wanted.items() <= (body["metadata"].get("labels") or {}).items()


def selector(labels: Mapping[str, str]) -> str:
    """These labels as a label selector; none takes everything."""
    return ",".join(f"{name}={value}" for name, value in labels.items())


PAUSED = f"{GROUP}/paused"
"""Annotation: nothing is reconciled while it says `true`."""
