"""The section on replay: one session's messages among many others', beside a bare scan of the same partition."""

import http.client
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass

from heliograph.core.partitions import partition_of
from heliograph.core.positions import Position
from heliograph.local.bench import gates
from heliograph.local.bench.fill import fill_log, one_among_many
from heliograph.local.bench.machine import Meter, wait_settled
from heliograph.local.bench.report import HELIOGRAPH, Report, paired_ratio
from heliograph.local.bench.rig import AGENT_TYPE, LIMITS_OUT_OF_THE_WAY, PARTITIONS, Rig
from heliograph.local.bench.routing import run_bare
from heliograph.local.errors import LocalError
from heliograph.local.ports import LOOPBACK
from heliograph.local.tenant import DevelopmentTenant
from heliograph.protocol.messages import frame_position
from heliograph.stores.keys import Topics

TENANT = "bench-history"
SESSION_ID = "wanted"
WANTED = 100_000
OTHERS = 1_000_000
OTHER_SESSIONS = 10_000
READ_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class HistoryBench:
    """The log is filled once, then read in turns."""

    rig: Rig
    report: Report
    repeat: int
    wanted: int = WANTED
    others: int = OTHERS

    def replay(self) -> None:
        for name in ("edge", "router", "registry"):
            self.rig.stop(name)
        tenant = DevelopmentTenant(self.rig.directory / TENANT, TENANT, LIMITS_OUT_OF_THE_WAY)
        self.rig.add_tenant(tenant)
        session, topic = f"{TENANT}:{AGENT_TYPE}:{SESSION_ID}", Topics("heliograph").log(TENANT)
        total = self.wanted + self.others
        self.rig.progress(f"filling {total:,} records in {PARTITIONS} partitions")
        messages = one_among_many(session, TENANT, wanted=self.wanted, others=self.others, sessions=OTHER_SESSIONS)
        fill_log(self.rig.kafka.bootstrap_servers, topic, messages, self.rig.progress)
        self.rig.service("replay")
        token, ours, bare = tenant.token("bench"), list[dict[str, float]](), list[dict[str, float]]()
        for number in range(1, self.repeat + 1):
            bare.append(self._bare_scan(topic, session, number))
            self.rig.progress(f"replay {number}/{self.repeat} bare scan: {_described(bare[-1])}")
            ours.append(self._read(token, number))
            self.rig.progress(f"replay {number}/{self.repeat} {HELIOGRAPH}: {_described(ours[-1])}")
        section = "Replay"
        work = f"{self.wanted:,} messages of a session, {total:,} records in {PARTITIONS} partitions"
        row, base = self.report.row(section, work, HELIOGRAPH, ours), self.report.row(section, work, "bare scan", bare)
        why = "median of the runs' ratios to a scan of the session's partition"
        for name, value in (("CPU", "cpu_per_message_us"), ("time", "took_s")):
            ratio = paired_ratio(row, base, value)
            self.report.gate(f"replay: {name}, × bare scan", ratio, gates.REPLAY_COST_RATIO, why)

    def _settle(self) -> None:
        wait_settled([pid for pids in self.rig.behind().values() for pid in pids])

    def _bare_scan(self, topic: str, session: str, number: int) -> dict[str, float]:
        self._settle()
        meter = Meter(self.rig.behind())
        options = {
            "topic": topic,
            "group": f"bench-scan-{number}",
            "key": session,
            "partition": partition_of(session.encode(), PARTITIONS),
            "records": self.wanted,
        }
        found = run_bare("scan", self.rig.kafka.bootstrap_servers, options)
        return {
            "messages_per_s": self.wanted / found["took_s"],
            "records_per_s": found["records"] / found["took_s"],
            "cpu_per_message_us": found["cpu_s"] / self.wanted * 1e6,
            "took_s": found["took_s"],
            "others_cores": meter.read().others_cores,
        }

    def _read(self, token: str, number: int) -> dict[str, float]:
        self._settle()
        meter, at = Meter(self.rig.behind()), time.monotonic()
        body = self._get(f"/v1/history/{TENANT}/{AGENT_TYPE}/{SESSION_ID}?format=ndjson", token)
        took_s, usage = time.monotonic() - at, meter.read()
        missing, fault = judge(body, self.wanted)
        if fault:
            self.report.faults.append(f"replay run {number}: {fault}")
        return {
            "messages_per_s": self.wanted / took_s,
            "cpu_per_message_us": usage.cpu_s["replay"] / self.wanted * 1e6,
            "took_s": took_s,
            "lost": float(missing),
            "others_cores": usage.others_cores,
        }

    def _get(self, path: str, token: str) -> bytes:
        connection = http.client.HTTPConnection(LOOPBACK, self.rig.service("replay").port, timeout=READ_TIMEOUT_S)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise LocalError(f"replay did not answer: {type(error).__name__}: {error}") from None
        finally:
            connection.close()
        if response.status != http.HTTPStatus.OK:
            raise LocalError(f"replay answered {response.status}: {body[:300].decode(errors='replace')}")
        return body


def judge(body: bytes, wanted: int) -> tuple[int, str]:
    """How many of the messages 1 … `wanted` are not in the stream, and what is wrong with it otherwise."""
    *lines, end = body.splitlines()
    seqs: list[int] = []
    strange = 0
    for line in lines:
        position = frame_position(line)
        if position is None:
            strange += 1
        else:
            seqs.append(Position.parse(position.decode()).seq)
    missing = wanted - len(seqs)
    if strange:
        return missing, f"{strange} lines are no messages"
    if seqs != list(range(1, wanted + 1)):
        return missing, f"{len(seqs)} of {wanted} messages came, or not in order"
    if not json.loads(end).get("complete"):
        return missing, "the stream does not say that it is complete"
    return missing, ""


def _described(values: Mapping[str, float]) -> str:
    return (
        f"{values['took_s']:.2f} s, {values['cpu_per_message_us']:.1f} µs/message;"
        f" others used {values['others_cores']:.1f} cores"
    )
