"""What plugs into the operator: a reconciler of one kind, told only which object to look at.

Level-triggered: a call reads everything fresh, computes the difference between what is wanted and what is, and acts on
that. It must come to nothing where nothing differs, go on wherever a call before was broken off, and do no harm beside
another operator that does the same at the same time.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from heliograph.operator.kube import Kind, Object


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """Which object: `kind` as in `Tenant`."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Requeue:
    """Look again after so long, although nothing may have changed."""

    after_s: float


@dataclass(frozen=True, slots=True)
class Watch:
    """A kind of objects that a reconciler is to hear of.

    `keys` answers which of its own objects a change concerns; it runs on the event loop for every change, so it must
    not block. `labels` narrows what the API server sends (and so what RBAC must allow to be seen).
    """

    kind: Kind
    keys: Callable[[Object, bool], Iterable[Key]]
    """Told the object (as it last was, where it is gone) and whether it is gone."""
    labels: str = ""


class Reconciler(Protocol):
    """One kind's. Errors are for the queue: it counts them by their code, backs off and tries again."""

    @property
    def kind(self) -> Kind: ...

    @property
    def watches(self) -> Sequence[Watch]:
        """Everything it wants to hear of, its own kind among them. Two watches of a kind have the same labels."""

    async def start(self) -> None:
        """Once, before the first `reconcile`: what must be known of all objects together. Raises; is tried again."""

    async def reconcile(self, key: Key) -> Requeue | None:
        """Bring one object, which may be gone, to what it should be. None: look again with the next resync."""


def own_key(kind: Kind) -> Callable[[Object, bool], Iterable[Key]]:
    """For the watch of a reconciler's own kind: an object concerns itself."""

    def keys(body: Object, gone: bool) -> Iterable[Key]:
        del gone
        return (Key(kind.kind, body["metadata"]["namespace"], body["metadata"]["name"]),)

    return keys
