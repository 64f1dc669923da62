"""The folder of an export: files of records, and `export.json`, which says what is there and where to go on.

A file appears under its name only when it is whole and on disk, and then `export.json` names it together with the place
in the log behind it. Whatever is there besides was being made when the export was interrupted, and is made again: so
an export that was continued holds every record once.

What this must never do: name a file that is not whole, or lose one that it named.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

import msgspec
from msgspec import Struct

from heliograph.cli.exit_codes import ExitCode
from heliograph.cli.options import usage
from heliograph.cli.output import CommandError

MANIFEST = "export.json"
LOCK = "export.lock"
PARTIAL = ".part"
VERSION = 1
"""Of `export.json` and of the files' shape."""
HASH_BLOCK_BYTES = 1024 * 1024


class Format(StrEnum):
    """What the files are."""

    NDJSON = "ndjson"
    PARQUET = "parquet"


class ExportFile(Struct):
    """A file that is whole."""

    name: str
    records: int
    bytes: int
    sha256: str


class PartitionState(Struct, kw_only=True):
    """A partition of the log, how much of it is here, and what asks for the rest."""

    topic: str
    """Without the installation's prefix."""
    partition: int
    start: int
    end: int
    """Offsets: what there was when the export began."""
    next: int
    """The first offset that is not here."""
    resume: str | None
    """None: all of it is here."""
    removed: int = 0
    """Offsets that retention took while the export was under way."""
    expired: int = 0
    """Messages left out because their session has expired."""
    files: list[ExportFile] = []

    @property
    def records(self) -> int:
        return sum(file.records for file in self.files)

    def file_name(self, format_: Format) -> str:
        """Of the next file."""
        return f"{self.topic}-{self.partition:05d}-{len(self.files):06d}.{format_.value}"


class Manifest(Struct, kw_only=True):
    """`export.json`."""

    version: int = VERSION
    tenant: str
    format: Format
    began: str
    """RFC 3339: what was published later need not be here."""
    since: str | None
    until: str | None
    from_time: str | None
    until_time: str | None
    """What `since` and `until` meant when the export began."""
    partitions: list[PartitionState]

    @property
    def complete(self) -> bool:
        return all(partition.resume is None for partition in self.partitions)

    @property
    def records(self) -> int:
        return sum(partition.records for partition in self.partitions)

    @property
    def files(self) -> list[ExportFile]:
        return [file for partition in self.partitions for file in partition.files]

    @property
    def removed(self) -> int:
        return sum(partition.removed for partition in self.partitions)

    @property
    def expired(self) -> int:
        return sum(partition.expired for partition in self.partitions)


_decoder = msgspec.json.Decoder(Manifest)


class ExportDirectory:
    """The folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Manifest | None:
        """None where no export was begun here. Raises CommandError for what this version can't read."""
        try:
            data = (self.path / MANIFEST).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unusable(self.path, error) from None
        try:
            manifest: Manifest = _decoder.decode(data)
        except msgspec.MsgspecError as error:
            raise usage(f"{self.path / MANIFEST} is not of an export: {error}") from None
        if manifest.version != VERSION:
            raise usage(f"{self.path / MANIFEST} has version {manifest.version}; this command reads {VERSION}")
        return manifest

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder where it isn't there, and keep other commands out of it. Raises CommandError."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise _unusable(self.path, error) from None
        try:
            _lock(handle, self.path)
            yield
        finally:
            os.close(handle)

    def begin(self, manifest: Manifest) -> None:
        """Raise CommandError where the folder holds something else."""
        found = sorted(entry.name for entry in self.path.iterdir() if entry.name not in (LOCK, MANIFEST + PARTIAL))
        if found:
            raise usage(f"{self.path} is not empty and holds no export: {found[0]}", "Name a folder of its own.")
        self.save(manifest)

    def clean(self, manifest: Manifest) -> None:
        """Remove what was being made when the export was interrupted."""
        named = {file.name for file in manifest.files}
        for entry in self.path.iterdir():
            ours = any(entry.name.startswith(f"{part.topic}-{part.partition:05d}-") for part in manifest.partitions)
            if ours and entry.name not in named:
                entry.unlink()

    def save(self, manifest: Manifest) -> None:
        self.write(MANIFEST, manifest)

    def write(self, name: str, document: Struct) -> None:
        """A small file of JSON: all of it or nothing, also where the machine loses its power."""
        partial = self.partial(name)
        with partial.open("wb") as out:
            out.write(msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")
            out.flush()
            os.fsync(out.fileno())
        partial.replace(self.path / name)
        self._sync()

    def partial(self, name: str) -> Path:
        """Where a file is made."""
        return self.path / (name + PARTIAL)

    def finish(self, name: str, records: int) -> ExportFile:
        """Give a file that was made its name."""
        partial = self.partial(name)
        with partial.open("rb") as made:
            os.fsync(made.fileno())
            file = ExportFile(name, records, os.fstat(made.fileno()).st_size, _sha256(partial))
        partial.replace(self.path / name)
        self._sync()
        return file

    def check(self, file: ExportFile) -> Path:
        """The file's path. Raises CommandError where it is not what was exported."""
        path = self.path / file.name
        try:
            same = path.stat().st_size == file.bytes and _sha256(path) == file.sha256
        except OSError as error:
            raise CommandError("export_damaged", f"{path}: {error.strerror}", ExitCode.FAILED) from None
        if not same:
            raise CommandError("export_damaged", f"{path} is not what was exported", ExitCode.FAILED)
        return path

    def _sync(self) -> None:
        """Names are on disk when their folder is."""
        handle = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _sha256(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as data:
        while block := data.read(HASH_BLOCK_BYTES):
            found.update(block)
    return found.hexdigest()


def _lock(handle: int, path: Path) -> None:
    try:
        import fcntl  # noqa: PLC0415 - not on Windows, where nobody is kept out
    except ImportError:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise CommandError("export_running", f"another command works in {path} now", ExitCode.FAILED) from None


def _unusable(path: Path, error: OSError) -> CommandError:
    return usage(f"{path}: {error.strerror}", "Name a folder that can be written to.")
