"""What an EdgeFleet's status says. Decisions only.

Messages carry no number that changes by itself, or every look would write the status.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from heliograph.core.fleet.retiring import Phase, Plan
from heliograph.core.fleet.sizing import Limit, Reason, Size, Sizing
from heliograph.operator.conditions import Condition, Truth
from heliograph.operator.fleets.observing import View

NAMES_SHOWN = 5

_LIMITS = {
    Limit.MINIMUM: "min",
    Limit.MAXIMUM: "max",
    Limit.UP_POLICY: "the policies for scaling up",
    Limit.DOWN_POLICY: "the policies for scaling down",
    Limit.UP_WINDOW: "the stabilization window for scaling up",
    Limit.DOWN_WINDOW: "the stabilization window for scaling down",
    Limit.CONNECTIONS: "the connections that there are",
}


def ready(view: View, size: Size, conflict: str | None) -> Condition:
    """Whether there are enough edges, and they are ours to count."""
    if conflict is not None:
        message = f"{conflict} says how many replicas the Deployment has; nothing is changed here until that ends"
        return Condition("Ready", Truth.FALSE, "Conflict", message)
    if view.ready >= size.replicas:
        return Condition("Ready", Truth.TRUE, "EnoughEdges", "as many edges as there should be take clients")
    waiting = [pod.name for pod in view.pods if not pod.ready and not pod.told]
    message = f"{view.ready} of {size.replicas} edges take clients"
    return Condition("Ready", Truth.FALSE, "EdgesNotReady", message + (f"; not {shown(waiting)}" if waiting else ""))


def scaling(view: View, size: Size, plan: Plan) -> Condition:
    """Whether the number is being changed."""
    if plan.phase is Phase.SETTLED:
        return Condition("Scaling", Truth.FALSE, plan.phase, "the number of edges is what it should be")
    leaving = [pod.name for pod in view.leaving]
    told = {
        Phase.GROWING: "edges are being added",
        Phase.DRAINING: f"clients are moved away from {shown(leaving)}" if leaving else "an edge is being chosen",
        Phase.REMOVING: f"the pod of {shown(leaving)} is being removed" if leaving else "pods are being removed",
        Phase.ROLLOUT: f"{size.replicas} edges are enough, but nothing is taken out while a rollout is on",
        Phase.OTHER_NOT_READY: "an edge that should go does not drain, and a pod that is not ready would go before it",
    }
    return Condition("Scaling", Truth.TRUE, plan.phase, told[plan.phase])


def limited(size: Size) -> Condition:
    """Whether the number is not what was asked for."""
    if size.limit is Limit.NONE:
        return Condition("Limited", Truth.FALSE, size.limit, "the number of edges is what is asked for")
    message = f"{size.wanted} edges are asked for; {_LIMITS[size.limit]} makes it {size.replicas}"
    return Condition("Limited", Truth.TRUE, size.limit, message)


def load_known(view: View) -> Condition:
    """Whether every edge says what it carries."""
    if view.edges.error is not None:
        message = f"the metadata store does not answer: {view.edges.error.code}"
        return Condition("LoadKnown", Truth.FALSE, "StoreUnavailable", message)
    if view.silent:
        message = f"no edge called {shown(view.silent)} has a lease in the metadata store"
        return Condition("LoadKnown", Truth.FALSE, "EdgesSilent", message)
    return Condition("LoadKnown", Truth.TRUE, "Known", "every edge says what it carries")


def paused(*, by_spec: bool, by_annotation: bool) -> Condition:
    """Whether nothing is done."""
    if by_spec or by_annotation:
        which = "spec.paused" if by_spec else "the annotation"
        return Condition("Paused", Truth.TRUE, "Paused", f"nothing is changed, as {which} says")
    return Condition("Paused", Truth.FALSE, "NotPaused", "it is looked after")


def states(conditions: Sequence[Condition]) -> frozenset[str]:
    """What a fleet is counted for (`heliograph.operator.metrics.FLEET_STATES`)."""
    found = {"all"}
    for condition in conditions:
        match condition.type, condition.status, condition.reason:
            case "Ready", Truth.FALSE, _:
                found.add("not_ready")
            case "LoadKnown", Truth.FALSE, _:
                found.add("load_unknown")
            case "Limited", Truth.TRUE, Limit.MAXIMUM:
                found.add("at_max")
            case "Paused", Truth.TRUE, _:
                found.add("paused")
    return frozenset(found)


def numbers(view: View, size: Size) -> dict[str, Any]:
    """Everything but conditions."""
    found: dict[str, Any] = {
        "desired": size.replicas,
        "current": len(view.pods),
        "ready": view.ready,
        "draining": len(view.leaving),
        "selector": view.selector,
    }
    if view.known:
        found["connections"] = about(view.observed().connections)
    return found


def about(count: int) -> int:
    """To two digits: so that a status is not written for every client who comes or goes."""
    if count < 100:
        return count
    unit = int(10 ** (math.floor(math.log10(count)) - 1))
    return round(count / unit) * unit


def why(size: Size, policy: Sizing, view: View) -> str:
    """A size, for people."""
    observed, targets = view.observed(), policy.targets
    carried = f"{observed.connections} connections"
    match size.reason:
        case Reason.CONNECTIONS | Reason.STEADY:
            return f"{carried}, {targets.connections} for each edge"
        case Reason.GROWTH:
            return f"{carried} and growing, {targets.connections} for each edge"
        case Reason.CPU:
            cpu = sum(load.cpu or 0 for load in observed.loads)
            return f"{cpu:.1f} cores in use, {targets.cpu:.0%} of one for each edge"
        case Reason.MESSAGES:
            rate = sum(load.messages_per_s or 0 for load in observed.loads)
            return f"{rate:.0f} messages a second, {targets.messages_per_s:g} for each edge"
        case Reason.FALLBACK:
            return "the load is unknown, this is the fallback"
        case Reason.LOAD_UNKNOWN:
            return "the load is unknown"
        case Reason.REQUESTED:
            return f"{policy.replicas} asked for in mode {policy.mode.value}"
        case Reason.BOUNDS:
            return f"min {policy.minimum}, max {policy.maximum}"


def shown(names: Sequence[str]) -> str:
    """Some names, for people."""
    names = sorted(names)
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """What a merge patch must say; empty where nothing differs."""
    return {name: value for name, value in now.items() if before.get(name) != value}
