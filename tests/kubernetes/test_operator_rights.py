"""What the operator may on a cluster: what it needs, verb by verb, and nothing that would make it worth stealing."""

import re

import pytest
from tests.kubernetes.cluster import CommandFailedError
from tests.kubernetes.installation import Installation

NEEDED = [
    ("list", "tenants.heliograph.dev"),
    ("watch", "tenants.heliograph.dev"),
    ("patch", "tenants.heliograph.dev"),
    ("patch", "tenants.heliograph.dev/status"),
    ("patch", "edgefleets.heliograph.dev/status"),
    ("get", "secrets"),
    ("watch", "secrets"),
    ("watch", "configmaps"),
    ("patch", "deployments.apps/scale"),
    ("patch", "pods"),
    ("list", "horizontalpodautoscalers.autoscaling"),
    ("create", "events"),
]
DENIED = [
    ("watch", "pods"),
    ("patch", "deployments.apps"),
    ("delete", "deployments.apps"),
    ("create", "pods"),
    ("create", "pods/exec"),
    ("delete", "pods"),
    ("delete", "secrets"),
    ("delete", "tenants.heliograph.dev"),
    ("get", "nodes"),
    ("list", "namespaces"),
    ("patch", "customresourcedefinitions.apiextensions.k8s.io"),
    ("create", "clusterrolebindings.rbac.authorization.k8s.io"),
    ("escalate", "clusterroles.rbac.authorization.k8s.io"),
]


def may(installation: Installation, component: str, verb: str, resource: str) -> bool:
    """What the API server answers to the component's own service account."""
    account = f"system:serviceaccount:{installation.namespace.name}:{installation.object_name(component)}"
    plural, _, subresource = resource.partition("/")
    part = [f"--subresource={subresource}"] if subresource else []
    try:
        said = installation.namespace.kubectl("auth", "can-i", verb, plural, *part, f"--as={account}")
    except CommandFailedError as error:  # `no` is status 1
        said = str(error)
    return said.strip().splitlines()[0].endswith("yes")


@pytest.mark.parametrize(("verb", "resource"), NEEDED)
def test_the_operator_may_what_it_works_with(verb: str, resource: str, installation: Installation) -> None:
    assert may(installation, "operator", verb, resource)


@pytest.mark.parametrize(("verb", "resource"), DENIED)
def test_the_operator_may_nothing_else(verb: str, resource: str, installation: Installation) -> None:
    assert not may(installation, "operator", verb, resource)


@pytest.mark.parametrize("component", ["edge", "router", "replay", "registry"])
def test_services_may_nothing_at_all(component: str, installation: Installation) -> None:
    assert not may(installation, component, "get", "secrets")
    assert not may(installation, component, "list", "pods")


def test_the_operator_was_refused_nothing_and_watches(installation: Installation) -> None:
    """A right that is missing shows as a refusal; with namespaces of its own, it asks once whether it may list all."""
    pod = installation.namespace.pods("operator")[0]["metadata"]["name"]
    path = f"/api/v1/namespaces/{installation.namespace.name}/pods/{pod}:8084/proxy/metrics"
    metrics = installation.cluster.kubectl("get", "--raw", path)
    refused = re.findall(r'kube_requests_total{resource="(\w+)",status="403",verb="(\w+)"} (\S+)', metrics)
    assert set(refused) <= {("tenants", "list", "1.0"), ("edgefleets", "list", "1.0")}
    log = installation.namespace.kubectl("logs", pod)
    assert "watching_ended" not in log
    assert installation.readyz(pod, 8084)["degraded"] == []


def test_the_fleet_of_the_chart_is_looked_after(installation: Installation) -> None:
    def ready() -> bool:
        fleet = installation.namespace.get("edgefleet", installation.object_name("edge"))
        conditions = {one["type"]: one["status"] for one in fleet.get("status", {}).get("conditions", [])}
        return conditions.get("Ready") == "True" and fleet["status"]["current"] == 1

    installation.until("the fleet is ready, with one edge", ready, timeout_s=90)
