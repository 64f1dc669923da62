"""The CustomResourceDefinition of EdgeFleet.

Field names and their meaning are those of `autoscaling/v2` where it has them. Defaults are told in words and chosen
when they are needed (`spec.py`), but for `mode`, which rules guard: what the API server fills in stays for good.
"""

from typing import Any

from heliograph.core.fleet.behaviour import DOWN, UP, Direction, PolicyKind, Select
from heliograph.core.fleet.sizing import Mode
from heliograph.operator.fleets.spec import (
    AHEAD_S,
    CONNECTIONS_PER_S,
    DRAIN_S,
    EDGES_AT_ONCE,
    FALLBACK_AFTER_S,
    TARGET_CONNECTIONS,
    TARGET_CPU_PERCENT,
    TOLERANCE_PERCENT,
)
from heliograph.operator.kube import EDGE_FLEETS, GROUP, PAUSED, VERSION
from heliograph.operator.schema import Schema, conditions, definition

MAX_EDGES = 1_000
"""Of a fleet: far above what one metadata store was ever tried with."""

MAX_POLICIES = 8
DAY_S = 86_400
HOUR_S = 3_600

CONDITIONS = {
    "Ready": "as many edges as there should be take clients.",
    "Scaling": "the number of edges is being changed.",
    "Limited": "the load asks for another number than limits, windows or policies allow.",
    "LoadKnown": "every edge that takes clients says what it carries; the fleet never shrinks otherwise.",
    "Paused": f"it is left alone, as `spec.paused` or the annotation `{PAUSED}` says.",
}


