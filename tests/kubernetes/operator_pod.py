"""The operator as the chart installs it: settings that make it quick, and what its Kafka has, asked from a pod."""

import json
import re
from typing import Any

from tests.kubernetes.installation import Installation
from tests.kubernetes.operating import new_name, tenant, until_condition

from heliograph.operator.kube import TENANTS, Kube

READY = ("True", "Ready")
OPERATOR_PORT = 8084
PYTHON = "/opt/heliograph/bin/python"
QUICK = ["operator.settings.resync_interval_s=5", "operator.settings.retry_cap_s=3", "crds.upgrade=false"]

KAFKA = """
import json, os, sys
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource
admin = AdminClient({"bootstrap.servers": os.environ["HELIOGRAPH_KAFKA_BOOTSTRAP_SERVERS"]})
topic, value = sys.argv[1:]
resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
if value:
    entry = ConfigEntry("retention.ms", value, incremental_operation=AlterConfigOpType.SET)
    changed = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    admin.incremental_alter_configs([changed])[changed].result(20)
found = admin.list_topics(timeout=20).topics.get(topic)
if found is None:
    print("[0, 0]")
else:
    config = admin.describe_configs([resource])[resource].result(20)
    print(json.dumps([len(found.partitions), int(config["retention.ms"].value)]))
"""
"""Partitions and retention of a topic, once the retention was changed where one is given."""


def topic_of(serving: Installation, name: str, kind: str = "log", retention_ms: str = "") -> tuple[int, int]:
    """Partitions (0: there is none) and retention of a tenant's topic."""
    router = f"deployment/{serving.object_name('router')}"
    arguments = (PYTHON, "-c", KAFKA, f"heliograph.{name}.{kind}", retention_ms)
    partitions, retention = json.loads(serving.namespace.kubectl("exec", router, "--", *arguments))
    return int(partitions), int(retention)


async def made(kube: Kube, namespace: str, **options: Any) -> str:
    name = options.pop("name", None) or new_name()
    await kube.create(TENANTS, namespace, tenant(name, **options))
    await until_condition(kube, namespace, name, READY)
    return name


def refused(serving: Installation) -> set[tuple[str, str, float]]:
    """Resource, verb and number of what the API server refused the operator, since it runs."""
    pod = serving.namespace.pods("operator")[0]["metadata"]["name"]
    metrics = serving.metrics(pod, OPERATOR_PORT)
    found = re.findall(r'kube_requests_total{resource="(\w+)",status="403",verb="(\w+)"} (\S+)', metrics)
    return {(resource, verb, float(count)) for resource, verb, count in found}


def degraded(serving: Installation) -> list[str]:
    """Conditions that its `/readyz` shows as bad."""
    pod = serving.namespace.pods("operator")[0]["metadata"]["name"]
    found: list[str] = serving.readyz(pod, OPERATOR_PORT)["degraded"]
    return found
