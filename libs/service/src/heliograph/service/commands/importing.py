"""`heliograph import`: what `heliograph export` wrote, into the log of this installation.

Works on Kafka and the metadata Redis directly, as `heliograph tenant` does, with the same settings.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from heliograph.cli.bar import Bar
from heliograph.cli.exit_codes import ExitCode
from heliograph.cli.exporting.directory import ExportDirectory, Manifest
from heliograph.cli.exporting.files import reader_of
from heliograph.cli.exporting.reading import in_order, read_partition
from heliograph.cli.options import Json, usage
from heliograph.cli.output import CommandError, note, print_json, run
from heliograph.core.sessions import check_label
from heliograph.protocol.tenants import Tenant, decode_tenant
from heliograph.service.commands.tenant import read_settings
from heliograph.service.importing import Checkpoint, Importer, ImportTopics
from heliograph.stores.kafka import KafkaLogAdmin, KafkaLogReader, KafkaLogWriter
from heliograph.stores.keys import Topics
from heliograph.stores.ports import LogAdmin, LogReader, LogWriter, TenantStore
from heliograph.stores.redis.metadata import MetadataClient, RedisTenantStore

LINGER_MS = 20.0
"""Nobody waits for a single record here: larger batches."""

DELIVERY_TIMEOUT_S = 120.0
"""Kafka's own default: brokers that restart are waited for."""

CLOSE_TIMEOUT_S = 5.0

app = typer.Typer(help="Write an export into this installation's log.", add_completion=False)


@dataclass(frozen=True, slots=True)
class Stores:
    """What the command works on."""

    admin: LogAdmin
    reader: LogReader
    writer: LogWriter
    tenants: TenantStore
    topics: Topics


@asynccontextmanager
async def connected() -> AsyncIterator[Stores]:
    """The stores that the environment names."""
    settings = read_settings()
    kafka = settings.kafka_config()
    admin, reader = KafkaLogAdmin(kafka), KafkaLogReader(kafka, pool_size=1)
    writer = KafkaLogWriter(kafka, linger_ms=LINGER_MS, delivery_timeout_s=DELIVERY_TIMEOUT_S)
    metadata = MetadataClient(settings.metadata_url())
    try:
        await reader.start()
        await writer.start()
        yield Stores(admin, reader, writer, RedisTenantStore(metadata), Topics(settings.topic_prefix))
    finally:
        await writer.close(CLOSE_TIMEOUT_S)
        await reader.close()
        await metadata.close()
        await admin.close()


@app.command("import")
def import_(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="What `export` wrote.", show_default=False)],
    tenant: Annotated[str, typer.Option("--tenant", metavar="TENANT", help="Whose it is.", show_default=False)],
    into_existing: Annotated[
        bool, typer.Option("--into-existing", help="Also where the tenant's topics hold messages already.")
    ] = False,
    json: Json = False,
) -> None:
    """Write an export into this installation's log.

    The tenant must have been applied here, and nobody should publish to it before the import is complete. Records stay
    what they are, positions too; messages that are published later get positions behind them. Interrupted, the same
    command goes on where it was, and writes nothing twice.
    """

    async def work() -> None:
        export = ExportDirectory(directory)
        manifest = _complete(export, check_label("tenant", tenant))
        reader_of(manifest.format)
        try:
            with export.locked():
                async with connected() as stores:
                    done = await _import(export, manifest, stores, into_existing=into_existing, bar=not json)
        except OSError as error:
            raise CommandError("file_failed", f"{directory}: {error.strerror or error}") from None
        _say(manifest, done, json=json)

    run(work(), json=json)


def _complete(export: ExportDirectory, tenant: str) -> Manifest:
    """The export, where there is one that can be imported."""
    manifest = export.read()
    if manifest is None:
        raise usage(f"{export.path} holds no export", "`heliograph export TENANT --to DIR` writes one.")
    if manifest.tenant != tenant:
        raise usage(
            f"the export is of {manifest.tenant}, not of {tenant}",
            "Sessions carry their tenant's name: import it as what it is.",
        )
    if not manifest.complete:
        raise CommandError(
            "export_incomplete", f"{export.path} holds a part of the export", hint="Repeat the `export` command first."
        )
    return manifest


