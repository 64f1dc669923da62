"""An API server in memory, which does what the operator relies on as the real one does (`kube_contract.py`).

Resource versions and generations, the status subresource, finalizers, merge patches, label selectors, preconditions,
owner references, watches. It knows no schemas: what a CRD refuses is tried on a real API server.
"""

import copy
import itertools
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from heliograph.operator.kube import EVENTS, Kind, KubeError, Object
from heliograph.operator.watching import Changed

WITH_STATUS = frozenset({"Tenant", "EdgeFleet", "Deployment", "Pod", "ReplicaSet", "HorizontalPodAutoscaler"})
"""Kinds whose status is a subresource."""

EPOCH = "2026-01-01T00:00:{:02d}Z"


class FakeKube:
    """`Kube`, and what tests look at and do by hand."""

    def __init__(self) -> None:
        self.objects: dict[tuple[Kind, str, str], Object] = {}
        self.writes: list[tuple[str, str, str, str]] = []
        """Verb, kind with its subresource, namespace, name: of every write that was asked for, events among them."""
        self.reads = 0
        self.before: Callable[[str, Kind, str], None] = lambda verb, kind, name: None
        """Called before every request; what it raises is the answer."""
        self.closed: set[str] = set()
        """Namespaces that nobody has rights in, as where a Role went with its namespace."""
        self.watchers: list[FakeWatcher] = []
        self._version = itertools.count(1)
        self._created = itertools.count()

    # ---- Kube -------------------------------------------------------------------------------------------------------

    async def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        self._allow("get", kind, namespace)
        self.before("get", kind, name)
        self.reads += 1
        return copy.deepcopy(self.objects.get((kind, namespace, name)))

    async def all_of(self, kind: Kind, namespace: str | None = None, *, labels: str = "") -> list[Object]:
        self._allow("list", kind, namespace)
        self.before("list", kind, "")
        self.reads += 1
        return [
            copy.deepcopy(body)
            for (one, where, _), body in sorted(self.objects.items(), key=lambda item: item[0][1:])
            if one == kind and namespace in (None, where) and selected(body, labels)
        ]

    async def create(self, kind: Kind, namespace: str, body: Mapping[str, Any]) -> Object:
        metadata = dict(body["metadata"])
        name = metadata["name"]
        self._write("create", kind, namespace, name)
        if (kind, namespace, name) in self.objects:
            raise KubeError("kube_exists", f'{kind.plural} "{name}" already exists', 409)
        metadata |= {
            "namespace": namespace,
            "uid": str(uuid.uuid4()),
            "creationTimestamp": EPOCH.format(next(self._created) % 60),
            "generation": 1,
        }
        made = {**copy.deepcopy(dict(body)), "apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata}
        if kind.kind in WITH_STATUS:
            made.pop("status", None)
        return self._store(kind, made)

    async def patch(
        self, kind: Kind, namespace: str, name: str, patch: Mapping[str, Any], *, subresource: str = ""
    ) -> Object:
        self._write("patch", kind, namespace, name, subresource)
        old = self._existing(kind, namespace, name)
        asked = patch.get("metadata", {}).get("resourceVersion")
        if asked is not None and asked != old["metadata"]["resourceVersion"]:
            raise KubeError("kube_conflict", f'{kind.plural} "{name}": the object has been modified', 409)
        if subresource == "scale":
            patch = {"spec": {"replicas": patch["spec"]["replicas"]}}
        new = merge(old, patch)
        if kind.kind in WITH_STATUS and subresource == "status":
            new = {**copy.deepcopy(old), "status": new.get("status", {})}
        elif kind.kind in WITH_STATUS and "status" in old:
            new["status"] = copy.deepcopy(old["status"])
        elif kind.kind in WITH_STATUS:
            new.pop("status", None)
        for fixed in ("uid", "creationTimestamp", "generation", "resourceVersion", "name", "namespace"):
            new["metadata"][fixed] = old["metadata"][fixed]
        if "deletionTimestamp" in old["metadata"]:
            new["metadata"]["deletionTimestamp"] = old["metadata"]["deletionTimestamp"]
            if not new["metadata"].get("finalizers"):
                self._remove(kind, new)
                return copy.deepcopy(new)
        if new == old:
            return copy.deepcopy(old)
        if _without_metadata_and_status(new) != _without_metadata_and_status(old):
            new["metadata"]["generation"] += 1
        return self._store(kind, new)

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str = "") -> None:
        self._write("delete", kind, namespace, name)
        body = self.objects.get((kind, namespace, name))
        if body is None:
            return
        if uid and uid != body["metadata"]["uid"]:
            raise KubeError("kube_conflict", f'{kind.plural} "{name}": the UID is another one', 409)
        if not body["metadata"].get("finalizers"):
            self._remove(kind, body)
        elif "deletionTimestamp" not in body["metadata"]:
            marked = copy.deepcopy(body)
            marked["metadata"]["deletionTimestamp"] = EPOCH.format(59)
            marked["metadata"]["generation"] += 1
            self._store(kind, marked)

    # ---- for tests --------------------------------------------------------------------------------------------------

    def one(self, kind: Kind, namespace: str, name: str) -> Object:
        """The object itself, to look at."""
        return self.objects[kind, namespace, name]

    def events(self, reason: str = "") -> list[Object]:
        """Kubernetes Events, of one reason or all."""
        return [
            body for (kind, _, _), body in self.objects.items() if kind == EVENTS and reason in ("", body["reason"])
        ]

    def written(self, *, events: bool = False) -> list[tuple[str, str, str, str]]:
        """Writes since the last call, without those of Events."""
        done, self.writes = self.writes, []
        return [write for write in done if events or write[1] != EVENTS.kind]

    def _write(self, verb: str, kind: Kind, namespace: str, name: str, subresource: str = "") -> None:
        self._allow(verb, kind, namespace)
        self.before(verb, kind, name)
        self.writes.append((verb, f"{kind.kind}/{subresource}" if subresource else kind.kind, namespace, name))

    def _allow(self, verb: str, kind: Kind, namespace: str | None) -> None:
        if namespace in self.closed:
            raise KubeError("kube_forbidden", f"{verb} {kind.plural} in {namespace}: no right to", 403)

    def _existing(self, kind: Kind, namespace: str, name: str) -> Object:
        try:
            return self.objects[kind, namespace, name]
        except KeyError:
            raise KubeError("kube_not_found", f'{kind.plural} "{name}" not found', 404) from None

    def _store(self, kind: Kind, body: Object) -> Object:
        body["metadata"]["resourceVersion"] = str(next(self._version))
        self.objects[kind, body["metadata"]["namespace"], body["metadata"]["name"]] = body
        self._tell(kind, body, gone=False)
        return copy.deepcopy(body)

    def _remove(self, kind: Kind, body: Object) -> None:
        del self.objects[kind, body["metadata"]["namespace"], body["metadata"]["name"]]
        self._tell(kind, body, gone=True)
        uid = body["metadata"]["uid"]
        owned = [
            (one, child)
            for (one, _, _), child in self.objects.items()
            if any(owner["uid"] == uid for owner in child["metadata"].get("ownerReferences", ()))
        ]
        for one, child in owned:
            self._remove(one, child)

    def _tell(self, kind: Kind, body: Object, *, gone: bool) -> None:
        for watcher in self.watchers:
            watcher.tell(kind, body, gone=gone)


