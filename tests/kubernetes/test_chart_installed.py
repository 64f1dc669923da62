"""The chart on a cluster: what it applies is valid, `helm test` passes, and it is upgraded, rolled back and removed."""

import asyncio
import json
import re
from pathlib import Path

import pytest
import yaml
from tests.kubernetes.cluster import ROOT, Cluster, run
from tests.kubernetes.installation import CHART, DEV_VALUES, Installation, Namespace
from tests.kubernetes.rendering import MINIMAL, VALUES, Chart
from tests.kubernetes.traffic import Traffic, nothing_lost, shown
from tests.monitoring.alerts import all_alerts
from tests.monitoring.naming import selectors

from heliograph.local.tenant import DevelopmentTenant

FOREIGN = {"PodMonitor", "ServiceMonitor", "PrometheusRule", "HTTPRoute"}
"""Kinds that a cluster may not know, as others define them: test_foreign_kinds.py."""


@pytest.mark.parametrize(
    "values", [MINIMAL, VALUES / "everything.yaml", VALUES / "bare.yaml", DEV_VALUES], ids=lambda v: v.stem
)
def test_every_manifest_is_valid_where_the_restricted_profile_is_enforced(
    values: Path, cluster: Cluster, namespace: Namespace, installation: Installation
) -> None:
    """Unknown fields are errors (server-side apply), pods that may too much are refused (Pod Security admission).

    `installation`: our own definitions are there.
    """
    objects = [item for item in Chart(cluster).render(values=values).objects if item["kind"] not in FOREIGN]
    for item in objects:
        item["metadata"]["namespace"] = namespace.name
    assert installation.namespace.name != namespace.name, (
        "definitions of our own kinds are there: something is installed"
    )
    document = yaml.safe_dump_all(objects)
    said = cluster.kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", stdin=document)
    assert len(said.splitlines()) == len(objects)
    # A Deployment is taken whatever its pods may; the pods themselves are what admission refuses.
    pods = [item["spec"]["template"] for item in objects if item["kind"] in {"Deployment", "StatefulSet", "Job"}]
    for number, template in enumerate(pods):
        template["spec"].pop("serviceAccountName", None)
        template["spec"].pop("priorityClassName", None)
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"pod-{number}"}, "spec": template["spec"]}
        namespace.kubectl("apply", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(pod))


@pytest.mark.parametrize("example", sorted((ROOT / "deploy/examples/kubernetes").iterdir()), ids=lambda path: path.stem)
def test_the_examples_of_resources_are_taken(example: Path, namespace: Namespace, installation: Installation) -> None:
    said = namespace.kubectl("apply", "--server-side", "--dry-run=server", "-f", str(example))
    assert said.count("serverside-applied") == len(list(yaml.safe_load_all(example.read_text(encoding="utf-8"))))


async def test_a_tenant_applied_with_kubectl_is_served(installation: Installation, tmp_path: Path) -> None:
    """What the operator makes of it is enough for agents outside; deleted, it takes its topics along if it says so."""
    keys = DevelopmentTenant(tmp_path, "declared")
    try:
        await asyncio.to_thread(installation.declare_tenant, keys, reclaimPolicy="Delete")
        traffic = Traffic(installation.url("edge"), "declared", keys.token(), pairs=2, per_s=10.0)
        await traffic.start()
        async with asyncio.timeout(60):
            while traffic.published < 10 and not traffic.errors:
                await asyncio.sleep(0.05)
        await traffic.stop()
        assert not traffic.faults(), shown(traffic.faults())
        assert "heliograph.declared.log" in await asyncio.to_thread(installation.topics)
    finally:
        gone = ["delete", "tenant", "declared", "--timeout=90s"]
        await asyncio.to_thread(installation.namespace.kubectl, *gone)
    assert "heliograph.declared.log" not in await asyncio.to_thread(installation.topics)


def test_helm_test_sees_a_message_all_its_way(installation: Installation) -> None:
    where = [installation.release, "--namespace", installation.namespace.name]
    said = installation.cluster.helm("test", *where, "--logs", "--timeout", "3m", timeout_s=200)
    assert "published 100, each durable in Kafka" in said
    assert "read 100 back from Kafka through replay" in said
    assert "all is well" in said


def test_the_notes_name_commands_that_work_on_what_was_installed(installation: Installation) -> None:
    """But for `helm test`, which has been typed above, and the tenant's file, which is nobody's yet."""
    namespace, release = installation.namespace.name, installation.release
    notes = installation.cluster.helm("get", "notes", release, "--namespace", namespace)
    listed = re.findall(r"^   (\w.*)$", notes, re.MULTILINE)
    assert f"helm test {release} --namespace {namespace} --logs" in listed
    assert any(command.startswith(f"kubectl --namespace {namespace} apply -f tenant.yaml") for command in listed)
    typed = [command for command in listed if command.startswith("kubectl") and "tenant.yaml" not in command]
    assert len(typed) == 2
    *_, node_port = [run(["bash", "-c", one], env=installation.cluster.env, timeout_s=60) for one in typed]
    assert installation.url("edge").endswith(f":{node_port}")


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ("operator.enabled=false", "heliograph tenant apply tenant.yaml"),
        ("edge.service.type=ClusterIP", "port-forward service/noted-heliograph-edge 8080:80"),
        ("ingress.enabled=true,ingress.host=a.example,ingress.tlsSecret=s", "connect to https://a.example."),
        ("edge.service.type=LoadBalancer", "get service noted-heliograph-edge"),
    ],
)
def test_the_notes_say_where_clients_connect(sets: str, said: str, cluster: Cluster, namespace: Namespace) -> None:
    where = ["noted", str(CHART), "--namespace", namespace.name, "--values", str(MINIMAL), "--set", sets]
    notes = json.loads(cluster.helm("install", *where, "--dry-run=client", "-o", "json"))["info"]["notes"]
    assert said in notes


def test_metrics_that_alerts_name_are_served(installation: Installation) -> None:
    named = {selector.name for alert in all_alerts() for selector in selectors(alert["expr"]) if not selector.pattern}
    served: set[str] = {"up"}
    ports = {"edge": 8080, "router": 8083, "replay": 8081, "registry": 8082, "operator": 8084}
    for component, port in ports.items():
        pod = installation.namespace.pods(component)[0]["metadata"]["name"]
        path = f"/api/v1/namespaces/{installation.namespace.name}/pods/{pod}:{port}/proxy/metrics"
        text = installation.cluster.kubectl("get", "--raw", path)
        for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE):
            served |= {name, f"{name}_bucket"} if kind == "histogram" else {name}
    assert len(named) > 40
    assert named - served == set()


async def test_an_upgrade_with_other_values_under_live_connections_loses_nothing_and_can_be_taken_back(
    installation: Installation,
) -> None:
    tenant = await asyncio.to_thread(installation.apply_tenant, "upgraded")
    traffic = Traffic(installation.url("edge"), "upgraded", tenant.token(), pairs=20, per_s=4.0)
    async with nothing_lost(traffic, installation):
        await asyncio.to_thread(installation.upgrade, "--set", "settings.log_level=warning")
        await asyncio.to_thread(installation.roll_back)
    assert traffic.reconnects >= 2 * len(traffic.pairs), "every edge was replaced twice"
    settings = installation.namespace.get("configmap", f"{installation.release}-heliograph-settings")["data"]
    assert "HELIOGRAPH_LOG_LEVEL" not in settings
