"""A node is drained, and a node dies, under live connections.

Kafka and Redis are on another one: what their loss does is for tests/system.

Processes of a node that dies here end at once, and their connections with them; what a silent peer does is for
tests/faults.
"""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.kubernetes.cluster import Cluster, CommandFailedError
from tests.kubernetes.fleet import QUICK, Fleet
from tests.kubernetes.images import Images, loading
from tests.kubernetes.installation import Installation, Namespace
from tests.kubernetes.rendering import VALUES
from tests.kubernetes.traffic import Traffic, nothing_lost

from heliograph.local.tenant import DevelopmentTenant

TENANT = "acme"
SPREAD = ("edge", "router", "replay", "registry")
"""Components with two pods, one on each node."""
NODE_TIMEOUT_S = 90.0
"""Until the cluster has noticed that a node is gone: 20 s, and more on a busy machine."""


@pytest.fixture(scope="module")
def mortal(cluster: Cluster) -> str:
    """The node that may die."""
    name = cluster.mortal_node()
    if name is None:
        pytest.skip("one node, or none that this machine may end: `cluster up 2` of the cluster script makes two")
    return name


@pytest.fixture(scope="module")
def installed(
    cluster: Cluster, mortal: str, crds: None, images: Images, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """Two of each, and an operator that would rather be on the node that dies."""
    del crds
    namespace = Namespace(cluster, "nodes")
    namespace.create()
    there = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [mortal]}]}
    preferred = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "preference": there}]}
    values = ["--values", str(VALUES / "nodes.yaml"), "--set", f"operator.namespaces={{{namespace.name}}}"]
    values += ["--set-json", f"operator.pods.affinity={json.dumps({'nodeAffinity': preferred})}"]
    made = Installation(namespace, images, tmp_path_factory.mktemp("nodes"), values=values)
    with made.running():
        yield made


@pytest.fixture(scope="module")
def tenant(installed: Installation) -> DevelopmentTenant:
    return installed.apply_tenant(TENANT)


@pytest.fixture
def fleet(installed: Installation, mortal: str) -> Fleet:
    """Two edges, one on each node, and so with everything that has two pods."""
    found = Fleet(installed)
    found.change(**QUICK, min=2)
    found.until_settled(2)
    # Where both of a component are on the other node, one is made anew, which is spread.
    missing = [component for component in SPREAD if not on(installed, component, mortal)]
    extra = [installed.namespace.pods(component)[0]["metadata"]["name"] for component in missing]
    if extra:
        installed.namespace.kubectl("delete", "pods", *extra)
    installed.wait_ready()
    found.until_settled(2)
    assert on(installed, "edge", mortal), "of two edges one is on each node"
    return found


def on(installed: Installation, component: str, node: str) -> list[str]:
    """Names of a component's pods on a node, without those on their way out."""
    return [pod["metadata"]["name"] for pod in installed.namespace.pods(component) if pod["spec"]["nodeName"] == node]


def left_on(installed: Installation, node: str) -> list[str]:
    """Names of all pods on a node, also of those on their way out."""
    found: list[Any] = installed.namespace.get("pods", f"--field-selector=spec.nodeName={node}")["items"]
    return [pod["metadata"]["name"] for pod in found]


def may_be_evicted(installed: Installation, pod: str) -> bool:
    """Ask for it as `kubectl drain` does, but only whether it may be."""
    where = {"name": pod, "namespace": installed.namespace.name}
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": where, "deleteOptions": {"dryRun": ["All"]}}
    path = f"/api/v1/namespaces/{installed.namespace.name}/pods/{pod}/eviction"
    try:
        installed.cluster.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(body))
    except CommandFailedError as error:
        if "disruption budget" not in str(error):
            raise
        return False
    return True


async def test_a_node_is_drained_and_its_edge_moves_its_clients_before_the_next_may_go(
    fleet: Fleet, installed: Installation, tenant: DevelopmentTenant, mortal: str
) -> None:
    cluster = installed.cluster
    load = Traffic(installed.url("edge"), TENANT, tenant.token(), pairs=20, per_s=4.0)
    leaving = on(installed, "edge", mortal)
    (staying,) = fleet.names() - set(leaving)
    try:
        async with nothing_lost(load, installed):
            command = ["drain", mortal, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=180s"]
            draining = asyncio.create_task(asyncio.to_thread(cluster.kubectl, *command, timeout_s=200))
            await asyncio.to_thread(
                fleet.until, "the edge there is on its way out", lambda: not set(leaving) & fleet.names()
            )
            assert not await asyncio.to_thread(may_be_evicted, installed, staying)
            await draining
            assert await asyncio.to_thread(left_on, installed, mortal) == []
            await asyncio.to_thread(fleet.until_settled, 2)
            # Who counts healthy pods for budgets may be some moments behind.
            await asyncio.to_thread(installed.until, "now it may", lambda: may_be_evicted(installed, staying), 60.0)
        assert staying in fleet.names()
    finally:
        cluster.kubectl("uncordon", mortal)
    assert load.reconnects, "some of them were on it"


@pytest.fixture
def unloaded() -> Iterator[None]:
    """Nobody loads images meanwhile, also onto the node that dies."""
    with loading():
        yield


@pytest.mark.usefixtures("unloaded")
async def test_a_node_that_dies_takes_nothing_along_and_fleet_and_operator_go_on(
    fleet: Fleet, installed: Installation, tenant: DevelopmentTenant, mortal: str
) -> None:
    cluster = installed.cluster
    load = Traffic(installed.url("edge"), TENANT, tenant.token(), pairs=20, per_s=4.0)
    async with nothing_lost(load, installed):
        gone = await asyncio.to_thread(left_on, installed, mortal)
        try:
            await asyncio.to_thread(cluster.stop_node, mortal)
            await load.grow()  # before the cluster has noticed
            command = ["wait", "--for=condition=Ready=Unknown", f"node/{mortal}", f"--timeout={NODE_TIMEOUT_S:g}s"]
            await asyncio.to_thread(cluster.kubectl, *command)
            await asyncio.to_thread(installed.until, "all is elsewhere", lambda: elsewhere(installed, mortal))
            await asyncio.to_thread(fleet.until_settled, 2)
            await asyncio.to_thread(fleet.change, min=3)  # which only a living operator sees
            await asyncio.to_thread(fleet.until_settled, 3)
        finally:
            await asyncio.to_thread(cluster.start_node, mortal)
        await asyncio.to_thread(
            installed.until, "pods of before are gone", lambda: not set(gone) & set(left_on(installed, mortal))
        )
    assert len(gone) >= len(SPREAD)
    assert load.reconnects, "some of them were on it"


def elsewhere(installed: Installation, node: str) -> bool:
    """Everything is ready, and nothing that is wanted is on the node."""
    return not installed.unready() and not any(on(installed, component, node) for component in (*SPREAD, "operator"))
