"""Whose a tenant is, among the resources that claim it. Decisions only.

The oldest resource has it. Its data outlives it where it is retained, and who had it is recorded: a resource in another
namespace gets the data only if somebody says so, as it may be another team's, or nobody's doing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from heliograph.stores.ports import Owner


@dataclass(frozen=True, slots=True)
class Claimant:
    """A Tenant resource."""

    created: str
    """`creationTimestamp`: sorts as text."""
    uid: str
    namespace: str
    name: str
    tenant: str
    deleting: bool = False

    @property
    def age(self) -> tuple[str, str]:
        """Older ones are lower; two of one second are told apart by their uid, the same everywhere."""
        return self.created, self.uid

    def owner(self, *, retained: bool = False) -> Owner:
        return Owner(self.namespace, self.name, self.uid, retained)


class Verdict(StrEnum):
    """Of one claimant."""

    OWNS = "owns"
    """It is recorded as the owner."""
    MAY_CLAIM = "may_claim"
    """Nobody has it, or who had it is gone and it may have what was left."""
    CONFLICT = "conflict"
    """Another resource has it."""
    NOT_ITS_DATA = "not_its_data"
    """There is data that was another's, or nobody's that is known."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """`holder`: namespace and name of who has it, or had it; empty where nobody is known."""

    verdict: Verdict
    holder: str = ""


def judge(
    me: Claimant,
    claimants: Iterable[Claimant],
    owner: Owner | None,
    *,
    sees_owner: bool,
    had_it: bool,
    has_data: bool,
    adopts: bool,
) -> Judgement:
    """`claimants`: all that are known, `me` or not among them. `sees_owner`: resources of the owner's namespace are
    known here. `had_it`: its own status says that it had the tenant. `has_data`: there is a record, or are topics.
    `adopts`: it is said that it may have another's data.
    """
    rivals = [one for one in claimants if one.uid != me.uid and one.tenant == me.tenant]
    holder = "" if owner is None else f"{owner.namespace}/{owner.name}"
    if owner is not None and not owner.retained:
        if owner.uid == me.uid:
            return Judgement(Verdict.OWNS, holder)
        if not sees_owner or any(one.uid == owner.uid for one in rivals):
            return Judgement(Verdict.CONFLICT, holder)
    older = min((one for one in rivals if not one.deleting and one.age < me.age), key=_age, default=None)
    if older is not None:
        return Judgement(Verdict.CONFLICT, f"{older.namespace}/{older.name}")
    inherits = had_it or not has_data if owner is None else owner.namespace == me.namespace
    allowed = inherits or adopts
    return Judgement(Verdict.MAY_CLAIM if allowed else Verdict.NOT_ITS_DATA, holder)


def _age(one: Claimant) -> tuple[str, str]:
    return one.age
