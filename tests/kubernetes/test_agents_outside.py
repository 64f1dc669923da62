"""Agents outside the cluster, while what they talk to is replaced under them."""

import asyncio
from collections.abc import Callable

import pytest
from tests.kubernetes.installation import Installation
from tests.kubernetes.traffic import Traffic, nothing_lost

from heliograph.local.tenant import DevelopmentTenant

TENANT = "acme"
LIMITS = {"connection_messages_per_s": 2_000.0, "connection_burst_messages": 4_000}


@pytest.fixture(scope="module")
def tenant(installation: Installation) -> DevelopmentTenant:
    return installation.apply_tenant(TENANT, limits=LIMITS)


@pytest.fixture
def traffic(installation: Installation, tenant: DevelopmentTenant) -> Callable[..., Traffic]:
    return lambda **options: Traffic(installation.url("edge"), TENANT, tenant.token(), **options)


async def test_what_is_published_is_delivered_and_in_the_log(
    installation: Installation, traffic: Callable[..., Traffic]
) -> None:
    async with nothing_lost(traffic(pairs=3, per_s=10.0), installation):
        pass


@pytest.mark.parametrize("component", ["edge", "router", "replay", "registry", "operator"])
async def test_a_pod_that_is_deleted_at_once_loses_nothing(
    component: str, installation: Installation, traffic: Callable[..., Traffic]
) -> None:
    load = traffic(pairs=10, per_s=4.0)
    async with nothing_lost(load, installation):
        pod = installation.namespace.pods(component)[0]["metadata"]["name"]
        await asyncio.to_thread(installation.namespace.kubectl, "delete", "pod", pod, "--force", "--grace-period=0")
        await asyncio.to_thread(installation.until, f"{pod} is gone", lambda: _gone(installation, component, pod))
    if component == "edge":
        assert load.reconnects >= len(load.pairs)


def _gone(installation: Installation, component: str, pod: str) -> bool:
    return pod not in {found["metadata"]["name"] for found in installation.namespace.pods(component)}


async def test_edges_that_are_rolled_under_live_connections_lose_nothing(
    installation: Installation, traffic: Callable[..., Traffic]
) -> None:
    load = traffic(pairs=100, per_s=2.0)
    before = {pod["metadata"]["name"] for pod in installation.namespace.pods("edge")}
    async with nothing_lost(load, installation):
        name = installation.object_name("edge")
        await asyncio.to_thread(installation.namespace.kubectl, "rollout", "restart", f"deployment/{name}")
        await asyncio.to_thread(
            installation.namespace.kubectl, "rollout", "status", f"deployment/{name}", "--timeout=180s", timeout_s=200
        )
        await asyncio.to_thread(installation.until, "the old edges are gone", lambda: _left(installation, before))
    assert load.reconnects >= len(load.pairs)


def _left(installation: Installation, pods: set[str]) -> bool:
    """None of `pods` is there any more, not even on its way out."""
    every = installation.namespace.get("pods", "-l", "app.kubernetes.io/component=edge")["items"]
    return pods.isdisjoint(pod["metadata"]["name"] for pod in every)
