"""The log's ports twice: in memory, and on a real Kafka with topics and groups of the test's own."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from tests.stores.log.helpers import Stores


@pytest.fixture
async def stores(kind: str, request: pytest.FixtureRequest) -> AsyncIterator[Stores]:
    bootstrap = request.getfixturevalue("kafka_bootstrap") if kind == "kafka" else None
    async with AsyncExitStack() as stack:
        yield Stores(bootstrap, stack)


@pytest.fixture(params=["memory", "kafka"])
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
async def kafka(kafka_bootstrap: str) -> AsyncIterator[Stores]:
    """Kafka alone."""
    async with AsyncExitStack() as stack:
        yield Stores(kafka_bootstrap, stack)
