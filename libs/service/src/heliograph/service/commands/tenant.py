"""`heliograph tenant`: what an installation knows of its tenants, outside Kubernetes.

Works on Kafka and the metadata Redis directly; no service has to run. What changes something returns when running ones
obey it. Settings are the services' own variables: HELIOGRAPH_KAFKA_BOOTSTRAP_SERVERS, HELIOGRAPH_KAFKA_PROPERTIES,
HELIOGRAPH_TOPIC_PREFIX, HELIOGRAPH_METADATA_REDIS_URL or HELIOGRAPH_REDIS_URL.
"""

import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
import yaml
from pydantic import ValidationError
from pydantic_settings import SettingsError

from heliograph.cli.exit_codes import ExitCode
from heliograph.cli.options import Json, parse_time, usage
from heliograph.cli.output import CommandError, note, print_json, print_table, run, stdout
from heliograph.core.errors import InvalidValueError
from heliograph.core.sessions import check_label
from heliograph.protocol.tenants import Tenant, decode_tenant, parse_tenant
from heliograph.service.applying import TenantChange, apply, plan, wait_in_force
from heliograph.service.command_line import validation_lines
from heliograph.service.jwks import parse_jwks
from heliograph.service.revoking import change_record, checked_revocation, with_revocations, without_revocation
from heliograph.service.settings import KafkaSettings, RedisSettings, setting
from heliograph.service.topics import wanted_topics
from heliograph.stores.kafka import KafkaLogAdmin
from heliograph.stores.keys import Topics
from heliograph.stores.ports import LogAdmin, TenantStore
from heliograph.stores.redis.metadata import MetadataClient, RedisTenantStore
from heliograph.stores.topic_advice import advise

MAX_FILE_BYTES = 1024 * 1024
"""A tenant file is some KB; YAML that grows when it is read begins with a big file."""

TenantName = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's name.", show_default=False)]

app = typer.Typer(help="Tenants: apply, get, list, revoke, delete.", no_args_is_help=True, add_completion=False)


class TenantSettings(KafkaSettings, RedisSettings):
    """What the commands need to reach the stores: the services' own settings."""

    development: bool = setting(False, "As the services have it: whether HS256 keys will be used.")


@dataclass(frozen=True, slots=True)
class Stores:
    """What the commands work on."""

    admin: LogAdmin
    tenants: TenantStore
    topics: Topics


@asynccontextmanager
async def connected() -> AsyncIterator[Stores]:
    """The stores that the environment names."""
    settings = read_settings()
    admin = KafkaLogAdmin(settings.kafka_config())
    metadata = MetadataClient(settings.metadata_url())
    try:
        yield Stores(admin, RedisTenantStore(metadata), Topics(settings.topic_prefix))
    finally:
        await metadata.close()
        await admin.close()


def read_settings() -> TenantSettings:
    """The settings, or a CommandError with a line for each that is wrong."""
    try:
        return TenantSettings()
    except ValidationError as error:
        raise usage("\n       ".join(validation_lines(TenantSettings, error, os.environ))) from None
    except SettingsError as error:
        raise usage(f"a setting is no JSON: {error}") from None


def read_file(path: Path) -> Tenant:
    """The tenant that a file describes, YAML or JSON; `-` is stdin."""
    try:
        data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1) if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise usage(f"{path}: {error.strerror}", "See deploy/examples/tenant.yaml for what goes in.") from None
    if len(data) > MAX_FILE_BYTES:
        raise usage(f"{path} is above {MAX_FILE_BYTES} bytes")
    try:
        document = yaml.safe_load(data)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise usage(f"{path} is no YAML: {error}") from None
    try:
        return parse_tenant(document)
    except InvalidValueError as error:
        raise usage(f"{path}: {error.message}", "docs/reference/tenant.schema.json says what goes in.") from None


@app.command("apply")
def apply_(
    file: Annotated[Path, typer.Argument(metavar="FILE|-", help="YAML or JSON; - reads stdin.", show_default=False)],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change, change nothing.")] = False,
    json: Json = False,
) -> None:
    """Make a tenant what a file says: topics, keys, limits.

    Topics are created and grown, never shrunk or deleted; revocations are added, never lifted. Returns when topics can
    be written to and every running service obeys the record, within a second or so. Applying the same file again
    changes nothing.
    """

    async def work() -> None:
        tenant = read_file(file)
        settings = read_settings()
        for problem in parse_jwks(tenant.auth.jwks, development=settings.development).problems:
            note(f"warning: key {problem.key_id or '?'} will not be used: {problem.problem}")
        async with connected() as stores:
            change = await plan(tenant, stores.topics, stores.admin, stores.tenants)
            behind: list[str] = []
            if not dry_run:
                await apply(change, stores.admin, stores.tenants, lambda step: None if json else note(step))
                await _advise(tenant, stores)
                behind = await _wait_in_force(stores)
        _show_change(change, behind, dry_run=dry_run, json=json)

    run(work(), json=json)


