"""docs/leaving.md: the readers that it shows give the same, in Python and Java, on a log as it may be."""

import asyncio
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
from tests.local.papers import ROOT, blocks

from heliograph.core.messages import MessageClass
from heliograph.core.partitions import partition_of
from heliograph.core.positions import Position
from heliograph.local.cache import cache_dir, file_lock
from heliograph.protocol.exports import decode_record_line, record_of
from heliograph.protocol.gaps import gap_message
from heliograph.protocol.messages import Message, record_headers, record_value
from heliograph.stores.kafka import KafkaLogAdmin, KafkaLogWriter
from heliograph.stores.ports import StoreError, TopicSpec

PAPER = ROOT / "docs" / "leaving.md"
PROJECT = ROOT / "deploy" / "examples" / "read-log"
SOURCE = PROJECT / "src" / "main" / "java" / "dev" / "heliograph" / "examples" / "ReadLog.java"
TENANT = "demo"
PARTITIONS = 3
PROGRAM_TIMEOUT_S = 60
MAVEN_TIMEOUT_S = 240
"""It fetches its plugins and the client, once."""

OLD, NEW = "1764000000000-1a2b3c4d", "1764000100000-00000001"


@dataclass(frozen=True, slots=True)
class Log:
    """A log, and what reading it gives."""

    variables: dict[str, str]
    expected: str


def message(session: str, epoch: str, seq: int, payload: bytes, **changes: str) -> Message:
    made = Message(
        session=session,
        message_id=f"m{seq}",
        time_ms=1_764_000_000_000 + seq,
        producer="planner",
        class_=MessageClass.EVENT,
        payload=payload,
        position=str(Position(epoch, seq)),
    )
    for name, value in changes.items():
        setattr(made, name, value)
    return made


@pytest.fixture
async def log(kafka_bootstrap: str) -> AsyncIterator[Log]:
    """Sessions of two epochs, nearly in order, some records twice, a gap, and a record without a position."""
    sent = [
        message(f"{TENANT}:planner:s{number}", epoch, seq, b'{"text": "gr\xc3\xbc\xc3\x9fe %d"}' % seq)
        for number in range(4)
        for epoch in (OLD, NEW)
        for seq in range(1, 51)
    ]
    sent.append(message(f"{TENANT}:tool:1", OLD, 1, b'"AQI="', content_type="image/png", event_type="com.example.png"))
    gap = gap_message(f"{TENANT}:planner:s0", Position(NEW, 51), "never_written", 1_764_000_000_000)
    unsequenced = message(f"{TENANT}:planner:s0", NEW, 52, b"1", event_type="dev.heliograph.expiry")
    unsequenced.position = None
    shuffled = [*sent, *sent[20:40], gap, unsequenced]
    shuffled.sort(key=lambda one: (one.position or "")[-16:] + random.Random(one.message_id).choice("ab"))

    prefix = f"leaving-{uuid4().hex}"
    topic = f"{prefix}.{TENANT}.log"
    properties = {"bootstrap.servers": kafka_bootstrap}
    admin, writer = KafkaLogAdmin(properties), KafkaLogWriter(properties)
    await admin.create(TopicSpec(topic, PARTITIONS, None, {}))
    await writer.start()
    answers: list[asyncio.Future[StoreError | None]] = []
    for one in shuffled:
        answers.append(asyncio.get_running_loop().create_future())
        key = one.session.encode()
        writer.write(topic, partition_of(key, PARTITIONS), key, record_value(one), record_headers(one),
                     answers[-1].set_result)  # fmt: skip
    assert set(await asyncio.gather(*answers)) == {None}
    expected = [
        f"{one.session} {one.position} {one.event_type or 'dev.heliograph.message'} "
        f"{record_value(one).decode(errors='replace')}"
        for one in sorted(sent, key=lambda one: (one.session, one.position))
    ]
    yield Log(
        {"HELIOGRAPH_KAFKA_BOOTSTRAP_SERVERS": kafka_bootstrap, "HELIOGRAPH_TOPIC_PREFIX": prefix, "LANG": "C.UTF-8"},
        "\n".join(expected) + "\n",
    )
    await writer.close(5.0)
    await admin.delete(topic)
    await admin.close()


async def run(log: Log, *command: str, timeout_s: float, **variables: str) -> str:
    def call() -> subprocess.CompletedProcess[str]:
        environment = os.environ | log.variables | variables
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, encoding="utf-8", check=False, timeout=timeout_s
        )

    done = await asyncio.to_thread(call)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


async def test_the_reader_in_python_gives_every_message_in_order_and_once(log: Log) -> None:
    (program,) = blocks(PAPER, "python")
    assert await run(log, sys.executable, "-X", "utf8", "-c", program.text, timeout_s=PROGRAM_TIMEOUT_S) == log.expected


@pytest.mark.timeout(600)
async def test_the_reader_in_java_gives_every_message_in_order_and_once(log: Log, tmp_path: Path) -> None:
    """With Maven, as the paper says, on a copy of the project; its repository is in the cache folder."""
    (shown,) = re.findall(r"`mvn ([^`]+)`", PAPER.read_text(encoding="utf-8"))
    project = tmp_path / "read-log"
    shutil.copytree(PROJECT, project, ignore=shutil.ignore_patterns("target"))
    arguments = shown.replace("deploy/examples/read-log", str(project)).split()
    repository = cache_dir() / "maven"
    with file_lock(cache_dir() / "maven.lock"):
        out = await run(
            log, "mvn", "--batch-mode", f"-Dmaven.repo.local={repository}", *arguments, timeout_s=MAVEN_TIMEOUT_S
        )  # fmt: skip
    assert out.replace("\x1b[0m", "") == log.expected  # Maven's own, whatever it is told of colours


def test_the_java_that_is_shown_is_the_projects() -> None:
    (shown,) = blocks(PAPER, "java")
    source = [line.strip() for line in SOURCE.read_text(encoding="utf-8").splitlines()]
    lines = [line.strip() for line in shown.text.splitlines()]
    begin = source.index(lines[0])
    assert source[begin : begin + len(lines)] == lines


def test_the_line_that_is_shown_is_one_of_an_export() -> None:
    (shown,) = blocks(PAPER, "json")
    record = record_of(decode_record_line(shown.text.strip().encode()))
    assert (record.key, record.value) == (b"demo:planner:42", b'{"goal": "Lisbon"}')
