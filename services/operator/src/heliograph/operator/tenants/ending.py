"""The end of a Tenant: what goes and what stays, by its policy, and only then its finalizer."""

from collections.abc import Sequence

from heliograph.core.errors import InvalidValueError
from heliograph.operator.conditions import Condition, Truth
from heliograph.operator.kube import TENANTS, Kube, is_true
from heliograph.operator.recorder import Recorder, Severity
from heliograph.operator.tenants.claims import claimant
from heliograph.operator.tenants.look import FINALIZER, FORCE_FINALIZE, Look
from heliograph.operator.tenants.record import record_of
from heliograph.operator.tenants.removal import Removal, Step
from heliograph.operator.tenants.status import READY
from heliograph.operator.tenants.stores import TenantStores
from heliograph.operator.tenants.telling import Telling
from heliograph.stores.ports import StoreError


class Ending:
    """Lets Tenants go."""

    def __init__(
        self, kube: Kube, recorder: Recorder, stores: TenantStores, removal: Removal, telling: Telling
    ) -> None:
        self._kube = kube
        self._recorder = recorder
        self._stores = stores
        self._removal = removal
        self._telling = telling

    async def finish(self, look: Look) -> None:
        finalizers = list(look.metadata.get("finalizers") or ())
        if FINALIZER not in finalizers:
            return
        spec, force = look.body["spec"], is_true(look.body, FORCE_FINALIZE)
        left: list[str] = []
        try:
            owner = await self._stores.tenants.owner(look.tenant)
        except StoreError:
            if not force:
                raise
            owner, left = claimant(look.body).owner(), ["whose it is"]
        if owner is not None and owner.uid == look.metadata["uid"] and not owner.retained:
            delete = spec.get("reclaimPolicy") == "Delete"
            try:
                record = record_of(spec, {}, look.status, self._stores.topics)
            except InvalidValueError:
                record = None  # its status tells which topics it had
            steps, topics = self._removal.steps(owner, spec, record, look.status)
            left += await self._take(look, steps, force=force)
            await self._said_goodbye(look, topics, delete=delete, left=list(dict.fromkeys(left)))
        remaining = [one for one in finalizers if one != FINALIZER]
        patch = {"metadata": {"finalizers": remaining, "resourceVersion": look.metadata["resourceVersion"]}}
        await self._kube.patch(TENANTS, look.metadata["namespace"], look.metadata["name"], patch)

    async def _take(self, look: Look, steps: Sequence[Step], *, force: bool) -> list[str]:
        """All steps; with `force`, which could not be taken. Raises StoreError without.

        A Kafka that is away is asked once, not for each topic: there may be more than a look has time for.
        """
        left: list[str] = []
        away = False
        for step in steps:
            if step.of_log and away:
                left.append(step.what)
                continue
            try:
                await step.take()
            except StoreError as error:
                if not force:
                    text = (
                        f"{step.what} could not be removed: {error.message}. Annotate {FORCE_FINALIZE}=true to leave it"
                    )
                    look.found.conditions = [Condition(READY, Truth.FALSE, "DeletionBlocked", text)]
                    await self._telling.tell(look)
                    raise
                left.append(step.what)
                away = away or (step.of_log and error.code == "log_unavailable")
        return left

    async def _said_goodbye(self, look: Look, topics: Sequence[str], *, delete: bool, left: Sequence[str]) -> None:
        if left:
            text = f"as {FORCE_FINALIZE} says, these were left behind: {', '.join(left)}"
            await self._recorder.record(look.body, Severity.WARNING, "LeftBehind", text)
        named = ", ".join(topics)
        if not topics:
            text = "its messages stay in the topics that it shares, until their retention is over"
            await self._recorder.record(look.body, Severity.NORMAL, "Removed", text)
        elif delete:
            await self._recorder.record(look.body, Severity.NORMAL, "Deleted", f"removed with its data: {named}")
        else:
            text = f"the topics stay, with their messages: {named}"
            await self._recorder.record(look.body, Severity.NORMAL, "Retained", text)
