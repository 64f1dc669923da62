"""The operator on brokers that ask everybody who they are, as a user with the documented rights and no others."""

import base64
import json
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.operating import Operator, new_name, patch, tenant, until, until_condition, until_gone
from tests.secured import SecureKafka, password_of

from heliograph.operator.kube import SECRETS, TENANTS
from heliograph.operator.kube_http import HttpKube

READY = ("True", "Ready")
ACCESS = {"passwordFrom": {"secretKeyRef": {"name": "kafka", "key": "password"}}}


@pytest.fixture
def prefix() -> str:
    return new_name("hg")


async def test_with_the_documented_rights_a_tenant_is_made_grown_opened_to_its_consumers_and_deleted(
    api: HttpKube,
    cluster: Cluster,
    made_namespace: str,
    kafka_with_users: SecureKafka,
    redis_url: str,
    prefix: str,
    tmp_path: Path,
) -> None:
    user, name = kafka_with_users.add_service("operator", prefix), new_name()
    settings = {"kafka_properties": json.dumps(kafka_with_users.properties(user))}
    secret = {"password": base64.b64encode(b"consumers' own").decode()}
    labels = {"heliograph.dev/watched": "true"}
    await api.create(SECRETS, made_namespace, {"metadata": {"name": "kafka", "labels": labels}, "data": secret})
    with Operator(
        tmp_path,
        cluster.kubeconfig,
        [made_namespace],
        kafka=kafka_with_users.bootstrap_servers,
        redis_url=redis_url,
        prefix=prefix,
        settings=settings,
    ) as operator:
        await api.create(TENANTS, made_namespace, tenant(name, reclaimPolicy="Delete", access=ACCESS))
        await until_condition(api, made_namespace, name, READY)
        await until_condition(api, made_namespace, name, ("True", "AccessGranted"), "AccessReady")
        consumer = AdminClient(kafka_with_users.client(f"{prefix}.{name}", "consumers' own"))
        log = f"{prefix}.{name}.log"
        await until(lambda: log in consumer.list_topics(timeout=10).topics)
        change = {"topics": {"log": {"partitions": 3, "retentionSeconds": 7_200}}}
        await patch(api, made_namespace, name, {"spec": change})
        await until(lambda: len(consumer.list_topics(timeout=10).topics[log].partitions) == 3)
        await until_condition(api, made_namespace, name, READY)
        await api.delete(TENANTS, made_namespace, name)
        await until_gone(api, made_namespace, name)
        shown = operator.process.log.read_text(encoding="utf-8")
    assert (
        log
        not in AdminClient({"bootstrap.servers": kafka_with_users.server.bootstrap_servers})
        .list_topics(timeout=10)
        .topics
    )
    assert "AUTHORIZATION_FAILED" not in shown
    for secret_text in (password_of(user), "consumers' own"):
        assert secret_text not in shown
