"""A real Prometheus's programs; fetched where they are absent, a failure where they can't be had."""

import pytest

from heliograph.local.prometheus import Programs, provide_prometheus


@pytest.fixture(scope="session")
def prometheus_programs() -> Programs:
    return provide_prometheus()
