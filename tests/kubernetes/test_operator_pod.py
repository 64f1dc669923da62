"""The operator as a pod that looks after other namespaces than its own, with the rights the chart gives it there."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from tests.kubernetes.cluster import Cluster, CommandFailedError
from tests.kubernetes.installation import Installation, Namespace
from tests.kubernetes.operating import DEADLINE_S, new_name, patch, tenant, until, until_condition, until_gone
from tests.kubernetes.operator_pod import QUICK, READY, degraded, made, refused, topic_of
from tests.system.lines import Line

from heliograph.local.tenant import DevelopmentTenant
from heliograph.operator.kube import TENANTS
from heliograph.operator.kube_http import HttpKube
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.frames import Hello, Publish, Published


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
def leaving(cluster: Cluster) -> Iterator[Namespace]:
    """One more, that a test deletes."""
    made = Namespace(cluster, "leaving")
    made.create()
    yield made
    made.remove()


@pytest.fixture(scope="module")
def serving(installation: Installation, teams: list[Namespace], leaving: Namespace) -> Iterator[Installation]:
    """The installation, whose operator looks after these as well."""
    own = installation.values
    namespaces = ",".join(one.name for one in (installation.namespace, *teams, leaving))
    settings = [*QUICK, f"operator.namespaces={{{namespaces}}}", "operator.namespaceDeletion=true"]
    installation.values = [part for setting in settings for part in ("--set", setting)]
    installation.upgrade()
    try:
        yield installation
    finally:
        for one in (*teams, leaving):  # before their namespaces go, and with them the operator's rights there
            one.kubectl("delete", "tenants", "--all", "--timeout=90s")
        installation.values = own
        installation.upgrade("--set", "crds.upgrade=false")


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

    status: Any = None

    async def counted() -> bool:
        nonlocal status
        status = (await api.get(TENANTS, where, name) or {}).get("status", {})
        return bool(status.get("connections") == 1 and status.get("messages", 0) >= 1)

    try:
        await until(counted)
    except TimeoutError:
        raise AssertionError(f"one client, one message: {status}") from None
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
    assert refused(serving) <= {("edgefleets", "list", 1.0)}
    assert degraded(serving) == []


def test_what_lets_it_release_tenants_of_its_namespaces_is_good_for_no_other(
    serving: Installation, teams: list[Namespace], namespace: Namespace
) -> None:
    account = f"system:serviceaccount:{serving.namespace.name}:{serving.object_name('operator')}"
    change = ["--type=merge", "-p", '{"metadata":{"annotations":{"seen":"yes"}}}', f"--as={account}"]
    name = new_name()
    for one in (teams[1], namespace):
        one.apply(tenant(name))
    teams[1].kubectl("patch", "tenant", name, *change)
    with pytest.raises(CommandFailedError, match="this operator changes Tenants of these namespaces only"):
        namespace.kubectl("patch", "tenant", name, *change)
    for verb, resource in (("get", "secrets"), ("delete", "tenants"), ("list", "pods")):
        with pytest.raises(CommandFailedError, match="no"):
            namespace.kubectl("auth", "can-i", verb, resource, f"--as={account}")


async def test_a_namespace_goes_with_its_tenants_although_its_role_went_first_and_the_others_go_on(
    api: HttpKube, serving: Installation, teams: list[Namespace], leaving: Namespace
) -> None:
    """The operator is away meanwhile, so that it is sure who was first."""
    kept, gone = [await made(api, leaving.name, reclaimPolicy=policy) for policy in ("Retain", "Delete")]
    deployment = f"deployment/{serving.object_name('operator')}"
    await asyncio.to_thread(serving.namespace.kubectl, "scale", deployment, "--replicas=0")
    await until(lambda: asyncio.to_thread(lambda: not serving.namespace.pods("operator")))
    try:
        await asyncio.to_thread(leaving.delete)
        await until(lambda: asyncio.to_thread(_rights_are_gone, leaving))
        for name in (kept, gone):
            assert "deletionTimestamp" in (await api.get(TENANTS, leaving.name, name) or {})["metadata"]
    finally:
        await asyncio.to_thread(serving.namespace.kubectl, "scale", deployment, "--replicas=1")
    await asyncio.to_thread(leaving.delete, wait=True)
    assert [(await asyncio.to_thread(topic_of, serving, name))[0] for name in (kept, gone)] == [1, 0]
    await asyncio.to_thread(serving.wait_ready)
    name = await made(api, teams[0].name, reclaimPolicy="Delete")
    await patch(api, teams[0].name, name, {"spec": {"topics": {"log": {"partitions": 2}}}})
    await until_condition(api, teams[0].name, name, READY)
    assert await asyncio.to_thread(topic_of, serving, name, retention_ms="1000") != (0, 0)
    # What was changed by hand is seen by the resync, which the namespace that is gone does not end.
    await until(lambda: asyncio.to_thread(lambda: topic_of(serving, name)[1] != 1_000))
    assert "lists" in await asyncio.to_thread(degraded, serving)
    assert (await asyncio.to_thread(serving.namespace.pods, "operator"))[0]["status"]["containerStatuses"][0][
        "restartCount"
    ] == 0


def _rights_are_gone(leaving: Namespace) -> bool:
    return not leaving.get("roles,rolebindings")["items"]
