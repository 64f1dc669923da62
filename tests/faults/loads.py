"""Loads of scenarios: who publishes and who reads, beside one another, while something is hurt."""

from collections.abc import Callable

from tests.faults.rig import FaultRig
from tests.system.load import Run

from heliograph.core.messages import AckMode

Load = Callable[[FaultRig, int], Run]
"""Makes a run, not started, for a seed."""

SHARES = {"durable": 0.35, "accepted": 0.15, "telemetry": 0.3, "sdk": 0.2}
"""Of the pace: events and control that wait for the log, that don't, telemetry, and an agent through the SDK."""


def steady(per_s: float, *, sessions: int = 4, only: str | None = None) -> Load:
    """All classes and answers, raw and through the SDK, on both edges or `only` one; telemetry in the first half of the
    sessions.
    """

    def make(rig: FaultRig, seed: int) -> Run:
        run = Run(rig, rig.sessions(sessions), seed, None if only is None else [rig.service(only).url])
        half = run.sessions[: sessions // 2]
        rest = run.sessions[sessions // 2 :]
        run.publisher("durable", run.sessions, per_s=per_s * SHARES["durable"])
        run.publisher("accepted", half, per_s=per_s * SHARES["accepted"], ack=AckMode.ACCEPTED)
        run.telemetry("telemetry", half, per_s=per_s * SHARES["telemetry"])
        run.subscriber("near")
        run.subscriber("far")
        run.sdk(rest, rest, per_s=per_s * SHARES["sdk"])
        return run

    return make


def with_a_slow_reader(
    per_s: float, *, event_bytes: int = 0, telemetry_bytes: int = 0, telemetry_per_s: float = 50.0
) -> Load:
    """One session; `slow` reads it over a link of its own (`reader>edge-1`), with small buffers, `near` like others."""

    def make(rig: FaultRig, seed: int) -> Run:
        run = Run(rig, rig.sessions(1), seed)
        run.publisher("durable", run.sessions, per_s=per_s, payload_bytes=event_bytes)
        run.telemetry("telemetry", run.sessions, per_s=telemetry_per_s, payload_bytes=telemetry_bytes)
        run.subscriber("near")
        run.subscriber("slow", edges=[rig.own_edge])
        return run

    return make