class FakeWatcher:
    """`Watcher` of a FakeKube: tells at once, and can be made to stall."""

    def __init__(self, kube: FakeKube, namespaces: Iterable[str] = ()) -> None:
        self._kube = kube
        self._namespaces = frozenset(namespaces)
        self._watched: Mapping[Kind, str] = {}
        self._changed: Changed = lambda kind, body, gone: None
        self.stalled = False

    async def start(self, watched: Mapping[Kind, str], changed: Changed) -> None:
        self._watched, self._changed = watched, changed
        self._kube.watchers.append(self)
        for (kind, _, _), body in list(self._kube.objects.items()):
            self.tell(kind, body, gone=False)

    async def stop(self) -> None:
        self._kube.watchers.remove(self)

    def tell(self, kind: Kind, body: Object, *, gone: bool) -> None:
        labels = self._watched.get(kind)
        where = body["metadata"]["namespace"]
        if labels is None or self.stalled or (self._namespaces and where not in self._namespaces):
            return
        if selected(body, labels):
            self._changed(kind, copy.deepcopy(body), gone)


def merge(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    result = copy.deepcopy(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge(result.get(name), value)
    return result


def selected(body: Object, labels: str) -> bool:
    """Whether a label selector takes an object: `name`, `name=value`, `name in (a,b)`, with commas between."""
    has = body["metadata"].get("labels") or {}
    for term in filter(None, _terms(labels)):
        name, equals, value = term.partition("=")
        if " in " in term:
            name, _, values = term.partition(" in ")
            if has.get(name.strip()) not in {one.strip() for one in values.strip(" ()").split(",")}:
                return False
        elif (equals and has.get(name.strip()) != value.strip("= ")) or (not equals and term.strip() not in has):
            return False
    return True


def _terms(labels: str) -> list[str]:
    terms, depth, term = [], 0, ""
    for character in labels:
        depth += (character == "(") - (character == ")")
        if character == "," and not depth:
            terms.append(term)
            term = ""
        else:
            term += character
    return [*terms, term]


def _without_metadata_and_status(body: Object) -> Object:
    return {name: value for name, value in body.items() if name not in ("metadata", "status")}
