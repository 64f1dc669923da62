"""Settings as the values that connections and their admission are built with."""

from heliograph.core.buckets import Rate
from heliograph.core.heartbeat import HeartbeatPolicy
from heliograph.core.outbox import OutboxMarks
from heliograph.core.pacing import AdmissionPolicy
from heliograph.edge.connection import ConnectionLimits
from heliograph.edge.settings import EdgeSettings

HANDSHAKE_BURST_S = 0.2
"""Of their pace, handshakes that are served at once: so much of a second may go by before others have their turn."""

REFRESH_BURST = 10
"""New tokens a connection may show at once: a client that tries each of its keys is no attack."""


def connection_limits(settings: EdgeSettings, edge_name: str) -> ConnectionLimits:
    return ConnectionLimits(
        edge_name=edge_name,
        heartbeat=HeartbeatPolicy(interval_s=settings.heartbeat_interval_s),
        marks=OutboxMarks(
            soft_bytes=settings.outbound_soft_bytes,
            hard_bytes=settings.outbound_hard_bytes,
            no_progress_s=settings.no_progress_timeout_s,
        ),
        hello_timeout_s=settings.hello_timeout_s,
        frame_timeout_s=settings.frame_timeout_s,
        idle_timeout_s=settings.idle_timeout_s,
        subscribe_timeout_s=settings.subscribe_timeout_s,
        max_errors=settings.max_errors,
        refreshes=Rate(settings.refreshes_per_s, REFRESH_BURST),
    )


def admission_policy(settings: EdgeSettings) -> AdmissionPolicy:
    pace, cap = settings.handshakes_per_s, max(settings.handshakes_cap_per_s, settings.handshakes_per_s)
    at_once = settings.concurrent_handshakes
    return AdmissionPolicy(
        pace=Rate(pace, max(pace * HANDSHAKE_BURST_S, 1.0)),
        cap=Rate(cap, max(cap * HANDSHAKE_BURST_S, 1.0)),
        at_once=at_once,
        at_once_cap=max(settings.concurrent_handshakes_cap, at_once),
    )
