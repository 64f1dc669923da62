"""What a run found: rows by section, gates, losses, and how that is shown (Markdown) and kept (JSON)."""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

HELIOGRAPH = "heliograph"

FELL_BEHIND_MS = 25.0
"""Half of the deliveries later than this: on an idle machine it is below 2 ms, fan-out to a thousand some 10."""


@dataclass(frozen=True, slots=True)
class Column:
    """One measured value: its heading and how many digits mean anything."""

    heading: str
    digits: int = 0


COLUMNS: dict[str, Column] = {
    "cpu_per_publication_us": Column("CPU µs / publication", 1),
    "cpu_per_delivery_us": Column("CPU µs / delivery", 2),
    "cpu_per_connection_us": Column("CPU µs / connection"),
    "cpu_per_record_us": Column("CPU µs / record", 2),
    "cpu_per_message_us": Column("CPU µs / message", 2),
    "redis_cpu_us": Column("Redis µs", 1),
    "kafka_cpu_us": Column("Kafka µs", 1),
    "router_cpu_us": Column("router µs", 1),
    "kb_per_connection": Column("KB / connection", 1),
    "p50_ms": Column("p50 ms", 2),
    "p99_ms": Column("p99 ms", 2),
    "waited_p50_ms": Column("waited p50 ms", 1),
    "waited_p99_ms": Column("waited p99 ms", 1),
    "quiet_p99_ms": Column("quiet p99 ms", 2),
    "storm_p99_ms": Column("storm p99 ms", 2),
    "worst_p99_ms": Column("worst p99 ms", 2),
    "resumed_p50_s": Column("resumed p50 s", 2),
    "resumed_p99_s": Column("resumed p99 s", 2),
    "resumed_max_s": Column("resumed max s", 2),
    "told_steepness": Column("told, fullest s × mean", 2),
    "came_steepness": Column("came, fullest s × mean", 2),
    "settled_s": Column("settled after s", 2),
    "accepted_per_s": Column("accepted/s"),
    "deferred": Column("deferred"),
    "grown_kib": Column("grown KiB"),
    "connections_per_s": Column("connections/s"),
    "deliveries_per_s": Column("deliveries/s"),
    "indexed_share": Column("indexed %"),
    "records_per_s": Column("records/s"),
    "messages_per_s": Column("messages/s"),
    "took_s": Column("s", 2),
    "busy_share": Column("busy %"),
    "lost": Column("lost"),
    "refused": Column("refused, errors"),
    "others_cores": Column("others' cores", 2),
}
"""In the order they are shown; a table has the columns that any of its rows has. What works behind the server measured
(Redis, Kafka, router) is told for each publication or record, and is no part of the CPU before it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table. `runs` are its single runs, in order; the line shows their medians."""

    section: str
    work: str
    side: str
    runs: Sequence[dict[str, float]]

    def median(self, name: str) -> float | None:
        values = [run[name] for run in self.runs if name in run and math.isfinite(run[name])]
        return statistics.median(values) if values else None

    def spread(self, name: str) -> float | None:
        """(highest - lowest) / median of the runs: how noisy the value is."""
        values = [run[name] for run in self.runs if name in run and math.isfinite(run[name])]
        middle = statistics.median(values) if values else 0.0
        return (max(values) - min(values)) / middle if len(values) > 1 and middle > 0 else None


@dataclass(frozen=True, slots=True)
class Gate:
    """A bound that the run must keep: `value` at most `limit`."""

    name: str
    value: float
    limit: float
    why: str

    @property
    def kept(self) -> bool:
        return math.isfinite(self.value) and self.value <= self.limit


