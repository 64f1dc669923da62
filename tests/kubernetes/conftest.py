"""A real API server, scheduler and kubelet, with the images of this checkout: `make test-kubernetes`."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kubernetes import images as making
from tests.kubernetes.cluster import Cluster, NoClusterError
from tests.kubernetes.images import Images
from tests.kubernetes.installation import Installation, Namespace

HERE = Path(__file__).parent
TEST_TIMEOUT_S = 900
"""Of one test with what it sets up: the first builds images, or, on a machine that never did, Kubernetes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests here want a cluster; none is part of `make test`."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.kubernetes)
            item.add_marker(pytest.mark.timeout(TEST_TIMEOUT_S))
            item.add_marker(pytest.mark.xdist_group("kubernetes"))


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


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[Namespace]:
    """One for this test alone."""
    made = Namespace(cluster)
    made.create()
    yield made
    made.delete()


@pytest.fixture(scope="session")
def installation(cluster: Cluster, images: Images, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """The chart's dev profile, shared by the tests that leave it as they found it."""
    namespace = Namespace(cluster)
    namespace.create()
    made = Installation(
        namespace, images, tmp_path_factory.mktemp("installation"), values=["--set", "operator.enabled=false"]
    )
    try:
        made.install()
        yield made
    finally:
        namespace.delete()
