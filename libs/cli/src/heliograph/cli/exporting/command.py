"""`heliograph export`: everything of a tenant as files, from the replay service."""

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import httpx
import typer

from heliograph.cli.bar import Bar
from heliograph.cli.exit_codes import ExitCode
from heliograph.cli.exporting.answers import accept, partitions, steps
from heliograph.cli.exporting.directory import ExportDirectory, Format, Manifest, PartitionState
from heliograph.cli.exporting.files import Writer, writer_of
from heliograph.cli.history import READ_TIMEOUT_S
from heliograph.cli.options import (
    DEFAULT_REPLAY_URL,
    ConnectTimeout,
    Json,
    ReplayUrl,
    TokenOption,
    parse_time,
    usage,
)
from heliograph.cli.output import CommandError, note, print_json, run
from heliograph.core.sessions import check_label

DEFAULT_FILE_MIB = 64
"""A file's lines: what is read again after an interruption, and a size that Parquet's readers like."""
MIB = 1024 * 1024


def export(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's name.", show_default=False)],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="The folder to write to.", show_default=False)],
    format_: Annotated[
        Format, typer.Option("--format", help="ndjson, or parquet, which needs heliograph[parquet].")
    ] = Format.NDJSON,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="From this time on: 2026-01-31T12:00:00Z, or ago: 15m, 2h, 7d.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Up to this time.")] = None,
    file_mib: Annotated[
        int, typer.Option("--file-size", min=1, max=4096, metavar="MIB", help="A file ends above this.")
    ] = DEFAULT_FILE_MIB,
    replay_url: ReplayUrl = DEFAULT_REPLAY_URL,
    token: TokenOption = None,
    connect_timeout: ConnectTimeout = 10.0,
    json: Json = False,
) -> None:
    """Write everything that the log has of a tenant into a folder.

    What was published before the command began is in it, each record once, as the log has it. Interrupted, the same
    command goes on where it was. Takes a token with the scope history:*:* .
    """

    async def work() -> None:
        asked = Asked(check_label("tenant", tenant), format_, since, until)
        headers = accept() | ({"Authorization": f"Bearer {token}"} if token else {})
        timeout = httpx.Timeout(READ_TIMEOUT_S, connect=connect_timeout)
        url = f"{replay_url.rstrip('/')}/v1/export/{tenant}"
        try:
            async with httpx.AsyncClient(headers=headers, timeout=timeout) as http:
                manifest = await export_to(to, asked, http, url, file_mib * MIB, bar=not json)
        except OSError as error:  # a full disk, mostly
            raise CommandError("file_failed", f"{to}: {error.strerror or error}", ExitCode.FAILED) from None
        _say(manifest, to, json=json)

    run(work(), json=json)


@dataclass(frozen=True, slots=True)
class Asked:
    """What is exported, as the command line says it."""

    tenant: str
    format: Format
    since: str | None
    until: str | None


async def export_to(
    to: Path, asked: Asked, http: httpx.AsyncClient, url: str, file_bytes: int, *, bar: bool
) -> Manifest:
    """Begin or continue an export, and return when it is complete. Raises HeliographError and OSError."""
    directory, make = ExportDirectory(to), writer_of(asked.format)
    with directory.locked():
        manifest = directory.read()
        if manifest is None:
            manifest = await _begun(asked, http, url)
            directory.begin(manifest)
        else:
            _check_same(manifest, asked)
            directory.clean(manifest)
        total = sum(state.end - state.start for state in manifest.partitions)
        left = sum(state.end - state.next for state in manifest.partitions if state.resume is not None)
        with Bar(f"export {asked.tenant}", total=total, done=total - left, shown=bar) as advanced:
            exporter = _Exporter(http, url, directory, manifest, make, file_bytes, advanced)
            for state in manifest.partitions:
                await exporter.partition(state)
    return manifest


async def _begun(asked: Asked, http: httpx.AsyncClient, url: str) -> Manifest:
    """An export of which nothing is here."""
    from_time, until_time = _rfc3339(asked.since), _rfc3339(asked.until)
    began = datetime.now(UTC).isoformat(timespec="seconds")
    found = await partitions(http, url, {"from_time": from_time} if from_time is not None else {})
    return Manifest(
        tenant=asked.tenant,
        format=asked.format,
        began=began,
        since=asked.since,
        until=asked.until,
        from_time=from_time,
        until_time=until_time,
        partitions=[
            PartitionState(
                topic=span.topic,
                partition=span.partition,
                start=span.start,
                end=span.end,
                next=span.start,
                resume=span.resume if span.start < span.end else None,
            )
            for span in found
        ],
    )


def _check_same(manifest: Manifest, asked: Asked) -> None:
    """What is continued is what was begun."""
    for option, was, is_ in (
        ("TENANT", manifest.tenant, asked.tenant),
        ("--format", manifest.format, asked.format),
        ("--since", manifest.since, asked.since),
        ("--until", manifest.until, asked.until),
    ):
        if was != is_:
            raise usage(
                f"the export in this folder was begun with {option} {was or '(none)'}, not {is_ or '(none)'}",
                "Repeat the command as it was, or name another folder.",
            )


def _rfc3339(text: str | None) -> str | None:
    return None if text is None else parse_time(text).isoformat(timespec="milliseconds")


@dataclass(slots=True)
class _Exporter:
    """Writes the files."""

    http: httpx.AsyncClient
    url: str
    directory: ExportDirectory
    manifest: Manifest
    make: Callable[[Path], Writer]
    file_bytes: int
    advanced: Callable[[int], None]

    async def partition(self, state: PartitionState) -> None:
        """All of a partition that is not here yet."""
        if state.resume is None:
            return
        times = {"from_time": self.manifest.from_time, "until_time": self.manifest.until_time}
        query = {name: value for name, value in times.items() if value is not None}
        next_, removed, expired = state.next, 0, 0
        writer: Writer | None = None
        try:
            async with aclosing(steps(self.http, self.url, query, state.resume)) as found:
                async for step in found:
                    name = state.file_name(self.manifest.format)
                    if step.lines:
                        writer = writer or self.make(self.directory.partial(name))
                        writer.write(step.lines)
                    reached = state.end if step.resume is None else step.next or next_
                    self.advanced(reached - next_)
                    next_ = reached
                    removed += step.removed
                    expired += step.expired
                    if step.resume is not None and (writer is None or writer.line_bytes < self.file_bytes):
                        continue
                    if writer is not None:
                        writer.close()
                        state.files.append(self.directory.finish(name, writer.records))
                    state.next, state.resume = next_, step.resume
                    state.removed += removed
                    state.expired += expired
                    writer, removed, expired = None, 0, 0
                    self.directory.save(self.manifest)
        finally:
            if writer is not None:  # interrupted: what it wrote is made again
                writer.close()


def _say(manifest: Manifest, to: Path, *, json: bool) -> None:
    files = manifest.files
    size = sum(file.bytes for file in files)
    if json:
        print_json(
            {
                "tenant": manifest.tenant,
                "directory": str(to),
                "format": manifest.format,
                "records": manifest.records,
                "files": len(files),
                "bytes": size,
                "removed": manifest.removed,
                "expired": manifest.expired,
            }
        )
        return
    note(f"{manifest.records} records of {manifest.tenant} in {len(files)} files ({size} bytes) in {to}")
    if manifest.expired:
        note(f"{manifest.expired} messages are left out: their sessions have expired")
    if manifest.removed:
        note(f"{manifest.removed} records were removed by retention before they could be exported")
