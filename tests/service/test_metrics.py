"""Metrics: names by one rule, hot-path counters, a scrape."""

import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from heliograph.service.metrics import MAX_SERIES, Metrics, TickHistogram


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    body, _ = metrics.render()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def test_names_carry_the_service(metrics: Metrics) -> None:
    metrics.counter("things_total", "Things.").inc(2)
    metrics.gauge("queue_bytes", "Waiting.").set(5)
    metrics.histogram("wait_seconds", "Waited.").observe(0.2)
    found = samples(metrics)
    assert found["heliograph_test_things_total", ()] == 2
    assert found["heliograph_test_queue_bytes", ()] == 5
    assert found["heliograph_test_wait_seconds_count", ()] == 1


@pytest.mark.parametrize(
    "name", ["things", "Things_total", "things__total", "wait_ms_total", "1_total", "_total", "wait_s_total"]
)
def test_a_counter_by_another_rule_is_refused(metrics: Metrics, name: str) -> None:
    with pytest.raises(ValueError, match="metric"):
        metrics.counter(name, "Things.")
    with pytest.raises(ValueError, match="metric"):
        metrics.ticks(name, "Things.")


def test_only_counters_end_in_total(metrics: Metrics) -> None:
    with pytest.raises(ValueError, match="counters end in _total"):
        metrics.gauge("things_total", "Things.")


@pytest.mark.parametrize("name", ["wait", "wait_ms", "wait_s", "size_kib"])
def test_a_histogram_says_what_it_measures(metrics: Metrics, name: str) -> None:
    with pytest.raises(ValueError, match="metric"):
        metrics.histogram(name, "Waited.")


@pytest.mark.parametrize("label", ["session", "message_id", "connection", "token", "subject"])
def test_labels_without_a_bound_are_refused(metrics: Metrics, label: str) -> None:
    with pytest.raises(ValueError, match="no bound"):
        metrics.tick_family("things_total", "Things.", [label])


def test_a_tick_counter_is_a_plain_number_that_a_scrape_reads(metrics: Metrics) -> None:
    ticks = metrics.ticks("frames_total", "Frames.")
    ticks.n += 3
    assert samples(metrics)["heliograph_test_frames_total", ()] == 3
    assert metrics.value("frames_total") == 3


def test_a_tick_family_has_one_counter_for_its_labels(metrics: Metrics) -> None:
    family = metrics.tick_family("refused_total", "Refused.", ["tenant", "reason"])
    family.labels("acme", "rate_limited").n += 1
    family.labels("acme", "rate_limited").n += 1
    family.labels("other", "backlog").n += 1
    assert metrics.value("refused_total", {"tenant": "acme", "reason": "rate_limited"}) == 2
    family.forget("acme", "rate_limited")
    assert metrics.value("refused_total", {"tenant": "acme", "reason": "rate_limited"}) == 0
    with pytest.raises(ValueError, match="has the labels"):
        family.labels("acme")


def test_a_label_with_too_many_values_ends_in_other(metrics: Metrics) -> None:
    family = metrics.tick_family("refused_total", "Refused.", ["tenant"])
    for number in range(MAX_SERIES + 10):
        family.labels(f"t{number}").n += 1
    assert metrics.value("refused_total", {"tenant": "other"}) == 10
    body, _ = metrics.render()
    assert body.count(b"heliograph_test_refused_total{") == MAX_SERIES + 1


def test_a_tick_histogram_counts_like_prometheus_own(metrics: Metrics) -> None:
    bounds = (0.1, 1.0, 10.0)
    ours = metrics.tick_histogram("ours_seconds", "Ours.", bounds)
    theirs = metrics.histogram("theirs_seconds", "Theirs.", buckets=bounds)
    for value in (0.05, 0.1, 0.5, 1.0, 1.1, 10.0, 11.0):
        ours.observe(value)
        theirs.observe(value)
    found = samples(metrics)
    for suffix in ("_count", "_sum"):
        assert (
            found[f"heliograph_test_ours_seconds{suffix}", ()] == found[f"heliograph_test_theirs_seconds{suffix}", ()]
        )
    for bound in ("0.1", "1.0", "10.0", "+Inf"):
        label = (("le", bound),)
        assert (
            found["heliograph_test_ours_seconds_bucket", label] == found["heliograph_test_theirs_seconds_bucket", label]
        )


def test_tick_histograms_with_a_label_have_a_series_each(metrics: Metrics) -> None:
    series = metrics.tick_histograms("wait_seconds", "Waited.", "class", ["control", "event"])
    series["event"].observe(0.2)
    assert metrics.value("wait_seconds_count", {"class": "event"}) == 1
    assert metrics.value("wait_seconds_count", {"class": "control"}) == 0


def test_a_sampled_gauge_is_read_when_somebody_scrapes(metrics: Metrics) -> None:
    queue: list[int] = []
    metrics.sampled_gauge("queue_messages", "Waiting.", lambda: len(queue))
    metrics.sampled_gauge("by_shard_bytes", "By shard.", lambda: {"a": 1, "b": 2}, label="shard")
    queue.append(1)
    found = samples(metrics)
    assert found["heliograph_test_queue_messages", ()] == 1
    assert found["heliograph_test_by_shard_bytes", (("shard", "b"),)] == 2


def test_registering_does_not_read(metrics: Metrics) -> None:
    def not_yet() -> float:
        raise AssertionError("read while registering")

    metrics.sampled_gauge("queue_messages", "Waiting.", not_yet)
    with pytest.raises(ValueError, match="Duplicated"):
        metrics.gauge("queue_messages", "Again.")


def test_a_scrape_has_process_and_build() -> None:
    metrics = Metrics("test", "1.2")
    names = {name for name, _ in samples(metrics)}
    assert {"process_resident_memory_bytes", "process_cpu_seconds_total", "heliograph_build_info"} <= names


def test_openmetrics_is_given_to_who_asks(metrics: Metrics) -> None:
    body, content_type = metrics.render("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_hot_path_counters_cost_less_than_a_prometheus_counter(metrics: Metrics) -> None:
    ticks, counter, histogram = metrics.ticks("a_total", "A."), metrics.counter("b_total", "B."), TickHistogram()

    def cheapest(run: int) -> float:
        best = float("inf")
        for _ in range(5):
            begin = time.process_time()
            if run == 0:
                for _ in range(20_000):
                    ticks.n += 1
            elif run == 1:
                for _ in range(20_000):
                    counter.inc()
            else:
                for _ in range(20_000):
                    histogram.observe(0.1)
            best = min(best, time.process_time() - begin)
        return best

    assert cheapest(0) * 2 < cheapest(1)
    assert cheapest(2) < cheapest(1)


def test_a_quantile_is_of_what_was_observed_since() -> None:
    histogram = TickHistogram((1.0, 2.0, 4.0))
    histogram.observe(0.5)
    before = histogram.counts()
    assert histogram.quantile_since(before, 0.5) == 0.0
    for value in (1.5, 1.5, 3.0, 3.0):
        histogram.observe(value)
    assert histogram.quantile_since(before, 0.5) == 2.0
    assert histogram.quantile_since(before, 0.25) == 1.5
    assert histogram.quantile_since(before, 1.0) == 4.0
    assert histogram.quantile_since((0, 0, 0, 0), 0.1) == 0.5


def test_a_quantile_above_all_buckets_is_the_highest_bound() -> None:
    histogram = TickHistogram((1.0, 2.0))
    for _ in range(3):
        histogram.observe(100.0)
    assert histogram.quantile_since((0, 0, 0), 0.5) == 2.0
