"""Helm 3 and Helm 4 on a cluster: neither ever says how many edges there are, nor takes along what must stay.

They keep an object's fields by different means (a three-way merge, server-side apply), and both take back a number of
replicas that a chart once gave and then leaves out.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.images import Images
from tests.kubernetes.installation import CHART, Installation, Namespace

from heliograph.local.tenant import DevelopmentTenant

EDGES = 2
DEFINITION = "edgefleets.heliograph.dev"
DATABASES = iter(range(5, 16))
"""Of the first one's Redis: one for each guest."""


@pytest.fixture(scope="module")
def guest(
    each_helm: Cluster, installation: Installation, images: Images, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """An installation of EDGES edges in a namespace of its own, by either Helm, on the first one's Kafka and Redis."""
    namespace, host = Namespace(each_helm, "guest"), installation.namespace.name
    namespace.create()
    kafka, redis = installation.object_name("kafka"), installation.object_name("redis-metadata")
    # The broker tells its clients its name without a namespace.
    spec = {"type": "ExternalName", "externalName": f"{kafka}.{host}.svc.cluster.local"}
    namespace.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": kafka}, "spec": spec})
    values = ["--set", f"dev.enabled=false,kafka.bootstrapServers={kafka}:9092,kafka.topicPrefix={namespace.name}"]
    values += ["--set", f"redis.live.url=redis://{redis}.{host}:6379/{next(DATABASES)}"]
    values += ["--set", f"operator.namespaces={{{namespace.name}}},edge.fleet.min={EDGES},edge.fleet.max={EDGES}"]
    made = Installation(namespace, images, tmp_path_factory.mktemp("guest"), release="guest", values=values)
    with made.running():
        yield made


def edges(guest: Installation) -> int:
    """How many the Deployment says; whoever said so, it was not helm."""
    found: Any = guest.namespace.get("deployment", guest.object_name("edge"), "--show-managed-fields")
    owners = {
        (entry["manager"], entry.get("subresource"))
        for entry in found["metadata"]["managedFields"]
        if "f:replicas" in entry["fieldsV1"].get("f:spec", {})
    }
    assert not [manager for manager, _ in owners if manager.startswith("helm")], owners
    return int(found["spec"]["replicas"])


def test_upgrades_switches_and_rollbacks_leave_the_number_of_edges_alone(guest: Installation) -> None:
    guest.until("the operator has made them", lambda: edges(guest) == EDGES, timeout_s=90)
    guest.helm("upgrade", "--set", "edge.settings.heartbeat_interval_s=9")
    assert edges(guest) == EDGES
    guest.helm("upgrade", "--set", "operator.enabled=false", "--wait")  # and nobody is there to put it right
    assert edges(guest) == EDGES
    assert guest.namespace.get("edgefleets")["items"] == []
    guest.helm("upgrade", "--set", "operator.enabled=false,edge.fleet.min=1,edge.fleet.max=7")
    assert edges(guest) == EDGES
    guest.roll_back("1")
    assert edges(guest) == EDGES
    fleet = guest.namespace.get("edgefleet", guest.object_name("edge"))["spec"]
    assert (fleet["min"], fleet["max"]) == (EDGES, EDGES)


def test_an_upgrade_brings_definitions_up_to_date(guest: Installation) -> None:
    """Which Helm itself never does. What is changed here is words, for others use the same definitions."""
    (wanted,) = yaml.safe_load_all((CHART / "crds" / f"{DEFINITION}.yaml").read_text(encoding="utf-8"))
    outdated = [{"op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema/description", "value": "outdated"}]
    guest.cluster.kubectl("patch", "crd", DEFINITION, "--type=json", "-p", json.dumps(outdated))
    guest.helm("upgrade")
    assert description(guest.cluster.get("crd", DEFINITION)) == description(wanted)
    left = guest.namespace.kubectl(
        "get", "jobs,serviceaccounts", "-l", "app.kubernetes.io/component=crds", "-o", "name"
    )
    assert left == "", "the job's rights go with it"


def description(definition: Any) -> str:
    found: str = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["description"]
    return found


def test_uninstalling_keeps_definitions_tenants_and_topics(
    guest: Installation, installation: Installation, tmp_path: Path
) -> None:
    guest.declare_tenant(DevelopmentTenant(tmp_path, "leaver"))
    guest.cluster.helm("uninstall", "guest", "--namespace", guest.namespace.name, "--wait")
    for kind in ("deployment", "service", "configmap", "serviceaccount", "poddisruptionbudget", "networkpolicy"):
        left = guest.namespace.kubectl("get", kind, "-l", "app.kubernetes.io/instance=guest", "-o", "name")
        assert left == "", kind
    assert guest.namespace.get("edgefleets")["items"] == []
    assert "tenants.heliograph.dev" in guest.cluster.kubectl("get", "crds", "-o", "name")
    assert "tenant.heliograph.dev/leaver" in guest.namespace.kubectl("get", "tenants", "-o", "name")
    prefix = guest.namespace.name
    assert {f"{prefix}.leaver.log", f"{prefix}.leaver.deferred"} <= set(installation.topics())
