"""An EdgeFleet's spec as decisions take it, with the defaults that its CRD tells of.

The API server has checked it against the schema; it is read here so that an object from before a rule was there is an
error with a name, never a crash.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from heliograph.core.errors import InvalidValueError
from heliograph.core.fleet.behaviour import DOWN, UP, Direction, PolicyKind, ScalingPolicy, Select
from heliograph.core.fleet.retiring import Draining
from heliograph.core.fleet.sizing import Mode, Sizing, Targets

TARGET_CONNECTIONS = 5_000
"""Some 30 KB each and a message every other second of each: 150 MB and two thirds of a core."""
TARGET_CPU_PERCENT = 70
"""Of one core: what is left takes a neighbour's clients when that one dies."""
TOLERANCE_PERCENT = 10
AHEAD_S = 30
DRAIN_S = 60
CONNECTIONS_PER_S = 200
"""A handshake costs 0.7 ms: a seventh of one edge's core, spread over all others."""
EDGES_AT_ONCE = 1
FALLBACK_AFTER_S = 60

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FleetSpec:
    """What an EdgeFleet asks for."""

    deployment: str
    sizing: Sizing
    draining: Draining
    rebalance_share: float
    """Of an edge's surplus, each minute; 0: off."""
    tolerance: float
    paused: bool


def parse_spec(spec: Json) -> FleetSpec:
    """Raises InvalidValueError."""
    try:
        return _parse(spec)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidValueError(
            "value_invalid", "spec", f"{type(error).__name__}: {error}", "as the CRD has it"
        ) from None


def _parse(spec: Json) -> FleetSpec:
    drain, fallback = spec.get("drain") or {}, spec.get("fallback") or {}
    behavior = spec.get("behavior") or {}
    messages = spec.get("targetMessagesPerSecond")
    tolerance = int(spec.get("tolerancePercent", TOLERANCE_PERCENT)) / 100
    sizing = Sizing(
        minimum=int(spec["min"]),
        maximum=int(spec["max"]),
        targets=Targets(
            int(spec.get("targetConnections", TARGET_CONNECTIONS)),
            int(spec.get("targetCPUPercent", TARGET_CPU_PERCENT)) / 100,
            None if messages is None else float(messages),
        ),
        tolerance=tolerance,
        ahead_s=float(spec.get("aheadSeconds", AHEAD_S)),
        up=_direction(behavior.get("scaleUp") or {}, UP),
        down=_direction(behavior.get("scaleDown") or {}, DOWN),
        mode=Mode(spec.get("mode", Mode.AUTO)),
        replicas=spec.get("replicas"),
        fallback=fallback.get("replicas"),
        fallback_after_s=float(fallback.get("afterSeconds", FALLBACK_AFTER_S)),
    )
    return FleetSpec(
        deployment=str(spec["deploymentRef"]["name"]),
        sizing=sizing,
        draining=Draining(
            float(drain.get("seconds", DRAIN_S)),
            float(drain.get("connectionsPerSecond", CONNECTIONS_PER_S)),
            int(drain.get("edgesAtOnce", EDGES_AT_ONCE)),
        ),
        rebalance_share=int((spec.get("rebalance") or {}).get("percentPerMinute", 0)) / 100,
        tolerance=tolerance,
        paused=bool(spec.get("paused", False)),
    )


def _direction(given: Json, default: Direction) -> Direction:
    policies = tuple(
        ScalingPolicy(PolicyKind(one["type"]), int(one["value"]), float(one["periodSeconds"]))
        for one in given.get("policies") or ()
    )
    return Direction(
        float(given.get("stabilizationWindowSeconds", default.window_s)),
        policies or default.policies,
        Select(given.get("selectPolicy", default.select)),
    )
