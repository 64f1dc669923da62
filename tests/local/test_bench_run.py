"""A whole, small benchmark: own servers, own load generator, a reference beside it."""

import json
from pathlib import Path

import pytest

from heliograph.local.bench.live import LiveBench
from heliograph.local.bench.loads import LoadGenerator, Shape
from heliograph.local.bench.machine import Cores
from heliograph.local.bench.report import Report
from heliograph.local.bench.rig import Rig
from heliograph.local.bench.sides import Heliograph, Reference, Side
from heliograph.local.identity import started_at

REFERENCE = """
import asyncio, json, sys
from websockets.asyncio.server import serve

async def echo(connection):
    async for message in connection:
        frame = json.loads(message)
        if frame["type"] == "subscribe":
            readers.setdefault(frame["session"], []).append(connection)
        elif frame["type"] == "publish":
            text = json.dumps({"type": "message", "payload": frame["payload"]}, separators=(",", ":"))
            for reader in readers.get(frame["session"], []):
                await reader.send(text)

readers = {}

async def main():
    port, redis_port, kafka = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    async with serve(echo, "127.0.0.1", port, compression=None):
        await asyncio.Event().wait()

asyncio.run(main())
"""
PROTOCOL = {
    "Hello": ['{"type":"hello","id":1}'],
    "Subscribe": '{"type":"subscribe","session":"%CHANNEL%"}',
    "Publish": '{"type":"publish","session":"%CHANNEL%","payload":%PAYLOAD%}',
}
SHAPE = Shape("small", "4 sessions × 2, 40/s", 8, 4, 2, 40)


@pytest.fixture
def reference(tmp_path: Path) -> tuple[Path, Path]:
    file, protocol = tmp_path / "reference.py", tmp_path / "reference.json"
    file.write_text(REFERENCE)
    protocol.write_text(json.dumps(PROTOCOL))
    return file, protocol


def test_both_sides_are_measured_in_turns_and_nothing_is_lost(tmp_path: Path, reference: tuple[Path, Path]) -> None:
    said: list[str] = []
    report = Report()
    with Rig(tmp_path / "rig", Cores.choose(), said.append) as rig:
        sides: list[Side] = [Heliograph(rig), Reference(rig, *reference)]
        bench = LiveBench(rig, report, LoadGenerator.find(None), sides, seconds=1.0, repeat=2)
        rows = bench.measure("Small", SHAPE)
        pids = [pid for side in sides for pid in side.pids]
    assert report.faults == []
    assert [row.side for row in rows] == ["heliograph", "reference"]
    for row in rows:
        assert len(row.runs) == 2
        assert row.median("lost") == 0
        assert (row.median("cpu_per_publication_us") or 0) > 0
        assert (row.median("p99_ms") or 0) > 0
    measured = [line.split()[2].rstrip(":") for line in said if line.startswith("small")]
    assert measured == ["heliograph", "reference", "heliograph", "reference"]
    assert all(started_at(pid) is None for pid in pids)
