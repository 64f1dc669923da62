"""NDJSON: the lines as replay gives them, one record a line."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from heliograph.protocol.exports import ExportedRecord, decode_record_line

BATCH = 500
BATCH_BYTES = 1024 * 1024
"""Read at a time, of each partition side by side."""


class NdjsonWriter:
    """Makes one file."""

    def __init__(self, path: Path) -> None:
        self._out = path.open("wb")
        self.records = 0
        self.line_bytes = 0

    def write(self, lines: Sequence[bytes]) -> None:
        data = b"\n".join(lines) + b"\n"
        self._out.write(data)
        self.records += len(lines)
        self.line_bytes += len(data)

    def close(self) -> None:
        self._out.close()


def read_ndjson(path: Path) -> Iterator[list[ExportedRecord]]:
    """The records of a file, in batches. Raises InvalidValueError."""
    batch: list[ExportedRecord] = []
    size = 0
    with path.open("rb") as lines:
        for line in lines:
            batch.append(decode_record_line(line))
            size += len(line)
            if len(batch) >= BATCH or size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch
