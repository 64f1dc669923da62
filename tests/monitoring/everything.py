"""What all five services serve at /metrics, asked of the services as they are put together."""

from collections.abc import Mapping

import httpx
from tests.monitoring.naming import served_by
from tests.monitoring.operator import running_operator

from heliograph.dev.options import DevOptions
from heliograph.dev.server import DevServer
from heliograph.local.ports import LOOPBACK, free_port

Served = Mapping[str, frozenset[str]]

PROMETHEUS_OWN = {"up": frozenset[str](), "ALERTS": frozenset({"alertname", "alertstate", "severity"})}

SERVICES = {"edge", "router", "replay", "registry", "operator"}


async def everything_served() -> Served:
    """By all five services."""
    port = free_port()
    async with DevServer(DevOptions(port=0)) as dev, running_operator(port) as operator:
        services = [*dev.services, operator]
        async with httpx.AsyncClient(trust_env=False) as http:  # some are there from the first request on
            for url in (*(dev.url(service.name) for service in dev.services), f"http://{LOOPBACK}:{port}"):
                (await http.get(f"{url}/metrics")).raise_for_status()
        assert {service.name for service in services} == SERVICES
        found: dict[str, frozenset[str]] = dict(PROMETHEUS_OWN)
        for service in services:
            found |= served_by(service.metrics.registry)
        return found
