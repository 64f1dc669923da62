"""What a service tells of its stores, whoever of its parts had to do with them."""

from heliograph.service.metrics import Metrics
from heliograph.stores.events import SINCE_START


def show_store_events(metrics: Metrics) -> None:
    """As metrics of the service; what they count is the whole process'."""
    metrics.sampled_counter(
        "store_events_total",
        "What happened between this process and a store, see docs/reference/store-events.md.",
        SINCE_START.event_counts,
        ("store", "event"),
    )
    metrics.sampled_counter(
        "store_errors_total",
        "Errors that a store or its client library told, by the code they have there.",
        SINCE_START.error_counts,
        ("store", "code"),
    )
