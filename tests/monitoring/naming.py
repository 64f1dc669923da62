"""Which metrics and labels PromQL expressions name, and which the services have.

Expressions are read as text: names are told apart from functions by what services have, and a test's Prometheus parses
them anyway.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector

SCRAPED = frozenset({"namespace", "pod", "component"})
"""Labels that whoever scrapes puts to every series: the Prometheus operator, and the chart's relabelling."""

SUFFIXES = ("_bucket", "_count", "_sum")

_NAMED = re.compile(r"\b(heliograph_[a-z_]+|process_[a-z_]+|up|ALERTS)\b(\{[^}]*\})?")
_BY_PATTERN = re.compile(r"\{([^}]*__name__=~\"([^\"]*)\"[^}]*)\}")
_MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"")
_GROUPED = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")


@dataclass(frozen=True)
class Selector:
    """A metric's name, or a pattern of names, and the labels that are asked of it."""

    name: str
    labels: frozenset[str]
    pattern: bool = False

    def of(self, served: Mapping[str, frozenset[str]]) -> list[str]:
        """Which of the served metrics it means."""
        if self.pattern:
            return [name for name in served if re.fullmatch(self.name, name)]
        return [name for name in served if name == self.name]


def selectors(expression: str) -> list[Selector]:
    found = [
        Selector(pattern, frozenset(_MATCHER.findall(inside)) - {"__name__"}, pattern=True)
        for inside, pattern in _BY_PATTERN.findall(expression)
    ]
    rest = _BY_PATTERN.sub(" ", expression)
    return found + [Selector(name, frozenset(_MATCHER.findall(inside))) for name, inside in _NAMED.findall(rest)]


def grouped_by(expression: str) -> frozenset[str]:
    """Labels that series are put together by, or matched on."""
    lists = _GROUPED.findall(expression)
    return frozenset(label.strip() for one in lists for label in one.split(",") if label.strip())


def served_by(registry: CollectorRegistry) -> dict[str, frozenset[str]]:
    """Names of series as they are asked for, and their labels: also of those that have no series yet."""
    found: dict[str, frozenset[str]] = {}
    collectors: Iterable[Collector] = list(registry._collector_to_names)
    for collector in collectors:
        described = list(collector.describe()) if hasattr(collector, "describe") else []
        for family in described or collector.collect():
            own: Iterable[str] = getattr(collector, "_labelnames", ()) or getattr(family, "_labelnames", ())
            labels = frozenset(own) | {label for sample in family.samples for label in sample.labels if label != "le"}
            if family.type == "histogram":
                found |= {family.name + suffix: labels for suffix in ("_count", "_sum")}
                found[f"{family.name}_bucket"] = labels | {"le"}
            else:
                found[f"{family.name}_total" if family.type == "counter" else family.name] = labels
    return found


def faults(expressions: Mapping[str, str], served: Mapping[str, frozenset[str]]) -> list[str]:
    """What is asked for and not there."""
    found = []
    for where, text in expressions.items():
        known = SCRAPED | {"le", "service"}  # label_replace puts `service`
        asked = selectors(text)
        if not asked:
            found.append(f"{where}: names no metric")
        for selector in asked:
            names = selector.of(served)
            if not names:
                found.append(f"{where}: nobody serves {selector.name}")
            for name in names:
                known |= served[name]
                missing = selector.labels - served[name] - SCRAPED
                found += [f"{where}: {name} has no label {label}" for label in sorted(missing)]
        found += [f"{where}: nothing of it has a label {label}" for label in sorted(grouped_by(text) - known)]
    return found
