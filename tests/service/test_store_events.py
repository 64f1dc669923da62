"""Metrics of the stores: every event has a series before it happens, so that its first time is a rise."""

from heliograph.service.metrics import Metrics
from heliograph.service.store_events import show_store_events
from heliograph.stores.events import LIVE, MEANINGS, METADATA, StoreEvent, Tally


def test_every_event_has_a_series_from_the_start(metrics: Metrics) -> None:
    show_store_events(metrics)
    text = metrics.render()[0].decode()
    for store, events in MEANINGS.items():
        for event in events:
            assert f'heliograph_test_store_events_total{{event="{event}",store="{store}"}}' in text


def test_events_and_errors_rise_as_they_happen(metrics: Metrics) -> None:
    show_store_events(metrics)
    event, code = {"store": LIVE, "event": "append_given_up"}, {"store": METADATA, "code": "ReadOnlyError"}
    before = metrics.value("store_events_total", event), metrics.value("store_errors_total", code)
    Tally(LIVE).count(StoreEvent.APPEND_GIVEN_UP, 2)
    Tally(METADATA).error("ReadOnlyError")
    after = metrics.value("store_events_total", event), metrics.value("store_errors_total", code)
    assert after == (before[0] + 2, before[1] + 1)
