"""What a service tells of its Kafka clients, whoever of its parts has them."""

from heliograph.service.metrics import Metrics
from heliograph.stores.replacements import REPLACEMENTS


def show_log_clients(metrics: Metrics) -> None:
    """As a metric of the service. A gauge, since what it counts is the process', not the registry's."""
    metrics.sampled_gauge(
        "log_clients_replaced",
        "Clients of Kafka that heard nothing for 15 s and were replaced, since the start.",
        lambda: float(REPLACEMENTS.log_clients),
    )
