"""A tenant leaves: exported, imported elsewhere, read back there as it was; killed in the middle of everything."""

import asyncio
import json
from pathlib import Path

import pytest
from tests.system.leaving import (
    KILLED_AT_RECORD,
    Command,
    as_set,
    elsewhere,
    exported,
    history,
    publish_everything,
    stalled,
    verbatim,
)
from tests.system.rig import Rig, until
from tests.system.sdk import SETTINGS

from heliograph.cli.exporting.directory import ExportDirectory
from heliograph.client import Client, Gap
from heliograph.protocol.exports import Verbatim
from heliograph.stores.kafka import KafkaLogReader

pytestmark = pytest.mark.xdist_group("system-services")

SESSIONS = 4
BIG = 100
"""Of 15 KB in each session: some 8 MB as lines, and as many files of 1 MiB."""


async def records_of(rig: Rig, topic: str) -> list[Verbatim]:
    """All of a topic, byte for byte."""
    reader = KafkaLogReader({"bootstrap.servers": rig.kafka.bootstrap_servers}, pool_size=1)
    await reader.start()
    try:
        info = await reader.partitions(topic)
        assert info is not None
        found = []
        for partition in range(info.partitions):
            _, end = await reader.bounds(topic, partition)
            async for batch in reader.read(topic, partition, 0, end):
                found += batch
        return verbatim(found)
    finally:
        await reader.close()


HELD = "heliograph_replay_reads_held"
GONE = "heliograph_replay_readers_gone_total"
SCANNED = "heliograph_replay_records_scanned_total"


def files(directory: Path) -> int:
    return len(list(directory.glob("*.ndjson")))


@pytest.mark.timeout(600)  # some dozen processes are started one after another
async def test_a_tenant_leaves_byte_for_byte_whatever_is_killed_on_the_way(rig: Rig, tmp_path: Path) -> None:
    tenant = "leaver"
    rig.apply(tenant)
    token, sessions = rig.token(tenant), rig.sessions(SESSIONS, tenant)
    async with Client(rig.edges, token=token, settings=SETTINGS) as client:
        await publish_everything(client, sessions, BIG)
    await rig.confirmed(sessions)
    written = await records_of(rig, rig.topics.log(tenant))
    assert len(written) == SESSIONS * (3 + 2 * BIG)

    # ---- a reader that stalls holds some megabytes, and its end ends the read
    replay = rig.stack.replays[1]
    resident, gone = resident_mib(replay.pid), rig.metric(replay, GONE)
    async with stalled(f"{replay.url}/v1/export/{tenant}", token):
        await until("it is read", lambda: rig.metric(replay, HELD) == 1)
        scanned = -1.0
        while scanned != (scanned := rig.metric(replay, SCANNED)):
            await asyncio.sleep(0.5)  # until nothing more is read
        assert rig.metric(replay, HELD) == 1
        assert resident_mib(replay.pid) - resident < 60
    await until("the read ends", lambda: rig.metric(replay, HELD) == 0)
    assert rig.metric(replay, GONE) == gone + 1

    # ---- export: the command is killed twice, and replay once under it
    out, variables = tmp_path / "out", {"HELIOGRAPH_TOKEN": token, "HELIOGRAPH_REPLAY_URL": rig.replays[0]}
    export = ("export", tenant, "--to", str(out), "--file-size", "1")
    for count in (1, 3):
        running = await Command(variables, *export).start()
        await running.killed_once(lambda n=count: files(out) >= n)  # type: ignore[misc]
        left = ExportDirectory(out).read()
        assert left is not None
        assert not left.complete, "it was not in the middle"
    running = await Command(variables, *export).start()
    await until("some more files", lambda: files(out) >= 5)
    await rig.kill(rig.stack.replays[0])
    await rig.launch(rig.stack.replays[0])
    await running.done()
    await rig.ready(rig.stack.replays[0])
    found = exported(out)
    assert as_set([record for *_, record in found]) == as_set(written)
    places = [place for *place, _ in found]
    assert places == sorted(places)
    assert len(set(map(tuple, places))) == len(places)

    # ---- as Parquet, through the other replay: the same
    table, other = tmp_path / "parquet", {**variables, "HELIOGRAPH_REPLAY_URL": rig.replays[1]}
    await (await Command(other, "export", tenant, "--to", str(table), "--format", "parquet").start()).done()
    assert exported(table) == found

    # ---- import elsewhere, killed in the middle
    async with elsewhere(rig, tmp_path / "elsewhere", tenant) as there:
        topic, import_ = there.topics.log(tenant), ("import", str(out), "--tenant", tenant)
        killed = KILLED_AT_RECORD.format(number=len(written) // 2)
        await (await Command(there.variables, *import_, before=killed).start()).was_killed()
        assert 0 < len(await records_of(rig, topic)) <= len(written) // 2
        await (await Command(there.variables, *import_).start()).done()
        assert as_set(await records_of(rig, topic)) == as_set(written)
        await (await Command(there.variables, *import_).start()).done()
        assert len(await records_of(rig, topic)) == len(written)

        # ---- every session reads there as it did here
        here, away = rig.replays[0], there.tenant.token()
        before = {session: await history(here, token, session) for session in sessions}
        for session in sessions:
            assert len(before[session]) == 3 + 2 * BIG
            assert await history(there.replay, away, session) == before[session]

        # ---- and goes on: what is published there comes behind, and a reader of before resumes into it
        session = sessions[0]
        last_position = json.loads(before[session][-1])["position"]
        async with there.client() as client:
            receipt = await client.publish(session, {"n": "next"})
            assert receipt.position is not None
            assert receipt.position > last_position
            async for item in client.subscribe(session, start=last_position):
                if isinstance(item, Gap):
                    assert (item.reason, item.certain) == ("epoch", False)  # the other Redis is gone, as far as here
                    continue
                assert item.position == receipt.position
                break
        (*old, new) = await history(there.replay, away, session)
        assert old == before[session]
        assert json.loads(new)["position"] == receipt.position


def resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) / 1024
