"""What all five services serve at /metrics, asked of the services as they are put together."""

from collections.abc import Mapping

from tests.monitoring.naming import served_by
from tests.monitoring.operator import running_operator

from heliograph.dev.options import DevOptions
from heliograph.dev.server import DevServer

Served = Mapping[str, frozenset[str]]

SERVICES = {"edge", "router", "replay", "registry", "operator"}


async def everything_served() -> Served:
    """By all five services."""
    async with DevServer(DevOptions(port=0)) as dev, running_operator() as operator:
        services = [*dev.services, operator]
        assert {service.name for service in services} == SERVICES
        found: dict[str, frozenset[str]] = {"up": frozenset()}
        for service in services:
            found |= served_by(service.metrics.registry)
        return found
