"""What a look tells: Events for what was done, and the status where it differs from what is stored."""

from collections.abc import Callable, Mapping
from typing import Any

from heliograph.operator.conditions import Condition, Truth, find
from heliograph.operator.kube import TENANTS, Kube, Object
from heliograph.operator.metrics import TenantMetrics
from heliograph.operator.recorder import Recorder, Severity, rfc3339
from heliograph.operator.tenants.keys import KEYS_READY
from heliograph.operator.tenants.look import Look
from heliograph.operator.tenants.status import (
    NOT_PAUSED,
    PAUSED,
    QUOTAS_APPLIED,
    READY,
    TOPICS_READY,
    patch_of,
    ready,
    status_of,
    turned,
    unmet,
)


class Telling:
    """Writes Events and statuses."""

    def __init__(
        self,
        kube: Kube,
        recorder: Recorder,
        metrics: TenantMetrics,
        clock: Callable[[], float],
        wrote: Callable[[Object], None],
    ) -> None:
        """`clock`: Unix time in s. `wrote` is told each object as it was written."""
        self._kube = kube
        self._recorder = recorder
        self._metrics = metrics
        self._clock = clock
        self._wrote = wrote

    async def tell(self, look: Look, *, suspended: bool = False) -> None:
        """Events for what was done, and the status where it differs."""
        found, metadata = look.found, look.metadata
        if not any(one.type in (READY, PAUSED) and one is not NOT_PAUSED for one in found.conditions):
            known = {one.type for one in found.conditions}
            missing = [one for one in (TOPICS_READY, QUOTAS_APPLIED, KEYS_READY) if one not in known]
            kept = [_condition(find(look.status.get("conditions", ()), one), one) for one in missing]
            found.conditions.append(ready([*found.conditions, *kept], suspended=suspended))
        if look.steps:
            await self._recorder.record(look.body, Severity.NORMAL, "Applied", "; ".join(look.steps))
        after = status_of(look.status, found, metadata["generation"], rfc3339(self._clock()))
        self._metrics.stands(f"{metadata['namespace']}/{metadata['name']}", unmet(after["conditions"]))
        if after == look.status:
            return
        turn = turned(look.status, after)
        if turn is not None and turn["status"] != "True":
            await self._recorder.record(look.body, Severity.WARNING, turn["reason"], turn["message"])
        patch = {
            "metadata": {"resourceVersion": metadata["resourceVersion"]},
            "status": patch_of(look.status, after),
        }
        where = (TENANTS, metadata["namespace"], metadata["name"])
        self._wrote(await self._kube.patch(*where, patch, subresource="status"))


def _condition(stored: Mapping[str, Any] | None, kind: str) -> Condition:
    if stored is None:
        return Condition(kind, Truth.UNKNOWN, "NotLookedAt", "it could not be looked at yet")
    return Condition(kind, Truth(stored["status"]), stored["reason"], stored["message"])
