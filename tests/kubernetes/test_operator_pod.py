"""The operator as a pod that looks after other namespaces than its own, with the rights the chart gives it there."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.installation import Installation, Namespace
from tests.kubernetes.operating import DEADLINE_S, new_name, patch, tenant, until, until_condition, until_gone
from tests.system.lines import Line

from heliograph.local.tenant import DevelopmentTenant
from heliograph.operator.kube import TENANTS, Kube
from heliograph.operator.kube_http import HttpKube
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.frames import Hello, Publish, Published

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


@pytest.fixture(scope="module")
def teams(cluster: Cluster) -> Iterator[list[Namespace]]:
    """Two namespaces that nothing is installed in. Tests leave no Tenant in them."""
    made = [Namespace(cluster, "team") for _ in range(2)]
    for one in made:
        one.create()
    yield made
    for one in made:
        one.delete()


@pytest.fixture(scope="module")
def serving(installation: Installation, teams: list[Namespace]) -> Iterator[Installation]:
    """The installation, whose operator looks after these two as well."""
    own = installation.values
    namespaces = ",".join(one.name for one in (installation.namespace, *teams))
    settings = [*QUICK, f"operator.namespaces={{{namespaces}}}"]
    installation.values = [part for setting in settings for part in ("--set", setting)]
    installation.upgrade()
    try:
        yield installation
    finally:
        for one in teams:  # before their namespaces go, and with them the operator's rights there
            one.kubectl("delete", "tenants", "--all", "--timeout=90s")
        installation.values = own
        installation.upgrade("--set", "crds.upgrade=false")


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


async def test_a_tenant_is_made_grown_put_right_and_deleted_with_its_data(
    api: HttpKube, serving: Installation, teams: list[Namespace]
) -> None:
    where = teams[0].name
    name = await made(api, where, reclaimPolicy="Delete", topics={"log": {"partitions": 1, "retentionSeconds": 7_200}})
    assert await asyncio.to_thread(topic_of, serving, name) == (1, 7_200_000)
    await patch(api, where, name, {"spec": {"topics": {"log": {"partitions": 3}}}})
    await until_condition(api, where, name, READY)
    await until(lambda: asyncio.to_thread(_is, serving, name, (3, 7_200_000)))
    assert await asyncio.to_thread(topic_of, serving, name, retention_ms="1000") != (0, 0)
    await until(lambda: asyncio.to_thread(_is, serving, name, (3, 7_200_000)))
    await api.delete(TENANTS, where, name)
    await until_gone(api, where, name)
    assert await asyncio.to_thread(topic_of, serving, name) == (0, 0)


def _is(serving: Installation, name: str, wanted: tuple[int, int]) -> bool:
    return topic_of(serving, name) == wanted


async def test_of_two_namespaces_the_oldest_has_a_tenant_and_the_other_gets_its_data_only_where_it_is_said(
    api: HttpKube, serving: Installation, teams: list[Namespace]
) -> None:
    first, second = (one.name for one in teams)
    name = await made(api, first)
    await api.create(TENANTS, second, tenant(name))
    await until_condition(api, second, name, ("False", "Conflict"))
    await api.delete(TENANTS, first, name)
    await until_condition(api, second, name, ("False", "NotItsData"))
    await patch(api, second, name, {"metadata": {"annotations": {"heliograph.dev/adopt": "true"}}})
    await until_condition(api, second, name, READY)
    await api.delete(TENANTS, second, name)
    await until_gone(api, second, name)


async def test_a_suspended_tenant_is_closed_by_the_edges_and_served_again_when_that_is_lifted(
    api: HttpKube, serving: Installation, teams: list[Namespace], tmp_path: Path
) -> None:
    where, name = teams[0].name, new_name()
    signer = DevelopmentTenant(tmp_path, name)
    body = tenant(name)
    body["spec"]["auth"] = {"jwks": signer.jwks()}
    await api.create(TENANTS, where, body)
    await until_condition(api, where, name, READY)
    url, hello = serving.url("edge"), Hello(token=signer.token(), producer="p", incarnation="12345678")
    line = await Line.open(url, "line", hello)
    assert isinstance(await line.ask(Publish(f"{name}:planner:trip-1", Raw(b"1"), 1)), Published)
    ended = asyncio.ensure_future(line.ended())
    await patch(api, where, name, {"spec": {"suspended": True}})
    async with asyncio.timeout(DEADLINE_S):
        assert await ended == CloseCode.TENANT_SUSPENDED
    await until_condition(api, where, name, ("False", "Suspended"))
    assert (await asyncio.to_thread(topic_of, serving, name))[0] == 1
    await patch(api, where, name, {"spec": {"suspended": False}})
    await until_condition(api, where, name, READY)
    await (await Line.open(url, "again", hello)).close()


def test_it_was_refused_nothing(serving: Installation) -> None:
    """After all that. With namespaces of its own, it asks once whether it may list all."""
    pod = serving.namespace.pods("operator")[0]["metadata"]["name"]
    metrics = serving.metrics(pod, OPERATOR_PORT)
    refused = re.findall(r'kube_requests_total{resource="(\w+)",status="403",verb="(\w+)"} (\S+)', metrics)
    assert set(refused) <= {("tenants", "list", "1.0"), ("edgefleets", "list", "1.0")}
    assert serving.readyz(pod, OPERATOR_PORT)["degraded"] == []
