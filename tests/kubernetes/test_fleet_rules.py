"""What the API server itself refuses of an EdgeFleet, and how the resource explains itself."""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from tests.kubernetes.cluster import Cluster, CommandFailedError
from tests.kubernetes.installation import Namespace

GOOD: dict[str, Any] = {"deploymentRef": {"name": "edge"}, "min": 1, "max": 4}


@pytest.fixture(scope="module")
def space(cluster: Cluster, crds: None) -> Iterator[Namespace]:
    del crds
    made = Namespace(cluster, "fleet-rules")
    made.create()
    yield made
    made.delete()


def fleet(name: str, **spec: Any) -> dict[str, Any]:
    given = {field: value for field, value in {**GOOD, **spec}.items() if value is not None}
    return {"apiVersion": "heliograph.dev/v1alpha1", "kind": "EdgeFleet", "metadata": {"name": name}, "spec": given}


def refused(space: Namespace, *arguments: str, stdin: str | None = None) -> str:
    with pytest.raises(CommandFailedError) as caught:
        space.kubectl(*arguments, stdin=stdin)
    return str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"min": 5}, "min is above max"),
        ({"min": 0}, "greater than or equal to 1"),
        ({"max": None}, "spec.max: Required value"),
        ({"fallback": {"replicas": 9}}, "fallback.replicas is above max"),
        ({"mode": "External"}, "mode External and Manual need spec.replicas"),
        ({"mode": "Manual"}, "mode External and Manual need spec.replicas"),
        ({"mode": "Sometimes"}, 'supported values: "Auto", "External", "Manual"'),
        ({"targetCPUPercent": 150}, "less than or equal to 100"),
        ({"drain": {"secs": 3}}, "unknown field"),
        ({"behavior": {"scaleDown": {"policies": []}}}, "should have at least 1 items"),
    ],
)
def test_what_makes_no_sense_is_refused_and_why_is_said(space: Namespace, spec: dict[str, Any], message: str) -> None:
    with pytest.raises(CommandFailedError) as caught:
        space.kubectl("apply", "--validate=strict", "-f", "-", stdin=yaml.safe_dump(fleet("bad", **spec)))
    assert message in str(caught.value)


def test_in_mode_auto_nobody_else_scales_it(space: Namespace) -> None:
    space.apply(fleet("auto"))
    said = refused(space, "scale", "edgefleet", "auto", "--replicas=3")
    assert "in mode Auto the load says how many edges there are" in said


def test_in_the_other_modes_kubectl_scales_it(space: Namespace) -> None:
    space.apply(fleet("manual", mode="Manual", replicas=2))
    space.kubectl("scale", "edgefleet", "manual", "--replicas=3")
    assert space.get("edgefleet", "manual")["spec"]["replicas"] == 3
    space.kubectl("patch", "edgefleet", "manual", "--type=merge", "-p", '{"spec":{"mode":"Auto"}}')


def test_a_fleet_stays_with_its_deployment(space: Namespace) -> None:
    space.apply(fleet("faithful"))
    change = '{"spec":{"deploymentRef":{"name":"another"}}}'
    said = refused(space, "patch", "edgefleet", "faithful", "--type=merge", "-p", change)
    assert "a fleet is of one Deployment for good" in said


def test_the_scale_subresource_tells_autoscalers_where_pods_are(space: Namespace) -> None:
    space.apply(fleet("scaled", mode="External", replicas=2))
    status = '{"status":{"current":2,"selector":"app=edge"}}'
    space.kubectl("patch", "edgefleet", "scaled", "--subresource=status", "--type=merge", "-p", status)
    path = f"/apis/heliograph.dev/v1alpha1/namespaces/{space.name}/edgefleets/scaled/scale"
    assert '"replicas":2,"selector":"app=edge"' in space.kubectl("get", "--raw", path)
    header = space.kubectl("get", "hgef", "scaled").splitlines()[0].split()
    assert header == ["NAME", "READY", "REASON", "DESIRED", "EDGES", "UP", "DRAINING", "CONNECTIONS", "AGE"]


def test_deleting_one_waits_for_nobody(space: Namespace) -> None:
    """No operator runs here: a namespace that holds one can go."""
    space.apply(fleet("short"))
    space.kubectl("delete", "edgefleet", "short", "--timeout=20s")


def test_it_explains_itself(space: Namespace) -> None:
    said = space.kubectl("explain", "edgefleet.spec.behavior.scaleDown", "--recursive")
    assert "stabilizationWindowSeconds" in said
    assert "Default: 300" in " ".join(space.kubectl("explain", "edgefleet.spec.behavior.scaleDown").split())
    assert "Who says how many" in space.kubectl("explain", "edgefleet.spec.mode")
