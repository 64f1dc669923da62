"""Tenants on a real API server, with the operator as a process, real Kafka and real Redis."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec import Raw
from tests.kubernetes.cluster import Cluster, CommandFailedError
from tests.kubernetes.installation import Namespace
from tests.kubernetes.operating import (
    DEADLINE_S,
    PUBLIC_KEY,
    Operator,
    new_name,
    patch,
    tenant,
    until,
    until_condition,
    until_gone,
)
from tests.system.lines import Line

from heliograph.local.services import ServiceProcess
from heliograph.local.tenant import DevelopmentTenant
from heliograph.operator.kube import EVENTS, TENANTS, Kube
from heliograph.operator.kube_http import HttpKube
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.frames import Hello, Publish, Published
from heliograph.protocol.tenants import Tenant, decode_tenant
from heliograph.stores.kafka import KafkaLogAdmin
from heliograph.stores.redis.metadata import MetadataClient, RedisTenantStore

READY = ("True", "Ready")


class Stores:
    """Kafka and Redis, as they are."""

    def __init__(self, admin: KafkaLogAdmin, tenants: RedisTenantStore, prefix: str) -> None:
        self.admin = admin
        self.tenants = tenants
        self.prefix = prefix

    async def record(self, name: str) -> Tenant | None:
        raw = await self.tenants.get(name)
        return None if raw is None else decode_tenant(raw)

    async def partitions(self, name: str, kind: str = "log") -> int:
        topic = f"{self.prefix}.{name}.{kind}"
        found = await self.admin.describe([topic])
        return found[topic].partitions if topic in found else 0


@pytest.fixture
async def stores(kafka_bootstrap: str, redis_url: str) -> AsyncIterator[Stores]:
    admin, metadata = KafkaLogAdmin({"bootstrap.servers": kafka_bootstrap}), MetadataClient(redis_url)
    yield Stores(admin, RedisTenantStore(metadata), new_name("hg"))
    await admin.close()
    await metadata.close()


@pytest.fixture
def operator(
    cluster: Cluster,
    crds: None,
    made_namespace: str,
    kafka_bootstrap: str,
    redis_url: str,
    stores: Stores,
    tmp_path: Path,
) -> Any:
    with Operator(
        tmp_path, cluster.kubeconfig, [made_namespace], kafka=kafka_bootstrap, redis_url=redis_url, prefix=stores.prefix
    ) as running:
        yield running


@pytest.fixture
def edge(kafka_bootstrap: str, redis_url: str, stores: Stores, tmp_path: Path) -> Iterator[ServiceProcess]:
    """One that obeys the records of these stores."""
    settings = {
        "kafka_bootstrap_servers": kafka_bootstrap, "redis_url": redis_url, "topic_prefix": stores.prefix,
        "drain_timeout_s": "1",
    }  # fmt: skip
    process = ServiceProcess("edge", tmp_path, settings)
    process.start()
    yield process
    process.kill()


async def made(kube: Kube, namespace: str, **options: Any) -> str:
    """A Tenant that is ready; its name, and its tenant's."""
    name = options.pop("name", None) or new_name()
    await kube.create(TENANTS, namespace, tenant(name, **options))
    await until_condition(kube, namespace, name, READY)
    return name


