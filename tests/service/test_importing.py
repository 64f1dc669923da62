"""Importing: every record once, whatever interrupts it, and nothing of other tenants."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from heliograph.core.errors import InvalidValueError
from heliograph.core.messages import MessageClass
from heliograph.core.partitions import partition_of
from heliograph.core.positions import Position
from heliograph.protocol.exports import (
    ExportedRecord,
    Place,
    Verbatim,
    decode_record_line,
    exported_message,
    record_line,
)
from heliograph.protocol.messages import Message, record_headers, record_value
from heliograph.protocol.tenants import Tenant, parse_tenant
from heliograph.service import importing
from heliograph.service.importing import Checkpoint, Importer, ImportTopics
from heliograph.stores.keys import Topics
from heliograph.stores.memory.log import MemoryLog, MemoryLogAdmin, MemoryLogReader, MemoryLogWriter
from heliograph.stores.ports import LogRecord, StoreError, TopicSpec

TOPICS = Topics("there")
PARTITIONS = 2


def line(record: Verbatim, topic: str = "acme.log", offset: int = 0) -> ExportedRecord:
    message = exported_message(record.key, record.value, record.headers)
    place = Place(topic, 0, offset, 1_764_000_000_000 + offset)
    return decode_record_line(record_line(place, record.key, record.value, record.headers, message))


def record(seq: int, session: str | None = None, **changes: Any) -> Verbatim:
    session = session or f"acme:planner:s{seq % 5}"
    message = Message(
        session=session,
        message_id=f"m{seq}",
        time_ms=1_764_000_000_000 + seq,
        producer="planner",
        class_=MessageClass.EVENT,
        payload=b'{"n":%d}' % seq,
        position=str(Position("1764000000000-1a2b3c4d", seq)),
    )
    for name, value in changes.items():
        setattr(message, name, value)
    return Verbatim(session.encode(), record_value(message), list(record_headers(message)))


class There:
    """The other installation."""

    def __init__(self, **tenant: Any) -> None:
        self.log = MemoryLog()
        self.tenant: Tenant = parse_tenant({"tenant": "acme", **tenant})
        self.reader = MemoryLogReader(self.log)
        self.checkpoints: list[bytes] = []
        for name in ("there.acme.log", "there.acme.tool.log", "there.other.log"):
            self.log.create(TopicSpec(name, PARTITIONS, 1, {}))

    async def importer(self, writer: type[MemoryLogWriter] = MemoryLogWriter, **options: Any) -> Importer:
        made = writer(self.log, **options)
        await made.start()
        found = await MemoryLogAdmin(self.log).describe(ImportTopics.names(self.tenant, TOPICS))
        return Importer(ImportTopics(self.tenant, TOPICS, found), self.reader, made)

    def keep(self, checkpoint: Checkpoint) -> None:
        self.checkpoints.append(json.dumps(checkpoint.consumed).encode())
        self.kept = checkpoint

    async def run(self, lines: list[ExportedRecord], importer: Importer | None = None) -> Checkpoint:
        importer = importer or await self.importer()
        return await importer.run(numbered(lines), await importer.begin(1), self.keep)

    def records(self, topic: str = "there.acme.log") -> list[Verbatim]:
        return [Verbatim(one.key, one.value, one.headers) for one in self.log.records(topic)]


def numbered(lines: list[ExportedRecord]) -> Iterator[tuple[int, ExportedRecord]]:
    return ((0, one) for one in lines)


def sessions(records: list[Verbatim]) -> dict[bytes | None, list[Verbatim]]:
    found: dict[bytes | None, list[Verbatim]] = {}
    for one in records:
        found.setdefault(one.key, []).append(one)
    return found


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "BATCH_RECORDS", 10)


async def test_records_come_as_they_were_in_their_order_where_their_session_lives() -> None:
    there = There()
    sent = [record(seq) for seq in range(1, 96)]
    done = await there.run([line(one) for one in sent])
    assert sessions(there.records()) == sessions(sent)
    for one in there.log.records("there.acme.log"):
        assert one.partition == partition_of(one.key or b"", PARTITIONS)
    assert (done.consumed, done.written, done.skipped) == ([95], 95, 0)
    assert done.last_epoch_ms == 1_764_000_000_000
    assert len(there.checkpoints) == 10


async def test_what_is_no_message_is_written_as_it_was() -> None:
    there = There()
    odd = [
        Verbatim(None, None, [("x", None)]),
        Verbatim(b"acme:planner:s1", b"{", record(1).headers),
        Verbatim(b"other:planner:s1", b"1", []),
        Verbatim(b"\xff", b"", []),
    ]
    await there.run([line(one) for one in odd])
    assert sorted(map(repr, there.records())) == sorted(map(repr, odd))


async def test_agent_types_go_to_the_topic_they_have_here() -> None:
    there = There(agent_types={"tool": {"log": {}}})
    tool, planner = record(1, "acme:tool:1"), record(1)
    await there.run([line(tool), line(planner, "acme.planner.log")])
    assert (there.records("there.acme.tool.log"), there.records()) == ([tool], [planner])


async def test_telemetry_is_left_out_and_counted_where_the_tenant_keeps_none() -> None:
    there = There()
    telemetry = record(1, class_=MessageClass.TELEMETRY, position=None)
    done = await there.run([line(telemetry, "acme.telemetry"), line(record(2))])
    assert (done.written, done.skipped, there.records()) == (1, 1, [record(2)])
    there = There(topics={"telemetry": {}})
    there.log.create(TopicSpec("there.acme.telemetry", 1, 1, {}))
    await there.run([line(telemetry, "acme.telemetry")])
    assert there.records("there.acme.telemetry") == [telemetry]


async def test_a_record_of_another_tenant_is_refused() -> None:
    there = There()
    with pytest.raises(InvalidValueError, match="other:planner:1"):
        await there.run([line(record(1, "other:planner:1"))])
    assert there.records("there.other.log") == []


async def test_a_topic_that_is_missing_is_said() -> None:
    there = There(agent_types={"new": {"log": {}}})
    with pytest.raises(StoreError, match=r"there\.acme\.new\.log"):
        await there.run([line(record(1, "acme:new:1"))])


async def test_a_tenant_that_shares_its_topics_gets_its_records_among_the_others() -> None:
    there = There(isolation="shared", agent_types={"tool": {"log": {"retention_s": 60 * 24 * 3600}}})
    for name in ("there._shared.7d.log", "there._shared.90d.log"):
        there.log.create(TopicSpec(name, PARTITIONS, 1, {}))
    stranger = record(1, "other:planner:1")
    there.log.append(LogRecord("there._shared.7d.log", 0, -1, 0, stranger.key, stranger.value, stranger.headers))
    assert await (await there.importer()).holding() is None
    tool, planner = record(1, "acme:tool:1"), record(1)
    await there.run([line(tool), line(planner)])
    assert there.records("there._shared.90d.log") == [tool]
    assert sessions(there.records("there._shared.7d.log")) == sessions([stranger, planner])
    assert await (await there.importer()).holding() == "there._shared.7d.log"
    with pytest.raises(InvalidValueError):  # what is no message of the tenant's would be somebody else's there
        await there.run([line(Verbatim(b"other:planner:1", b"1", []))])


# ---- interrupted ----------------------------------------------------------------------------------------------------


class Failing(MemoryLogWriter):
    """A writer that is killed after some records, or whose log refuses one in the middle."""

    def __init__(self, log: MemoryLog, after: int, *, killed: bool) -> None:
        super().__init__(log)
        self.left = after
        self.killed = killed

    def write(self, *arguments: Any) -> None:
        self.left -= 1
        done: Callable[[StoreError | None], None] = arguments[-1]
        if self.left < 0 and self.killed:
            raise StoreError("log_unavailable", "the process is gone")
        if self.left == 0 and not self.killed:
            asyncio.get_running_loop().call_soon(done, StoreError("log_unavailable", "timed out", maybe_done=True))
            return
        super().write(*arguments)


@pytest.mark.parametrize("killed", [True, False])
@pytest.mark.parametrize("after", [1, 5, 9, 10, 11, 47])
async def test_an_import_that_was_interrupted_writes_nothing_twice_and_leaves_nothing_out(
    after: int, killed: bool
) -> None:
    there = There()
    sent = [record(seq) for seq in range(1, 61)]
    sent[30:30] = [sent[29]]  # a record that the log has twice stays one that it has twice
    lines = [line(one) for one in sent]
    importer = await there.importer(Failing, after=after, killed=killed)
    begun = await importer.begin(1)
    there.keep(begun)
    with pytest.raises(StoreError):
        await importer.run(numbered(lines), begun, there.keep)
    # somebody publishes meanwhile, to a session of its own
    stranger = record(1, "acme:planner:stranger")
    there.log.append(LogRecord("there.acme.log", 1, -1, 0, stranger.key, stranger.value, stranger.headers))
    importer = await there.importer()
    await importer.resume(there.kept)
    done = await importer.run(numbered(lines[sum(there.kept.consumed) :]), there.kept, there.keep)
    assert sorted(map(repr, there.records())) == sorted(map(repr, [*sent, stranger]))
    assert (done.consumed, done.written) == ([61], 61)
    if killed:
        assert sessions(there.records()) == sessions([*sent, stranger])


async def test_batches_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "BATCH_BYTES", 5_000)
    there = There()
    await there.run([line(record(seq, payload=b'"' + b"x" * 3_000 + b'"')) for seq in range(1, 21)])
    assert len(there.checkpoints) == 10
