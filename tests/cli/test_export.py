"""`heliograph export` against replay on memory stores."""

import json
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from tests.cli.replay_thread import ReplayThread
from tests.protocol.strategies import few, messages
from tests.services.replay.rig import BEGUN_MS, E1, message
from typer.testing import Result

from heliograph.cli.exporting import answers
from heliograph.cli.exporting.directory import LOCK, MANIFEST, ExportDirectory, Format, Manifest
from heliograph.cli.exporting.files import reader_of
from heliograph.cli.exporting.parquet import SCHEMA, ParquetWriter, read_parquet, records, table
from heliograph.core.expiry import Expiry
from heliograph.protocol.exports import (
    ExportedRecord,
    Place,
    Verbatim,
    decode_record_line,
    exported_message,
    record_line,
    record_of,
)
from heliograph.protocol.messages import Message, record_headers, record_value
from heliograph.stores.ports import LogRecord, TopicSpec

Invoke = Callable[..., Result]
FORMATS = [Format.NDJSON, Format.PARQUET]


@pytest.fixture
def replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ReplayThread]:
    monkeypatch.setattr(answers, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(answers, "PAUSE_S", 0.01)
    thread = ReplayThread(tmp_path / "replay")
    yield thread
    thread.close()


@pytest.fixture
def run(replay: ReplayThread, invoke: Invoke) -> Invoke:
    """`heliograph export acme …`."""

    def export(to: Path, *options: str, tenant: str = "acme", token: str | None = None) -> Result:
        arguments = ["export", tenant, "--to", str(to), "--replay-url", replay.url, *options]
        return invoke(*arguments, "--token", token or replay.token())

    return export


def fill(replay: ReplayThread, count: int = 300, **changes: Any) -> None:
    sent = [message(n // 7 + 1, E1, f"acme:planner:s{n % 7}", **changes) for n in range(count)]
    replay.world.write(*sent)
    replay.world.write(
        message(1, payload=b'"AAH/"', content_type="image/png", correlation_id="gr\u00fc\u00dfe \U0001f31e")
    )
    replay.world.write_record(None, [("x", None)], partition=1)
    replay.world.write_record(b"{", [*record_headers(message(9)), ("mine", b"\xff")], partition=2)


def in_log(replay: ReplayThread) -> list[Verbatim]:
    return [Verbatim(one.key, one.value, one.headers) for one in replay.world.log.records(replay.world.topic)]


def manifest(to: Path) -> Manifest:
    found = ExportDirectory(to).read()
    assert found is not None
    return found


def exported(to: Path) -> list[ExportedRecord]:
    """Everything in the folder, in the order of its manifest; nothing else is there."""
    known = manifest(to)
    assert {entry.name for entry in to.iterdir()} == {MANIFEST, LOCK, *(file.name for file in known.files)}
    read = reader_of(known.format)
    lines: list[ExportedRecord] = []
    for file in known.files:
        found = [line for batch in read(ExportDirectory(to).check(file)) for line in batch]
        assert len(found) == file.records
        lines += found
    return lines


def summary(done: Result) -> dict[str, Any]:
    """What `--json` says; before it is what replay logs in this process."""
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


@pytest.mark.parametrize("format_", FORMATS)
def test_every_record_is_exported_byte_for_byte(
    replay: ReplayThread, run: Invoke, tmp_path: Path, format_: Format
) -> None:
    fill(replay)
    replay.call(replay.world.start)
    done = run(tmp_path / "out", "--format", format_, "--json")
    assert done.exit_code == 0, done.output
    assert [record_of(line) for line in exported(tmp_path / "out")] == in_log(replay)
    said = summary(done)
    assert (said["records"], said["format"], said["removed"]) == (303, format_, 0)
    assert said["bytes"] == sum(file.bytes for file in manifest(tmp_path / "out").files)


def test_ndjson_is_what_replay_sends(replay: ReplayThread, run: Invoke, tmp_path: Path) -> None:
    fill(replay)
    replay.call(replay.world.start)
    assert run(tmp_path / "out").exit_code == 0
    answer = replay.call(replay.world.client.get, "/v1/export/acme", headers=replay.world.headers())
    sent = b"".join(line + b"\n" for line in answer.content.split(b"\n") if line.startswith(b'{"type":"record"'))
    assert b"".join(path.read_bytes() for path in sorted((tmp_path / "out").glob("*.ndjson"))) == sent


def test_parquet_is_read_by_anybody(replay: ReplayThread, run: Invoke, tmp_path: Path) -> None:
    fill(replay)
    replay.call(replay.world.start)
    assert run(tmp_path / "out", "--format", "parquet").exit_code == 0
    paths = sorted((tmp_path / "out").glob("*.parquet"))
    found = pa.concat_tables([pq.read_table(path) for path in paths]).to_pylist()
    (image,) = [row for row in found if row["content_type"] == "image/png"]
    assert (image["data"], image["payload"], image["correlation_id"]) == (
        b"\x00\x01\xff",
        None,
        "gr\u00fc\u00dfe \U0001f31e",
    )
    one = next(row for row in found if row["session"] == "acme:planner:s3")
    assert (json.loads(one["payload"]), one["time"].timestamp()) == ({"n": 1}, (BEGUN_MS + 1_000) / 1000)
    assert {row["corrupt"] for row in found} == {None, "header_empty", "header_not_utf8"}


def test_files_end_at_their_size(replay: ReplayThread, run: Invoke, tmp_path: Path) -> None:
    fill(replay, 100, payload=b'"' + b"x" * 50_000 + b'"')
    replay.call(replay.world.start)
    assert run(tmp_path / "out", "--file-size", "1").exit_code == 0
    files = manifest(tmp_path / "out").files
    assert len(files) > 3
    assert all(file.bytes < 2 * 1024 * 1024 + 51_000 for file in files)
    assert [record_of(line) for line in exported(tmp_path / "out")] == in_log(replay)


def test_a_bar_is_for_terminals_only(
    replay: ReplayThread, run: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(replay, 50)
    replay.call(replay.world.start)
    assert "100%" not in run(tmp_path / "one").stderr
    monkeypatch.setenv("FORCE_COLOR", "1")
    done = run(tmp_path / "two")
    assert done.exit_code == 0
    assert "export acme" in done.stderr
    assert "100%" in done.stderr
    assert "%" not in run(tmp_path / "three", "--json").stderr


def test_times_are_handed_on_and_remembered(replay: ReplayThread, run: Invoke, tmp_path: Path) -> None:
    replay.world.write(*(message(seq) for seq in range(1, 10)))
    replay.call(replay.world.start)
    times = ["--since", "2025-11-24T16:00:03Z", "--until", "2025-11-24T16:00:05Z"]
    assert run(tmp_path / "out", *times).exit_code == 0
    assert [line.message_id for line in exported(tmp_path / "out")] == ["m3", "m4", "m5"]
    assert run(tmp_path / "out", *times).exit_code == 0
    done = run(tmp_path / "out")
    assert done.exit_code == 2
    assert "--since" in done.stderr


def test_what_is_complete_stays_as_it_is(replay: ReplayThread, run: Invoke, tmp_path: Path) -> None:
    fill(replay)
    replay.call(replay.world.start)
    assert run(tmp_path / "out").exit_code == 0
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.ndjson")}
    replay.world.write(message(500))
    assert run(tmp_path / "out").exit_code == 0
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.ndjson")} == before


# ---- interrupted ----------------------------------------------------------------------------------------------------


class Faulty:
    """A log reader of replay that fails after some batches, and says what it did."""

    def __init__(self, replay: ReplayThread, after: int) -> None:
        self.reader = replay.world.http_log
        self.read = self.reader.read
        self.left = after
        self.reader.read = self.failing  # type: ignore[method-assign,assignment]

    async def failing(self, *arguments: Any) -> AsyncIterator[list[LogRecord]]:
        async for step in self.read(*arguments):
            self.left -= 1
            if self.left == 0:
                raise RuntimeError("the process dies here")
            yield step


@pytest.mark.parametrize("format_", FORMATS)
def test_an_answer_that_breaks_off_is_gone_on_with_and_nothing_comes_twice(
    replay: ReplayThread, run: Invoke, tmp_path: Path, format_: Format
) -> None:
    fill(replay, 2_000)
    replay.call(replay.world.start, stream_messages=400)
    Faulty(replay, 3)
    assert run(tmp_path / "out", "--format", format_).exit_code == 0
    assert [record_of(line) for line in exported(tmp_path / "out")] == in_log(replay)


@pytest.mark.parametrize("format_", FORMATS)
def test_an_export_that_failed_is_continued_by_the_same_command(
    replay: ReplayThread, run: Invoke, tmp_path: Path, format_: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(replay, 150, payload=b'"' + b"x" * 50_000 + b'"')
    replay.call(replay.world.start)
    faulty = Faulty(replay, 2)
    monkeypatch.setattr(answers, "PATIENCE_S", 0.0)
    options = ["--format", format_, "--file-size", "1"]
    failures = 0
    while (done := run(tmp_path / "out", *options)).exit_code != 0:
        assert done.exit_code == 5
        failures += 1
        assert failures < 50
        faulty.left = 2 + failures % 3
    assert failures > 0
    assert [record_of(line) for line in exported(tmp_path / "out")] == in_log(replay)


def test_what_an_interrupted_command_left_is_made_again(replay: ReplayThread, run: Invoke, tmp_path: Path) -> None:
    fill(replay, 100, payload=b'"' + b"x" * 50_000 + b'"')
    replay.call(replay.world.start)
    out = tmp_path / "out"
    assert run(out, "--file-size", "1").exit_code == 0
    wanted = {path.name: path.read_bytes() for path in out.glob("*.ndjson")}
    # killed after a file got its name, and before the manifest named it; and while another was made
    known = manifest(out)
    state = next(state for state in known.partitions if len(state.files) > 1)
    first = state.files[0].name
    state.files = state.files[:1]
    lines = [decode_record_line(line) for line in wanted[first].splitlines()]
    state.next = lines[-1].offset + 1
    spans = replay.call(replay.world.client.get, "/v1/export/acme/partitions", headers=replay.world.headers()).json()
    resume = next(span["resume"] for span in spans["partitions"] if span["partition"] == state.partition)
    state.resume = resume.replace(".0.", f".{state.next}.")
    ExportDirectory(out).save(known)
    (out / f"{known.partitions[0].topic}-00000-000099.ndjson.part").write_bytes(b"half a li")
    assert run(out, "--file-size", "1").exit_code == 0
    assert {path.name: path.read_bytes() for path in out.glob("*.ndjson")} == wanted
    assert [record_of(line) for line in exported(out)] == in_log(replay)


def test_what_retention_took_is_said(replay: ReplayThread, run: Invoke, tmp_path: Path, monkeypatch: Any) -> None:
    (record, *_) = replay.world.write(*(message(seq) for seq in range(1, 300)))
    replay.call(replay.world.start, stream_messages=130)
    read = replay.world.http_log.read

    async def trimming(*arguments: Any) -> AsyncIterator[list[LogRecord]]:
        async for step in read(*arguments):
            yield step
            replay.world.log.truncate(replay.world.topic, record.partition, 200)

    replay.world.http_log.read = trimming  # type: ignore[method-assign,assignment]
    done = run(tmp_path / "out", "--json")
    assert done.exit_code == 0
    offsets = [line.offset for line in exported(tmp_path / "out")]
    assert summary(done)["removed"] == 299 - len(offsets) > 0


def test_what_has_expired_is_said(replay: ReplayThread, run: Invoke, tmp_path: Path) -> None:
    fill(replay, 50)
    replay.call(replay.world.expiries.put, "acme:planner:s1", Expiry(BEGUN_MS + 10**9, BEGUN_MS))
    replay.call(replay.world.start)
    done = run(tmp_path / "out", "--json")
    assert summary(done)["expired"] == 7
    assert len(exported(tmp_path / "out")) == 53 - 7
    assert "7 messages are left out" in run(tmp_path / "out").stderr


def test_a_topic_that_was_made_again_ends_the_export(replay: ReplayThread, run: Invoke, tmp_path: Path) -> None:
    fill(replay, 100)
    replay.call(replay.world.start)
    out = tmp_path / "out"
    assert run(out).exit_code == 0
    known = manifest(out)
    known.partitions[0].resume = f"{0:016x}~0.0.9"
    ExportDirectory(out).save(known)
    done = run(out)
    assert done.exit_code == 3
    assert "expired" in done.stderr


# ---- refused --------------------------------------------------------------------------------------------------------


def test_who_may_not_read_everything_exports_nothing(replay: ReplayThread, run: Invoke, tmp_path: Path) -> None:
    replay.call(replay.world.start)
    done = run(tmp_path / "out", token=replay.token(scope="history:planner:*"))
    assert done.exit_code == 4
    assert "forbidden" in done.stderr
    assert not (tmp_path / "out" / MANIFEST).exists()
    assert run(tmp_path / "out", token="nonsense").exit_code == 4
    one, two = (run(tmp_path / "out", tenant=name, token=replay.token("other")) for name in ("acme", "nobody"))
    assert one.stderr == two.stderr


def test_nobody_there_is_told_at_once(invoke: Invoke, tmp_path: Path) -> None:
    done = invoke("export", "acme", "--to", str(tmp_path / "out"), "--replay-url", "http://127.0.0.1:1")
    assert done.exit_code == 5


def test_a_folder_with_something_else_in_it_is_left_alone(replay: ReplayThread, run: Invoke, tmp_path: Path) -> None:
    replay.call(replay.world.start)
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    done = run(out)
    assert done.exit_code == 2
    assert "thesis.txt" in done.stderr
    assert not (out / MANIFEST).exists()


@pytest.mark.parametrize("text", ["", "{", '{"version": 1}'])
def test_a_manifest_that_is_none_is_said(replay: ReplayThread, run: Invoke, tmp_path: Path, text: str) -> None:
    replay.call(replay.world.start)
    (tmp_path / MANIFEST).write_text(text)
    assert run(tmp_path).exit_code == 2


def test_a_folder_that_cannot_be_written_is_said(replay: ReplayThread, run: Invoke, tmp_path: Path) -> None:
    replay.call(replay.world.start)
    (tmp_path / "file").write_text("")
    assert run(tmp_path / "file").exit_code == 2


def test_two_exports_into_one_folder_are_not_possible(replay: ReplayThread, run: Invoke, tmp_path: Path) -> None:
    fill(replay, 10)
    replay.call(replay.world.start)
    with ExportDirectory(tmp_path / "out").locked():
        done = run(tmp_path / "out")
    assert done.exit_code == 1
    assert "export_running" in done.stderr


def test_a_damaged_file_is_noticed(replay: ReplayThread, run: Invoke, tmp_path: Path) -> None:
    fill(replay, 10)
    replay.call(replay.world.start)
    assert run(tmp_path / "out").exit_code == 0
    file = manifest(tmp_path / "out").files[0]
    path = tmp_path / "out" / file.name
    path.write_bytes(path.read_bytes().replace(b"planner", b"planter", 1))
    with pytest.raises(Exception, match="is not what was exported"):
        ExportDirectory(tmp_path / "out").check(file)
    path.unlink()
    with pytest.raises(Exception, match="No such file"):
        ExportDirectory(tmp_path / "out").check(file)


def test_without_pyarrow_it_is_said_how_to_get_it(
    replay: ReplayThread, run: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "heliograph.cli.exporting.parquet", None)
    done = run(tmp_path / "out", "--format", "parquet")
    assert done.exit_code == 1
    assert "pip install 'heliograph[parquet]'" in done.stderr


def test_topics_of_one_kind_never_share_a_file_name(replay: ReplayThread, run: Invoke, tmp_path: Path) -> None:
    replay.call(replay.world.put_tenant, "acme", agent_types={"tool": {"log": {}}})
    replay.world.log.create(TopicSpec("heliograph.acme.tool.log", 1, 1, {}))
    one = message(1, E1, "acme:tool:1")
    replay.world.log.append(
        LogRecord("heliograph.acme.tool.log", 0, -1, 0, b"acme:tool:1", record_value(one), list(record_headers(one)))
    )
    fill(replay, 20)
    replay.call(replay.world.start)
    assert run(tmp_path / "out").exit_code == 0
    assert {path.name for path in (tmp_path / "out").glob("*.ndjson")} == {
        "acme.log-00000-000000.ndjson",
        "acme.log-00001-000000.ndjson",
        "acme.log-00002-000000.ndjson",
        "acme.tool.log-00000-000000.ndjson",
    }


# ---- parquet --------------------------------------------------------------------------------------------------------


@few
@given(messages())
def test_whatever_a_message_holds_comes_back_from_parquet(message: Message) -> None:
    sent = Verbatim(message.session.encode(), record_value(message), list(record_headers(message)))
    found = exported_message(sent.key, sent.value, sent.headers)
    line = decode_record_line(record_line(Place("acme.log", 0, 7, 1), sent.key, sent.value, sent.headers, found))
    (batch,) = table([line]).to_batches()
    (back,) = records(batch)
    assert back == line
    assert record_of(back) == sent


def test_there_is_a_column_for_every_field_of_a_line() -> None:
    renamed = {"class_": "class"}
    fields = {renamed.get(field.name, field.name) for field in msgspec.structs.fields(ExportedRecord)}
    assert fields | {"data"} == set(SCHEMA.names)


def test_what_is_no_parquet_is_refused(tmp_path: Path) -> None:
    from heliograph.core.errors import InvalidValueError

    (tmp_path / "x").write_bytes(b"PAR1 it is not")
    with pytest.raises(InvalidValueError):
        list(read_parquet(tmp_path / "x"))
    pq.write_table(pa.table({"topic": ["acme.log"]}), tmp_path / "y")
    with pytest.raises(InvalidValueError):
        list(read_parquet(tmp_path / "y"))


def test_row_groups_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from heliograph.cli.exporting import parquet

    monkeypatch.setattr(parquet, "ROW_GROUP_BYTES", 20_000)
    writer = ParquetWriter(tmp_path / "x")
    one = message(1)
    line = record_line(
        Place("acme.log", 0, 7, 1), one.session.encode(), record_value(one), list(record_headers(one)), one
    )
    for _ in range(200):
        writer.write([line] * 5)
    writer.close()
    with pq.ParquetFile(tmp_path / "x") as file:
        assert file.metadata.num_rows == 1_000
        assert file.metadata.num_row_groups > 10
    shutil.rmtree(tmp_path)
