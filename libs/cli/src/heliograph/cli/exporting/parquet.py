"""Parquet: a row for each record, columns named as the fields of a line, written by pyarrow.

JSON payloads are text in `payload`, others bytes in `data`. `record` holds what could not be said in columns, so that
Parquet, too, gives every record back byte for byte.

This module needs pyarrow (`pip install 'heliograph[parquet]'`) and is imported when Parquet is asked for.
"""

import base64
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Raw

from heliograph.core.errors import InvalidValueError
from heliograph.core.messages import MessageClass
from heliograph.protocol.exports import ExportedRecord, Verbatim, decode_record_line
from heliograph.protocol.messages import is_json

ROW_GROUP_BYTES = 8 * 1024 * 1024
"""Of lines, held in memory until they are a row group: Python's objects for them take some ten times as much."""

READ_ROWS = 500
"""Rows made Python objects at a time."""

COMPRESSION = "zstd"
"""JSON of one application: about a tenth of its size."""

_TIME = pa.timestamp("ms", tz="UTC")
_HEADERS = pa.list_(pa.struct([("name", pa.string()), ("value", pa.binary())]))

SCHEMA = pa.schema(
    [
        pa.field("topic", pa.string(), nullable=False),
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("timestamp", _TIME, nullable=False),
        pa.field("session", pa.string()),
        pa.field("position", pa.string()),
        pa.field("message_id", pa.string()),
        pa.field("time", _TIME),
        pa.field("class", pa.string()),
        pa.field("event_type", pa.string()),
        pa.field("producer", pa.string()),
        pa.field("incarnation", pa.string()),
        pa.field("producer_seq", pa.int64()),
        pa.field("by_worker", pa.bool_(), nullable=False),
        pa.field("correlation_id", pa.string()),
        pa.field("causation_id", pa.string()),
        pa.field("reply_to", pa.string()),
        pa.field("traceparent", pa.string()),
        pa.field("content_type", pa.string()),
        pa.field("payload", pa.string()),
        pa.field("data", pa.binary()),
        pa.field("record", pa.struct([("key", pa.binary()), ("value", pa.binary()), ("headers", _HEADERS)])),
        pa.field("corrupt", pa.string()),
    ],
    metadata={"heliograph.export": "1"},
)

_SAME = (
    "topic", "partition", "offset", "timestamp", "session", "position", "message_id", "time", "event_type", "producer",
    "incarnation", "producer_seq", "by_worker", "correlation_id", "causation_id", "reply_to", "traceparent",
    "content_type", "corrupt",
)  # fmt: skip
"""Columns that are a field of ExportedRecord as it is."""


class ParquetWriter:
    """Makes one file."""

    def __init__(self, path: Path) -> None:
        self._writer: Any = pq.ParquetWriter(path, SCHEMA, compression=COMPRESSION)
        self._held: list[bytes] = []
        self._held_bytes = 0
        self.records = 0
        self.line_bytes = 0
        """What is in memory is more, what is on disk is less."""

    def write(self, lines: Sequence[bytes]) -> None:
        self._held += lines
        size = sum(map(len, lines))
        self._held_bytes += size
        self.records += len(lines)
        self.line_bytes += size
        if self._held_bytes >= ROW_GROUP_BYTES:
            self._write_group()

    def close(self) -> None:
        self._write_group()
        self._writer.close()

    def _write_group(self) -> None:
        if self._held:
            self._writer.write_table(table([decode_record_line(line) for line in self._held]))
            self._held, self._held_bytes = [], 0


def table(records: Sequence[ExportedRecord]) -> Any:
    """Rows of records."""
    columns: dict[str, list[Any]] = {name: [getattr(record, name) for record in records] for name in _SAME}
    columns["class"] = [None if record.class_ is None else record.class_.value for record in records]
    texts = [record.payload and is_json(record.content_type) for record in records]
    columns["payload"] = [
        bytes(record.payload).decode() if text else None for record, text in zip(records, texts, strict=True)
    ]
    columns["data"] = [
        base64.b64decode(bytes(record.payload)[1:-1]) if record.payload and not text else None
        for record, text in zip(records, texts, strict=True)
    ]
    columns["record"] = [None if record.record is None else _row(record.record) for record in records]
    return pa.table([pa.array(columns[field.name], field.type) for field in SCHEMA], schema=SCHEMA)


def _row(record: Verbatim) -> dict[str, Any]:
    headers = [{"name": name, "value": value} for name, value in record.headers]
    return {"key": record.key, "value": record.value, "headers": headers}


def read_parquet(path: Path) -> Iterator[list[ExportedRecord]]:
    """The records of a file, in batches. Raises InvalidValueError."""
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(READ_ROWS):
                yield records(batch)
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise InvalidValueError("value_invalid", str(path), str(error)[:200], "a Parquet file of an export") from None


def records(batch: Any) -> list[ExportedRecord]:
    """Rows as records."""
    columns = {
        name: batch.column(name).cast(pa.int64()).to_pylist() if name in ("time", "timestamp")
        else batch.column(name).to_pylist()
        for name in SCHEMA.names
    }  # fmt: skip
    rows = []
    for number in range(batch.num_rows):
        row = {name: values[number] for name, values in columns.items()}
        payload, data, class_, record = (row.pop(name) for name in ("payload", "data", "class", "record"))
        if data is not None:
            payload = f'"{base64.b64encode(data).decode()}"'
        rows.append(
            ExportedRecord(
                **row,
                class_=None if class_ is None else MessageClass(class_),
                payload=Raw(payload or ""),
                record=None if record is None else _verbatim(record),
            )
        )
    return rows


def _verbatim(row: dict[str, Any]) -> Verbatim:
    headers = [(header["name"], header["value"]) for header in row["headers"]]
    return Verbatim(row["key"], row["value"], headers)