@app.command()
def get(tenant: TenantName, json: Json = False) -> None:
    """Show a tenant's record, as a file that `apply` takes."""

    async def work() -> None:
        check_label("tenant", tenant)
        async with connected() as stores:
            record = await _existing(stores, tenant)
        document = msgspec.to_builtins(record)
        if json:
            print_json(document)
        else:
            sys.stdout.write(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))

    run(work(), json=json)


@app.command("list")
def list_(json: Json = False) -> None:
    """Show all tenants."""

    async def work() -> None:
        async with connected() as stores:
            _, records = await stores.tenants.changes(0)
        tenants = [_summary(name, raw) for name, raw in sorted(records.items()) if raw is not None]
        if json:
            for tenant in tenants:
                print_json(tenant)
            return
        columns = ("tenant", "state", "keys", "log partitions", "retention")
        rows = [
            (
                tenant["tenant"],
                tenant["state"],
                ", ".join(tenant.get("keys", ())),
                str(tenant.get("log_partitions", "")),
                _duration(tenant["retention_s"]) if "retention_s" in tenant else "",
            )
            for tenant in tenants
        ]
        print_table("", columns, rows)
        if not tenants:
            note("no tenants; `heliograph tenant apply FILE` makes one")

    run(work(), json=json)


@app.command()
def delete(
    tenant: TenantName,
    topics: Annotated[
        bool, typer.Option("--topics", help="Its topics too: every message of it is gone for good.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    json: Json = False,
) -> None:
    """Forget a tenant: its tokens are no longer taken. Its messages stay in Kafka, unless --topics is given."""

    async def work() -> None:
        check_label("tenant", tenant)
        async with connected() as stores:
            record = await _existing(stores, tenant)
            own = topics and not record.shared
            names = [topic.name for topic in wanted_topics(record, stores.topics)] if own else []
            if topics and record.shared:
                note(f"{tenant} shares its topics: its messages stay in them until their retention is over")
            _confirm(tenant, names, yes=yes)
            await stores.tenants.delete(tenant)
            behind = await _wait_in_force(stores)  # before its topics go: nobody writes to them any more
            for name in names:
                await stores.admin.delete(name)
        if json:
            print_json({"tenant": tenant, "deleted": True, "topics": names, "behind": behind})
        else:
            stdout().print(f"[green]deleted[/] {tenant}" + "".join(f"\n  topic {name}" for name in names))

    run(work(), json=json)


@app.command()
def revoke(
    tenant: TenantName,
    jti: Annotated[str | None, typer.Option(help="The token with this id.", show_default=False)] = None,
    subject: Annotated[str | None, typer.Option(help="Tokens of this subject.", show_default=False)] = None,
    before: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Only those issued before: `now`, RFC 3339, or how long ago.", show_default=False
        ),
    ] = None,
    lift: Annotated[bool, typer.Option("--lift", help="Take the revocation of this --jti or --subject back.")] = False,
    json: Json = False,
) -> None:
    """Refuse tokens that are signed well and have not run out.

    Open connections made with them are closed (4505), and nobody gets in with them. All that is given has to hold for a
    token: `--subject NAME --before now` lets NAME come back with a new one; without --before it stays out. Returns when
    every running service obeys.
    """

    async def work() -> None:
        check_label("tenant", tenant)
        if jti is None and subject is None and before is None:
            raise usage("what is to be revoked?", "Give --jti, --subject or --before.")
        if lift and before is not None:
            raise usage("--lift takes a revocation back whatever its time", "Leave --before out.")
        revocation = checked_revocation(jti, subject, _issued_before(before))

        def change(record: Tenant | None) -> Tenant:
            if record is None:
                raise _no_tenant(tenant)
            return without_revocation(record, jti, subject) if lift else with_revocations(record, [revocation])

        async with connected() as stores:
            old, new = await change_record(stores.tenants, tenant, change)
            behind = await _wait_in_force(stores)
        _show_revoked(new, behind, changed=old != new, json=json)

    run(work(), json=json)


def _issued_before(text: str | None) -> int | None:
    """Unix s. `now` is the next second: tokens say when they were issued in whole ones."""
    if text is None:
        return None
    return int(time.time()) + 1 if text == "now" else int(parse_time(text).timestamp())