async def _import(
    export: ExportDirectory, manifest: Manifest, stores: Stores, *, into_existing: bool, bar: bool
) -> Checkpoint:
    record = await _tenant(stores, manifest.tenant)
    found = await stores.admin.describe(ImportTopics.names(record, stores.topics))
    log = stores.topics.log_for(record, "")
    if log not in found:
        raise CommandError("not_found", f"there is no topic {log}", hint="`heliograph tenant apply` makes it.")
    topics = ImportTopics(record, stores.topics, found)
    importer = Importer(topics, stores.reader, stores.writer)
    name = f"import-{blake2b(found[log].topic_id.encode(), digest_size=6).hexdigest()}.json"
    checkpoint = _read(export, name)
    if checkpoint is None:
        if not into_existing:
            await _check_empty(importer)
        checkpoint = await importer.begin(len(manifest.partitions))
        export.write(name, checkpoint)
    elif sum(checkpoint.consumed) < manifest.records:
        _check_same(checkpoint, topics, manifest)
        await importer.resume(checkpoint)
    skips = zip(manifest.partitions, checkpoint.consumed, strict=True)
    lines = in_order([read_partition(export, manifest.format, state, skip) for state, skip in skips])
    before = sum(checkpoint.consumed)
    with Bar(f"import {manifest.tenant}", total=manifest.records, done=before, shown=bar) as advanced:

        def reached(now: Checkpoint) -> None:
            nonlocal before
            export.write(name, now)
            advanced(sum(now.consumed) - before)
            before = sum(now.consumed)

        return await importer.run(lines, checkpoint, reached)


async def _tenant(stores: Stores, tenant: str) -> Tenant:
    raw = await stores.tenants.get(tenant)
    if raw is None:
        raise CommandError("not_found", f"there is no tenant {tenant} here", hint="`heliograph tenant apply` makes it.")
    return decode_tenant(raw)


async def _check_empty(importer: Importer) -> None:
    topic = await importer.holding()
    if topic is not None:
        raise CommandError(
            "topics_not_empty",
            f"{topic} holds messages of the tenant already",
            ExitCode.REFUSED,
            "--into-existing imports all the same: for sessions that are not there yet.",
        )


def _read(export: ExportDirectory, name: str) -> Checkpoint | None:
    """How far an import into these topics has come."""
    try:
        data = (export.path / name).read_bytes()
    except FileNotFoundError:
        return None
    try:
        return msgspec.json.decode(data, type=Checkpoint)
    except msgspec.MsgspecError as error:
        raise usage(f"{export.path / name} is not of an import: {error}") from None


def _check_same(checkpoint: Checkpoint, topics: ImportTopics, manifest: Manifest) -> None:
    if checkpoint.topic_ids != topics.ids or len(checkpoint.consumed) != len(manifest.partitions):
        raise CommandError(
            "topics_changed",
            "the tenant's topics are not those that the import began with",
            hint="Delete the tenant with --topics, apply it, and import the export anew.",
        )


def _say(manifest: Manifest, done: Checkpoint, *, json: bool) -> None:
    ahead_ms = done.last_epoch_ms - time.time_ns() // 1_000_000
    if json:
        print_json({"tenant": manifest.tenant, "written": done.written, "skipped": done.skipped})
    else:
        note(f"{done.written} records of {manifest.tenant} are in the log")
        if done.skipped:
            note(f"{done.skipped} records of telemetry were left out: the tenant keeps none here")
    if ahead_ms > 0:
        until = datetime.fromtimestamp(done.last_epoch_ms / 1000, UTC).isoformat(timespec="seconds")
        note(f"warning: the other installation's clock was ahead: publish to this tenant after {until} only")
