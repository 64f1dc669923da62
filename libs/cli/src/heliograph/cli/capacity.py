"""`heliograph capacity`: what a load needs, by what one unit of work costs. Talks to nobody."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from heliograph.cli.options import Json, usage
from heliograph.cli.output import fail, note, print_json, print_table
from heliograph.client import HeliographError
from heliograph.core.capacity import Capacity, Costs, Need, Workload, capacity

OURS = "heliograph"
SESSION = "Session path, ack durable"
MEASURED: dict[str, tuple[str, int, str]] = {
    "publish_us": (SESSION, 0, "cpu_per_publication_us"),
    "router_us": (SESSION, -1, "router_cpu_us"),
    "redis_us": (SESSION, -1, "redis_cpu_us"),
    "delivery_us": ("Fan-out", 0, "cpu_per_delivery_us"),
    "connection_kb": ("Connecting, and idle memory", 0, "kb_per_connection"),
}
"""Cost → section, which of its rows, and value in what `make bench ARGS='--json FILE'` writes. The session path is
measured at rising rates: an edge is as busy as it may be at the first, a router and Redis at the last."""


class Row(msgspec.Struct):
    """Of a benchmark's report."""

    section: str
    side: str
    median: dict[str, float]


class Bench(msgspec.Struct):
    """A benchmark's report, as far as it is used."""

    rows: list[Row]


def capacity_(
    connections: Annotated[int, typer.Option(metavar="N", help="Clients connected at once.")],
    messages: Annotated[float, typer.Option(metavar="M", help="Messages published a second, at the busiest time.")],
    subscribers: Annotated[float, typer.Option(metavar="S", help="Of a message, on average.")] = 1.0,
    payload_bytes: Annotated[int, typer.Option(metavar="B", help="Of a message, on average.")] = 1_000,
    sessions: Annotated[
        int | None, typer.Option(metavar="N", help="That have a message within a day. Default: one a connection.")
    ] = None,
    retention_days: Annotated[float, typer.Option(metavar="D", help="Of the log.")] = 7.0,
    replication: Annotated[int, typer.Option(metavar="R", help="Of the log's topics.")] = 3,
    bench: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Costs as measured: what `make bench ARGS='--json FILE'` wrote."),
    ] = None,
    json: Json = False,
) -> None:
    """How many edges, routers, partitions and Redis shards a load needs, and how much memory and disk.

    The formula is in docs/operations.md. The costs are those of the machine named there; measure your own with --bench.
    """
    try:
        load = Workload(connections, messages, subscribers, payload_bytes, sessions, retention_days, replication)
        costs = Costs() if bench is None else measured(bench)
    except HeliographError as error:
        fail(error, json=json)
    found = capacity(load, costs)
    if json:
        print_json({**asdict(found), "load": asdict(load)})
        return
    print_table("", ("what", "how much", "because of"), lines(found))


def lines(found: Capacity) -> list[tuple[str, str, str]]:
    def count(name: str, need: Need) -> tuple[str, str, str]:
        return name, str(need.count), need.because

    return [
        count("edges", found.edges),
        ("  memory of one, for connections", size(found.edge_memory_bytes), "the connections"),
        count("routers", found.routers),
        count("partitions of the log", found.partitions),
        count("shards of the live Redis", found.redis_shards),
        ("  maxmemory, together", size(found.redis_memory_bytes), "hot windows"),
        ("Kafka takes in, together", f"{size(found.kafka_bytes_per_s)}/s", "before compression"),
        ("  disk, together", size(found.kafka_disk_bytes), "before compression"),
    ]


def size(count: float) -> str:
    """Bytes for people: 1.4 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            return f"{count:,.0f} {unit}" if unit == "B" or count >= 100 else f"{count:,.1f} {unit}"
        count /= 1024
    raise AssertionError


def measured(path: Path) -> Costs:
    """Costs from a benchmark's report; what it did not measure stays as it is, and is said."""
    try:
        report = msgspec.json.decode(path.read_bytes(), type=Bench)
    except (OSError, msgspec.DecodeError) as error:
        raise usage(f"{path}: {error}", "Give the file that `make bench ARGS='--json FILE'` wrote.") from None
    values: dict[str, Any] = {}
    for name, (section, which, value) in MEASURED.items():
        rows = [row for row in report.rows if row.section == section and row.side == OURS]
        if rows and value in rows[which].median:
            values[name] = rows[which].median[value]
        else:
            note(f"{path} says nothing of {name}: {getattr(Costs(), name):g} is used")
    return replace(Costs(), **values)
