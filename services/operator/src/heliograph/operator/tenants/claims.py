"""What is known of all Tenants together: who claims which tenant, and who refers to which Secret or ConfigMap.

Filled by a list before the first look at any of them, kept by the watch. It only says whom else to look at: what
decides is read fresh, and ownership is taken by compare-and-set.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from heliograph.operator.kube import TENANTS, Object
from heliograph.operator.reconciler import Key
from heliograph.operator.tenants.ownership import Claimant

Reference = tuple[str, str, str]
"""Kind, namespace, name."""

WRITES_KEPT = 4
"""Versions of one Tenant that we wrote last: a look writes two at most, and the watch tells of them within moments."""


def claimant(body: Mapping[str, Any]) -> Claimant:
    """A Tenant as one that claims its tenant."""
    metadata = body["metadata"]
    return Claimant(
        created=metadata["creationTimestamp"],
        uid=metadata["uid"],
        namespace=metadata["namespace"],
        name=metadata["name"],
        tenant=body["spec"]["tenant"],
        deleting="deletionTimestamp" in metadata,
    )


class Claims:
    """By resource."""

    def __init__(self) -> None:
        self._claimants: dict[Key, Claimant] = {}
        self._by_tenant: dict[str, set[Key]] = {}
        self._references: dict[Key, frozenset[Reference]] = {}
        self._by_reference: dict[Reference, set[Key]] = {}
        self._written: dict[Key, deque[str]] = {}

    def put(self, body: Object) -> None:
        """A Tenant as it is now."""
        one = claimant(body)
        key = Key(TENANTS.kind, one.namespace, one.name)
        self.drop(key, forget=False)
        self._claimants[key] = one
        self._by_tenant.setdefault(one.tenant, set()).add(key)
        self._references[key] = references = frozenset(_references(one.namespace, body["spec"]))
        for reference in references:
            self._by_reference.setdefault(reference, set()).add(key)

    def drop(self, key: Key, *, forget: bool = True) -> None:
        """A Tenant that is gone."""
        one = self._claimants.pop(key, None)
        if one is None:
            return
        if forget:
            self._written.pop(key, None)
        _remove(self._by_tenant, one.tenant, key)
        for reference in self._references.pop(key):
            _remove(self._by_reference, reference, key)

    def wrote(self, body: Object) -> None:
        """A Tenant as we wrote it just now, from what we had read."""
        metadata = body["metadata"]
        key = Key(TENANTS.kind, metadata["namespace"], metadata["name"])
        self._written.setdefault(key, deque(maxlen=WRITES_KEPT)).append(metadata["resourceVersion"])

    def is_ours(self, key: Key, version: str) -> bool:
        """Whether this version is one that we wrote: it is no news."""
        return version in self._written.get(key, ())

    def of_tenant(self, tenant: str) -> list[Claimant]:
        """Everyone who claims it."""
        return [self._claimants[key] for key in self._by_tenant.get(tenant, ())]

    def rivals(self, key: Key) -> list[Key]:
        """Who else claims the same tenant."""
        one = self._claimants.get(key)
        return [] if one is None else [other for other in self._by_tenant[one.tenant] if other != key]

    def referring(self, kind: str, namespace: str, name: str) -> list[Key]:
        """Who refers to a Secret or ConfigMap."""
        return list(self._by_reference.get((kind, namespace, name), ()))


def _references(namespace: str, spec: Mapping[str, Any]) -> Iterator[Reference]:
    places: Iterable[Mapping[str, Any]] = (
        (spec.get("auth") or {}).get("jwksFrom") or {},
        (spec.get("access") or {}).get("passwordFrom") or {},
    )
    for place in places:
        for field, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
            if field in place:
                yield kind, namespace, place[field]["name"]


def _remove(index: dict[Any, set[Key]], name: object, key: Key) -> None:
    index[name].discard(key)
    if not index[name]:
        del index[name]
