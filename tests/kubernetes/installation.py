"""Heliograph in a namespace of its own, from the chart, and ways to it from outside the cluster."""

import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from tests.kubernetes.cluster import ROOT, Cluster, CommandFailedError
from tests.kubernetes.images import Images

from heliograph.local.tenant import DevelopmentTenant

CHART = ROOT / "charts" / "heliograph"
DEV_VALUES = CHART / "values-dev.yaml"
SMALL_VALUES = ROOT / "tests" / "kubernetes" / "values" / "small.yaml"
READY_TIMEOUT_S = 400.0
"""Alone it takes 25 s; Kafka and five Pythons at once on cores that others use too have taken minutes."""
POLL_S = 0.25
PATIENT_POLL_S = 1.0
"""For what takes many seconds: each look is a kubectl that starts, a tenth of a second of a core that pods want."""
AT_ONCE = 8
"""Processes of kubectl that let Tenants go: each does five in a second."""
RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}


class Namespace:
    """One that enforces the restricted profile, gone with everything in it at the end."""

    def __init__(self, cluster: Cluster, prefix: str = "heliograph") -> None:
        self.cluster = cluster
        self.name = f"{prefix}-{secrets.token_hex(3)}"

    def create(self) -> None:
        metadata = {"name": self.name, "labels": {**RESTRICTED, "heliograph.dev/made-by": "tests"}}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})

    def release_tenants(self) -> None:
        """Let Tenants go whose operator has ended: nobody else takes their finalizer off."""
        found = self._said("get", "tenants", "-o", "name", "--ignore-not-found").split()
        names = [name for name in found if name.startswith("tenant.heliograph.dev/")]
        parts = [names[start::AT_ONCE] for start in range(min(AT_ONCE, len(names)))]
        with ThreadPoolExecutor(AT_ONCE) as threads:
            for _ in threads.map(self._release, parts):
                pass

    def _release(self, names: list[str]) -> str:
        return self._said("patch", *names, "--type=merge", "-p", '{"metadata":{"finalizers":null}}')

    def remove(self) -> None:
        """With its Tenants. They are told to go before anybody takes their finalizer off: an operator that still runs
        would put it on again.
        """
        self._said("delete", "tenants", "--all", "--wait=false")
        self.release_tenants()
        self.delete()

    def delete(self, *, wait: bool = False) -> None:
        self.cluster.kubectl("delete", "namespace", self.name, f"--wait={str(wait).lower()}", "--ignore-not-found")

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout_s: float = 120.0) -> str:
        return self.cluster.kubectl("-n", self.name, *arguments, stdin=stdin, timeout_s=timeout_s)

    def get(self, *arguments: str) -> Any:
        return self.cluster.get("-n", self.name, *arguments)

    def apply(self, *objects: Mapping[str, Any]) -> str:
        """Server-side, so that a mistake in a field is an error and not dropped."""
        document = yaml.safe_dump_all(objects)
        namespace = [] if objects[0]["kind"] == "Namespace" else ["-n", self.name]
        return self.cluster.kubectl(*namespace, "apply", "--server-side", "-f", "-", stdin=document)

    def pods(self, component: str) -> list[Any]:
        """Those that are not on their way out."""
        items: list[Any] = self.get("pods", "-l", f"app.kubernetes.io/component={component}")["items"]
        return [pod for pod in items if "deletionTimestamp" not in pod["metadata"]]

    def diagnosis(self) -> str:
        """What one would look at first: pods, warnings, and the last lines of those that are not ready."""
        parts = [self._said("get", "pods", "-o", "wide"), self._said("get", "events", "--sort-by=.lastTimestamp")]
        for pod in self.get("pods")["items"]:
            ready = any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))
            if not ready:
                name = pod["metadata"]["name"]
                parts.append(f"--- {name}\n" + self._said("logs", name, "--all-containers", "--tail=20"))
        return "\n".join(part[-6000:] for part in parts)

    def _said(self, *arguments: str) -> str:
        try:
            return self.kubectl(*arguments)
        except CommandFailedError as error:
            return str(error)


