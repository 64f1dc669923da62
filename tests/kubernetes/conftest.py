"""A real API server, scheduler and kubelet, with the images of this checkout: `make test-kubernetes`."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.kubernetes import helms
from tests.kubernetes import images as making
from tests.kubernetes.cluster import Cluster, NoClusterError
from tests.kubernetes.fleet import QUICK, Fleet, Fleets, installed_for_fleets
from tests.kubernetes.images import Images
from tests.kubernetes.installation import CHART, DEV_VALUES, Installation, Namespace
from tests.systems import Systems

from heliograph.local.cache import cache_dir, file_lock
from heliograph.local.tenant import DevelopmentTenant
from heliograph.operator.kube_http import HttpKube
from heliograph.operator.login import login
from heliograph.operator.metrics import KubeMetrics
from heliograph.service.metrics import Metrics

HERE = Path(__file__).parent
CRDS = CHART / "crds"
GROUPS = {
    "test_chart_installed": "installation",
    "test_agents_outside": "installation",
    "test_operator_rights": "installation",
    "test_helms": "installation",
    "test_operator_pod": "operators",
    "test_operator_cluster_wide": "operators",
    "test_tenants": "tenants",
    "test_tenants_faults": "tenants",
    "test_tenants_keys": "tenants",
    "test_tenants_secured": "tenants",
    "test_operator_watch": "api",
    "test_fleet_rules": "api",
    "test_kube": "api",
    "test_fleets": "fleets",
    "test_fleet_load": "fleets",
    "test_chart_rendering": "charts",
    "test_foreign_kinds": "charts",
    "test_policies": "charts",
    "test_rendered_settings": "charts",
    "test_images": "charts",
    "test_skaffold": "charts",
    "test_compose_schema": "charts",
    "test_documented_secrets": "charts",
}
"""Modules that share what each xdist worker makes for itself; any other is a group of its own."""
IN_TURN = (
    "installation",
    "tenants",
    "api",
    "fleets",
    "operators",
    "test_nodes",
    "test_upgrades",
    "test_install_page",
    "test_secured",
    "charts",
)
"""Groups in the order in which processes side by side take them (--no-loadscope-reorder): the longest first, so that no
long one comes last. `tenants` and `api` need no images: they are done while the first one builds those."""
TEST_TIMEOUT_S = 900
"""Of one test with what it sets up: the first builds images, or, on a machine that never did, Kubernetes."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """All tests here want a cluster; none is part of `make test`."""
    ours = [item for item in items if HERE in item.path.parents]
    for item in ours:
        item.add_marker(pytest.mark.kubernetes)
        item.add_marker(pytest.mark.timeout(TEST_TIMEOUT_S))
        if config.getoption("loadgroup", default=False):
            # As an xdist_group would, whose name pytest-xdist 3.8 writes where pytest 9.2 no longer looks for it.
            item._id = type(item._id).parse(f"{item.nodeid}@{_group(item)}")
    if len(ours) == len(items):  # not where `make test` collects them only to leave them out
        items.sort(key=_turn)


def _group(item: pytest.Item) -> str:
    return GROUPS.get(item.path.stem, item.path.stem)


def _turn(item: pytest.Item) -> int:
    group = _group(item)
    return IN_TURN.index(group) if group in IN_TURN else len(IN_TURN)


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The cluster at hand: of KUBECONFIG, or started here."""
    try:
        return Cluster.find()
    except NoClusterError as error:
        pytest.fail(f"no cluster: {error}", pytrace=False)


@pytest.fixture(scope="session")
def images(cluster: Cluster) -> Images:
    """This checkout's images, on every node."""
    return making.provide(cluster)


@pytest.fixture(scope="session")
def helm4(cluster: Cluster) -> Cluster:
    """The same cluster, by Helm 4."""
    try:
        return cluster.with_programs(helms.folder(cluster))
    except helms.NoHelm4Error as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def newest_helm(cluster: Cluster) -> Cluster:
    """The same cluster, by Helm 4 where it is to be had: what everything else does by Helm 3."""
    try:
        return cluster.with_programs(helms.folder(cluster))
    except helms.NoHelm4Error:
        return cluster