async def test_a_tenant_is_made_and_kubectl_says_that_it_is_fine(
    api: HttpKube, namespace: Namespace, operator: Operator, stores: Stores
) -> None:
    name = await made(
        api,
        namespace.name,
        topics={"log": {"partitions": 1, "replicationFactor": 1, "retentionSeconds": 7_200, "retentionBytes": 10**9}},
        agentTypes={
            "auditor": {"log": {"partitions": 2, "retentionSeconds": 3_600, "config": {"segment.ms": "60000"}}}
        },
        limits={"connections": 7, "sessions": 8, "unconfirmedBytes": 32 * 1024 * 1024},
        quotas={"event": {"messagesPerSecond": 9, "bytesPerSecond": 10_000}},
        tracing={"payloadSampleRatio": 0.5},
    )
    record = await stores.record(name)
    assert record is not None
    assert record.auth.jwks == {"keys": [PUBLIC_KEY]}
    limits, quota = record.limits, record.quotas.event
    assert (limits.connections, limits.sessions, limits.unconfirmed_bytes) == (7, 8, 32 * 1024 * 1024)
    assert (quota.messages_per_s, quota.bytes_per_s, record.tracing.payload_sample_ratio) == (9, 10_000, 0.5)
    topics = {kind: f"{stores.prefix}.{name}.{kind}" for kind in ("log", "deferred", "auditor.log")}
    found = await stores.admin.describe(list(topics.values()))
    assert {kind: found[topic].partitions for kind, topic in topics.items()} == {
        "log": 1, "deferred": 1, "auditor.log": 2,
    }  # fmt: skip
    log, auditor = found[topics["log"]].config, found[topics["auditor.log"]].config
    assert (log["retention.ms"], log["retention.bytes"]) == ("7200000", str(10**9))
    assert (auditor["retention.ms"], auditor["segment.ms"]) == ("3600000", "60000")
    header, row = namespace.kubectl("get", "hgt", name).splitlines()
    assert header.split() == ["NAME", "TENANT", "READY", "REASON", "CONNECTIONS", "MESSAGES", "AGE"]
    assert row.split()[:6] == [name, name, "True", "Ready", "0", "0"]
    namespace.kubectl("wait", "--for=condition=Ready", f"tenant/{name}", "--timeout=10s")
    assert "Applied" in namespace.kubectl("describe", "tenant", name)
    assert name in namespace.kubectl("get", "heliograph")
    for path in ("spec.topics.log.partitions", "spec.reclaimPolicy", "status.conditions"):
        assert len(namespace.kubectl("explain", f"tenant.{path}")) > 150


async def test_partitions_grow_and_drift_is_corrected(
    api: HttpKube, made_namespace: str, operator: Operator, stores: Stores
) -> None:
    name = await made(api, made_namespace)
    await patch(api, made_namespace, name, {"spec": {"topics": {"log": {"partitions": 3, "retentionSeconds": 7200}}}})
    await until_condition(api, made_namespace, name, READY)
    topic = f"{stores.prefix}.{name}.log"

    async def as_wanted() -> bool:
        found = (await stores.admin.describe([topic]))[topic]
        return (found.partitions, found.config["retention.ms"]) == (3, "7200000")

    await until(as_wanted)
    record = await stores.record(name)
    assert record is not None
    assert record.topics.log.earlier_partitions == [1]
    await stores.admin.alter(topic, {"retention.ms": "1000"})
    await until(as_wanted)
    await patch(api, made_namespace, name, {"metadata": {"annotations": {"heliograph.dev/unmanaged": "true"}}})
    await until_condition(api, made_namespace, name, ("True", "Unmanaged"), "TopicsReady")
    await stores.admin.alter(topic, {"retention.ms": "2000"})
    looked = operator.reconciles()
    await until(lambda: operator.reconciles() >= looked + 2)
    assert (await stores.admin.describe([topic]))[topic].config["retention.ms"] == "2000"
    await patch(api, made_namespace, name, {"metadata": {"annotations": {"heliograph.dev/unmanaged": None}}})
    await until(as_wanted)


async def test_of_two_that_claim_a_tenant_the_oldest_has_it(
    api: HttpKube, made_namespace: str, operator: Operator, stores: Stores
) -> None:
    name = await made(api, made_namespace)
    await api.create(TENANTS, made_namespace, tenant("second", name, reclaimPolicy="Delete"))
    await until_condition(api, made_namespace, "second", ("False", "Conflict"))
    await api.delete(TENANTS, made_namespace, "second")
    await until_gone(api, made_namespace, "second")
    assert await stores.partitions(name) == 1
    await api.create(TENANTS, made_namespace, tenant("third", name))
    await until_condition(api, made_namespace, "third", ("False", "Conflict"))
    await api.delete(TENANTS, made_namespace, name)
    await until_condition(api, made_namespace, "third", READY)


