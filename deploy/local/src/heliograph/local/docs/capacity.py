"""The tables of docs/operations.md on capacity: the arithmetic with its numbers, and loads worked out."""

from heliograph.cli.capacity import size
from heliograph.core import capacity as rules
from heliograph.core.capacity import Costs, Workload, capacity
from heliograph.core.limits import RECORD_OVERHEAD_BYTES, WINDOW_BYTES, WINDOW_MESSAGES
from heliograph.local.docs.tables import as_table

COSTS: dict[str, tuple[str, str]] = {
    "publish_us": ("µs of an edge's core: a message to one subscriber, and into the log", "--only session"),
    "delivery_us": ("µs of an edge's core: each further subscriber", "--only fanout"),
    "connection_kb": ("KB of an edge's memory: a connection that is subscribed", "--only connect"),
    "router_us": ("µs of a router's core: a message", "--only session"),
    "redis_us": ("µs of the live Redis' core: a message", "--only session"),
}
EXAMPLES: tuple[tuple[str, Workload], ...] = (
    ("a first installation", Workload(1_000, 200, sessions=1_000)),
    ("agents in conversations", Workload(20_000, 5_000, sessions=20_000)),
    ("the same, each message to 10", Workload(20_000, 5_000, subscribers=10, sessions=20_000)),
    ("many, seldom", Workload(500_000, 5_000, sessions=500_000)),
    ("streams of tokens", Workload(100_000, 50_000, payload_bytes=200, sessions=50_000, retention_days=1)),
)


def capacity_tables() -> str:
    """The formula, what went into it, and examples."""
    return "\n\n".join((_formula(), _measured(), _examples())) + "\n"


def _formula() -> str:
    stored = f"(payload + {RECORD_OVERHEAD_BYTES})"
    return as_table(
        ("of", "how many, rounded up", "why that share"),
        [
            (
                "edges",
                f"the higher of N / {rules.EDGE_CONNECTIONS:,} and M × (`publish_us` + (S − 1) × `delivery_us`) / 10⁶ /"
                f" {rules.EDGE_BUSY:g}; and {rules.EDGE_SPARE} more",
                "What is left takes the clients of an edge that goes. Fleets add edges at 70 %",
            ),
            (
                "routers",
                f"M × `router_us` / 10⁶ / {rules.ROUTER_BUSY:g}; {rules.LEAST_ROUTERS} at least",
                "A backlog shrinks faster than it grew, also with one less",
            ),
            (
                "partitions",
                f"{rules.PARTITIONS_OF_A_ROUTER} × routers; {rules.LEAST_PARTITIONS} at least",
                "Shared out evenly enough with a router less; of all tenants' logs, of which a large one has its part",
            ),
            (
                "shards of the live Redis",
                f"M × `redis_us` / 10⁶ / {rules.REDIS_BUSY:g}",
                "One core each; history and reconnects come on top",
            ),
            (
                "`maxmemory` of all",
                f"sessions × ({rules.SESSION_BYTES:,} + messages of a day (at most {WINDOW_MESSAGES:,}) × {stored}, at"
                f" most {size(WINDOW_BYTES)}) / {rules.REDIS_FULL:g}",
                "Windows grow while Kafka is away; from 80 % on edges give way",
            ),
            ("Kafka's disks", f"M × {stored} × replication × retention", "Before compression; and a third free"),
        ],
    )


def _measured() -> str:
    costs = Costs()
    rows = [
        (f"`{name}`", f"{getattr(costs, name):g}", what, f"`make bench ARGS='{section}'`")
        for name, (what, section) in COSTS.items()
    ]
    machine = (
        "What one of each costs, on two cores of an AMD EPYC which Kafka, Redis and the load shared. The CPU of a"
        " message falls with the rate, so each is taken where the part is about as busy as it may be: an edge at"
        " 2,000/s, a router and Redis at 5,000/s."
    )
    return f"{machine}\n\n" + as_table(("", "measured", "what", "by"), rows)


def _examples() -> str:
    rows = []
    for name, load in EXAMPLES:
        found = capacity(load)
        rows.append(
            (
                name,
                f"{load.connections:,}",
                f"{load.messages_per_s:,.0f}",
                f"{load.subscribers:g}",
                f"{found.edges.count} ({found.edges.because})",
                str(found.routers.count),
                str(found.partitions.count),
                f"{found.redis_shards.count}, {size(found.redis_memory_bytes)}",
                f"{size(found.kafka_disk_bytes)}",
            )
        )
    head = ("for example", "N", "M", "S", "edges", "routers", "partitions", "Redis shards, memory", "Kafka's disks")
    before = "Payloads of 1,000 bytes (streams: 200), 7 days of retention (streams: 1), replication 3:"
    return "\n\n".join((before, as_table(head, rows), _worked()))


def _worked() -> str:
    """The last example's edges and routers, step by step."""
    (name, load), costs = EXAMPLES[-1], Costs()
    found = capacity(load)
    rate, edges = load.messages_per_s, found.edges.count - rules.EDGE_SPARE
    edge_cores, router_cores = (rate * one / 1e6 for one in (costs.publish_us, costs.router_us))
    by_connections = load.connections // rules.EDGE_CONNECTIONS
    steps = (
        f"{rate:,.0f} × {costs.publish_us:g} µs are {edge_cores:.2f} cores, at {rules.EDGE_BUSY:g} of one each",
        f"{edges} edges, more than the {by_connections} that connections ask for; and one more.",
        f"{rate:,.0f} × {costs.router_us:g} µs are {router_cores:.2f} cores, at {rules.ROUTER_BUSY:g} of one each",
        f"{found.routers.count} routers, so {found.partitions.count} partitions.",
    )
    return f"The {name}, step by step: {' '.join(steps)}"