@pytest.fixture(scope="module", params=["helm-3", "helm-4"])
def each_helm(request: pytest.FixtureRequest, cluster: Cluster) -> Cluster:
    """The cluster by its own Helm, which is 3, and by 4."""
    if request.param == "helm-3":
        return cluster
    by_helm4: Cluster = request.getfixturevalue("helm4")
    return by_helm4


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[Namespace]:
    """One for this test alone."""
    made = Namespace(cluster)
    made.create()
    yield made
    made.remove()


@pytest.fixture(scope="session")
def installation(
    cluster: Cluster, crds: None, images: Images, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """The chart's dev profile, shared by the tests that leave it as they found it.

    Its operator looks at its own namespace only: others use the same cluster.
    """
    del crds  # helm leaves those that are there, from whichever checkout
    namespace = Namespace(cluster)
    namespace.create()
    values = ["--set", f"operator.namespaces={{{namespace.name}}}"]
    made = Installation(namespace, images, tmp_path_factory.mktemp("installation"), values=values)
    with made.running():
        yield made


@pytest.fixture
def fleets(
    systems: Systems, cluster: Cluster, crds: None, images: Images, tmp_path_factory: pytest.TempPathFactory
) -> Fleets:
    """An installation for tests that change how many edges there are."""
    del crds
    return systems.take("fleets", lambda: installed_for_fleets(cluster, images, tmp_path_factory.mktemp("fleets")))


@pytest.fixture
def tenant(fleets: Fleets) -> DevelopmentTenant:
    """Whose clients they are."""
    return fleets.tenant


@pytest.fixture
def fleet(fleets: Fleets) -> Fleet:
    """In mode Auto with one edge, which is enough for all."""
    found = Fleet(fleets.installation)
    found.change(**QUICK, mode="Auto", replicas=None, rebalance=None, fallback=None)
    found.until_settled(1)
    return found


@pytest.fixture
async def api(cluster: Cluster, crds: None, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HttpKube]:
    """The operator's own client, with the rights of whoever runs the tests."""
    del crds
    monkeypatch.setenv("KUBECONFIG", cluster.kubeconfig)
    client = HttpKube(login, KubeMetrics(Metrics("operator", process=False)), timeout_s=30.0)
    await client.start()
    yield client
    await client.close()


@pytest.fixture(scope="session")
def crds(cluster: Cluster) -> None:
    """This checkout's definitions of Tenant and the others. A cluster that has none gets them by a first install."""
    files = sorted(CRDS.glob("*.yaml"))
    with file_lock(cache_dir() / "definitions.lock"):
        there = cluster.kubectl("get", "crds", "-o", "name")
        if not any(file.stem in there for file in files):
            install_first(cluster)
        cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CRDS))
        for file in files:
            cluster.kubectl("wait", "--for=condition=Established", "--timeout=60s", f"crd/{file.stem}")


def install_first(cluster: Cluster) -> None:
    """On a clean cluster: the chart holds an EdgeFleet, and brings its definition, which `helm uninstall` leaves."""
    namespace = Namespace(cluster, "first")
    namespace.create()
    where = ["--namespace", namespace.name]
    values = ["--values", str(DEV_VALUES), "--set", f"operator.namespaces={{{namespace.name}}}"]
    try:
        cluster.helm("install", "first", str(CHART), *where, *values)  # not --wait: what its pods do is for others
        assert len(namespace.get("edgefleets")["items"]) == 1
        cluster.helm("uninstall", "first", *where)
        assert namespace.get("edgefleets")["items"] == []
    finally:
        namespace.delete()


@pytest.fixture
def made_namespace(namespace: Namespace) -> str:
    """The name of a namespace for this test alone."""
    return namespace.name