def _show_revoked(record: Tenant, behind: list[str], *, changed: bool, json: bool) -> None:
    revoked = [msgspec.to_builtins(one) for one in record.auth.revoked]
    if json:
        print_json({"tenant": record.tenant, "changed": changed, "revoked": revoked, "behind": behind})
        return
    rows = [
        (
            one.jti or "any",
            one.subject or "any",
            "whenever" if one.before is None else f"before {datetime.fromtimestamp(one.before, UTC).isoformat()}",
        )
        for one in record.auth.revoked
    ]
    print_table(f"revoked of {record.tenant}", ("token id", "subject", "issued"), rows)
    if not changed:
        stdout().print(f"[green]up to date[/] {record.tenant}: nothing to change")


async def _wait_in_force(stores: Stores) -> list[str]:
    """Services that don't obey the records as they are now, said as a warning; mostly none."""
    behind = await wait_in_force(stores.tenants)
    if behind:
        note(f"warning: not taken up yet by {', '.join(behind)}: see whether they reach the metadata store (/readyz)")
    return behind


async def _advise(tenant: Tenant, stores: Stores) -> None:
    """Say what weakens the promises. Most of it is the same for all topics: each setting is named once."""
    topics = await stores.admin.describe([topic.name for topic in wanted_topics(tenant, stores.topics)])
    found = {advice.setting: advice for topic in topics.values() for advice in advise(topic)}
    for advice in found.values():
        note(f"advice: {advice}")


async def _existing(stores: Stores, tenant: str) -> Tenant:
    raw = await stores.tenants.get(tenant)
    if raw is None:
        raise _no_tenant(tenant)
    return decode_tenant(raw)


def _no_tenant(tenant: str) -> CommandError:
    return CommandError("not_found", f"there is no tenant {tenant}", hint="`heliograph tenant list` shows all.")


def _confirm(tenant: str, topics: list[str], *, yes: bool) -> None:
    if yes:
        return
    what = f"tenant {tenant}" + (f" and all messages in {', '.join(topics)}" if topics else "")
    if not sys.stdin.isatty():
        raise usage(f"deleting {what} needs a word", "Give --yes where nobody can be asked.")
    if not typer.confirm(f"Delete {what}?", err=True):
        raise CommandError("cancelled", "nothing was deleted", ExitCode.FAILED)


def _summary(name: str, raw: bytes) -> dict[str, Any]:
    try:
        record = decode_tenant(raw)
    except msgspec.MsgspecError:
        return {"tenant": name, "state": "unreadable"}
    keys = [str(key.get("kid")) for key in record.auth.jwks.get("keys", []) if isinstance(key, dict)]
    return {
        "tenant": name,
        "state": "suspended" if record.suspended else "active",
        "isolation": record.isolation.value,
        "keys": keys,
        "log_partitions": record.topics.log.partitions,
        "retention_s": record.topics.log.retention_s,
    }


def _show_change(change: TenantChange, behind: list[str], *, dry_run: bool, json: bool) -> None:
    topics = change.topics
    if json:
        record = "created" if change.new else "changed" if change.fields else "unchanged"
        print_json(
            {
                "tenant": change.tenant,
                "dry_run": dry_run,
                "changed": not change.empty,
                "record": record,
                "fields": list(change.fields),
                "behind": behind,
                "created": [topic.name for topic in topics.create],
                "grown": [{"topic": grow.topic, "from": grow.have, "to": grow.want} for grow in topics.grow],
                "altered": [{"topic": alter.topic, "config": alter.config} for alter in topics.alter],
                "warnings": [
                    {"topic": each.topic, "code": each.code, "message": each.message} for each in topics.warnings
                ],
            }
        )
        return
    rows = [(topic.name, "create", _describe(topic.partitions, topic.replication_factor)) for topic in topics.create]
    rows += [(grow.topic, "grow", f"{grow.have} → {grow.want} partitions") for grow in topics.grow]
    for alter in topics.alter:
        text = ", ".join(f"{key}: {old or 'default'} → {new or 'default'}" for key, (old, new) in alter.changes.items())
        rows.append((alter.topic, "change", text))
    if change.new or change.fields:
        rows.append((f"tenant {change.tenant}", "create" if change.new else "change", ", ".join(change.fields)))
    rows += [(each.topic, "warning", each.message) for each in topics.warnings]
    title = "would change" if dry_run else "changed"
    if rows:
        print_table(title if not change.empty else "", ("what", "how", ""), rows)
    if change.empty:
        stdout().print(f"[green]up to date[/] {change.tenant}: nothing to change")


def _describe(partitions: int, replication: int | None) -> str:
    return f"{partitions} partitions" + (f", replication {replication}" if replication is not None else "")


def _duration(seconds: int) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