async def test_suspension_closes_connections_of_a_running_edge_and_refuses_new_ones_until_it_is_lifted(
    api: HttpKube, made_namespace: str, operator: Operator, stores: Stores, edge: ServiceProcess, tmp_path: Path
) -> None:
    name = new_name()
    signer = DevelopmentTenant(tmp_path / "keys", name)
    token, url = signer.token(), edge.url.replace("http", "ws")
    body = tenant(name)
    body["spec"]["auth"] = {"jwks": signer.jwks()}
    await api.create(TENANTS, made_namespace, body)
    await until_condition(api, made_namespace, name, READY)
    line = await Line.open(url, "line", Hello(token=token, producer="p", incarnation="12345678"))
    session = f"{name}:planner:trip-1"
    answer = await line.ask(Publish(session, Raw(b"1"), 1))
    assert isinstance(answer, Published)
    ended = asyncio.ensure_future(line.ended())
    await patch(api, made_namespace, name, {"spec": {"suspended": True}})
    async with asyncio.timeout(DEADLINE_S):
        assert await ended == CloseCode.TENANT_SUSPENDED
    await until_condition(api, made_namespace, name, ("False", "Suspended"))
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}) as client:
        path = f"{edge.url}/v1/sessions/{session.replace(':', '/')}/messages"
        refused = await client.post(path, json={"payload": 1})
        assert (refused.status_code, refused.json()["code"]) == (403, "tenant_suspended")
        await patch(api, made_namespace, name, {"spec": {"suspended": False}})
        await until_condition(api, made_namespace, name, READY)
        assert (await client.post(path, json={"payload": 1})).status_code < 300
    assert await stores.partitions(name) == 1  # data stays


async def test_a_tenant_that_is_deleted_leaves_its_topics_or_takes_them_along(
    api: HttpKube, made_namespace: str, operator: Operator, stores: Stores
) -> None:
    kept, gone = await made(api, made_namespace), await made(api, made_namespace, reclaimPolicy="Delete")
    for name in (kept, gone):
        await api.delete(TENANTS, made_namespace, name)
    for name in (kept, gone):
        await until_gone(api, made_namespace, name)
        assert await stores.record(name) is None
    assert (await stores.partitions(kept), await stores.partitions(gone)) == (1, 0)
    said = {body["reason"]: body["message"] for body in await api.all_of(EVENTS, made_namespace)}
    assert f"{stores.prefix}.{kept}.log" in said["Retained"]
    assert f"{stores.prefix}.{gone}.log" in said["Deleted"]
    owner = await stores.tenants.owner(kept)
    assert owner is not None
    assert owner.retained
    assert await stores.tenants.owner(gone) is None


async def test_nothing_is_written_for_nothing_also_after_a_restart(
    api: HttpKube,
    cluster: Cluster,
    made_namespace: str,
    operator: Operator,
    stores: Stores,
    kafka_bootstrap: str,
    redis_url: str,
    tmp_path: Path,
) -> None:
    names = [await made(api, made_namespace) for _ in range(3)]
    version = await stores.tenants.version()

    async def versions() -> list[str]:
        return [body["metadata"]["resourceVersion"] for body in await api.all_of(TENANTS, made_namespace)]

    before = await versions()
    written, looked = operator.writes(), operator.reconciles()
    await until(lambda: operator.reconciles() >= looked + 2 * len(names))
    assert operator.writes() == written
    operator.process.kill()
    with Operator(
        tmp_path, cluster.kubeconfig, [made_namespace], kafka=kafka_bootstrap, redis_url=redis_url, prefix=stores.prefix
    ) as another:
        await until(lambda: another.reconciles() >= 3 * len(names))
        assert another.writes() == 0
    assert await versions() == before
    assert await stores.tenants.version() == version


async def test_a_paused_tenant_is_left_alone(
    api: HttpKube, namespace: Namespace, operator: Operator, stores: Stores
) -> None:
    name = await made(api, namespace.name)
    namespace.kubectl("annotate", "tenant", name, "heliograph.dev/paused=true")
    await until_condition(api, namespace.name, name, ("True", "Annotated"), "Paused")
    await patch(api, namespace.name, name, {"spec": {"suspended": True}})
    looked = operator.reconciles()
    await until(lambda: operator.reconciles() >= looked + 2)
    record = await stores.record(name)
    assert record is not None
    assert not record.suspended
    namespace.kubectl("annotate", "tenant", name, "heliograph.dev/paused-")
    await until_condition(api, namespace.name, name, ("False", "Suspended"))


