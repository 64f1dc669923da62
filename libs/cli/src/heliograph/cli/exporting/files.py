"""Files of records, whatever their format is."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from heliograph.cli.exit_codes import ExitCode
from heliograph.cli.exporting.directory import Format
from heliograph.cli.exporting.ndjson import NdjsonWriter, read_ndjson
from heliograph.cli.output import CommandError
from heliograph.protocol.exports import ExportedRecord


class Writer(Protocol):
    """Makes one file."""

    @property
    def records(self) -> int: ...
    @property
    def line_bytes(self) -> int: ...

    def write(self, lines: Sequence[bytes]) -> None: ...
    def close(self) -> None:
        """The file is whole now."""


Reader = Callable[[Path], Iterator[list[ExportedRecord]]]


def writer_of(format_: Format) -> Callable[[Path], Writer]:
    """Raise CommandError where what it takes is not installed."""
    if format_ is Format.NDJSON:
        return NdjsonWriter
    try:
        from heliograph.cli.exporting.parquet import ParquetWriter  # noqa: PLC0415 - pyarrow is an extra
    except ImportError as error:
        raise _missing(error) from None
    return ParquetWriter


def reader_of(format_: Format) -> Reader:
    """Raise CommandError where what it takes is not installed."""
    if format_ is Format.NDJSON:
        return read_ndjson
    try:
        from heliograph.cli.exporting.parquet import read_parquet  # noqa: PLC0415 - pyarrow is an extra
    except ImportError as error:
        raise _missing(error) from None
    return read_parquet


def _missing(error: ImportError) -> CommandError:
    return CommandError(
        "not_installed", f"Parquet needs pyarrow: {error}", ExitCode.FAILED, "pip install 'heliograph[parquet]'"
    )
