"""The fake API server keeps the contract, and what the real one does with custom resources."""

import pytest
from tests.services.operator.fake_kube import FakeKube
from tests.services.operator.kube_contract import KubeContract

from heliograph.operator.kube import TENANTS, Kube


class TestFakeKube(KubeContract):
    @pytest.fixture
    async def kube(self) -> Kube:
        return FakeKube()

    @pytest.fixture
    def namespace(self) -> str:
        return "somewhere"


async def test_status_is_a_subresource_and_only_the_spec_makes_a_generation() -> None:
    kube = FakeKube()
    made = await kube.create(TENANTS, "a", {"metadata": {"name": "t"}, "spec": {"x": 1}, "status": {"y": 1}})
    assert "status" not in made
    assert made["metadata"]["generation"] == 1
    stated = await kube.patch(TENANTS, "a", "t", {"status": {"y": 2}, "spec": {"x": 9}}, subresource="status")
    assert (stated["status"], stated["spec"], stated["metadata"]["generation"]) == ({"y": 2}, {"x": 1}, 1)
    changed = await kube.patch(TENANTS, "a", "t", {"status": {"y": 3}, "spec": {"x": 2}})
    assert (changed["status"], changed["spec"], changed["metadata"]["generation"]) == ({"y": 2}, {"x": 2}, 2)