async def test_a_namespace_is_deleted_with_everything_in_it(
    api: HttpKube, namespace: Namespace, operator: Operator, stores: Stores
) -> None:
    names = [await made(api, namespace.name, reclaimPolicy=policy) for policy in ("Retain", "Delete")]
    await asyncio.to_thread(namespace.delete, wait=True)
    assert [await stores.partitions(name) for name in names] == [1, 0]
    assert [await stores.record(name) for name in names] == [None, None]


async def test_two_operators_at_once_do_no_harm(
    api: HttpKube,
    cluster: Cluster,
    made_namespace: str,
    operator: Operator,
    stores: Stores,
    kafka_bootstrap: str,
    redis_url: str,
    tmp_path: Path,
) -> None:
    with Operator(
        tmp_path, cluster.kubeconfig, [made_namespace], kafka=kafka_bootstrap, redis_url=redis_url, prefix=stores.prefix
    ) as second:
        names = [new_name() for _ in range(6)]
        for name in names:
            await api.create(TENANTS, made_namespace, tenant(name))
        for name in names:
            await until_condition(api, made_namespace, name, READY)
        for name in names:
            await patch(api, made_namespace, name, {"spec": {"topics": {"log": {"partitions": 2}}}})
        for name in names:
            await until_condition(api, made_namespace, name, READY)
            assert await stores.partitions(name) == 2
        before = [body["metadata"]["resourceVersion"] for body in await api.all_of(TENANTS, made_namespace)]
        looked = [one.reconciles() for one in (operator, second)]
        await until(
            lambda: all(
                one.reconciles() >= had + 2 * len(names) for one, had in zip((operator, second), looked, strict=True)
            )
        )
        assert [body["metadata"]["resourceVersion"] for body in await api.all_of(TENANTS, made_namespace)] == before


# ---- what the API server refuses ------------------------------------------------------------------------------------


def with_spec(**changes: Any) -> dict[str, Any]:
    body = tenant(new_name())
    body["spec"] |= changes
    return body


REFUSED_NEW: list[tuple[dict[str, Any], str]] = [
    (with_spec(tenant="Not_A_Label"), "spec.tenant"),
    (with_spec(isolation="none"), "spec.isolation"),
    (with_spec(topics={"log": {"partitions": 0}}), "partitions"),
    (with_spec(topics={"log": {"config": {"cleanup.policy": "compact"}}}), "config takes only"),
    (with_spec(topics={"log": {"retentionHours": 3}}), "unknown field"),
    (with_spec(isolation="shared", topics={"log": {"retentionBytes": 5}}), "can't be set where isolation is shared"),
    (
        with_spec(isolation="shared", topics={"deferred": {"retentionSeconds": 400 * 86_400}}),
        "at most 31536000 where isolation is shared",
    ),
    (with_spec(agentTypes={"Bad_Name": {"log": {}}}), "DNS labels"),
    (with_spec(auth={"jwks": {"keys": [{**PUBLIC_KEY, "d": "x"}]}}), "this is a private key"),
    (with_spec(auth={"jwks": {"keys": []}, "jwksFrom": {"url": "https://a.example"}}), "either jwks or jwksFrom"),
    (with_spec(auth={"jwksFrom": {}}), "exactly one of"),
    (
        with_spec(
            auth={"jwksFrom": {"url": "https://a.example", "secretKeyRef": {"name": "a", "key": "b"}}},
        ),
        "exactly one of",
    ),
    (with_spec(auth={"jwksFrom": {"url": "http://a.example"}}), "jwksFrom.url"),
    (with_spec(auth={"revoked": [{}]}), "lock everybody out"),
    (
        with_spec(isolation="shared", access={"passwordFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}),
        "access needs isolation dedicated",
    ),
    (with_spec(quotas={"event": {"messagesPerSecond": 0, "bytesPerSecond": 1}}), "messagesPerSecond"),
    (with_spec(reclaimPolicy="Recycle"), "spec.reclaimPolicy"),
]


FULL: dict[str, Any] = {
    "topics": {"log": {"partitions": 4}, "deferred": {"partitions": 8}, "telemetry": {"partitions": 4}},
    "agentTypes": {"auditor": {"log": {"partitions": 4}}, "planner": {"log": {"partitions": 8}}},
}
SHRINK = "partitions may grow, never shrink"
REFUSED_CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"tenant": "another"}, "the tenant's name can't be changed"),
    ({"isolation": "shared"}, "isolation can't be changed"),
    ({"topics": {"log": {"partitions": 3}}}, SHRINK),
    ({"topics": {"deferred": {"partitions": 7}}}, SHRINK),
    ({"topics": {"deferred": {"partitions": None}}}, SHRINK),
    ({"topics": {"deferred": None}}, SHRINK),
    ({"topics": {"telemetry": {"partitions": 3}}}, SHRINK),
    ({"agentTypes": {"auditor": {"log": {"partitions": 3}}}}, SHRINK),
    ({"agentTypes": {"planner": {"log": {"partitions": None}}}}, SHRINK),
    ({"agentTypes": {"planner": {"log": None}}}, "log"),
    ({"topics": {"telemetry": None}}, "telemetry can't be taken away again"),
    ({"agentTypes": {"auditor": None}}, "an agent type can't be taken away again"),
    ({"agentTypes": None}, "an agent type can't be taken away again"),
    ({"topics": None}, "telemetry can't be taken away again"),
    ({"tenant": None}, "spec.tenant"),
]