@dataclass
class Installation:
    """A release of the chart."""

    namespace: Namespace
    images: Images
    directory: Path
    release: str = "hg"
    values: list[str] = field(default_factory=list)
    """More of helm's arguments, at every install and upgrade."""
    chart: Path = CHART

    @property
    def cluster(self) -> Cluster:
        return self.namespace.cluster

    def object_name(self, component: str) -> str:
        return f"{self.release}-heliograph-{component}"

    def helm(self, verb: str, *arguments: str) -> str:
        """`helm install` or `upgrade` with the dev profile, and requests that let many of them onto a small machine."""
        where = [self.release, str(self.chart), "--namespace", self.namespace.name]
        values = ["--values", str(self.chart / DEV_VALUES.name), "--values", str(SMALL_VALUES)]
        images = ["--set", f"image.registry={self.images.registry}", "--set", f"image.tag={self.images.tag}"]
        return self.cluster.helm(verb, *where, *values, *images, *self.values, *arguments, timeout_s=READY_TIMEOUT_S)

    @contextmanager
    def running(self) -> Iterator["Installation"]:
        """Installed, and gone afterwards with its namespace."""
        try:
            self.install()
            yield self
        finally:
            self.namespace.remove()

    def install(self, *arguments: str) -> None:
        self.helm("install", *arguments)
        self.wait_ready()

    def upgrade(self, *arguments: str) -> None:
        self.helm("upgrade", *arguments)
        self.wait_ready()

    def roll_back(self, *revision: str) -> None:
        where = [self.release, *revision, "--namespace", self.namespace.name]
        self.cluster.helm("rollback", *where, timeout_s=READY_TIMEOUT_S)
        self.wait_ready()

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Every Deployment and StatefulSet as it should be; else what one would look at first."""
        self.until(
            "everything is ready",
            lambda: not self.unready(),
            timeout_s,
            lambda: ", ".join(self.unready()),
            poll_s=PATIENT_POLL_S,
        )

    def unready(self) -> list[str]:
        """Workloads that are not (yet) what they should be."""
        found = []
        ours = f"app.kubernetes.io/instance={self.release}"
        for item in self.namespace.get("deployments,statefulsets", "-l", ours)["items"]:
            status, wanted = item["status"], item["spec"].get("replicas", 1)
            counts = [status.get(name, 0) for name in ("updatedReplicas", "readyReplicas", "replicas")]
            current = status.get("observedGeneration", 0) >= item["metadata"]["generation"]
            if not current or counts != [wanted] * 3:
                found.append(f"{item['metadata']['name']} {counts[1]}/{wanted}")
        return found

    def until(
        self,
        what: str,
        holds: Callable[[], bool],
        timeout_s: float = READY_TIMEOUT_S,
        instead: Callable[[], str] = lambda: "",
        *,
        poll_s: float = POLL_S,
    ) -> None:
        """Return once `holds()`; after the deadline raise with what is so instead, and the namespace's state."""
        deadline = time.monotonic() + timeout_s
        while not holds():
            if time.monotonic() > deadline:
                diagnosis = self.namespace.diagnosis()
                raise AssertionError(f"after {timeout_s:g} s still not so: {what}; {instead()}\n{diagnosis}")
            time.sleep(poll_s)

    # ---- ways in ----------------------------------------------------------------------------------------------------

    def url(self, component: str) -> str:
        """Where a client outside the cluster reaches a service, through the node's port."""
        ports = self.namespace.get("service", self.object_name(component))["spec"]["ports"]
        return f"http://{self.cluster.node_address()}:{ports[0]['nodePort']}"

    def readyz(self, pod: str, port: int) -> Any:
        """What one pod says of itself, through the API server."""
        path = f"/api/v1/namespaces/{self.namespace.name}/pods/{pod}:{port}/proxy/readyz"
        return json.loads(self.cluster.kubectl("get", "--raw", path))

    def metrics(self, pod: str, port: int) -> str:
        """What one pod tells at /metrics, through the API server."""
        path = f"/api/v1/namespaces/{self.namespace.name}/pods/{pod}:{port}/proxy/metrics"
        return self.cluster.kubectl("get", "--raw", path)

    def command(self, *arguments: str, stdin: str | None = None) -> str:
        """`heliograph …` in a pod of the namespace, with the services' own settings."""
        self._desk()
        return self.namespace.kubectl("exec", "-i", self._desk_name, "--", "heliograph", *arguments, stdin=stdin)

    def apply_tenant(self, name: str, **settings: Any) -> DevelopmentTenant:
        """A tenant with a key of its own, by `heliograph tenant apply`."""
        tenant = DevelopmentTenant(self.directory / name, name, settings)
        self.command("tenant", "apply", "-", stdin=tenant.write().read_text(encoding="utf-8"))
        return tenant

    def declare_tenant(self, keys: DevelopmentTenant, **spec: Any) -> None:
        """The tenant of these keys as a resource, applied with kubectl and made ready by the operator."""
        topics = {"log": {"partitions": 1}, "deferred": {"partitions": 1}}
        body = {
            "apiVersion": "heliograph.dev/v1alpha1",
            "kind": "Tenant",
            "metadata": {"name": keys.tenant},
            "spec": {"tenant": keys.tenant, "auth": {"jwks": keys.jwks()}, "topics": topics, **spec},
        }
        self.namespace.apply(body)
        self.namespace.kubectl("wait", "--for=condition=Ready", f"tenant/{keys.tenant}", "--timeout=90s")

    def topics(self) -> list[str]:
        """All of its Kafka, as a client in the cluster sees them."""
        code = (
            "import os; from confluent_kafka.admin import AdminClient; "
            "servers = os.environ['HELIOGRAPH_KAFKA_BOOTSTRAP_SERVERS']; "
            "print(*AdminClient({'bootstrap.servers': servers}).list_topics(timeout=20).topics)"
        )
        deployment = f"deployment/{self.object_name('router')}"
        return self.namespace.kubectl("exec", deployment, "--", "/opt/heliograph/bin/python", "-c", code).split()

    @property
    def _desk_name(self) -> str:
        return f"desk-{self.release}"

    def _desk(self) -> None:
        """A pod to type commands in; there once."""
        container = {
            "name": "desk",
            "image": self.images.name("cli"),
            "imagePullPolicy": "IfNotPresent",
            "command": ["python", "-c", "import signal; signal.sigwait([signal.SIGTERM])"],
            "envFrom": [{"configMapRef": {"name": f"{self.release}-heliograph-settings"}}],
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
                "runAsNonRoot": True,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
        }
        spec = {"containers": [container], "automountServiceAccountToken": False, "enableServiceLinks": False}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": self._desk_name}, "spec": spec}
        if f"pod/{self._desk_name}" not in self.namespace.kubectl("get", "pods", "-o", "name").split():
            self.namespace.apply(pod)
        self.namespace.kubectl("wait", "--for=condition=Ready", f"pod/{self._desk_name}", "--timeout=60s")
