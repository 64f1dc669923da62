"""librdkafka's messages as LogRecords. Runs in worker threads, for every record of the log: kept lean."""

from collections.abc import Sequence
from typing import Any

from confluent_kafka import KafkaError

from heliograph.stores.ports import LogRecord

UNREADABLE_HEADERS: list[tuple[str, bytes | None]] = [("unreadable", b"\xff")]
"""Stands for headers whose names are not UTF-8, which the library can't give: no reader takes it for a message."""


def decode(
    messages: Sequence[Any], records: list[LogRecord], errors: list[KafkaError], key: bytes | None = None
) -> int:
    """Append what the messages hold to `records`, and to `errors` what librdkafka told in their place.

    With `key`, only records with that key: of others nothing but the key is made a Python object. Returns the offset of
    the last record, whatever its key; -1 where there is none.
    """
    if key is None:
        wanted = messages
    else:
        # What librdkafka tells in a record's place has no key. Most records have another one: one call each.
        wanted = [message for message in messages if (found := message.key()) == key or found is None]
    append = records.append
    for message in wanted:
        error = message.error()
        if error is not None:
            errors.append(error)
            continue
        if key is not None and message.key() is None:
            continue
        try:
            append(_record(message, message.headers() or []))
        except (UnicodeError, SystemError):
            append(_record(message, list(UNREADABLE_HEADERS)))
    return next((int(message.offset()) for message in reversed(messages) if message.error() is None), -1)


def _record(message: Any, headers: list[tuple[str, bytes | None]]) -> LogRecord:
    """A header whose name is no UTF-8 makes `headers()` fail late: here, at the next call into C, or at `headers()`."""
    return LogRecord(
        message.topic(),
        message.partition(),
        message.offset(),
        message.timestamp()[1],
        message.key(),
        message.value(),
        headers,
    )
