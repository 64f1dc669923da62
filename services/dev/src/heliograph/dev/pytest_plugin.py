"""Fixtures for people's own tests: `heliograph_dev`, a whole Heliograph that costs a second or two a run.

Loaded by every run of pytest in an environment that has this package: it must import next to nothing, and touch
neither event loops nor options. So it works with any asyncio plugin, and without one.
"""

from collections.abc import Iterator, Sequence

import pytest

from heliograph.dev.options import DEMO_TENANT, TenantRecord
from heliograph.dev.process import HeliographDev


@pytest.fixture(scope="session")
def heliograph_dev_tenants() -> Sequence[TenantRecord]:
    """Tenants of the server: names, or records as in a tenant file. Override it in your conftest.py."""
    return (DEMO_TENANT,)


@pytest.fixture(scope="session")
def heliograph_dev(
    heliograph_dev_tenants: Sequence[TenantRecord], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HeliographDev]:
    """All of Heliograph in memory, in a process of its own that ends with the run. Nothing is durable."""
    log = tmp_path_factory.mktemp("heliograph-dev") / "dev.log"
    with HeliographDev(log, heliograph_dev_tenants) as dev:
        yield dev


@pytest.fixture
def heliograph_session(heliograph_dev: HeliographDev) -> str:
    """The name of a session that only this test has."""
    return heliograph_dev.session()
