from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.client.fake_edge import FakeEdge

from heliograph.client import Client, ClientSettings
from heliograph.core.backoff import BackoffPolicy

QUICK = ClientSettings(
    connect_timeout_s=20.0,
    open_timeout_s=10.0,
    close_timeout_s=2.0,
    reconnect=BackoffPolicy(base_s=0.01, cap_s=0.05, healthy_s=0.2),
    refusal=BackoffPolicy(base_s=0.005, cap_s=0.02, healthy_s=0.0),
    status_interval_s=0.05,
    drain_linger_s=0.3,
    rotation_patience_s=0.5,
)
"""Settings whose waits are short."""


@pytest.fixture
async def edge() -> AsyncIterator[FakeEdge]:
    async with FakeEdge() as edge:
        yield edge


@pytest.fixture
def make_client(edge: FakeEdge) -> Callable[..., Client]:
    """A client of the fake edge, with short waits."""

    def make(**options: Any) -> Client:
        return Client(options.pop("url", edge.url), **{"token": "t", "settings": QUICK, "proxy": None, **options})

    return make