@dataclass(slots=True)
class Report:
    """Filled by the sections."""

    facts: dict[str, str] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    gates: list[Gate] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    """What makes the run worthless whatever the numbers say: a delivery lost, a publish refused, a server that died."""
    notes: list[str] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return bool(self.faults) or any(not gate.kept for gate in self.gates)

    def row(self, section: str, work: str, side: str, runs: Sequence[dict[str, float]]) -> Row:
        added = Row(section, work, side, runs)
        self.rows.append(added)
        return added

    def gate(self, name: str, value: float, limit: float, why: str) -> None:
        self.gates.append(Gate(name, value, limit, why))

    def disturbance(self) -> float:
        """Cores that others kept busy, over all rows: what is above a tenth of one makes numbers doubtful."""
        found = [value for row in self.rows if (value := row.median("others_cores")) is not None]
        return statistics.median(found) if found else 0.0

    def behind(self) -> list[str]:
        """Rows whose server did not keep up: its CPU is that of bigger batches, so it looks cheaper than it is."""
        return [
            f"{row.work}, {row.side}: p50 is {p50:.0f} ms, it fell behind; the CPU told is that of bigger batches"
            for row in self.rows
            if (p50 := row.median("p50_ms")) is not None and p50 > FELL_BEHIND_MS
        ]

    def verdict(self) -> str:
        """One line: what failed, by name."""
        failed = [f"{gate.name}: {gate.value:.2f} is above {gate.limit:g}" for gate in self.gates if not gate.kept]
        if self.faults or failed:
            return "FAILED: " + "; ".join([*self.faults, *failed])
        return f"passed: {len(self.gates)} gates, nothing lost" if self.gates else "passed: nothing lost"

    def markdown(self) -> str:
        parts = ["# Benchmarks", ""]
        parts += [f"- {name}: {value}" for name, value in self.facts.items()]
        for section in dict.fromkeys(row.section for row in self.rows):
            parts += ["", f"## {section}", "", *self._table([row for row in self.rows if row.section == section])]
        if self.gates:
            parts += ["", "## Gates", "", "| gate | reached | at most | |", "| --- | ---: | ---: | --- |"]
            parts += [
                f"| {gate.name} | {gate.value:.2f} | {gate.limit:g} | {'kept' if gate.kept else '**FAILED**'} |"
                for gate in self.gates
            ]
        if self.notes:
            parts += ["", *[f"- {note}" for note in self.notes]]
        parts += ["", f"**{self.verdict()}**"]
        return "\n".join(parts) + "\n"

    @staticmethod
    def _table(rows: Sequence[Row]) -> list[str]:
        shown = [name for name in COLUMNS if any(row.median(name) is not None for row in rows)]
        sides = len({row.side for row in rows}) > 1
        head = ["work", *(["side"] if sides else []), *(COLUMNS[name].heading for name in shown), "runs ±%"]
        lines = [head]
        for row in rows:
            cells = [row.work, *([row.side] if sides else [])]
            for name in shown:
                value = row.median(name)
                cells.append("" if value is None else f"{value:,.{COLUMNS[name].digits}f}")
            spread = next((found for name in shown if (found := row.spread(name)) is not None), None)
            cells.append(f"{len(row.runs)}" + ("" if spread is None else f" ±{spread * 50:.0f}"))
            lines.append(cells)
        widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
        texts = 2 if sides else 1

        def padded(line: list[str]) -> str:
            cells = (
                cell.ljust(width) if at < texts else cell.rjust(width)
                for at, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            return "| " + " | ".join(cells) + " |"

        rule = [("-" * width if at < texts else "-" * (width - 1) + ":") for at, width in enumerate(widths)]
        return [padded(head), "| " + " | ".join(rule) + " |", *map(padded, lines[1:])]

    def json(self) -> str:
        found: dict[str, Any] = {
            "facts": self.facts,
            "rows": [
                {
                    "section": row.section,
                    "work": row.work,
                    "side": row.side,
                    "median": {name: value for name in _names(row.runs) if (value := row.median(name)) is not None},
                    "runs": [{name: value for name, value in run.items() if math.isfinite(value)} for run in row.runs],
                }
                for row in self.rows
            ],
            "gates": [
                {**asdict(gate), "value": gate.value if math.isfinite(gate.value) else None, "kept": gate.kept}
                for gate in self.gates
            ],
            "faults": self.faults,
            "notes": self.notes,
            "failed": self.failed,
        }
        return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def _names(runs: Sequence[dict[str, float]]) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in run))


def paired_ratio(ours: Row, theirs: Row, name: str) -> float:
    """Median over the pairs of neighbouring runs: what disturbs the machine for a while disturbs both of a pair."""
    pairs = zip(ours.runs, theirs.runs, strict=False)
    ratios = [a[name] / b[name] for a, b in pairs if math.isfinite(a[name]) and b[name] > 0]
    return statistics.median(ratios) if ratios else math.inf
