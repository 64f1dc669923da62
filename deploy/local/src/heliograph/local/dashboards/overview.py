"""The overview: rows in the order in which somebody who was woken asks.

Is it fine? Can people connect? Are messages in time? Is anything lost or late? How are the stores? The fleet?
"""

from collections.abc import Sequence

from grafana_foundation_sdk.builders import stat, timeseries
from grafana_foundation_sdk.builders.dashboard import Dashboard, DatasourceVariable, QueryVariable, Row
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    VariableRefresh,
    VariableSort,
)

from heliograph.local.dashboards.panels import (
    BYTES,
    COUNT,
    DATASOURCE,
    MESSAGES_PER_S,
    PER_S,
    RATIO,
    SECONDS,
    Query,
    numbers,
    of,
    quantiles,
    rate,
    series,
    total,
    worst_pod,
)

UID = "heliograph-overview"
TITLE = "Heliograph overview"

SERVICES = ("edge", "router", "replay", "registry", "operator")
OURS = 'component=~"edge|router|replay|registry|operator"'

Panel = timeseries.Panel | stat.Panel


def is_it_fine() -> list[Panel]:
    ready = [Query(f"{total(f'heliograph_{name}_ready')} or vector(0)", name) for name in SERVICES]
    return [
        numbers(
            "Ready pods",
            "Pods that can serve, by service. Red: none is ready. Each one's /readyz says what it waits for.",
            COUNT,
            *ready,
            red_below=1,
        ),
        series(
            "Alerts",
            "Heliograph's alerts that fire, in all namespaces. Each carries its runbook, or a link to it.",
            COUNT,
            Query(
                'count by (alertname, severity) (ALERTS{alertname=~"Heliograph.+", alertstate="firing"})',
                "{{severity}}: {{alertname}}",
            ),
        ),
        series(
            "Pressure",
            "How hard it is going, the worst of all edges: live is Redis, log is Kafka, edge the process. "
            "From high on telemetry is not served, at critical events are refused.",
            COUNT,
            Query(f"max by (source) ({of('heliograph_edge_pressure_level')})", "{{source}}"),
            most=3,
            limit=2,
            names=("normal", "elevated", "high", "critical"),
        ),
        series(
            "Messages published",
            "Messages taken, by class, all edges together.",
            MESSAGES_PER_S,
            Query(rate("heliograph_edge_published_total", "class"), "{{class}}"),
        ),
        series(
            "Messages delivered",
            "Messages sent to subscribers, by edge. One edge far above the others: its sessions have many subscribers.",
            MESSAGES_PER_S,
            Query(rate("heliograph_edge_deliveries_total", "pod"), "{{pod}}"),
        ),
        series(
            "Refusals",
            "By code. backlog, live_unavailable, log_unavailable, overloaded: the system. rate_limited, "
            "quota_exceeded: a tenant above what it may.",
            PER_S,
            Query(rate("heliograph_edge_refused_total", "code"), "{{code}}"),
        ),
    ]


def can_people_connect() -> list[Panel]:
    return [
        series(
            "Connections",
            "Open connections, by edge. They should be about equal, and below what one edge was measured for.",
            COUNT,
            Query(total("heliograph_edge_connections", "pod"), "{{pod}}"),
        ),
        series(
            "Opened and closed",
            "Connections accepted, and closed by edges, by reason. Reconnects after a drain are a hill here.",
            PER_S,
            Query(rate("heliograph_edge_connections_opened_total"), "opened"),
            Query(rate("heliograph_edge_connections_closed_total", "reason"), "closed: {{reason}}"),
        ),
        series(
            "No room for newcomers",
            "Handshakes sent away, by what was used up: pace and at_once (storms), descriptors, pressure, not_ready.",
            PER_S,
            Query(rate("heliograph_edge_admission_refused_total", "cause"), "{{cause}}"),
        ),
        series(
            "Handshakes refused",
            "Handshakes refused, by code, and what was no request.",
            PER_S,
            Query(rate("heliograph_edge_handshakes_refused_total", "code"), "{{code}}"),
            Query(rate("heliograph_edge_connections_over_limit_total", "limit"), "over the limit of the {{limit}}"),
        ),
        series(
            "Tokens refused",
            "By reason. token_expired alone is usual; token_key_unknown or token_signature_invalid: keys that were not "
            "applied, or somebody tries.",
            PER_S,
            Query(rate("heliograph_edge_tokens_refused_total", "reason"), "{{reason}}"),
        ),
        series(
            "Sockets of those there may be",
            "Sockets that an edge has, of those its descriptors allow. At all of them newcomers are refused.",
            RATIO,
            Query(
                f"{of('heliograph_edge_open_sockets')} / {of('heliograph_edge_open_sockets_most')}",
                "{{pod}}",
            ),
            limit=0.8,
        ),
    ]


