"""Every dashboard as the JSON that Grafana takes."""

from collections.abc import Callable, Mapping

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from heliograph.local.dashboards.overview import overview

DASHBOARDS: Mapping[str, Callable[[], Dashboard]] = {"overview": overview}
"""By the name of the file. Another one is a module beside `overview` and a line here."""


def rendered() -> dict[str, str]:
    """File name → text."""
    encoder = JSONEncoder(sort_keys=True, indent=2, ensure_ascii=False)
    return {f"{name}.json": encoder.encode(make().build()) + "\n" for name, make in DASHBOARDS.items()}
