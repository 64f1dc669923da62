"""The dashboards as they are in the chart."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.monitoring.alerts import NAMESPACE, ROOT

FILES = sorted((ROOT / "charts" / "heliograph" / "files" / "dashboards").iterdir())

RATE_INTERVAL = "1m"
"""As Grafana would put it in, for a scrape each 15 s."""


def load(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def panels(dashboard: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """But for rows."""
    return (panel for panel in dashboard["panels"] if panel["type"] != "row")


def expressions(dashboard: Mapping[str, Any], rate_interval: str = RATE_INTERVAL) -> dict[str, str]:
    """What Grafana asks of Prometheus, by panel and query."""
    return {
        f"{panel['title']} {target['refId']}": target["expr"]
        .replace("$namespace", NAMESPACE)
        .replace("$__rate_interval", rate_interval)
        for panel in panels(dashboard)
        for target in panel["targets"]
    }
