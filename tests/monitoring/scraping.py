"""A real Prometheus that scrapes and judges as the chart has it, once a second instead of each quarter of a minute."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import yaml
from tests.monitoring.alerts import NAMESPACE, groups

from heliograph.local.ports import LOOPBACK
from heliograph.local.prometheus import PrometheusServer, provide_prometheus

INTERVAL = "1s"


@contextmanager
def scraping(directory: Path, targets: Mapping[str, tuple[str, int]]) -> Iterator[PrometheusServer]:
    """`targets`: by pod, its component and port. Labels are those that the chart's monitors bring."""
    directory.mkdir(parents=True)
    rules, configuration = directory / "rules.yaml", directory / "prometheus.yaml"
    rules.write_text(yaml.safe_dump({"groups": groups()}), encoding="utf-8")
    static = [
        {
            "targets": [f"{LOOPBACK}:{port}"],
            "labels": {"namespace": NAMESPACE, "pod": pod, "component": component},
        }
        for pod, (component, port) in targets.items()
    ]
    configuration.write_text(
        yaml.safe_dump(
            {
                "global": {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL},
                "rule_files": [str(rules)],
                "scrape_configs": [{"job_name": "heliograph", "static_configs": static}],
            }
        ),
        encoding="utf-8",
    )
    server = PrometheusServer(provide_prometheus(), directory, configuration)
    server.start()
    try:
        yield server
    finally:
        server.stop()
