"""`heliograph import` of what `heliograph export` wrote, into a log in memory."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.cli.replay_thread import ReplayThread
from tests.service.test_importing import sessions
from tests.services.replay.rig import E1, message
from typer.testing import Result

from heliograph.cli.exporting.directory import ExportDirectory, Format
from heliograph.protocol.exports import Verbatim
from heliograph.protocol.messages import record_headers
from heliograph.protocol.tenants import encode_tenant, parse_tenant
from heliograph.service import importing
from heliograph.service.commands import importing as command
from heliograph.service.commands.importing import Stores
from heliograph.stores.keys import Topics
from heliograph.stores.memory.log import MemoryLog, MemoryLogAdmin, MemoryLogReader, MemoryLogWriter
from heliograph.stores.memory.metadata.tenants import MemoryTenantStore
from heliograph.stores.ports import LogRecord, StoreError, TopicSpec

Invoke = Callable[..., Result]


class There:
    """Another installation."""

    def __init__(self) -> None:
        self.log = MemoryLog()
        self.tenants = MemoryTenantStore()
        self.fails_after = 10**9

    def topic(self, name: str, partitions: int = 2) -> None:
        self.log.create(TopicSpec(f"there.{name}", partitions, 1, {}))

    def write(self, record: Verbatim) -> None:
        self.log.append(LogRecord("there.acme.log", 0, -1, 0, record.key, record.value, record.headers))

    def records(self) -> list[Verbatim]:
        return [Verbatim(one.key, one.value, one.headers) for one in self.log.records("there.acme.log")]

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Stores]:
        there = self

        class Writer(MemoryLogWriter):
            def write(self, *arguments: Any) -> None:
                there.fails_after -= 1
                if there.fails_after < 0:
                    raise StoreError("log_unavailable", "Kafka is away")
                super().write(*arguments)

        await self.tenants.put("acme", encode_tenant(parse_tenant({"tenant": "acme"})))
        writer = Writer(self.log)
        await writer.start()
        yield Stores(MemoryLogAdmin(self.log), MemoryLogReader(self.log), writer, self.tenants, Topics("there"))


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> There:
    there = There()
    there.topic("acme.log")
    monkeypatch.setattr(command, "connected", there.connected)
    monkeypatch.setattr(importing, "BATCH_RECORDS", 20)
    return there


@pytest.fixture(params=[Format.NDJSON, Format.PARQUET])
def export(tmp_path: Path, invoke: Invoke, request: Any) -> tuple[Path, list[Verbatim]]:
    """A folder, and what was in the log."""
    replay = ReplayThread(tmp_path / "replay")
    replay.world.write(*(message(n // 7 + 1, E1, f"acme:planner:s{n % 7}", payload=b'"' + b"x" * 30_000 + b'"')
                         for n in range(150)))  # fmt: skip
    replay.world.write_record(b"{", record_headers(message(9)))
    replay.call(replay.world.start)
    options = ["--format", request.param, "--file-size", "1", "--replay-url", replay.url, "--token", replay.token()]
    assert invoke("export", "acme", "--to", str(tmp_path / "out"), *options).exit_code == 0
    records = [Verbatim(one.key, one.value, one.headers) for one in replay.world.log.records(replay.world.topic)]
    replay.close()
    return tmp_path / "out", records


@pytest.fixture
def one(export: tuple[Path, list[Verbatim]]) -> Path:
    return export[0]


Export = tuple[Path, list[Verbatim]]


def run(invoke: Invoke, directory: Path, *options: str, tenant: str = "acme") -> Result:
    return invoke("import", str(directory), "--tenant", tenant, *options)


def test_an_export_comes_in_as_it_was(export: Export, there: There, invoke: Invoke) -> None:
    directory, records = export
    done = run(invoke, directory, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"tenant": "acme", "written": 151, "skipped": 0}
    assert sessions(there.records()) == sessions(records)


def test_importing_again_changes_nothing(export: Export, there: There, invoke: Invoke) -> None:
    directory, records = export
    assert run(invoke, directory).exit_code == 0
    there.write(records[0])
    done = run(invoke, directory, "--json")
    assert json.loads(done.stdout)["written"] == 151
    assert len(there.records()) == 152


def test_an_import_that_failed_is_continued_by_the_same_command(export: Export, there: There, invoke: Invoke) -> None:
    directory, records = export
    for failures in range(20):
        there.fails_after = 7 + failures * 9
        done = run(invoke, directory)
        if done.exit_code == 0:
            break
        assert done.exit_code == 5
    assert failures > 3
    assert sessions(there.records()) == sessions(records)


def test_topics_that_hold_messages_are_left_alone_unless_told(export: Export, there: There, invoke: Invoke) -> None:
    directory, records = export
    stranger = Verbatim(b"acme:planner:stranger", b"1", [])
    there.write(stranger)
    done = run(invoke, directory)
    assert done.exit_code == 3
    assert "topics_not_empty" in done.stderr
    assert there.records() == [stranger]
    assert run(invoke, directory, "--into-existing").exit_code == 0
    assert sessions(there.records()) == sessions([stranger, *records])


def test_topics_made_again_get_the_export_anew(export: Export, there: There, invoke: Invoke) -> None:
    directory, records = export
    assert run(invoke, directory).exit_code == 0
    there.log.delete("there.acme.log")
    there.topic("acme.log")
    assert run(invoke, directory).exit_code == 0
    assert sessions(there.records()) == sessions(records)


def test_a_part_of_an_export_is_not_imported(one: Path, there: There, invoke: Invoke) -> None:
    manifest = ExportDirectory(one).read()
    assert manifest is not None
    manifest.partitions[0].resume = "x"
    ExportDirectory(one).save(manifest)
    done = run(invoke, one)
    assert done.exit_code == 1
    assert "export_incomplete" in done.stderr
    assert there.records() == []


def test_a_damaged_file_ends_the_import(one: Path, there: There, invoke: Invoke) -> None:
    damaged = max(path for path in one.iterdir() if path.name.startswith("acme.log-00002"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    done = run(invoke, one)
    assert done.exit_code == 1
    assert "export_damaged" in done.stderr


def test_another_tenant_and_a_tenant_that_is_not_there_are_said(one: Path, there: There, invoke: Invoke) -> None:
    assert run(invoke, one, tenant="other").exit_code == 2
    there.log.delete("there.acme.log")
    done = run(invoke, one)
    assert done.exit_code == 1
    assert "tenant apply" in done.stderr


def test_a_folder_without_an_export_is_said(there: There, invoke: Invoke, tmp_path: Path) -> None:
    assert run(invoke, tmp_path).exit_code == 2
