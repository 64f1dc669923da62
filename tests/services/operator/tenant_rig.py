"""A reconciler of Tenants on the fake API server and memory stores, looked at step by step."""

import copy
import itertools
from collections.abc import Callable
from typing import Any

from tests.services.operator.fake_kube import FakeKube, selected

from heliograph.operator.kube import TENANTS, Kind, Object
from heliograph.operator.metrics import TenantMetrics
from heliograph.operator.reconciler import Key, Requeue
from heliograph.operator.recorder import Recorder
from heliograph.operator.tenants.fetching import FetchError
from heliograph.operator.tenants.keys import KeySource
from heliograph.operator.tenants.reconciler import TenantReconciler
from heliograph.operator.tenants.status import CONDITIONS
from heliograph.operator.tenants.stores import AWAY_FOR_S, NamedLogAdmin, TenantStores
from heliograph.protocol.tenants import Tenant, decode_tenant
from heliograph.service.metrics import Metrics
from heliograph.stores.keys import Topics
from heliograph.stores.memory.access import MemoryLogAccess
from heliograph.stores.memory.live import MemoryLiveStore
from heliograph.stores.memory.live_server import MemoryLiveServer
from heliograph.stores.memory.log import MemoryLog, MemoryLogAdmin
from heliograph.stores.memory.metadata import (
    MemoryConnectionStore,
    MemoryServeStore,
    MemorySessionExpiries,
    MemoryTenantStore,
)

KEY = {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "kid": "k1"}
OTHER_KEY = {**KEY, "kid": "k2"}
LOG, DEFERRED = "hg.acme.log", "hg.acme.deferred"
SHARDS = 4


def spec_of(tenant: str = "acme", **more: Any) -> dict[str, Any]:
    """As the API server has it: with the defaults of the definition."""
    topics = {"log": {"partitions": 2}, "deferred": {"partitions": 1}, **more.pop("topics", {})}
    return {
        "tenant": tenant,
        "isolation": "dedicated",
        "reclaimPolicy": "Retain",
        "agentTypes": {},
        "auth": {"jwks": {"keys": [KEY]}},
        "topics": topics,
        **more,
    }


class Rig:
    """What one operator works on."""

    def __init__(self, kube: FakeKube | None = None, stores: TenantStores | None = None, **options: Any) -> None:
        self.kube = kube or FakeKube()
        self.log = MemoryLog()
        self.access = MemoryLogAccess()
        self.live_server = MemoryLiveServer(lambda: 1_000, virtual_shards=SHARDS)
        self.stores = stores or TenantStores(
            topics=Topics("hg"),
            admin=NamedLogAdmin(MemoryLogAdmin(self.log), itertools.count(0.0, AWAY_FOR_S).__next__),
            access=self.access,
            tenants=MemoryTenantStore(),
            connections=MemoryConnectionStore(),
            live=MemoryLiveStore(self.live_server),
            serving=MemoryServeStore(),
            expiries=MemorySessionExpiries(),
            virtual_shards=SHARDS,
        )
        self.urls: dict[str, Any] = {}
        self.metrics = Metrics("operator", process=False)
        defaults: dict[str, Any] = {"namespaces": (), "labels": {}, "adoption": True, "refresh_s": 300.0}
        self.reconciler = TenantReconciler(
            self.kube,
            Recorder(self.kube, self.metrics, lambda: 1_000_000.0),
            TenantMetrics(self.metrics, CONDITIONS),
            self.stores,
            KeySource(self.kube, self._fetch, development=False),
            uniform=lambda: 0.5,
            clock=lambda: 1_000_000.0,
            **{**defaults, **options},
        )

        self._pending: list[tuple[Kind, Object, bool]] = []
        self._told: list[Key] = []
        self.kube.watchers.append(self)  # type: ignore[arg-type]

    def tell(self, kind: Kind, body: Object, *, gone: bool) -> None:
        """As a FakeWatcher's; a watch tells a moment after the write was answered."""
        self._pending.append((kind, copy.deepcopy(body), gone))

    @property
    def told(self) -> list[Key]:
        """Whom the watch says to look at."""
        pending, self._pending = self._pending, []
        for kind, body, gone in pending:
            for watch in self.reconciler.watches:
                if watch.kind == kind and selected(body, watch.labels):
                    self._told += watch.keys(body, gone)
        return self._told

    async def _fetch(self, url: str) -> Any:
        found = self.urls.get(url)
        if found is None:
            raise FetchError("no answer within 10 s")
        return found

    async def make(self, name: str = "acme", namespace: str = "team", **spec: Any) -> Object:
        """A Tenant, not looked at yet; `annotations` and `labels` are its metadata's."""
        metadata = {"name": name, "annotations": spec.pop("annotations", {}), "labels": spec.pop("labels", {})}
        body = {"metadata": metadata, "spec": spec_of(**spec)}
        return await self.kube.create(TENANTS, namespace, body)

    async def change(self, change: Callable[[Object], None], name: str = "acme", namespace: str = "team") -> None:
        """Change its spec or annotations by hand."""
        body = copy.deepcopy(self.kube.one(TENANTS, namespace, name))
        change(body)
        patch = {"spec": body["spec"], "metadata": {"annotations": body["metadata"].get("annotations", {})}}
        await self.kube.patch(TENANTS, namespace, name, patch)

    async def look(self, name: str = "acme", namespace: str = "team") -> Requeue | None:
        """One look, after all that the watch has to tell."""
        del self.told[:]
        return await self.reconciler.reconcile(Key("Tenant", namespace, name))

    def body(self, name: str = "acme", namespace: str = "team") -> Object:
        return self.kube.one(TENANTS, namespace, name)

    def condition(self, kind: str, name: str = "acme", namespace: str = "team") -> tuple[str, str, str]:
        """Status, reason and message."""
        for one in self.body(name, namespace)["status"]["conditions"]:
            if one["type"] == kind:
                return one["status"], one["reason"], one["message"]
        return "", "", ""

    async def record(self, tenant: str = "acme") -> Tenant | None:
        raw = await self.stores.tenants.get(tenant)
        return None if raw is None else decode_tenant(raw)

    def partitions(self, topic: str) -> int:
        return len(self.log.topics[topic].partitions)