def edge_fleet_crd() -> Schema:
    """charts/heliograph/crds/edgefleets.heliograph.dev.yaml."""
    return definition(
        group=GROUP,
        version=VERSION,
        kind=EDGE_FLEETS.kind,
        plural=EDGE_FLEETS.plural,
        short_names=["hgef"],
        description=(
            "The edges of a Heliograph installation: how many there are, and how one is taken out without anybody"
            " losing a message. The operator alone writes the replicas of the Deployment. An edge that should go is"
            " told to drain, moves its clients to the others at a pace, and only then is its pod removed: the emptiest"
            " one, never another."
        ),
        spec=_spec(),
        status=_status(),
        columns=[
            ("Ready", "string", '.status.conditions[?(@.type=="Ready")].status', "Whether there are enough edges."),
            ("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason', "Why, in one word."),
            ("Desired", "integer", ".status.desired", "How many edges there should be."),
            ("Edges", "integer", ".status.current", "How many there are."),
            ("Up", "integer", ".status.ready", "How many take clients."),
            ("Draining", "integer", ".status.draining", "How many are on their way out."),
            ("Connections", "integer", ".status.connections", "About how many clients there are."),
        ],
        wide_columns=[
            ("Mode", "string", ".spec.mode", "Who says how many."),
            ("Min", "integer", ".spec.min", "The least."),
            ("Max", "integer", ".spec.max", "The most."),
            ("Scaled", "date", ".status.lastScaleTime", "When the number was last changed."),
            ("Why", "string", ".status.lastScaleReason", "Why it was."),
        ],
        scale={
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.current",
            "labelSelectorPath": ".status.selector",
        },
    )


def _spec() -> Schema:
    rules = [
        _rule("self.min <= self.max", "min is above max"),
        _rule(
            "!has(self.fallback) || self.fallback.replicas <= self.max",
            "fallback.replicas is above max",
        ),
        _rule(
            "self.mode == 'Auto' || has(self.replicas)",
            "mode External and Manual need spec.replicas, in the same change: how many edges there should be",
        ),
        _rule(
            "self.mode != 'Auto' || !has(self.replicas)"
            " || (has(oldSelf.replicas) && self.replicas == oldSelf.replicas)",
            "in mode Auto the load says how many edges there are: set spec.mode to External or Manual to scale it",
        ),
    ]
    return {
        "type": "object",
        "description": "How the fleet should be.",
        "required": ["deploymentRef", "min", "max"],
        "x-kubernetes-validations": rules,
        "properties": {
            "deploymentRef": {
                "type": "object",
                "description": (
                    "The Deployment whose pods are the edges, in this namespace. Its pods must have their own names as"
                    " names of their edges (`HELIOGRAPH_EDGE_NAME` from `metadata.name`), and it must have no"
                    " `replicas` in what you apply again and again: the number belongs to this fleet."
                ),
                "required": ["name"],
                "properties": {
                    "name": {
                        "type": "string",
                        "minLength": 1,
                        "maxLength": 253,
                        "description": "The Deployment's name.",
                    }
                },
                "x-kubernetes-validations": [
                    _rule("self == oldSelf", "a fleet is of one Deployment for good: make another EdgeFleet instead")
                ],
            },
            "min": _count("The least number of edges. With `max` the same, the number stays.", minimum=1),
            "max": _count("The largest number of edges: what Kafka, Redis and the bill can take.", minimum=1),
            "mode": {
                "type": "string",
                "enum": [mode.value for mode in Mode],
                "default": Mode.AUTO.value,
                "description": (
                    "Who says how many. `Auto`: the load, by the targets below. `External`: whoever writes the scale"
                    " subresource (`kubectl scale`, an HPA or KEDA aimed at this EdgeFleet), within `min` and `max`,"
                    " and never fewer than hold the present connections. `Manual`: the same for a person, without those"
                    " bounds. In each, which edge goes and how its clients are moved is decided here."
                ),
            },
            "replicas": _count(
                "How many edges, in mode `External` and `Manual`; `kubectl scale` writes it. Not looked at in `Auto`.",
                minimum=0,
            ),
            "paused": {
                "type": "boolean",
                "description": (
                    "Nothing is changed while it is true, only the status. An edge that is draining comes back to"
                    " service some minutes later. Default: false."
                ),
            },
            "targetConnections": {
                **_integer(1, 1_000_000),
                "description": f"Connections that one edge should have on average. Default: {TARGET_CONNECTIONS}.",
            },
            "targetCPUPercent": {
                **_integer(5, 100),
                "description": (
                    "CPU that one edge should use on average, in percent of one core: an edge is one event loop, which"
                    f" can use no more. Edges measure it themselves. Default: {TARGET_CPU_PERCENT}."
                ),
            },
            "targetMessagesPerSecond": {
                **_integer(1, 10_000_000),
                "description": (
                    "Messages a second, from publishers and to subscribers together, that one edge should carry on"
                    " average. Default: not looked at."
                ),
            },
            "tolerancePercent": {
                **_integer(0, 50),
                "description": (
                    "The number is left as it is while every average is this near to its target. Default:"
                    f" {TOLERANCE_PERCENT}."
                ),
            },
            "aheadSeconds": {
                **_integer(0, HOUR_S),
                "description": (
                    "How far ahead growth of connections is met: about as long as a new edge needs until it takes"
                    f" clients. 0: growth is not looked at. Default: {AHEAD_S}."
                ),
            },
            "behavior": {
                "type": "object",
                "description": (
                    "How fast the number may change, as in a HorizontalPodAutoscaler. What connections that are there,"
                    " or are coming, need is not held back by the window for scaling up."
                ),
                "properties": {
                    "scaleUp": _direction("up", UP),
                    "scaleDown": _direction("down", DOWN),
                },
            },
            "drain": {
                "type": "object",
                "description": "How clients are moved from an edge that goes.",
                "properties": {
                    "seconds": {
                        **_integer(1, HOUR_S),
                        "description": f"Over how long an edge asks its clients to move. Default: {DRAIN_S}.",
                    },
                    "connectionsPerSecond": {
                        **_integer(1, 100_000),
                        "description": (
                            "The most clients that one draining edge sends to the others in a second; an edge with many"
                            f" takes longer for it. Default: {CONNECTIONS_PER_S}."
                        ),
                    },
                    "edgesAtOnce": {
                        **_integer(1, 50),
                        "description": f"How many edges may drain at a time. Default: {EDGES_AT_ONCE}.",
                    },
                },
            },
            "rebalance": {
                "type": "object",
                "description": (
                    "Whether clients are spread anew after an edge was added: balancers leave those that are connected"
                    " where they are."
                ),
                "properties": {
                    "percentPerMinute": {
                        **_integer(0, 100),
                        "description": (
                            "Share of what an edge has above the average that it asks to come back elsewhere, each"
                            " minute, until half an hour after the last edge was added. Default: 0, off."
                        ),
                    }
                },
            },
            "fallback": {
                "type": "object",
                "description": "What to do while no edge says what it carries.",
                "required": ["replicas"],
                "properties": {
                    "replicas": _count("At least so many edges then; never fewer than there are.", minimum=1),
                    "afterSeconds": {
                        **_integer(0, DAY_S),
                        "description": f"Once it is unknown for so long. Default: {FALLBACK_AFTER_S}.",
                    },
                },
            },
        },
    }


def _direction(which: str, default: Direction) -> Schema:
    policies = ", ".join(f"{one.value} {one.kind.value} in {one.period_s:g} s" for one in default.policies)
    return {
        "type": "object",
        "description": f"Of scaling {which}.",
        "properties": {
            "stabilizationWindowSeconds": {
                **_integer(0, HOUR_S),
                "description": (
                    f"The number of the last so many seconds that is {'lowest' if which == 'up' else 'highest'} counts."
                    f" Default: {default.window_s:g}."
                ),
            },
            "selectPolicy": {
                "type": "string",
                "enum": [one.value for one in Select],
                "description": (
                    "Which policy counts: the one that allows most, the one that allows least, or none at all"
                    f" (`Disabled`: never {which}). Default: {default.select.value}."
                ),
            },
            "policies": {
                "type": "array",
                "maxItems": MAX_POLICIES,
                "minItems": 1,
                "description": f"By how much the number may change at most. Default: {policies}.",
                "items": {
                    "type": "object",
                    "description": "One bound.",
                    "required": ["type", "value", "periodSeconds"],
                    "properties": {
                        "type": {
                            "type": "string",
                            "enum": [one.value for one in PolicyKind],
                            "description": "Whether `value` counts edges, or percent of them.",
                        },
                        "value": {**_integer(1, 10_000), "description": "How much, at most."},
                        "periodSeconds": {**_integer(1, HOUR_S), "description": "Within how long."},
                    },
                },
            },
        },
    }


def _status() -> Schema:
    text: dict[str, Any] = {"type": "string"}
    count: dict[str, Any] = {"type": "integer", "format": "int32"}
    return {
        "type": "object",
        "description": "How it is, as the operator last found it.",
        "properties": {
            "observedGeneration": {
                "type": "integer",
                "format": "int64",
                "description": "The `metadata.generation` that this status is of.",
            },
            "conditions": conditions(CONDITIONS),
            "desired": {**count, "description": "How many edges there should be."},
            "current": {**count, "description": "How many there are: pods that are not being deleted."},
            "ready": {**count, "description": "How many of them take clients."},
            "draining": {**count, "description": "How many of them are on their way out."},
            "connections": {**count, "description": "About how many clients all edges have, to two digits."},
            "selector": {**text, "description": "Which pods are edges, for autoscalers that measure pods."},
            "lastScaleTime": {
                **text,
                "format": "date-time",
                "description": "When the number of replicas was last changed.",
            },
            "lastScaleReason": {**text, "description": "Why it was changed, and from what to what."},
        },
    }


def _count(description: str, *, minimum: int) -> Schema:
    return {
        "type": "integer",
        "format": "int32",
        "minimum": minimum,
        "maximum": MAX_EDGES,
        "description": description,
    }


def _integer(minimum: int, maximum: int) -> Schema:
    return {"type": "integer", "format": "int32", "minimum": minimum, "maximum": maximum}


def _rule(rule: str, message: str) -> Schema:
    return {"rule": rule, "message": message}
