"""The operator with the chart's ClusterRole: it looks after whatever namespace there will be.

Others use the same cluster, each with an operator, a Kafka and a Redis of its own: this one is kept to what has its
label.
"""

import asyncio
import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.installation import Installation, Namespace
from tests.kubernetes.operating import PUBLIC_KEY, new_name, patch, tenant, until, until_condition
from tests.kubernetes.operator_pod import QUICK, READY, degraded, refused, topic_of

from heliograph.operator.kube import EDGE_FLEETS, SECRETS, TENANTS, Object
from heliograph.operator.kube_http import HttpKube

LABEL = "tests-of"
STORES = ("kafka", "redis-live", "redis-metadata")


@pytest.fixture(scope="module")
def everywhere(installation: Installation) -> Iterator[Installation]:
    """The installation, whose operator has no namespaces of its own."""
    own = installation.values
    settings = [*QUICK, f"operator.matchLabels.{LABEL}={installation.namespace.name}"]
    installation.values = [part for setting in settings for part in ("--set", setting)]
    installation.upgrade()
    try:
        yield installation
    finally:
        installation.values = own
        installation.upgrade("--set", "crds.upgrade=false")


@pytest.fixture(scope="module")
def late(cluster: Cluster, everywhere: Installation) -> Iterator[Namespace]:
    """A namespace that is made while the operator runs."""
    made = Namespace(cluster, "late")
    made.create()
    yield made
    made.delete(wait=True)  # while there is an operator that lets its Tenants go


def ours(everywhere: Installation, body: Object) -> Object:
    """With the label."""
    body["metadata"].setdefault("labels", {})[LABEL] = everywhere.namespace.name
    return body


def keys(*ids: str) -> dict[str, str]:
    return {
        "jwks": base64.b64encode(json.dumps({"keys": [{**PUBLIC_KEY, "kid": kid} for kid in ids]}).encode()).decode()
    }


def test_its_rights_are_those_of_the_cluster_role_alone(everywhere: Installation) -> None:
    account = {"kind": "ServiceAccount", "name": everywhere.object_name("operator")}
    account["namespace"] = everywhere.namespace.name
    bound = [
        (binding["kind"], binding["roleRef"]["name"])
        for binding in everywhere.cluster.get("rolebindings,clusterrolebindings", "--all-namespaces")["items"]
        if account in binding.get("subjects", ())
    ]
    assert bound == [("ClusterRoleBinding", f"{everywhere.namespace.name}-{account['name']}")]


async def test_a_tenant_in_a_namespace_that_was_made_later_is_made_and_follows_its_secret(
    api: HttpKube, everywhere: Installation, late: Namespace
) -> None:
    labels = {"heliograph.dev/watched": "true"}
    await api.create(SECRETS, late.name, {"metadata": {"name": "keys", "labels": labels}, "data": keys("k1")})
    name, foreign = new_name(), new_name()
    body = ours(everywhere, tenant(name, reclaimPolicy="Delete"))
    body["spec"]["auth"] = {"jwksFrom": {"secretKeyRef": {"name": "keys", "key": "jwks"}}}
    await api.create(TENANTS, late.name, tenant(foreign))
    await api.create(TENANTS, late.name, body)
    await until_condition(api, late.name, name, READY)
    await api.patch(SECRETS, late.name, "keys", {"data": keys("k1", "k2")})

    async def taken_up() -> bool:
        found = await api.get(TENANTS, late.name, name)
        return found is not None and found["status"].get("keys") == ["k1", "k2"]

    await until(taken_up)
    await patch(api, late.name, name, {"spec": {"topics": {"log": {"partitions": 3}}}})
    await until_condition(api, late.name, name, READY)
    assert (await asyncio.to_thread(topic_of, everywhere, name))[0] == 3
    unlabelled = await api.get(TENANTS, late.name, foreign)
    assert unlabelled is not None
    assert "status" not in unlabelled, "another operator's"


async def test_a_fleet_in_a_namespace_that_was_made_later_grows_and_shrinks(
    api: HttpKube, everywhere: Installation, late: Namespace
) -> None:
    """By edges like those of the installation, on its stores."""
    await asyncio.to_thread(_edges, everywhere, late)
    spec = {
        "deploymentRef": {"name": "edge"},
        "min": 1,
        "max": 3,
        "mode": "Manual",
        "replicas": 2,
        "drain": {"seconds": 1},
    }
    body = {"apiVersion": EDGE_FLEETS.api_version, "kind": EDGE_FLEETS.kind, "metadata": {"name": "edge"}, "spec": spec}
    await api.create(EDGE_FLEETS, late.name, ours(everywhere, body))
    await _settled(api, late, 2)
    await api.patch(EDGE_FLEETS, late.name, "edge", {"spec": {"replicas": 1}})
    await _settled(api, late, 1)
    told = {event["reason"] for event in late.get("events", "--field-selector=involvedObject.kind=EdgeFleet")["items"]}
    assert {"ScaledUp", "Draining", "ScaledDown"} <= told


async def _settled(api: HttpKube, late: Namespace, edges: int) -> None:
    last: Any = None

    async def settled() -> bool:
        nonlocal last
        last = (await api.get(EDGE_FLEETS, late.name, "edge") or {}).get("status", {})
        pods = await asyncio.to_thread(late.pods, "edge")
        return [last.get(one) for one in ("desired", "current", "ready", "draining")] == [edges, edges, edges, 0] and (
            len(pods) == edges
        )

    try:
        await until(settled)
    except TimeoutError:
        raise AssertionError(f"not {edges} edges: {json.dumps(last)}\n{late.diagnosis()}") from None


def _edges(everywhere: Installation, late: Namespace) -> None:
    """One edge, where nothing else is installed."""
    host, release = everywhere.namespace, everywhere.release
    for store in STORES:
        name = everywhere.object_name(store)
        spec = {"type": "ExternalName", "externalName": f"{name}.{host.name}.svc.cluster.local"}
        late.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
    settings = host.get("configmap", f"{release}-heliograph-settings")
    deployment = host.get("deployment", everywhere.object_name("edge"))
    deployment["spec"]["template"]["spec"].pop("serviceAccountName")
    deployment["spec"]["template"]["spec"].pop("serviceAccount", None)
    for body, name in ((settings, settings["metadata"]["name"]), (deployment, "edge")):
        body.pop("status", None)
        body["metadata"] = {"name": name}
    deployment["spec"]["replicas"] = 1
    late.apply(settings)
    late.apply(deployment)


def test_it_was_refused_nothing(everywhere: Installation, late: Namespace) -> None:
    assert refused(everywhere) == set()
    assert degraded(everywhere) == []


async def test_that_namespace_is_deleted_with_everything_in_it(
    api: HttpKube, everywhere: Installation, late: Namespace
) -> None:
    kept = new_name()
    await api.create(TENANTS, late.name, ours(everywhere, tenant(kept)))
    await until_condition(api, late.name, kept, READY)
    names = [body["metadata"]["name"] for body in await api.all_of(TENANTS, late.name, labels=LABEL)]
    await asyncio.to_thread(late.delete, wait=True)
    left = [name for name in names if (await asyncio.to_thread(topic_of, everywhere, name))[0]]
    assert left == [kept], "and those of whoever said Delete are gone"