@pytest.fixture(scope="module")
def standing(cluster: Cluster, crds: None) -> Any:
    """A Tenant with everything that rules guard, which nobody looks at."""
    namespace = Namespace(cluster)
    namespace.create()
    namespace.kubectl("create", "-f", "-", stdin=json.dumps(tenant("standing", **FULL)))
    yield namespace
    namespace.delete()


@pytest.mark.parametrize(("body", "said"), REFUSED_NEW, ids=[said for _, said in REFUSED_NEW])
def test_a_bad_tenant_is_refused_with_words(standing: Namespace, body: dict[str, Any], said: str) -> None:
    with pytest.raises(CommandFailedError) as caught:
        standing.kubectl("create", "-f", "-", stdin=json.dumps(body))
    assert said in str(caught.value)


@pytest.mark.parametrize(("change", "said"), REFUSED_CHANGES, ids=[json.dumps(change) for change, _ in REFUSED_CHANGES])
def test_what_must_not_change_or_shrink_is_refused_with_words(
    standing: Namespace, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(CommandFailedError) as caught:
        standing.kubectl("patch", "tenant", "standing", "--type=merge", "-p", json.dumps({"spec": change}))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"topics": {"log": {"partitions": None}}},
        {"topics": {"log": None}},
        {"topics": {"telemetry": {"partitions": None}}},
        {"agentTypes": {"auditor": {"log": {"partitions": None}}}},
        {"isolation": None},
    ],
    ids=json.dumps,
)
def test_taking_a_guarded_field_away_is_no_way_round(standing: Namespace, change: dict[str, Any]) -> None:
    """It comes back with its default, 6 (more than it was; else it is refused, above) or `dedicated`: never unset."""
    patched = ["patch", "tenant", "standing", "--type=merge", "--dry-run=server", "-o", "json"]
    body = json.loads(standing.kubectl(*patched, "-p", json.dumps({"spec": change})))
    spec = body["spec"]
    assert spec["isolation"] == "dedicated"
    counts = [one["partitions"] for one in (*spec["topics"].values(), spec["agentTypes"]["auditor"]["log"])]
    assert all(count in (4, 6, 8) for count in counts)


def test_partitions_may_grow(standing: Namespace) -> None:
    patched = ["patch", "tenant", "standing", "--type=merge", "--dry-run=server", "-o", "json"]
    body = json.loads(standing.kubectl(*patched, "-p", json.dumps({"spec": {"topics": {"log": {"partitions": 5}}}})))
    assert body["spec"]["topics"]["log"]["partitions"] == 5
