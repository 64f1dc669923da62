"""Sections on the live path: sessions, rooms, fan-out, connecting, idle memory. Sides take turns: A B A B."""

from collections.abc import Sequence
from dataclasses import dataclass

from heliograph.local.bench import gates
from heliograph.local.bench.loads import LoadGenerator, LoadResult, Shape
from heliograph.local.bench.machine import wait_settled
from heliograph.local.bench.report import Report, Row, paired_ratio
from heliograph.local.bench.rig import Rig
from heliograph.local.bench.sides import Side

SESSIONS = (
    Shape("session-2000", "1,000 sessions × 1 subscriber, 2,000/s", 1000, 1000, 50, 2000),
    Shape("session-5000", "1,000 sessions × 1 subscriber, 5,000/s", 1000, 1000, 50, 5000),
)
ROOMS = (Shape("rooms", "100 rooms × 10, 2,000/s", 1000, 100, 50, 2000),)
FANOUT = (Shape("fanout", "1 session × 1,000, 150/s", 1000, 1, 1, 150),)
"""150,000 deliveries a second keep one core busy without drowning it, at 5 µs each."""
OWN_FANOUT = (Shape("fanout", "1 session × 1,000, 20/s", 1000, 1, 1, 20),)
"""For the generator in Python, which has to read all that."""
CONNECT = (Shape("connect", "3,000 connections, each subscribed to a session of its own", 3000, 3000, 1, 0),)
CONNECT_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class LiveBench:
    """What the sections of the live path share."""

    rig: Rig
    report: Report
    load: LoadGenerator
    sides: Sequence[Side]
    seconds: float
    repeat: int
    edge_cpu_ratio: float = gates.EDGE_CPU_RATIO

    def session(self) -> None:
        for shape in SESSIONS:
            rows = self.measure("Session path, ack durable", shape)
            self._gate(rows, f"{shape.name}: CPU per publication", "cpu_per_publication_us", self.edge_cpu_ratio)

    def rooms(self) -> None:
        for shape in ROOMS:
            self.measure("Rooms", shape)

    def fanout(self) -> None:
        for shape in OWN_FANOUT if self.load.own else FANOUT:
            rows = self.measure("Fan-out", shape)
            self._gate(rows, f"{shape.name}: CPU per delivery", "cpu_per_delivery_us", self.edge_cpu_ratio)

    def connect(self) -> None:
        for shape in CONNECT:
            rows = self.measure("Connecting, and idle memory", shape, seconds=CONNECT_SECONDS, fresh=True)
            self._gate(rows, "idle memory per connection", "kb_per_connection", gates.IDLE_MEMORY_RATIO)

    def measure(self, section: str, shape: Shape, *, seconds: float = 0.0, fresh: bool = False) -> list[Row]:
        """One row a side. Each side begins as a fresh process; `fresh`: in every run, for what memory is reused."""
        for side in self.sides:
            side.start()
        runs: dict[str, list[dict[str, float]]] = {side.name: [] for side in self.sides}
        for number in range(1, self.repeat + 1):
            for side in self.sides:
                if fresh and number > 1:
                    side.start()
                wait_settled(side.pids)
                result = self.load.run(side.target(), shape, seconds or self.seconds, self.rig.cores)
                values = figures(result)
                runs[side.name].append(values)
                self._judge(shape, side, number, result)
                self.rig.progress(f"{shape.name} {number}/{self.repeat} {side.name}: {describe(result)}")
        return [self.report.row(section, shape.work, side.name, runs[side.name]) for side in self.sides]

    def _judge(self, shape: Shape, side: Side, number: int, result: LoadResult) -> None:
        where = f"{shape.name} run {number} of {side.name}"
        if result.lost or result.refused:
            what = "did not come" if result.lost >= 0 else "came too many"
            self.report.faults.append(
                f"{where}: {abs(result.lost)} of {result.expected} deliveries {what} within 5 s of the last publish,"
                f" {result.refused} refusals or errors {result.first_error}".rstrip()
            )
        trouble = side.trouble()
        if trouble:
            self.report.faults.append(f"{where}: {trouble}")

    def _gate(self, rows: Sequence[Row], name: str, value: str, limit: float) -> None:
        if len(rows) == 2:
            ours, theirs = rows
            why = "median of the runs' ratios to the reference"
            self.report.gate(f"{name}, × reference", paired_ratio(ours, theirs, value), limit, why)


def figures(result: LoadResult) -> dict[str, float]:
    """The result as columns; what was not done (no publication) is left out."""
    usage = result.usage
    found = {
        "lost": float(result.lost),
        "refused": float(result.refused),
        "others_cores": usage.others_cores,
    }
    if result.sent:
        found |= {
            "cpu_per_publication_us": result.cpu_per_publication_us,
            "cpu_per_delivery_us": result.cpu_per_delivery_us,
            "p50_ms": result.p50_ms,
            "p99_ms": result.p99_ms,
            "deliveries_per_s": result.deliveries_per_s,
            "busy_share": result.busy_percent,
        }
        behind = {name: spent for name, spent in usage.cpu_s.items() if name != "server"}
        found |= {f"{name}_cpu_us": spent / result.sent * 1e6 for name, spent in behind.items()}
    else:
        found |= {
            "connections_per_s": result.connections_per_s,
            "cpu_per_connection_us": result.cpu_per_connection_us,
            "kb_per_connection": result.kb_per_connection,
        }
    return found


def describe(result: LoadResult) -> str:
    """A run in one line, for whoever waits."""
    if not result.sent:
        return (
            f"{result.connections_per_s:,.0f} connections/s, {result.cpu_per_connection_us:.0f} µs and"
            f" {result.kb_per_connection:.1f} KB each; others used {result.usage.others_cores:.1f} cores"
        )
    trouble = f", LOST {result.lost}, {result.refused} refused" if result.lost or result.refused else ""
    return (
        f"{result.cpu_per_publication_us:.1f} µs/publication, {result.cpu_per_delivery_us:.2f} µs/delivery,"
        f" p50 {result.p50_ms:.2f} p99 {result.p99_ms:.2f} ms, {result.deliveries_per_s:,.0f} deliveries/s{trouble};"
        f" others used {result.usage.others_cores:.1f} cores"
    )