def are_messages_in_time() -> list[Panel]:
    return [
        series(
            "Publish to Redis",
            "From publish to the live store's answer, which is when subscribers get the message.",
            SECONDS,
            *quantiles("heliograph_edge_append_seconds", "accepted"),
            limit=0.05,
        ),
        series(
            "Publish to Kafka",
            "From publish to the log's acknowledgement: durable. From a second on publishers are told pending.",
            SECONDS,
            *quantiles("heliograph_edge_log_seconds", "durable"),
            limit=0.5,
        ),
        series(
            "Kafka to confirmed",
            "From a record's time in the log until Redis knows: what is not confirmed is kept there.",
            SECONDS,
            *quantiles("heliograph_router_confirm_seconds", "confirmed"),
            limit=5,
        ),
        series(
            "Lateness of edges",
            "99th percentile of how late an edge's event loop is: every message through it is that late.",
            SECONDS,
            worst_pod("heliograph_edge_loop_lag_seconds"),
            limit=0.1,
        ),
        series(
            "History for who was away",
            "Reading a page from the log for a subscriber that is behind the hot window.",
            SECONDS,
            *quantiles("heliograph_replay_rehydration_seconds", "page"),
            limit=1,
        ),
        series(
            "Slow readers",
            "Readers that fell behind and are served from the hot window, and pages that wait for their turn.",
            COUNT,
            Query(rate("heliograph_edge_catch_ups_total"), "fell behind, a second"),
            Query(total("heliograph_edge_history_reads_waiting"), "reads waiting"),
        ),
    ]


def is_anything_lost_or_late() -> list[Panel]:
    return [
        series(
            "Gaps told to subscribers",
            "By reason. retention and expired are as somebody wants it; never_written is lost; the others: history "
            "could not be read.",
            PER_S,
            Query(rate("heliograph_edge_gaps_total", "reason"), "{{reason}}"),
        ),
        series(
            "Written late, or never",
            "Messages that routers wrote to Kafka for an edge that could not, and those that are lost. The second must "
            "stay at 0.",
            MESSAGES_PER_S,
            Query(rate("heliograph_router_reconciled_total"), "reconciled"),
            Query(rate("heliograph_router_never_written_total"), "never written"),
            Query(rate("heliograph_edge_log_failures_total", "code"), "not taken by Kafka: {{code}}"),
        ),
        series(
            "Answered before Kafka had it",
            "Publishes told pending, and deferred to Kafka since Redis was away. Both should be 0.",
            MESSAGES_PER_S,
            Query(rate("heliograph_edge_pending_total"), "pending"),
            Query(rate("heliograph_edge_deferred_total"), "deferred"),
        ),
        series(
            "Waiting for their place",
            "Deferred messages that are not in their session yet, and sessions with old messages that can't be "
            "written. Both fall to 0 within seconds of a store's return.",
            COUNT,
            Query(total("heliograph_router_deferred_pending"), "deferred"),
            Query(total("heliograph_router_reconcile_blocked_sessions", "reason"), "blocked: {{reason}}"),
        ),
        series(
            "Routers behind",
            "Records not worked on, by router. At the bound of unconfirmed messages publishes get backlog.",
            COUNT,
            Query(total("heliograph_router_lag_records", "pod"), "{{pod}}"),
            limit=10_000,
        ),
        series(
            "Dead letters",
            "Records that can't be read, by reason: somebody else writes to our topics.",
            PER_S,
            Query(rate("heliograph_router_dead_letters_total", "reason"), "{{reason}}"),
        ),
        series(
            "Telemetry dropped",
            "Telemetry goes first: dropped under pressure by reason, and shed for readers that are slow.",
            MESSAGES_PER_S,
            Query(rate("heliograph_edge_telemetry_dropped_total", "reason"), "dropped: {{reason}}"),
            Query(rate("heliograph_edge_telemetry_shed_total"), "shed for slow readers"),
        ),
        series(
            "Live frames repaired",
            "Sessions whose live frames had a hole and were read again, by cause. Steadily: pub/sub loses messages.",
            PER_S,
            Query(rate("heliograph_edge_repairs_total", "cause"), "{{cause}}"),
        ),
        series(
            "Errors nobody foresaw",
            "Crashes of background tasks, and requests or records that met an error of ours. The log has each.",
            PER_S,
            Query(rate("heliograph_edge_task_crashes_total", "task"), "edge: {{task}}"),
            Query(rate("heliograph_router_task_crashes_total", "task"), "router: {{task}}"),
            Query(rate("heliograph_edge_http_errors_total"), "edge: requests"),
            Query(rate("heliograph_router_work_errors_total"), "router: batches"),
        ),
    ]


