"""An export read back, in the order in which Kafka got its records."""

import heapq
from collections.abc import Iterator
from itertools import islice

from heliograph.cli.exporting.directory import ExportDirectory, Format, PartitionState
from heliograph.cli.exporting.files import reader_of
from heliograph.protocol.exports import ExportedRecord


def read_partition(
    directory: ExportDirectory, format_: Format, state: PartitionState, skip: int
) -> Iterator[ExportedRecord]:
    """The records of a partition behind the first `skip`. Raises CommandError and InvalidValueError."""
    read = reader_of(format_)
    for file in state.files:
        if skip >= file.records:
            skip -= file.records
            continue
        records = (record for batch in read(directory.check(file)) for record in batch)
        yield from islice(records, skip, None)
        skip = 0


def in_order(partitions: list[Iterator[ExportedRecord]]) -> Iterator[tuple[int, ExportedRecord]]:
    """The records of all partitions, each with its partition's number in the list, by the time Kafka got them.

    The order inside a partition is kept whatever the times are. Across partitions it matters where a session went on in
    another one: what was written first comes first.
    """
    return heapq.merge(*map(_numbered, range(len(partitions)), partitions), key=lambda one: one[1].timestamp)


def _numbered(number: int, records: Iterator[ExportedRecord]) -> Iterator[tuple[int, ExportedRecord]]:
    return ((number, record) for record in records)
