"""Status conditions, as Kubernetes' API conventions have them (KEP-1623). Decisions only.

`lastTransitionTime` changes with the status alone, so conditions that say the same again are equal to what is there and
cost no write.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

MAX_MESSAGE_CHARS = 1_024
"""Of a condition: the schema allows 32,768; an error's first line says what it is."""


class Truth(StrEnum):
    """Of a condition."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class Condition:
    """What is said of one aspect of an object. `reason` is a CamelCase word that programs match on."""

    type: str
    status: Truth
    reason: str
    message: str

    def __post_init__(self) -> None:
        if len(self.message) > MAX_MESSAGE_CHARS:
            object.__setattr__(self, "message", self.message[: MAX_MESSAGE_CHARS - 1] + "…")


def merged(
    before: Sequence[Mapping[str, Any]], now: Sequence[Condition], generation: int, at: str
) -> list[dict[str, Any]]:
    """The list to store. Conditions of other types stay as they are: they may be somebody else's. `at`: RFC 3339."""
    known = {one.get("type"): one for one in before}
    types = {one.type for one in now}
    result = [dict(one) for one in before if one.get("type") not in types]
    for condition in now:
        old = known.get(condition.type, {})
        same = old.get("status") == condition.status.value
        result.append(
            {
                "type": condition.type,
                "status": condition.status.value,
                "reason": condition.reason,
                "message": condition.message,
                "observedGeneration": generation,
                "lastTransitionTime": old["lastTransitionTime"] if same and "lastTransitionTime" in old else at,
            }
        )
    return sorted(result, key=lambda one: str(one["type"]))


def find(conditions: Sequence[Mapping[str, Any]], kind: str) -> Mapping[str, Any] | None:
    """The condition of a type."""
    return next((one for one in conditions if one.get("type") == kind), None)
