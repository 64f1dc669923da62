"""The client keeps the contract on a real API server, so what the fake does is what it does."""

import pytest
from tests.services.operator.kube_contract import KubeContract

from heliograph.operator.kube import Kube


class TestRealKube(KubeContract):
    @pytest.fixture
    async def kube(self, api: Kube) -> Kube:
        return api

    @pytest.fixture
    def namespace(self, made_namespace: str) -> str:
        return made_namespace