def how_are_the_stores() -> list[Panel]:
    def worst(metric: str, legend: str) -> Query:
        return Query(f"max ({of(metric)})", legend)

    return [
        series(
            "Redis: memory",
            "What the live Redis uses of maxmemory; 0: it has no limit. Telemetry goes at 90 %, events at 97 %.",
            RATIO,
            worst("heliograph_edge_pressure_live_memory_ratio", "live Redis"),
            limit=0.8,
            most=1,
        ),
        series(
            "Redis: answers",
            "Median of the live Redis' answers over three seconds, by edge. One edge alone: that edge, not Redis.",
            SECONDS,
            Query(of("heliograph_edge_pressure_live_latency_seconds"), "{{pod}}"),
            limit=0.5,
        ),
        series(
            "Redis: not reached",
            "Edges that can't reach the live Redis, and those that can't ask the token or the metadata store.",
            COUNT,
            Query(total("heliograph_edge_pressure_live_away"), "live Redis away"),
            Query(f"count({of('heliograph_edge_quotas_on_share')} > 0) or vector(0)", "token store away"),
            Query(total("heliograph_edge_usage_on_share"), "metadata Redis away"),
        ),
        series(
            "Kafka: oldest record that waits",
            "Age of the oldest record that Kafka has not acknowledged, the worst of all edges. From 9 s on copies of "
            "telemetry are given up.",
            SECONDS,
            worst("heliograph_edge_pressure_log_oldest_seconds", "oldest"),
            limit=3,
        ),
        series(
            "Kafka: records that wait",
            "Records that edges have given to Kafka and that it has not acknowledged.",
            COUNT,
            Query(total("heliograph_edge_log_in_flight_records", "pod"), "{{pod}}"),
        ),
        series(
            "Failed reads",
            "Pages of history that edges could not have, and stores that failed replays.",
            PER_S,
            Query(rate("heliograph_edge_history_failures_total", "source"), "edges: {{source}}"),
            Query(rate("heliograph_replay_store_failures_total", "store"), "replay: {{store}}"),
            Query(rate("heliograph_replay_requests_refused_total", "reason"), "replay refused: {{reason}}"),
        ),
        series(
            "What happened at the stores",
            "Connections lost, clients replaced, partitions moved: docs/reference/store-events.md has all.",
            PER_S,
            Query(
                "sum by (store, event) (rate({"
                f'__name__=~"heliograph_({"|".join(SERVICES)})_store_events_total", namespace="$namespace"'
                "}[$__rate_interval]))",
                "{{store}}: {{event}}",
            ),
        ),
    ]


def how_is_the_fleet() -> list[Panel]:
    return [
        series(
            "Edges",
            "Edges of all fleets: wanted, there, ready, draining; and those whose lease holds, as registries count.",
            COUNT,
            Query(total("heliograph_operator_fleet_edges", "state"), "{{state}}"),
            Query(f"max ({of('heliograph_registry_edges')})", "with a lease"),
        ),
        series(
            "Tenants and fleets that are not as they should be",
            "Tenants by the condition that is not met, fleets by state: kubectl describe says why.",
            COUNT,
            Query(total("heliograph_operator_tenants_unmet", "condition"), "Tenants, not {{condition}}"),
            Query(total("heliograph_operator_fleets", "state", matching=['state!="all"']), "fleets, {{state}}"),
        ),
        series(
            "Reconcile errors",
            "Looks at objects that failed, by kind and reason; each is tried again.",
            PER_S,
            Query(rate("heliograph_operator_reconcile_errors_total", "kind", "reason"), "{{kind}}: {{reason}}"),
        ),
        series(
            "Edges lost",
            "Edges that died without a drain, and those not buried yet.",
            COUNT,
            Query(f"sum (increase({of('heliograph_registry_reaped_edges_total')}[$__rate_interval]))", "buried"),
            Query(f"max ({of('heliograph_registry_lapsed_edges')})", "not buried yet"),
        ),
        series(
            "CPU",
            "Cores used, by pod. A process uses one: near 1 it is full.",
            COUNT,
            Query(rate("process_cpu_seconds_total", "pod", matching=[OURS]), "{{pod}}"),
            limit=0.9,
        ),
        series(
            "Memory",
            "Resident memory, by pod.",
            BYTES,
            Query(total("process_resident_memory_bytes", "pod", matching=[OURS]), "{{pod}}"),
        ),
    ]


ROWS = (
    ("Is it fine?", is_it_fine),
    ("Can people connect?", can_people_connect),
    ("Are messages in time?", are_messages_in_time),
    ("Is anything lost or late?", is_anything_lost_or_late),
    ("Stores", how_are_the_stores),
    ("Fleet and operator", how_is_the_fleet),
)


def overview() -> Dashboard:
    made = (
        Dashboard(TITLE)
        .uid(UID)
        .description("Is it fine, can people connect, are messages in time, is anything lost or late: in this order.")
        .tags(["heliograph"])
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .with_variable(DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(
            QueryVariable("namespace")
            .label("Namespace")
            .datasource(DATASOURCE)
            .query("label_values(heliograph_edge_ready, namespace)")
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(VariableSort.ALPHABETICAL_ASC)
        )
    )
    number = 0
    for title, panels in ROWS:
        number += 1
        made.with_row(Row(title).id(number))
        number = _put(made, panels(), number)
    return made


def _put(dashboard: Dashboard, panels: Sequence[Panel], number: int) -> int:
    for panel in panels:
        number += 1
        dashboard.with_panel(panel.id(number))
    return number
