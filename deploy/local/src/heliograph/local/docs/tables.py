"""The tables of docs/reference: codes, Redis keys, topics, headers."""

from collections.abc import Iterable, Sequence

from heliograph.core.limits import VIRTUAL_SHARDS
from heliograph.protocol.codes import CLOSES, CODES, GapReason
from heliograph.protocol.headers import HEADERS
from heliograph.protocol.messages import OWN_EVENT_TYPES
from heliograph.protocol.schemas import attribute_docs
from heliograph.protocol.tenants import DAY_S, RETENTION_CLASSES, TopicsSettings
from heliograph.stores.events import MEANINGS
from heliograph.stores.keys import REDIS_KEYS, SHARED, Topics

_STORES = {
    "live": "The live path: sequencing, hot windows, delivery. Keys of a session share its virtual shard's hash tag.",
    "metadata": "Who is where, tenants, the index of the log. May be another Redis.",
    "token": "Shared token buckets. May be another Redis.",
}


def close_codes_page() -> str:
    rows = [
        (str(close.code), f"`{close.name}`", "yes, with backoff" if close.come_back else "no", close.meaning)
        for close in CLOSES.values()
    ]
    return page(
        "Close codes",
        "heliograph.protocol.codes",
        "The number of a WebSocket close code says what a client should do: **4000 to 4499 come back** with backoff,"
        " **4500 to 4999 do not come back** (something must change first). So a client can obey codes that it does not"
        " know. A connection that ends without a code (1005, 1006) was cut off: come back. The name is sent as the"
        " close reason.",
        as_table(("code", "name", "come back", "meaning"), rows),
    )


def codes_page() -> str:
    rows = [(f"`{code.code}`", str(code.http), "yes" if code.retry else "no", code.meaning) for code in CODES.values()]
    reasons = attribute_docs(GapReason)
    gaps = [(f"`{getattr(GapReason, name)}`", text) for name, text in reasons.items() if name != "ALL"]
    return page(
        "Codes",
        "heliograph.protocol.codes",
        "The `code` of a `refused` or `error` frame, and of an HTTP answer (with the status beside it). Codes are"
        " added, never renamed or reused. *Retry*: the same request may succeed later as it is, after"
        " `retry_after_ms` where that is given.",
        as_table(("code", "HTTP", "retry", "meaning"), rows),
        "## Gaps",
        "The `reason` of a `gap` frame and of a gap in a page of history: why positions will not come.",
        as_table(("reason", "meaning"), gaps),
    )


def redis_keys_page() -> str:
    parts: list[str] = []
    for store in dict.fromkeys(key.store for key in REDIS_KEYS):
        rows = [
            (f"`{key.pattern}`", key.shape, key.ttl, key.writer, key.meaning)
            for key in REDIS_KEYS
            if key.store == store
        ]
        parts += [
            f"## {store.capitalize()} store",
            _STORES[store],
            as_table(("key", "shape", "TTL", "written by", "what it is"), rows),
        ]
    return page(
        "Redis keys",
        "heliograph.stores.keys",
        f"`{{vN}}` is the virtual shard of a session, crc32 of its key mod {VIRTUAL_SHARDS}, and the Redis hash tag:"
        " everything one function call touches lies in one slot. Formats are ours and change with versions: read them"
        " through the services, not directly.",
        *parts,
    )


def store_events_page() -> str:
    parts: list[str] = []
    for store, events in MEANINGS.items():
        rows = [(f"`{event}`", meaning) for event, meaning in events.items()]
        parts += [f"## `{store}`", as_table(("event", "meaning"), rows)]
    return page(
        "Events of the stores",
        "heliograph.stores.events",
        "`heliograph_<service>_store_events_total{store, event}`, of each service: what happened between it and the"
        " live Redis (`live`) or Kafka (`log`) since it was started. Each is dealt with where it happens; only"
        " `offset_skipped` may mean that records are gone."
        " `heliograph_<service>_store_errors_total{store, code}` counts errors that were told: of Kafka by"
        " librdkafka's names (those of a client by itself begin with `client:`), of the live Redis by our codes, of"
        " the `metadata` Redis (and the token store) by redis-py's classes.",
        *parts,
    )


def topics_and_headers_page() -> str:
    topics = Topics("heliograph")
    defaults = TopicsSettings()
    log_days, deferred_days = defaults.log.retention_s // DAY_S, defaults.deferred.retention_s // DAY_S
    rows = [
        (
            topics.log("TENANT"),
            "edge, router",
            f"{log_days} days",
            "The log: every message with a position, and our own records.",
        ),
        (
            topics.agent_type_log("TENANT", "AGENT-TYPE"),
            "edge, router",
            "the agent type's",
            "The same, of an agent type with a retention of its own.",
        ),
        (
            topics.deferred("TENANT"),
            "edge",
            f"{deferred_days} days",
            "Control messages that the live path could not take; the router delivers them and writes them to the log.",
        ),
        (
            topics.telemetry("TENANT"),
            "edge",
            "the tenant's",
            "Telemetry, where the tenant wants it logged. No positions.",
        ),
        (
            f"{topics.prefix}.{SHARED}.CLASS.log",
            "edge, router",
            "the class's",
            "Instead of their own for tenants whose `isolation` is `shared` (`.deferred` and `.telemetry` likewise): "
            + ", ".join(RETENTION_CLASSES)
            + "; the smallest that keeps as long as the tenant wants. Readers enforce what it wants.",
        ),
        (
            topics.dead,
            "router",
            "the brokers'",
            "Records that can't be read, as they were, with the reason in headers.",
        ),
    ]
    headers = [
        (f"`{header.name}`", "always" if header.always else header.when, header.meaning, f"`{header.example}`")
        for header in HEADERS
    ]
    own = ", ".join(f"`{event_type}`" for event_type in OWN_EVENT_TYPES)
    return page(
        "Topics and headers",
        "heliograph.stores.keys and heliograph.protocol.headers",
        "`heliograph` is the installation's prefix (a setting). Names hold dots only between their parts, because"
        " tenants and agent types are DNS labels. Retention is the default where the tenant says nothing.",
        as_table(("topic", "written by", "retention", "what is in it"), [(f"`{row[0]}`", *row[1:]) for row in rows]),
        "Key: the session, UTF-8; its murmur2 chooses the partition, as Java's clients do. Value: the payload as it was"
        " published; bytes themselves where the content type is not JSON. Order in a partition is nearly, not exactly,"
        " by position: the position is the order.",
        "## Headers",
        "CloudEvents 1.0, Kafka binding, binary mode: any consumer that knows CloudEvents can read the log without our"
        f" code. Records with `ce_type` {own} are Heliograph's own; publishers can't use that prefix.",
        as_table(("header", "when", "meaning", "example"), headers),
    )


def page(title: str, source: str, *parts: str) -> str:
    """A generated page: a heading, and its parts with a line between."""
    head = f"<!-- Generated from {source} by `make docs`. Do not edit. -->\n\n# {title}"
    return "\n\n".join((head, *parts)) + "\n"


def as_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
