"""From the version before to this one and back, under live connections."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.kubernetes import baseline
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.images import Images
from tests.kubernetes.installation import CHART, Installation, Namespace
from tests.kubernetes.traffic import Traffic, nothing_lost

from heliograph.local.tenant import DevelopmentTenant

TENANT = "stayer"


@pytest.fixture(scope="module")
def before(cluster: Cluster, crds: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """The version before, as its chart and its images had it."""
    del crds  # a cluster has them once; those of the version before would take fields from others that use it
    directory = tmp_path_factory.mktemp("upgrades")
    try:
        chart, images = baseline.provide(cluster, directory)
    except baseline.NoBaselineError as error:
        pytest.skip(str(error))
    namespace = Namespace(cluster, "upgrades")
    namespace.create()
    values = ["--set", f"operator.namespaces={{{namespace.name}}}"]
    made = Installation(namespace, images, directory, values=values, chart=chart)
    with made.running():
        yield made


def running(installation: Installation) -> set[str]:
    """Images of the services' containers that are there."""
    names = ("edge", "router", "replay", "registry", "operator")
    pods = [pod for name in names for pod in installation.namespace.pods(name)]
    return {pod["spec"]["containers"][0]["image"].rpartition(":")[2] for pod in pods}


async def test_an_upgrade_from_the_version_before_and_the_way_back_lose_nothing(
    before: Installation, images: Images, tmp_path: Path
) -> None:
    after = replace(before, images=images, chart=CHART)
    keys = DevelopmentTenant(tmp_path, TENANT)
    await asyncio.to_thread(before.declare_tenant, keys)
    load = Traffic(before.url("edge"), TENANT, keys.token(), pairs=20, per_s=4.0)
    async with nothing_lost(load, before):
        assert await asyncio.to_thread(running, before) == {before.images.tag}
        await asyncio.to_thread(after.upgrade)
        assert await asyncio.to_thread(running, after) == {images.tag}
        await load.grow()
        await asyncio.to_thread(after.roll_back)
        assert await asyncio.to_thread(running, before) == {before.images.tag}
    assert load.reconnects >= 2 * len(load.pairs), "every edge was replaced twice"
    ready = ["wait", "--for=condition=Ready", f"tenant/{TENANT}", "--timeout=60s"]
    await asyncio.to_thread(before.namespace.kubectl, *ready)
