"""What replay counts."""

from heliograph.service.metrics import Metrics


class ReplayMetrics:
    """One object, so that what is counted can be read in one place."""

    def __init__(self, metrics: Metrics) -> None:
        self.records_scanned = metrics.ticks("records_scanned_total", "Offsets of the log that reads passed.")
        self.messages = metrics.tick_family("messages_total", "Messages handed out, by to whom.", ["reader"])
        self.bytes = metrics.tick_family("bytes_total", "Bytes of frames handed out, by to whom.", ["reader"])
        self.gaps = metrics.tick_family("gaps_total", "Gaps handed out, by why.", ["reason"])
        self.corrupt = metrics.tick_family("records_corrupt_total", "Records that are no message, by why.", ["reason"])
        self.duplicates = metrics.ticks("duplicates_total", "Records whose position was handed out already.")
        self.lookups = metrics.tick_family("starts_total", "Reads by how their start was found.", ["how"])
        self.ends = metrics.tick_family("reads_total", "Reads of sessions, by how they ended.", ["end"])
        self.exports = metrics.tick_family("exports_total", "Answers to exports, by how they ended.", ["end"])
        self.readers_gone = metrics.ticks("readers_gone_total", "Streams whose reader went away; the read was stopped.")
        self.refused = metrics.tick_family("requests_refused_total", "Requests not served for now, by why.", ["reason"])
        self.store_failures = metrics.tick_family("store_failures_total", "Stores that failed a read.", ["store"])
        self.rehydrations = metrics.tick_family("rehydrations_total", "Pages for edges, by how they ended.", ["end"])
        self.rehydration_seconds = metrics.tick_histogram("rehydration_seconds", "Reading a page for an edge.")
        self.request_seconds = metrics.tick_histogram("read_seconds", "Reading for an HTTP request, streams included.")

    def reader_gone(self) -> None:
        """A stream's reader went away."""
        self.readers_gone.n += 1
