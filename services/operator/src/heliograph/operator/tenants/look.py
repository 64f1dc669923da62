"""One look at one Tenant, as far as it has come: what was found, what was changed, when to look again."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from heliograph.operator.conditions import Condition, Truth
from heliograph.operator.kube import GROUP, Object
from heliograph.operator.tenants.status import NOT_PAUSED, Findings
from heliograph.operator.tenants.stores import LogError
from heliograph.stores.ports import StoreError

FINALIZER = f"{GROUP}/tenant"
UNMANAGED = f"{GROUP}/unmanaged"
ADOPT = f"{GROUP}/adopt"
FORCE_FINALIZE = f"{GROUP}/force-finalize"


@dataclass(slots=True)
class Look:
    """One look at one Tenant, as far as it has come."""

    body: Object
    found: Findings = field(default_factory=lambda: Findings([NOT_PAUSED]))
    steps: list[str] = field(default_factory=list)
    """What was changed, for the Event."""
    again_s: float | None = None

    @property
    def metadata(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.body["metadata"]
        return found

    @property
    def status(self) -> Mapping[str, Any]:
        return self.body.get("status") or {}

    @property
    def tenant(self) -> str:
        return str(self.body["spec"]["tenant"])

    def say(self, kind: str, status: Truth, reason: str, message: str) -> None:
        self.found.conditions.append(Condition(kind, status, reason, message))

    def later(self, seconds: float) -> None:
        self.again_s = seconds if self.again_s is None else min(self.again_s, seconds)


def away(error: StoreError) -> tuple[str, str]:
    """Reason and message of what a store did not do: always the same for the same, or each try would be a write."""
    if isinstance(error, LogError) and error.code == "log_unavailable":
        return "KafkaUnavailable", "Kafka can't be reached; it is tried again"
    if not isinstance(error, LogError):
        return "StoreUnavailable", "a store can't be reached; it is tried again"
    return "Refused", error.message
